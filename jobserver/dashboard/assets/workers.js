// The processes: who is there, what each runs and for how long, and how it feels.

import { jobs as jobsSaid } from "./actions.js";
import { get } from "./api.js";
import { attribute, h, keyed, replace, text } from "./dom.js";
import { count, duration, percent, rate, shortId, time } from "./format.js";
import { refresher, subscribe } from "./live.js";
import { elapsed, emptyState, problemNote, setMoment, setStatus, skeleton, statusBadge, timeAgo } from "./parts.js";
import { href, link } from "./router.js";

const EVERY_MS = 1_000;
const MOST_RUNNING = 100;
const MOST_SHOWN = 6;
// From here on, an event loop that comes late is felt.
const LAG_SECONDS = 0.1;

export const page = {
  title: "Workers",
  async mount(root, { signal }) {
    const list = new WorkerList(root, signal);
    await list.load();
    return null;
  },
};

const stateOf = (worker) => (worker.alive ? (worker.draining ? "draining" : "alive") : "dead");

class WorkerList {
  constructor(root, signal) {
    this.signal = signal;
    this.refresh = refresher(() => this.load(), { every: EVERY_MS, signal });
    this.end = subscribe(({ events, progress, reset }) => {
      if (events || reset) this.refresh.soon();
      for (const said of progress.values()) text(this.alive.querySelector(`[data-progress="${CSS.escape(said.id)}"]`) ?? document.createElement("i"), percent(said.percent));
    });
    // Heartbeats come also while nothing happens.
    this.timer = setInterval(() => this.refresh.soon(), 2 * EVERY_MS);
    // Also when the page is left before its first answer.
    signal.addEventListener("abort", () => this.dispose(), { once: true });
    this.said = h("span", { class: "muted num", role: "status" });
    this.alive = h("div", { class: "workers" });
    this.dead = h("div", { class: "workers" });
    this.deadSaid = h("summary", { class: "muted" });
    this.deadPlace = h("details", { class: "dead-workers", hidden: true, ontoggle: () => this.drawDead() }, this.deadSaid, this.dead);
    this.place = h("div", { class: "stack" }, skeleton(5));
    replace(root, h("div", { class: "page-head" }, h("div", { class: "row titled" }, h("h1", { tabindex: -1 }, "Workers"), this.said)), this.place);
  }

  dispose() {
    this.end();
    clearInterval(this.timer);
  }

  async load() {
    try {
      const options = { signal: this.signal };
      const [workers, running] = await Promise.all([get("/workers", null, options), get("/jobs", { status: "running", limit: MOST_RUNNING }, options)]);
      this.draw(workers.items, running);
    } catch (error) {
      if (error.name !== "Problem" || this.drawn) throw error;
      replace(this.place, problemNote(error, () => this.refresh.soon()));
    }
  }

  draw(workers, running) {
    const of = new Map(workers.map((worker) => [worker.id, []]));
    for (const job of running.items) of.get(job.worker_id)?.push(job);
    const versions = new Set(workers.filter((worker) => worker.alive).map((worker) => worker.version));
    const shown = workers.map((worker) => ({
      ...worker,
      // Those that run the longest first.
      jobs: of.get(worker.id).sort((one, other) => Date.parse(one.started_at) - Date.parse(other.started_at)),
      mixed: versions.size > 1,
    }));
    const alive = shown.filter((worker) => worker.alive);
    const dead = shown.filter((worker) => !worker.alive);
    const slots = alive.reduce((sum, worker) => sum + worker.concurrency, 0);
    const busy = alive.reduce((sum, worker) => sum + worker.running, 0);
    text(this.said, alive.length ? `${count(alive.length)} alive · ${count(busy)} of ${count(slots)} consumers busy` : "");
    if (!this.drawn) {
      this.drawn = true;
      this.none = h("div", { class: "card" }, emptyState("No worker is alive", "Jobs are accepted, and wait until one is started: jobserver serve"));
      replace(this.place, this.none, this.alive, this.deadPlace);
    }
    this.none.hidden = alive.length > 0;
    keyed(this.alive, alive, (worker) => worker.id, makeWorker, updateWorker);
    this.deadOnes = dead;
    this.deadPlace.hidden = dead.length === 0;
    // What died while it is looked at is not to be hidden.
    if (this.deadMany !== undefined && dead.length > this.deadMany) this.deadPlace.open = true;
    this.deadMany = dead.length;
    this.drawDead();
    text(this.deadSaid, `${count(dead.length)} ended in the last 24 hours`);
  }

