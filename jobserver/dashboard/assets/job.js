// One job: where it stands and why, its life as a waterfall, what it was given and what came of it, and what can be
// done about it.

import { jobs as jobsSaid } from "./actions.js";
import { get, post, stringify } from "./api.js";
import { confirm, report, toast } from "./dialog.js";
import { attribute, h, keyed, replace, text } from "./dom.js";
import { exactJob, withPlainFigures } from "./exact.js";
import { bytes, clock, duration, now, shortId, time } from "./format.js";
import { ENDED, merged, seconds } from "./job_list.js";
import { refresher, subscribe } from "./live.js";
import { button, card, copyButton, emptyState, icon, jsonView, pageHead, progressBar, queueLink, setStatus, skeleton, statusBadge, timeAgo } from "./parts.js";
import { href, link } from "./router.js";
import { can, session } from "./session.js";
import { waterfall } from "./waterfall.js";
import { whyCard } from "./why.js";

const MOST_LOG = 500;
// How often attempts that are behind their job are asked for again.
const MOST_BEHIND = 10;
const RETRIABLE = new Set(["failed", "canceled"]);

export const page = {
  title: ({ id }) => `Job ${shortId(id)}`,
  async mount(root, { params, signal }) {
    const view = new JobView(root, params.id, signal);
    await view.load();
    return null;
  },
};

class JobView {
  constructor(root, id, signal) {
    Object.assign(this, { root, id, signal, job: null, attempts: [], said: [], shown: {}, behind: 0 });
    this.refresh = refresher(() => this.load(), { every: 500, signal });
    this.waterfall = waterfall();
    this.end = subscribe((news) => this.hear(news));
    // Also when the page is left before its first answer.
    signal.addEventListener("abort", () => this.dispose(), { once: true });
    replace(root, pageHead("Job"), card(null, skeleton(6)));
  }

  dispose() {
    this.end();
    this.waterfall.dispose();
  }

  async load() {
    const options = { signal: this.signal };
    let job, attempts;
    try {
      [job, attempts] = await Promise.all([exactJob(this.id, options), get(`/jobs/${this.id}/attempts`, null, options)]);
    } catch (error) {
      if (error.status === 404) {
        this.gone(error);
        return;
      }
      // What is shown stays, while the server is away: the page as a whole says that it is stale.
      if (this.job && error.name === "Problem") return;
      throw error;
    }
    if (this.signal.aborted || (this.job && job.fence < this.job.fence)) return;
    if (!this.job) this.build(job);
    this.job = job;
    this.attempts = attempts.items;
    this.draw();
    // Two answers, of two moments: an attempt may have ended in between, and no event tells of it again.
    const behind = ENDED.has(job.status) && attempts.items.at(-1)?.outcome === "running";
    this.behind = behind ? this.behind + 1 : 0;
    if (behind && this.behind <= MOST_BEHIND) this.refresh.soon();
  }

  gone(error) {
    const known = this.job !== null;
    this.end();
    this.waterfall.dispose();
    replace(
      this.root,
      pageHead(known ? "Job deleted" : "No such job"),
      emptyState(
        known ? `${this.job.type} is gone` : error.detail,
        known ? "It and its history were deleted." : "Jobs that have ended are kept for a while, then deleted.",
        link("/jobs", { class: "button" }, "To the jobs"),
      ),
    );
  }

  // What is there, once

  build(job) {
    this.badge = statusBadge(job.status);
    this.ending = h("span", { class: "small muted", hidden: true }, "cancel requested");
    this.actions = h("div", { class: "row job-actions" });
    this.progress = progressBar();
    this.progressPlace = h("div", { class: "job-progress", hidden: true }, this.progress);
    this.why = whyCard(job, this.signal);
    this.facts = h("dl", { class: "facts" });
    this.result = h("div", { class: "place" });
    this.error = h("div", { class: "place" });
    this.tries = h("div", { class: "place" });
    this.log = h("ol", { class: "log", tabindex: 0, "aria-label": "What happened to the job, oldest first" });
    const size = bytes(new TextEncoder().encode(stringify(job.payload)).length);
    replace(
      this.root,
      h(
        "header",
        { class: "job-head" },
        h("nav", { class: "crumbs small", "aria-label": "Where this is" }, link("/jobs", "Jobs"), h("span", { "aria-hidden": "true" }, "/"), link(href("/jobs", { type: job.type }), job.type)),
        h("div", { class: "page-head" }, h("div", { class: "row" }, h("h1", { tabindex: -1 }, job.type), this.badge, this.ending), this.actions),
        h("div", { class: "row job-id" }, h("code", { class: "muted" }, job.id), copyButton(job.id, "Copy id")),
        this.progressPlace,
      ),
      h(
        "div",
        { class: "job-grid" },
        h(
          "div",
          { class: "stack" },
          this.why.node,
          card("Timeline", this.waterfall.node),
          this.error,
          this.result,
          card("Payload", { actions: h("span", { class: "small muted num" }, size) }, jsonView(job.payload, { label: "Payload" })),
        ),
        h("div", { class: "stack" }, card("Facts", this.facts), card("Log", { actions: h("span", { class: "small muted" }, "oldest first") }, this.log)),
      ),
      this.tries,
    );
    this.why.refresh();
  }

