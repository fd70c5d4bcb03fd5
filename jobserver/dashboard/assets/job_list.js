// Jobs in a table: the columns, and how events change what is known of a job.

import { stringify } from "./api.js";
import { h } from "./dom.js";
import { duration, now, percent, shortId } from "./format.js";
import { elapsed, queueLink, statusBadge, timeAgo } from "./parts.js";
import { href, link } from "./router.js";

const MOST_PREVIEW = 160;

/** A job that is in one of these stays as it is, but for a replay. */
export const ENDED = new Set(["completed", "failed", "canceled", "deleted"]);

/** What an event says of a job, put into what is known of it. Null for old news. */
export function merged(job, event) {
  if (event.fence <= job.fence && event.status !== "deleted") return null;
  const fresh = { ...job, status: event.status, attempt: event.attempt ?? job.attempt, fence: event.fence, updated_at: event.at };
  if (event.status === "running") Object.assign(fresh, { started_at: event.at, finished_at: null, progress: null });
  else if (ENDED.has(event.status)) fresh.finished_at = event.at;
  return fresh;
}

/** Whether an event leaves something open that a list shows: the error, when it began, when it is due. */
export function isVague(job) {
  return ["failed", "retrying", "scheduled"].includes(job.status) || (job.status === "completed" && !job.started_at);
}

/** How long it ran, in seconds; null when it did not. */
export function seconds(job) {
  if (!job.started_at || !job.finished_at) return null;
  return Math.max(0, (Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1_000);
}

function shortened(said) {
  return said.length > MOST_PREVIEW ? `${said.slice(0, MOST_PREVIEW)}…` : said;
}

function detail(job) {
  const tags = job.tags.map((tag) => link(href("/jobs", { tag }), { class: "tag" }, tag));
  const failing = job.error && job.status !== "completed" && job.status !== "canceled";
  const said = failing
    ? h("span", { class: "preview bad", title: `${job.error.type}: ${job.error.message}` }, h("b", null, job.error.type), " ", shortened(job.error.message))
    : h("span", { class: "preview mono" }, shortened(stringify(job.payload)));
  return h("div", { class: "detail" }, said, tags);
}

function took(job) {
  if (job.status === "running") return elapsed(job.started_at);
  if (ENDED.has(job.status)) return duration(seconds(job));
  if (Date.parse(job.run_at) > now()) return timeUntil(job);
  return h("span", { class: "muted" }, "waits");
}

function timeUntil(job) {
  const node = timeAgo(job.run_at);
  node.title = `due ${node.title}`;
  return node;
}

const COLUMNS = {
  status: {
    label: "Status",
    class: "job-status",
    cell: (job) => [
      statusBadge(job.status),
      job.status === "running" && job.progress ? h("span", { class: "small num", title: job.progress.message ?? "" }, percent(job.progress.percent)) : null,
      job.status === "running" && job.cancel_requested ? h("span", { class: "small muted" }, "canceling") : null,
    ],
    signature: (job) => `${job.status} ${job.progress?.percent} ${job.cancel_requested}`,
  },
  job: {
    label: "Job",
    class: "job-name",
    cell: (job) => link(href(`/jobs/${job.id}`), { class: "job-link", title: job.id }, h("span", { class: "type-name" }, job.type), h("span", { class: "mono small muted" }, shortId(job.id))),
    signature: () => "",
  },
  queue: {
    label: "Queue",
    class: "job-queue",
    cell: (job) => [queueLink(job.queue), job.priority === "normal" ? null : h("span", { class: "small muted" }, job.priority)],
    signature: () => "",
  },
  detail: {
    label: "Payload or error",
    class: "job-detail",
    cell: detail,
    signature: (job) => `${job.status} ${job.error?.type} ${job.error?.message}`,
  },
  attempt: {
    label: "Attempt",
    class: "num job-attempt",
    cell: (job) => (job.attempt ? `${job.attempt} / ${job.max_retries + 1}` : "–"),
  },
  submitted: { label: "Submitted", class: "num job-submitted", cell: (job) => timeAgo(job.created_at), signature: () => "" },
  ended: { label: "Failed", class: "num job-submitted", cell: (job) => timeAgo(job.finished_at), signature: (job) => job.finished_at },
  took: { label: "Took", class: "num job-took", cell: took, signature: (job) => `${job.status} ${job.started_at} ${job.finished_at} ${job.run_at}` },
};

/** The columns of these names, for `table`. */
export function columns(...names) {
  return names.map((name) => ({ key: name, ...COLUMNS[name] }));
}