  // There may be many, of a day of restarts: drawn while they are looked at.
  drawDead() {
    if (this.deadPlace.open) keyed(this.dead, this.deadOnes, (worker) => worker.id, makeWorker, updateWorker);
  }
}

function makeWorker() {
  const part = {
    badge: statusBadge("alive"),
    id: h("h2", { class: "mono" }),
    where: h("span", { class: "muted small" }),
    version: h("span", { class: "small num" }),
    busy: h("span", { class: "num" }),
    fill: h("i"),
    lag: h("dd", { class: "num" }),
    rate: h("dd", { class: "num" }),
    heartbeat: h("dd", { class: "num" }),
    since: h("dd", { class: "num" }),
    queues: h("dd"),
    types: h("dd"),
    jobs: h("ol", { class: "running" }),
    more: h("p", { class: "small muted" }),
  };
  const fact = (name, node, title = null) => h("div", { title }, h("dt", null, name), node);
  const node = h(
    "section",
    { class: "card worker" },
    h("div", { class: "worker-head" }, h("div", { class: "row" }, part.badge, part.id), h("div", { class: "row" }, part.where, part.version)),
    h("div", { class: "worker-busy" }, h("div", { class: "meter", "aria-hidden": "true" }, part.fill), part.busy),
    h(
      "dl",
      { class: "worker-facts" },
      fact("Done /s", part.rate),
      fact("Loop lag", part.lag, "How late the event loop of this process comes"),
      fact("Heartbeat", part.heartbeat),
      fact("Up", part.since),
      fact("Queues", part.queues),
      fact("Types", part.types),
    ),
    part.jobs,
    part.more,
  );
  node.view = part;
  return node;
}

function updateWorker(node, worker) {
  const { view: part } = node;
  const state = stateOf(worker);
  attribute(node, "data-state", state);
  setStatus(part.badge, state);
  text(part.id, worker.id);
  text(part.where, `${worker.host} · pid ${worker.pid}`);
  text(part.version, worker.version);
  part.version.className = `small num ${worker.mixed ? "warn" : "muted"}`;
  attribute(part.version, "title", worker.mixed ? "The processes are not all of one version" : "Version");
  text(part.busy, worker.concurrency ? `${count(worker.running)} of ${count(worker.concurrency)} busy` : "serves HTTP only");
  part.fill.style.width = `${worker.concurrency ? Math.min(100, (worker.running / worker.concurrency) * 100) : 0}%`;
  const late = worker.loop_lag_seconds >= LAG_SECONDS;
  part.lag.className = `num${late ? " warn" : ""}`;
  text(part.lag, duration(worker.loop_lag_seconds));
  text(part.rate, rate(worker.completed_per_second));
  moment(part.heartbeat, worker.heartbeat_at, timeAgo);
  if (worker.alive) moment(part.since, worker.started_at, elapsed);
  else text(part.since, duration((Date.parse(worker.heartbeat_at) - Date.parse(worker.started_at)) / 1_000));
  names(part.queues, worker.queues, "all");
  names(part.types, worker.types, "none");
  keyed(part.jobs, worker.jobs.slice(0, MOST_SHOWN), (job) => `${job.id} ${job.fence}`, makeJob, updateJob);
  part.jobs.hidden = worker.jobs.length === 0;
  const left = Math.max(worker.running, worker.jobs.length) - Math.min(worker.jobs.length, MOST_SHOWN);
  part.more.hidden = !(worker.alive && left > 0);
  if (!part.more.hidden) replace(part.more, `and ${jobsSaid(left)} more: `, link(href("/jobs", { status: "running" }), { class: "underlined" }, "all that run"));
}

function moment(place, iso, make) {
  if (place.firstElementChild) setMoment(place.firstElementChild, iso);
  else replace(place, make(iso));
}

function names(place, list, none) {
  const said = list === null || list.length === 0 ? none : list.join(", ");
  text(place, said);
  place.title = said;
}

function makeJob(job) {
  return h(
    "li",
    { class: "running-job", title: time(job.started_at) },
    link(href(`/jobs/${job.id}`), { class: "job-link" }, h("span", { class: "type-name" }, job.type), h("span", { class: "mono small muted" }, shortId(job.id))),
    h("span", { class: "muted small" }, job.queue),
    h("span", { class: "small num", dataset: { progress: job.id } }),
    h("span", { class: "running-for num" }, elapsed(job.started_at)),
  );
}

function updateJob(node, job) {
  if (job.progress) text(node.querySelector("[data-progress]"), percent(job.progress.percent));
}