  // What changes

  draw() {
    const { job } = this;
    setStatus(this.badge, job.status);
    this.ending.hidden = !(job.cancel_requested && job.status === "running");
    this.drawProgress();
    this.changed("actions", [job.status, job.cancel_requested], () => this.drawActions());
    this.changed("facts", [job.fence, job.status, job.cancel_requested, job.run_at, job.worker_id], () => replace(this.facts, facts(job)));
    this.changed("outcome", [job.fence, job.status], () => this.drawOutcome());
    this.changed("attempts", [job.fence, job.status, this.attempts.length, this.attempts.at(-1)?.outcome], () => this.drawAttempts());
    this.waterfall.show(job, this.attempts);
    this.drawLog();
  }

  changed(part, of, make) {
    const next = stringify(of);
    if (this.shown[part] === next) return;
    this.shown[part] = next;
    make();
  }

  drawProgress() {
    const { progress, status } = this.job;
    const shown = progress !== null && (status === "running" || status === "retrying" || status === "failed");
    this.progressPlace.hidden = !shown;
    if (shown) this.progress.set(progress.percent, progress.message ?? "");
  }

  drawActions() {
    const { job } = this;
    const template = session().trace_url_template;
    const trace = template && job.trace_id ? template.replace("{trace_id}", job.trace_id) : null;
    const ended = ENDED.has(job.status);
    const asked = job.cancel_requested && job.status === "running";
    // The one that was pressed is made anew, and keeps the focus.
    const focused = this.actions.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    replace(
      this.actions,
      can("admin") && RETRIABLE.has(job.status) ? button("Retry", { kind: "primary", icon: "retry", dataset: { action: "retry" }, onclick: (event) => this.retry(event.currentTarget) }) : null,
      can("submit") && !ended ? button("Cancel", { kind: "danger", icon: "stop", disabled: asked, dataset: { action: "cancel" }, onclick: (event) => this.cancel(event.currentTarget) }) : null,
      can("submit") ? link(href("/submit", { from: job.id }), { class: "button", dataset: { action: "again" } }, icon("plus"), "Submit again…") : null,
      copyButton(() => asCurl(this.job), "Copy as curl"),
      trace ? h("a", { class: "button quiet", href: trace, target: "_blank", rel: "noopener noreferrer", dataset: { action: "trace" } }, icon("link"), "Trace") : null,
    );
    if (focused) this.actions.querySelector(`[data-action="${focused}"]`)?.focus();
  }

  drawOutcome() {
    const { job } = this;
    replace(this.error, job.error ? card(job.status === "failed" ? "Error" : "Error of the last failed attempt", { class: "job-error" }, errorView(job.error)) : null);
    replace(this.result, job.status === "completed" ? card("Result", jsonView(job.result, { label: "Result" })) : null);
  }

  drawAttempts() {
    const rows = [...this.attempts].reverse();
    if (!rows.length) {
      replace(this.tries);
      return;
    }
    if (!this.tries.firstChild) {
      this.kept = h("span", { class: "small muted", hidden: true }, "the last 100 are kept");
      this.tryList = h("ol", { class: "attempts" });
      replace(this.tries, card("Attempts", { actions: this.kept }, this.tryList));
    }
    this.kept.hidden = !(this.attempts[0].number > 1 && this.attempts.length >= 100);
    // What was opened stays open.
    keyed(this.tryList, rows, (attempt) => `${attempt.fence} ${attempt.outcome}`, attemptView);
  }

  drawLog() {
    const entries = logOf(this.job, this.attempts, this.said).slice(-MOST_LOG);
    keyed(
      this.log,
      entries,
      (entry) => entry.key,
      (entry) =>
        h("li", { dataset: { kind: entry.kind } }, h("time", { class: "num muted", datetime: entry.at, title: time(entry.at) }, clock(entry.at)), h("span", { class: "log-said" }), h("span", { class: "log-note muted small" })),
      (node, entry) => {
        text(node.querySelector(".log-said"), entry.said);
        text(node.querySelector(".log-note"), entry.note ?? "");
      },
    );
  }

