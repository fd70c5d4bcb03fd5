// Why a job is where it is: the server's reasons, the figures behind them, and what to do.

import { get } from "./api.js";
import { attribute, h, replace } from "./dom.js";
import { clock, count, duration, rate, time } from "./format.js";
import { refresher } from "./live.js";
import { card, icon, problemNote, skeleton } from "./parts.js";
import { href, link } from "./router.js";
import { can } from "./session.js";

const EVERY_MS = 2_000;
const GOOD = new Set(["completed", "running", "lease"]);
const BAD = new Set(["failed", "expired", "no_live_worker", "no_worker_for_type", "no_worker_for_queue", "redis_down"]);
const WARN = new Set(["queue_paused", "consumers_busy", "waiting_for_retry", "cancel_requested", "canceled"]);

// Where more is seen of it, or something done about it.
const PLACES = {
  queue_paused: ["Queues", () => "/queues"],
  jobs_ahead: ["Jobs that wait in this queue", ({ queue }) => (queue ? href("/jobs", { queue, status: ["queued", "scheduled", "retrying"] }) : null)],
  consumers_busy: ["Workers", () => "/workers"],
  no_live_worker: ["Workers", () => "/workers"],
  no_worker_for_queue: ["Workers", () => "/workers"],
  no_worker_for_type: ["Workers", () => "/workers"],
  scheduled: ["Submit again…", ({ id }) => (can("submit") ? href("/submit", { from: id }) : null)],
  expired: ["Submit again…", ({ id }) => (can("submit") ? href("/submit", { from: id }) : null)],
};

/** A card that `show()` begins and `refresh()` renews; it asks by itself while the job has not ended. */
export function whyCard({ id, queue }, signal) {
  const body = h("div", { class: "why" }, skeleton(2));
  const node = card("Why is it where it is?", { class: "why-card" }, body);
  let timer = null;
  let said = null;

  async function load() {
    clearTimeout(timer);
    try {
      const why = await get(`/jobs/${id}/why`, null, { signal });
      draw(why);
      if (!["completed", "failed", "canceled"].includes(why.status)) timer = setTimeout(asking.soon, EVERY_MS);
    } catch (error) {
      if (error.name !== "Problem") throw error;
      // What was said before is better than nothing, while the server is away.
      if (!said) replace(body, problemNote(error, () => asking.soon()));
      if (error.status !== 404) timer = setTimeout(asking.soon, EVERY_MS);
    }
  }

  function draw(why) {
    const next = JSON.stringify(why);
    if (next === said) return;
    said = next;
    attribute(node, "data-status", why.status);
    replace(
      node.querySelector("h2"),
      { completed: "How did it go?", failed: "Why did it fail?", canceled: "Why did it end?", running: "What is it doing?" }[why.status] ?? "Why is it not running?",
    );
    replace(body, h("p", { class: "why-summary" }, why.summary), h("ul", { class: "why-reasons" }, why.reasons.map((one) => reason(one, why.summary, { id, queue }))));
  }

  const asking = refresher(load, { every: 500, signal });
  signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  return { node, refresh: () => asking.soon() };
}

function reason({ code, message, hint, figures }, summary, job) {
  const [label, placeOf] = PLACES[code] ?? [];
  const place = placeOf?.(job);
  const kind = BAD.has(code) ? "bad" : WARN.has(code) ? "warn" : GOOD.has(code) ? "good" : "";
  return h(
    "li",
    { class: "why-reason", dataset: { code } },
    h("span", { class: `why-mark ${kind}` }, icon(kind === "good" ? "check" : kind === "" ? "next" : "warn")),
    h(
      "div",
      { class: "grow" },
      // The summary has said it already.
      message === summary ? null : h("p", null, message),
      hint ? h("p", { class: message === summary ? null : "muted" }, withCode(hint)) : null,
      place ? h("p", null, link(place, { class: "underlined small" }, label)) : null,
      h(
        "dl",
        { class: "figures" },
        Object.entries(figures ?? {})
          .filter(([, value]) => value !== null && value !== undefined && typeof value !== "object")
          .map(([name, value]) => h("div", null, h("dt", null, name.replaceAll("_", " ").replace(/ per second$/, "/s").replace(/ ?seconds$/, "") || "time"), h("dd", { class: "num" }, figure(name, value)))),
      ),
    ),
  );
}

// `like this` as code.
function withCode(said) {
  return said.split("`").map((part, index) => (index % 2 ? h("code", null, part) : part));
}

function figure(name, value) {
  if (name.endsWith("_per_second")) return rate(value);
  if (name.endsWith("seconds")) return duration(value);
  if (name.endsWith("_at")) return h("span", { title: time(value) }, clock(value));
  return typeof value === "number" ? count(value) : String(value);
}
