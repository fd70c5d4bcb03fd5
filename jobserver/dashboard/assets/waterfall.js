// The life of a job as a waterfall: what it waited for and how long, each attempt, its end.

import { clock, duration, now, time } from "./format.js";
import { h, replace } from "./dom.js";

const MOST_ROWS = 24;
const WAITS = {
  retrying: "waited to be retried",
  snoozed: "snoozed",
  handed_back: "waited after it was handed back",
  lease_lost: "waited after its lease was lost",
  failed: "had failed, until it was replayed",
  canceled: "was canceled, until it was replayed",
};
const OUTCOMES = {
  running: "runs",
  completed: "completed",
  retrying: "failed, to be retried",
  failed: "failed",
  snoozed: "snoozed",
  handed_back: "handed back",
  lease_lost: "lease lost",
  canceled: "canceled",
};
const ENDED = new Set(["completed", "failed", "canceled"]);

/**
 * The rows of the waterfall: {name, note, spans: [{kind, said, from, to, open}]}, times in milliseconds. `at` is the
 * present, where what has not ended yet ends.
 */
export function rowsOf(job, attempts, at) {
  const rows = [];
  let since = Date.parse(job.created_at);
  let last = null;
  for (const attempt of attempts) {
    const from = Date.parse(attempt.started_at);
    const running = attempt.ended_at === null;
    const to = running ? Math.max(at, from) : Date.parse(attempt.ended_at);
    const run = { kind: attempt.outcome, said: OUTCOMES[attempt.outcome] ?? attempt.outcome, from, to, open: running };
    rows.push({
      name: `Attempt ${attempt.number}`,
      key: String(attempt.fence),
      outcome: attempt.outcome,
      spans: [...waits(job, since, from, last, attempts.length === 1), run],
    });
    since = to;
    last = attempt;
  }
  if (ENDED.has(job.status)) {
    const end = Date.parse(job.finished_at ?? job.updated_at);
    // It ended while it waited: canceled, or expired.
    if (end - since > 1 && !(last && ENDED.has(last.outcome))) {
      rows.push({ name: "Waited", key: "end", outcome: job.status, spans: waits(job, since, end, last, true) });
    }
  } else if (job.status !== "running") {
    const spans = waits(job, since, Math.max(at, since), last, true);
    if (spans.length) spans[spans.length - 1].open = true;
    rows.push({ name: last ? "Waits again" : "Waits", key: "waits", outcome: job.status, spans });
  }
  return rows;
}

// From one moment to another, until it was due and after.
function waits(job, from, to, last, known) {
  const due = Date.parse(job.run_at);
  const spans = [];
  let since = from;
  // Of waits that are over, only the last due time is known.
  if (known && due > from + 1) {
    const until = Math.min(due, to);
    spans.push({ kind: "scheduled", said: WAITS[last?.outcome] ?? "scheduled", from, to: until, open: false });
    since = until;
  }
  if (to - since > 0.5) {
    const said = spans.length ? "waited for a worker" : (WAITS[last?.outcome] ?? "waited for a worker");
    spans.push({ kind: "waited", said, from: since, to, open: false });
  }
  return spans;
}

/** Ticks of an axis of so many milliseconds: a handful, at round numbers. */
export function ticksOf(length) {
  if (!(length > 0)) return [0];
  const units = [1, 1_000, 60_000, 3_600_000, 86_400_000];
  const unit = units.findLast((one) => length / one >= 2) ?? 1;
  const rough = length / unit / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const steps = unit === 60_000 || unit === 1_000 ? [1, 2, 5, 10, 15, 30, 60] : [1, 2, 5, 10].map((step) => step * power);
  const step = (steps.find((one) => one >= rough) ?? rough) * unit;
  const ticks = [];
  for (let place = 0; place <= length * 1.001 && ticks.length < 12; place += step) ticks.push(place);
  return ticks;
}

/** A waterfall that `show(job, attempts)` fills. It goes on with the time while something is open. */
export function waterfall() {
  const node = h("div", { class: "waterfall" });
  let shown = null;
  let timer = null;

  function draw() {
    const [job, attempts] = shown;
    const all = rowsOf(job, attempts, now());
    const begin = Date.parse(job.created_at);
    const ends = all.flatMap((row) => row.spans.map((span) => span.to));
    const length = Math.max(1, ...ends.map((end) => end - begin));
    const hidden = Math.max(0, all.length - MOST_ROWS);
    const rows = hidden ? [...all.slice(0, 4), null, ...all.slice(hidden + 4)] : all;
    const [, step = length] = ticksOf(length);
    const open = all.some((row) => row.spans.some((span) => span.open));
    replace(
      node,
      axis(length),
      h(
        "ol",
        { class: "waterfall-rows", style: { "--step": `${(step / length) * 100}%` } },
        rows.map((row) => (row ? line(row, begin, length) : h("li", { class: "waterfall-more" }, `${hidden} attempts between`))),
      ),
      h(
        "p",
        { class: "waterfall-ends" },
        h("span", { title: time(job.created_at) }, `submitted ${clock(job.created_at)}`),
        ENDED.has(job.status)
          ? h("span", { title: time(job.finished_at) }, `${job.status} ${clock(job.finished_at)}, after ${duration(length / 1_000)}`)
          : h("span", null, `so far ${duration(Math.floor(length / 1_000))}`),
      ),
    );
    clearTimeout(timer);
    if (open) timer = setTimeout(draw, length < 30_000 ? 250 : 1_000);
  }

  return {
    node,
    show(job, attempts) {
      shown = [job, attempts];
      draw();
    },
    dispose: () => clearTimeout(timer),
  };
}

function axis(length) {
  return h(
    "div",
    { class: "waterfall-axis", "aria-hidden": "true" },
    ticksOf(length).map((tick) => h("span", { style: { left: `${(tick / length) * 100}%` } }, tick === 0 ? "0" : duration(tick / 1_000))),
  );
}

function line(row, begin, length) {
  const place = (moment) => ((moment - begin) / length) * 100;
  const total = row.spans.map((span) => `${span.said} ${duration((span.to - span.from) / 1_000)}`);
  return h(
    "li",
    { class: "waterfall-row" },
    h("span", { class: "waterfall-name" }, row.name),
    h(
      "span",
      { class: "waterfall-track", "aria-hidden": "true" },
      row.spans.map((span) =>
        h("span", {
          class: `bar bar-${span.kind}${span.open ? " bar-open" : ""}`,
          title: `${span.said}: ${duration((span.to - span.from) / 1_000)}`,
          style: { left: `${place(span.from)}%`, width: `${Math.max(0, place(span.to) - place(span.from))}%` },
        }),
      ),
    ),
    h("span", { class: "waterfall-said" }, total.join(" · ")),
  );
}