  // Live

  hear({ jobs, progress, reset }) {
    if (!this.job) return;
    const event = jobs.get(this.id);
    const fresh = event && merged(this.job, event);
    if (event?.status === "deleted") {
      this.refresh.soon();
      return;
    }
    const said = progress.get(this.id);
    if (said) {
      const last = this.said.at(-1);
      if (last?.percent !== said.percent || last?.message !== said.message) {
        this.said.push({ percent: said.percent, message: said.message, at: new Date(now()).toISOString(), fence: (fresh ?? this.job).fence });
        if (this.said.length > MOST_LOG) this.said.shift();
      }
      this.job = { ...this.job, progress: { percent: said.percent, message: said.message } };
      this.drawProgress();
      this.drawLog();
    }
    if (fresh) {
      this.job = { ...fresh, progress: fresh.progress ?? this.job.progress };
      setStatus(this.badge, fresh.status);
      this.drawActions();
      this.shown.actions = null;
      this.why.refresh();
    }
    // At the same fence an answer may be older or newer than what the event says.
    if (reset || (event && event.fence >= this.job.fence)) this.refresh.soon();
    if (reset) this.why.refresh();
  }

  // Deeds

  async cancel(pressed) {
    const running = this.job.status === "running";
    const body = running ? "Its handler is asked to end. If it returns all the same, the job completes." : "It ends at once and does not run.";
    if (!(await confirm({ title: `Cancel this ${this.job.status} job?`, body, action: "Cancel the job", danger: true, cancel: "Back" }))) return;
    await this.deed(pressed, async () => {
      this.job = withPlainFigures(await post(`/jobs/${this.id}/cancel`, null, { exact: true }));
      toast(this.job.status === "canceled" ? "Canceled" : "Cancel requested: the handler is asked to end", "good");
    });
  }

  async retry(pressed) {
    const body = `It is queued again with its counters at zero; its history of ${this.attempts.length === 1 ? "1 attempt" : `${this.attempts.length} attempts`} stays.`;
    if (!(await confirm({ title: `Retry this ${this.job.status} job?`, body, action: `Retry ${jobsSaid(1)}`, cancel: "Back" }))) return;
    await this.deed(pressed, async () => {
      this.job = withPlainFigures(await post(`/jobs/${this.id}/retry`, null, { exact: true }));
      toast("Queued again", "good");
    });
  }

  async deed(pressed, act) {
    pressed.disabled = true;
    attribute(pressed, "aria-busy", "true");
    try {
      await act();
      this.draw();
    } catch (error) {
      report(error);
    } finally {
      pressed.disabled = false;
      attribute(pressed, "aria-busy", null);
      this.refresh.soon();
      this.why.refresh();
    }
  }
}

function facts(job) {
  const moment = (iso) => (iso ? [timeAgo(iso), h("span", { class: "muted small num" }, ` ${clock(iso)}`)] : null);
  const waiting = ["queued", "scheduled", "retrying"].includes(job.status);
  const entries = [
    ["Queue", [queueLink(job.queue), job.priority === "normal" ? null : ` · ${job.priority} priority`]],
    ["Attempt", `${job.attempt} of ${job.max_retries + 1} at the most`],
    ["Retries", job.retry_count ? `${job.retry_count} of ${job.max_retries}` : null],
    ["Crashes", job.crashes ? h("span", { class: "warn" }, `${job.crashes} lost ${job.crashes === 1 ? "lease" : "leases"}`) : null],
    ["Time limit", duration(job.timeout)],
    ["Submitted", moment(job.created_at)],
    ["Due", waiting ? moment(job.run_at) : null],
    ["Started", moment(job.started_at)],
    ["Ended", moment(job.finished_at)],
    ["Ran for", seconds(job) === null ? null : duration(seconds(job))],
    ["Expires", job.finished_at ? null : moment(job.expires_at)],
    ["Lease until", job.status === "running" ? moment(job.lease_expires_at) : null],
    ["Worker", job.worker_id ? link("/workers", { class: "mono" }, job.worker_id) : null],
    ["Tags", job.tags.length ? h("span", { class: "tags" }, job.tags.map((tag) => link(href("/jobs", { tag }), { class: "tag" }, tag))) : null],
    ["Key", job.idempotency_key ? h("code", null, job.idempotency_key) : null],
    ["Callback", job.callback_url ? h("span", { class: "mono small" }, job.callback_url) : null],
    ["Trace", job.trace_id ? h("code", { class: "small" }, job.trace_id) : null],
    ["Fence", String(job.fence)],
  ];
  return entries.filter(([, value]) => value !== null).flatMap(([name, value]) => [h("dt", null, name), h("dd", null, value)]);
}

