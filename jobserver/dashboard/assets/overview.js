// The first view: what happens now, what happened in the last minutes, what waits, runs and fails.

import { get, post } from "./api.js";
import { lineChart, meter, sparkline } from "./chart.js";
import { confirm, report, toast } from "./dialog.js";
import { attribute, h, replace, text } from "./dom.js";
import { count, duration, now, rate } from "./format.js";
import * as live from "./live.js";
import { button, card, elapsed, emptyState, pageHead, progressBar, queueLink, statusBadge, table, timeAgo, typeName, WAITING } from "./parts.js";
import { Rates } from "./rates.js";
import { href, link, setQuery } from "./router.js";
import { can } from "./session.js";

const MINUTES = [5, 15, 60];
const BEAT_MS = 500;
const MOST_QUEUES = 8;
const MOST_RUNNING = 8;
const ASKED_RUNNING = 40;
const MOST_FAILURES = 6;
// Shorter runs would only flicker.
const LEAST_RUN_MS = 500;
const SPARK_POINTS = 36;
const OLD_SECONDS = 60;

const FLOWS = [
  { key: "submitted", name: "Submitted", color: "--accent" },
  { key: "completed", name: "Completed", color: "--completed" },
  { key: "failed", name: "Failed", color: "--failed" },
  { key: "retried", name: "Retried", color: "--retrying" },
];

// Tells the page that is shown of another query.
let follow = null;