function errorView(error) {
  return [
    h("p", null, h("b", { class: "mono" }, error.type), error.retryable === false ? h("span", { class: "small muted" }, " not retryable") : null),
    h("p", { class: "error-message" }, error.message),
    error.traceback
      ? h("details", { class: "traceback", open: true }, h("summary", null, "Traceback"), h("pre", { class: "code", tabindex: 0, role: "region", "aria-label": "Traceback" }, error.traceback))
      : null,
  ];
}

function attemptView(attempt) {
  const length = attempt.ended_at ? duration((Date.parse(attempt.ended_at) - Date.parse(attempt.started_at)) / 1_000) : "runs";
  const head = [
    attempt.error ? icon("next") : h("span"),
    h("b", { class: "num" }, `#${attempt.number}`),
    statusBadge(attempt.outcome),
    h("span", { class: "num" }, length),
    h("span", { class: "muted num", title: time(attempt.started_at) }, clock(attempt.started_at)),
    h("span", { class: "muted mono small attempt-worker", title: attempt.worker_id }, attempt.worker_id),
    attempt.error ? h("span", { class: "bad attempt-error" }, `${attempt.error.type}: ${attempt.error.message}`) : null,
  ];
  if (!attempt.error) return h("li", { class: "attempt" }, h("div", { class: "attempt-head" }, head));
  const body = h("div", { class: "stack attempt-body" });
  const fill = () => body.childNodes.length || replace(body, errorView(attempt.error));
  return h("li", { class: "attempt" }, h("details", { ontoggle: fill }, h("summary", { class: "attempt-head" }, head), body));
}

const STARTED = "started";
const LOGGED = {
  completed: "completed",
  retrying: "failed, to be retried",
  failed: "failed",
  snoozed: "snoozed",
  handed_back: "was handed back",
  lease_lost: "lost its lease",
  canceled: "was canceled",
};

/** What happened to a job, oldest first: {key, at, kind, said, note}. `reported` is progress that was seen. */
export function logOf(job, attempts, reported) {
  const entries = [{ key: "submitted", at: job.created_at, kind: "submitted", said: `submitted to ${job.queue}`, note: job.idempotency_key ? `key ${job.idempotency_key}` : null }];
  for (const attempt of attempts) {
    const name = `attempt ${attempt.number}`;
    entries.push({ key: `${attempt.fence} started`, at: attempt.started_at, kind: STARTED, said: `${name} started`, note: attempt.worker_id });
    if (attempt.ended_at) {
      entries.push({
        key: `${attempt.fence} ended`,
        at: attempt.ended_at,
        kind: attempt.outcome,
        said: `${name} ${LOGGED[attempt.outcome] ?? attempt.outcome}`,
        note: attempt.error ? `${attempt.error.type}: ${attempt.error.message}` : duration((Date.parse(attempt.ended_at) - Date.parse(attempt.started_at)) / 1_000),
      });
    }
  }
  for (const [index, one] of reported.entries()) {
    entries.push({ key: `progress ${one.fence} ${one.at} ${index}`, at: one.at, kind: "progress", said: `${Math.floor(one.percent)} %`, note: one.message });
  }
  const last = attempts.at(-1);
  const waiting = ["queued", "scheduled", "retrying"].includes(job.status);
  if (job.finished_at && !(last && ENDED.has(last.outcome) && last.ended_at >= job.finished_at)) {
    entries.push({ key: "ended", at: job.finished_at, kind: job.status, said: job.status, note: job.error?.message ?? null });
  } else if (waiting && Date.parse(job.run_at) > Date.parse(job.created_at) + 1) {
    entries.push({ key: `due ${job.run_at}`, at: job.run_at, kind: "due", said: "due", note: null });
  }
  return entries.sort((one, other) => Date.parse(one.at) - Date.parse(other.at));
}

/** The submit of such a job, for a shell. */
export function asCurl(job, origin = location.origin) {
  const body = { type: job.type, payload: job.payload, queue: job.queue, priority: job.priority, max_retries: job.max_retries, timeout: job.timeout };
  if (job.tags.length) body.tags = job.tags;
  if (job.callback_url) body.callback_url = job.callback_url;
  const quoted = (said) => `'${said.replaceAll("'", `'\\''`)}'`;
  const lines = [`curl -sS -X POST ${quoted(`${origin}/jobs`)}`, `-H 'Content-Type: application/json'`];
  if (!session().open) lines.push('-H "Authorization: Bearer $JOBSERVER_API_KEY"');
  lines.push(`-d ${quoted(stringify(body))}`);
  return lines.join(" \\\n  ");
}