export const page = {
  title: "Overview",

  update: ({ query }) => follow?.(query),

  async mount(root, { query, signal }) {
    const rates = new Rates();
    let minutes = minutesOf(query);
    let activity = null;

    // Tiles.
    const flows = new Map(FLOWS.map((flow) => [flow.key, flowTile(flow)]));
    const backlog = tile("Waiting", "#/jobs?status=queued&status=scheduled&status=retrying");
    const oldest = tile("Oldest waiting", "#/queues");
    const dead = tile("Dead letters", "#/dead-letters");
    const workers = tile("Workers", "#/workers");
    const tiles = h("div", { class: "tiles" }, [...flows.values()].map(({ element }) => element), [backlog, oldest, dead, workers].map(({ element }) => element));

    // Charts.
    const throughput = lineChart({ label: "Throughput", unit: (value) => `${rate(value)}/s`, least: 1, series: FLOWS.map((flow) => ({ ...flow, area: flow.key === "completed" })) });
    const latency = lineChart({ label: "Latency", unit: duration, least: 0.001, series: [
      { key: "latency_p95", name: "Submit to end, p95", color: "--scheduled" },
      { key: "latency_p50", name: "p50", color: "--accent", area: true },
      { key: "wait_p95", name: "Waiting, p95", color: "--retrying" },
    ] });
    const span = h("div", { class: "chips", role: "group", "aria-label": "Minutes shown" }, MINUTES.map((each) =>
      h("button", { type: "button", class: "chip", dataset: { minutes: each }, onclick: () => setQuery({ minutes: each === 15 ? null : each }, { replace: true }) }, `${each} min`)));

    // Lists.
    const queues = table({ label: "Queues", keyOf: ({ name }) => name, columns: queueColumns(), empty: emptyState("No queue yet", "A queue appears with its first job.") });
    const running = table({ label: "Running jobs", keyOf: ({ id }) => id, href: ({ id }) => href(`/jobs/${id}`), columns: runningColumns(),
      empty: emptyState("Nothing runs for long", "Jobs that run for half a second or more show here, with their progress.") });
    const failures = table({ label: "Latest failures", keyOf: ({ type, fingerprint }) => `${type} ${fingerprint}`, href: groupHref, columns: failureColumns(),
      empty: emptyState("No failed jobs", "What fails for good shows here, grouped by its error.") });
    const moreQueues = link("/queues", { class: "small" }, "All queues");
    const moreRunning = link("/jobs?status=running", { class: "small" }, "All running");

    replace(root,
      pageHead("Overview", span),
      tiles,
      h("div", { class: "charts" }, card("Throughput", throughput.element), card("Latency", latency.element)),
      h("div", { class: "halves" }, card("Queues", { actions: moreQueues }, queues.element), card("Running", { actions: moreRunning }, running.element)),
      card("Latest failures", { actions: link("/dead-letters", { class: "small" }, "All dead letters") }, failures.element));

    function queueColumns() {
      const columns = [
        { key: "name", label: "Queue", class: "fill", cell: ({ name, paused }) => (paused ? h("span", { class: "row queue-paused" }, queueLink(name), statusBadge("paused")) : queueLink(name)), signature: ({ name, paused }) => `${name} ${paused}` },
        { key: "waiting", label: "Waiting", class: "num", cell: ({ counts }) => count(waitingOf(counts)) },
        { key: "running", label: "Running", class: "num", cell: ({ counts }) => count(counts.running) },
        { key: "rate", label: "Done", class: "num wide", cell: ({ name, rates: own }) => rateOf(own ?? activity?.queues?.[name]) },
        { key: "oldest", label: "Oldest", class: "num wide", cell: ({ oldest_waiting_seconds: seconds }) => seconds === null ? "–" : duration(seconds) },
        { key: "mix", label: "Backlog", class: "wide roomy mix", cell: (queue) => mixOf(queue, most), signature: ({ counts }) => `${WAITING.map((each) => counts[each])},${counts.running} of ${most}` },
      ];
      if (can("admin")) columns.push({ key: "act", label: h("span", { class: "sr" }, "Pause"), class: "actions", cell: pauseButton, signature: ({ paused }) => String(paused) });
      return columns;
    }

    const switches = new Map();

    function pauseButton({ name, paused, counts }) {
      let acting = false;
      const act = button("", { kind: paused ? "tiny" : "tiny quiet", icon: paused ? "play" : "pause", title: `${paused ? "Resume" : "Pause"} ${name}`, "aria-label": `${paused ? "Resume" : "Pause"} ${name}`, onclick: async () => {
        if (acting) return;
        acting = true;
        try {
          const body = `${waitingOf(counts) ? "What waits in it does not start" : "What arrives in it does not start"} until it is resumed. It goes on to accept jobs, and jobs that run go on to their end.`;
          if (!paused && !(await confirm({ title: `Pause ${name}?`, body, action: "Pause", danger: true, cancel: "Back" }))) return;
          await post(`/queues/${encodeURIComponent(name)}/${paused ? "resume" : "pause"}`);
          toast(paused ? `${name} goes on` : `${name} is paused: it takes jobs and starts none`, "good");
          stats.soon();
        } catch (error) {
          report(error);
        } finally {
          acting = false;
        }
      } });
      // The focus goes on to the button that takes the place of this one.
      if (switches.has(name) && switches.get(name) === document.activeElement) queueMicrotask(() => act.focus());
      switches.set(name, act);
      return act;
    }

    // What is asked for: soon after an event, never more often than once a second.
    const stats = live.refresher(async () => showStats(await get("/admin/stats", null, { signal })), { every: 800, signal });
    const runs = live.refresher(async () => showRunning(await longest(signal)), { every: 900, signal });
    const fails = live.refresher(async () => failures.update((await get("/dlq/groups", { limit: MOST_FAILURES }, { signal })).items), { every: 900, signal });
    const processes = live.refresher(async () => showWorkers((await get("/workers", null, { signal })).items), { every: 4_000, signal });
    const course = live.refresher(async () => {
      activity = await get("/admin/activity", { minutes: MINUTES.find((each) => each >= minutes) }, { signal });
      rates.learn(activity);
    }, { every: 4_000, signal });
    const all = [stats, runs, fails, processes, course];

    let shownRunning = [];
    let capacity = null;
    let most = 1;
    let busy = 0;
    let beats = 0;

    function showStats(told) {
      const waiting = waitingOf(told.by_status);
      text(backlog.value, count(waiting));
      text(backlog.hint, waiting ? WAITING.filter((each) => told.by_status[each]).map((each) => `${count(told.by_status[each])} ${each}`).join(" · ") : "nothing waits");
      const seconds = told.oldest_waiting_seconds;
      text(oldest.value, seconds === null ? "–" : duration(seconds));
      attribute(oldest.element, "data-alarm", seconds > OLD_SECONDS ? "warn" : null);
      const slowest = told.queues.reduce((worst, queue) => ((queue.oldest_waiting_seconds ?? -1) > (worst?.oldest_waiting_seconds ?? -1) ? queue : worst), null);
      text(oldest.hint, seconds === null || !slowest ? "" : `in ${slowest.name}${slowest.paused ? ", paused" : ""}`);
      text(dead.value, count(told.dlq));
      attribute(dead.element, "data-alarm", told.dlq ? "true" : null);
      text(dead.hint, told.dlq ? "failed for good" : "none");
      text(workers.value, count(told.workers));
      attribute(workers.element, "data-alarm", told.workers ? null : "true");
      busy = told.by_status.running;
      text(workers.hint, !told.workers ? "nobody works" : capacity ? `${count(busy)} of ${count(capacity)} places busy` : `${count(busy)} jobs run`);
      text(moreRunning, `All ${count(busy)} running`);
      moreRunning.hidden = !busy;
      text(moreQueues, told.queues.length > MOST_QUEUES ? `All ${told.queues.length} queues` : "All queues");
      most = Math.max(1, ...told.queues.map(({ counts }) => waitingOf(counts) + counts.running));
      const weight = (queue) => (queue.paused ? 1e9 : 0) + waitingOf(queue.counts) + queue.counts.running;
      queues.update([...told.queues].sort((a, b) => weight(b) - weight(a)).slice(0, MOST_QUEUES).sort((a, b) => (a.name < b.name ? -1 : 1)));
    }

    function showWorkers(items) {
      capacity = items.filter(({ alive, draining }) => alive && !draining).reduce((total, { concurrency }) => total + concurrency, 0);
    }

    function showRunning(items) {
      const at = now();
      const known = new Map(shownRunning.map((job) => [job.id, job]));
      for (const job of items) {
        // Events may be ahead of the answer.
        const before = known.get(job.id);
        if ((before?.progress?.percent ?? -1) > (job.progress?.percent ?? -1) && before.fence === job.fence) job.progress = before.progress;
      }
      shownRunning = items.filter(({ started_at: started }) => started && at - Date.parse(started) >= LEAST_RUN_MS)
        .sort((a, b) => Date.parse(a.started_at) - Date.parse(b.started_at)).slice(0, MOST_RUNNING);
      running.update(shownRunning);
    }

    function hear({ jobs, counts, seconds, progress, reset, gap }) {
      if (gap) rates.forget();
      rates.add(seconds, now());
      if (reset) {
        for (const each of all) each.soon();
        return;
      }
      if (jobs.size) {
        stats.soon();
        if (counts.started || shownRunning.some(({ id }) => jobs.has(id))) runs.soon();
        if (counts.failed || [...jobs.values()].some(({ status, fence }) => status === "deleted" || (status === "queued" && fence > 0))) fails.soon();
      }
      if (progress.size && shownRunning.length) {
        let any = false;
        for (const job of shownRunning) {
          const said = progress.get(job.id);
          if (said) {
            job.progress = said;
            any = true;
          }
        }
        if (any) running.update(shownRunning);
      } else if (progress.size) {
        runs.soon();
      }
    }

    function beat() {
      if (document.hidden) return;
      beats += 1;
      const at = now();
      if (live.state() === "live") rates.listen(at);
      else rates.forget();
      const { times, values } = rates.series(minutes, at);
      for (const [key, { element, value, hint, spark }] of flows) {
        const shown = rates.latest(values[key]);
        text(value, rate(shown));
        spark.update(values[key].slice(-SPARK_POINTS));
        text(hint, hintOf(values[key], rates.slotMs));
        if (key === "failed") attribute(element, "data-alarm", shown > 0 ? "true" : null);
      }
      if (beats % 2 === 1) {
        throughput.update({ times, values });
        latency.update({ times, values });
        if (shownRunning.length) running.update(shownRunning);
      }
      // Waits and rates change without an event, too.
      if (beats % 10 === 0) for (const each of [course, processes, stats]) each.soon();
    }

    function showMinutes() {
      for (const chip of span.children) attribute(chip, "aria-pressed", Number(chip.dataset.minutes) === minutes);
    }

    function showState() {
      root.classList.toggle("stale-page", live.state() === "stale" && !live.stateDetails().reachable);
    }

    showMinutes();
    showState();
    const ends = [live.subscribe(hear), live.onState(showState)];
    const timer = setInterval(beat, BEAT_MS);
    follow = (next) => {
      minutes = minutesOf(next);
      showMinutes();
      course.soon();
      beats = 0;
      beat();
    };
    for (const each of all) each.soon();
    beat();

    return () => {
      for (const end of ends) end();
      clearInterval(timer);
      throughput.stop();
      latency.stop();
      follow = null;
    };
  },
};

let knownRunning = 0;

/** The running jobs that were submitted first: lists begin with the newest, and the oldest run longest. */
async function longest(signal) {
  const ask = () => get("/jobs", { status: "running", limit: ASKED_RUNNING, offset: Math.max(0, knownRunning - ASKED_RUNNING) }, { signal });
  let page = await ask();
  const gone = !page.items.length && page.total > 0;
  knownRunning = page.total;
  // There were more a moment ago: the place to begin at was behind the end.
  if (gone) page = await ask();
  return page.items;
}

function minutesOf(query) {
  const asked = Number(query.get("minutes"));
  return MINUTES.includes(asked) ? asked : 15;
}

const waitingOf = (counts) => WAITING.reduce((total, status) => total + counts[status], 0);
const rateOf = (own) => (own ? `${rate(own.completed_per_second)}/s` : "–");
const groupHref = ({ type, fingerprint }) => href("/dead-letters", { type, fingerprint });

/** The mean of what is known, and of how long that is. */
function hintOf(values, slotMs) {
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return "";
  const mean = known.reduce((total, value) => total + value, 0) / known.length;
  return `⌀ ${rate(mean)} in ${duration((known.length * slotMs) / 1_000)}`;
}

function tile(name, to, color = null) {
  const value = h("span", { class: "tile-value" }, "–");
  const hint = h("span", { class: "tile-hint" });
  const head = h("span", { class: "tile-name" }, color ? h("i", { style: { "--c": `var(${color})` }, "aria-hidden": "true" }) : null, name);
  return { value, hint, element: h(to ? "a" : "div", { class: "tile", href: to }, head, value, hint) };
}

function flowTile({ name, color }) {
  const value = h("span", null, "–");
  const hint = h("span", { class: "tile-hint" });
  const spark = sparkline({ color });
  const element = h("div", { class: "tile" },
    h("span", { class: "tile-name" }, h("i", { style: { "--c": `var(${color})` }, "aria-hidden": "true" }), name),
    h("span", { class: "tile-value" }, value, h("small", null, "/s")), hint, spark.element);
  return { value, hint, spark, element };
}

/** What a queue has to do, beside the one that has most. */
function mixOf({ counts }, most) {
  const bar = meter();
  bar.update(["running", ...WAITING].map((key) => ({ key, name: key, color: `--${key}`, value: counts[key] })), most);
  return bar.element;
}

function runningColumns() {
  return [
    { key: "type", label: "Type", class: "fill", cell: ({ id, type }) => link(href(`/jobs/${id}`), { class: "type-name", title: `${type} ${id}` }, type), signature: ({ id }) => id },
    { key: "queue", label: "Queue", class: "wide roomy", cell: ({ queue }) => queue },
    { key: "progress", label: "Progress", cell: (job) => progressOf(job), signature: ({ progress }) => (progress ? `${progress.percent} ${progress.message}` : "") },
    { key: "for", label: "For", class: "num wide", cell: ({ started_at: started }) => elapsed(started), signature: ({ started_at: started }) => started },
    { key: "left", label: "Left", class: "num", cell: (job) => leftOf(job) },
  ];
}

function progressOf({ progress }) {
  return progress ? progressBar(progress.percent, progress.message ?? "") : h("span", { class: "muted" }, "–");
}

/** By its progress so far, or what its time limit allows. */
function leftOf({ started_at: started, progress, timeout }) {
  const ran = Math.max(0, (now() - Date.parse(started)) / 1_000);
  if (progress?.percent >= 5 && progress.percent < 100) return `≈ ${duration(Math.max(1, Math.round((ran * (100 - progress.percent)) / progress.percent)))}`;
  return `≤ ${duration(Math.max(0, Math.round(timeout - ran)))}`;
}

function failureColumns() {
  return [
    { key: "type", label: "Type", cell: ({ type }) => typeName(type), signature: ({ type }) => type },
    { key: "error", label: "Error", class: "fill", cell: (group) => h("a", { href: groupHref(group), class: "error-line", title: `${group.error_type}: ${group.message}` }, h("b", null, group.error_type), ` ${group.message ?? ""}`), signature: (group) => `${group.fingerprint} ${group.message}` },
    { key: "count", label: "Jobs", class: "num", cell: (group) => count(group.count) },
    { key: "last", label: "Last", class: "num", cell: ({ last_failed_at: at }) => timeAgo(at), signature: ({ last_failed_at: at }) => at },
  ];
}
