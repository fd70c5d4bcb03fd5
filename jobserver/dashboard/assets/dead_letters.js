// The failed jobs by type and error, most recent first: look at one, replay one, try with ten, then the rest, or purge.

import { ask, inChunks, jobs as jobsSaid, MOST } from "./actions.js";
import { del, get, post } from "./api.js";
import { confirm, report, toast } from "./dialog.js";
import { attribute, h, keyed, replace, text } from "./dom.js";
import { count } from "./format.js";
import { columns, ENDED } from "./job_list.js";
import { refresher, subscribe } from "./live.js";
import { button, emptyState, icon, problemNote, setMoment, skeleton, table, timeAgo } from "./parts.js";
import { href, link, setQuery } from "./router.js";
import { can } from "./session.js";

const EVERY_MS = 1_000;
const GROUPS = 100;
const CANARY = 10;
const LAST = 20;
const STORED = "jobserver-canaries";

export const page = {
  title: "Dead letters",
  async mount(root, { query, signal }) {
    const list = new GroupList(root, signal);
    this.list = list;
    await list.show(query);
    return null;
  },
  update({ query }) {
    return this.list.show(query);
  },
};

const keyOf = (group) => `${group.type} ${group.fingerprint}`;

class GroupList {
  constructor(root, signal) {
    this.signal = signal;
    this.groups = null;
    this.query = new URLSearchParams();
    this.canaries = new Canaries(() => this.redraw(), signal);
    this.refresh = refresher(() => this.load(), { every: EVERY_MS, signal });
    this.end = subscribe((news) => this.hear(news));
    // Also when the page is left before its first answer.
    signal.addEventListener("abort", () => this.dispose(), { once: true });
    this.said = h("span", { class: "muted num", role: "status" });
    const typed = { type: "text", autocomplete: "off", spellcheck: "false", placeholder: "any" };
    this.fields = { type: h("input", { ...typed, list: "dead-types" }), queue: h("input", { ...typed, list: "dead-queues" }) };
    for (const [name, field] of Object.entries(this.fields)) field.addEventListener("change", () => setQuery({ [name]: field.value.trim(), fingerprint: null }));
    this.known = { type: h("datalist", { id: "dead-types" }), queue: h("datalist", { id: "dead-queues" }) };
    const labelled = (name, control) => h("label", { class: "filter" }, h("span", null, name), control);
    this.clear = link("/dead-letters", { class: "button quiet" }, "Clear");
    this.purgeAll = can("admin") ? button("Purge all", { kind: "danger", icon: "trash", hidden: true, onclick: (event) => this.purge(null, event.currentTarget) }) : null;
    this.replayAll = can("admin") ? button("Replay all", { icon: "retry", hidden: true, onclick: (event) => this.replay(null, event.currentTarget) }) : null;
    this.list = h("ul", { class: "groups" });
    this.place = h("div", { class: "stack" }, skeleton(5));
    replace(
      root,
      h("div", { class: "page-head" }, h("div", { class: "row titled" }, h("h1", { tabindex: -1 }, "Dead letters"), this.said), h("div", { class: "row" }, this.replayAll, this.purgeAll)),
      h("form", { class: "filters", role: "search", "aria-label": "Dead letters", onsubmit: (event) => event.preventDefault() }, labelled("Type", this.fields.type), labelled("Queue", this.fields.queue), this.clear, Object.values(this.known)),
      this.place,
    );
  }

  dispose() {
    this.end();
    this.canaries.dispose();
  }

  async show(query) {
    const before = this.query;
    this.query = query;
    for (const [name, field] of Object.entries(this.fields)) field.value = query.get(name) ?? "";
    this.clear.hidden = !query.has("type") && !query.has("queue");
    if (this.groups && before.get("queue") === query.get("queue") && before.get("type") === query.get("type")) this.redraw();
    else await this.load();
  }

  // With a fingerprint in the address the type is the group's: the others of that type are not in the way.
  get filter() {
    return { type: this.query.get("type"), queue: this.query.get("queue") };
  }

  async load() {
    try {
      const found = await get("/dlq/groups", { ...this.filter, limit: GROUPS }, { signal: this.signal });
      this.groups = found.items;
      this.partial = found.partial;
      replace(this.known.type, [...new Set(found.items.map((group) => group.type))].map((value) => h("option", { value })));
      replace(this.known.queue, [...new Set(found.items.flatMap((group) => group.queues))].map((value) => h("option", { value })));
      this.redraw();
    } catch (error) {
      if (error.name !== "Problem" || this.groups) throw error;
      replace(this.place, problemNote(error, () => this.refresh.soon()));
    }
  }

  redraw() {
    const { groups } = this;
    if (!groups || this.signal.aborted) return;
    const total = groups.reduce((sum, group) => sum + group.count, 0);
    text(this.said, total ? `${jobsSaid(total)} in ${groups.length === 1 ? "1 group" : `${count(groups.length)}${groups.length >= GROUPS ? "+" : ""} groups`}` : "");
    for (const one of [this.purgeAll, this.replayAll]) if (one) one.hidden = total === 0;
    // A canary that emptied its group is still to be seen.
    const shown = [...groups, ...this.canaries.without(groups, this.filter)];
    if (shown.length === 0) {
      const filtered = this.query.has("type") || this.query.has("queue");
      replace(this.place, h("div", { class: "card" }, filtered ? emptyState("Nothing failed here", "No failed job has this type and queue.") : emptyState("No dead letters", "Jobs that fail for good are collected here, grouped by their error.")));
      return;
    }
    const partial = this.partial ? h("p", { class: "note warn" }, "There is more than could be counted in time: the figures are of the jobs that failed last.") : null;
    if (this.list.parentNode !== this.place || this.wasPartial !== this.partial) replace(this.place, partial, this.list);
    this.wasPartial = this.partial;
    const open = this.query.get("fingerprint");
    const openType = this.query.get("type");
    keyed(this.list, shown, keyOf, (group) => this.make(group), (node, group) => this.update(node, group, open === group.fingerprint && (!openType || openType === group.type)));
  }

  // One group

  make(group) {
    const part = {
      count: h("b", { class: "group-count num" }),
      last: timeAgo(group.last_failed_at),
      first: timeAgo(group.first_failed_at),
      message: h("span", { class: "group-message" }),
      queues: h("span", { class: "muted small" }),
      canary: h("div", { class: "group-canary", hidden: true }),
      body: h("div", { class: "group-jobs" }),
    };
    const toggle = h(
      "button",
      { type: "button", class: "group-toggle", "aria-expanded": "false", onclick: () => setQuery(node.open ? { fingerprint: null } : { fingerprint: group.fingerprint }) },
      icon("next"),
      h("span", { class: "group-error" }, h("b", { class: "mono bad" }, group.error_type), part.message),
    );
    const act = (label, props, does) => button(label, { ...props, onclick: (event) => does(node.group, event.currentTarget) });
    part.one = act("Replay one", { kind: "tiny" }, (now, pressed) => this.replayOne(now, pressed));
    part.ten = act(`Canary of ${CANARY}`, { kind: "tiny" }, (now, pressed) => this.canary(now, pressed));
    part.all = act("Replay all", { kind: "tiny", icon: "retry" }, (now, pressed) => this.replay(now, pressed));
    part.purge = act("Purge", { kind: "danger tiny", icon: "trash" }, (now, pressed) => this.purge(now, pressed));
    const node = h(
      "li",
      { class: "card group" },
      h("div", { class: "group-head" }, toggle, part.count),
      h(
        "div",
        { class: "group-foot" },
        h("div", { class: "group-facts" }, h("span", { class: "type-name" }, group.type), part.queues, h("span", { class: "muted small" }, "last ", part.last, " · first ", part.first)),
        can("admin") ? h("div", { class: "row", role: "group", "aria-label": `Actions on ${group.error_type} of ${group.type}` }, part.one, part.ten, part.all, part.purge) : null,
      ),
      part.canary,
      part.body,
    );
    node.view = part;
    node.toggle = toggle;
    return node;
  }

  update(node, group, open) {
    const { view: part } = node;
    const grown = node.group && (node.group.count !== group.count || node.group.last_id !== group.last_id);
    node.group = group;
    text(part.count, count(group.count));
    part.count.title = jobsSaid(group.count);
    text(part.message, group.message);
    part.message.title = group.message;
    text(part.queues, group.queues.join(", "));
    setMoment(part.last, group.last_failed_at);
    setMoment(part.first, group.first_failed_at);
    for (const one of [part.one, part.ten, part.all, part.purge]) one.hidden = group.count === 0;
    part.ten.hidden = group.count <= CANARY;
    this.showCanary(node, group);
    attribute(node.toggle, "aria-expanded", String(open));
    node.classList.toggle("is-open", open);
    if (open && (!node.open || grown)) this.loadJobs(node, group);
    else if (!open && node.open) replace(part.body);
    node.open = open;
  }

  async loadJobs(node, group) {
    const { body } = node.view;
    if (!body.firstChild) replace(body, skeleton(3));
    try {
      const found = await get("/dlq", { ...chosen(this.filter, group), limit: LAST }, { signal: this.signal });
      if (!node.open) return;
      if (!node.jobs || body.firstChild !== node.jobs.element) {
        node.jobs = table({
          label: `Jobs that failed last with ${group.error_type}`,
          keyOf: (job) => job.id,
          href: (job) => href(`/jobs/${job.id}`),
          columns: [...columns("job", "queue", "detail", "attempt", "ended"), ...(can("admin") ? [{ key: "actions", label: "", class: "actions", cell: (job) => this.jobActions(job), signature: () => "" }] : [])],
        });
        node.jobs.element.classList.add("jobs-table");
        node.moreJobs = h("p", { class: "small group-more" });
        replace(body, node.jobs.element, node.moreJobs);
      }
      node.jobs.update(found.items);
      const all = link(href("/jobs", { status: "failed", ...chosen(this.filter, group) }), { class: "underlined" }, "Show all in the list of jobs");
      replace(node.moreJobs, found.next_cursor ? h("span", { class: "muted" }, `The ${found.items.length} that failed last. `) : null, all);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.name !== "Problem") throw error;
      replace(body, problemNote(error, () => this.loadJobs(node, group)));
    }
  }

  jobActions(job) {
    return h(
      "div",
      { class: "row" },
      button("Replay", { kind: "tiny", icon: "retry", "aria-label": `Replay job ${job.id}`, onclick: (event) => this.replayJob(job.id, event.currentTarget) }),
      button("Delete", { kind: "danger tiny", icon: "trash", "aria-label": `Delete job ${job.id}`, onclick: (event) => this.deleteJob(job.id, event.currentTarget) }),
    );
  }

  // Deeds

  async replayJob(id, pressed) {
    if (!(await confirm({ title: "Replay this job?", body: "It is queued again with its counters at zero; its history stays.", action: "Replay 1 job", cancel: "Back" }))) return;
    await this.deed(pressed, async () => {
      await post(`/dlq/${id}/replay`);
      toast("1 job queued again", "good");
    });
  }

  async deleteJob(id, pressed) {
    if (!(await confirm({ title: "Delete this job?", body: "It and its history are gone for good.", action: "Delete 1 job", danger: true, cancel: "Back" }))) return;
    await this.deed(pressed, async () => {
      await del(`/dlq/${id}`);
      toast("1 job deleted", "good");
    });
  }

  async replayOne(group, pressed) {
    await this.begin(group, 1, pressed);
  }

  async canary(group, pressed) {
    await this.begin(group, CANARY, pressed);
  }

  // A few first, whose fate is then watched.
  async begin(group, many, pressed) {
    const { filter } = this;
    let ids = [];
    await ask({
      button: pressed,
      dryRun: async () => {
        ids = await this.toReplay(chosen(filter, group), many);
        return ids.length;
      },
      none: "No failed job of this group is left.",
      told: (found) => ({
        title: `Replay ${jobsSaid(found)} of ${count(group.count)}?`,
        body: [h("p", null, "They are queued again with their counters at zero, and watched here: see how they fare before you replay the rest."), what(filter, group)],
        action: `Replay ${jobsSaid(found)}`,
      }),
      perform: async () => {
        const again = (await post("/dlq/replay", { ids })).ids;
        this.canaries.add(group, again);
        return again.length;
      },
      said: (done) => `${jobsSaid(done)} queued again`,
    });
    this.refresh.soon();
  }

  async replay(group, pressed) {
    const { filter } = this;
    let ids = [];
    const done = await ask({
      button: pressed,
      dryRun: async () => {
        ids = await this.toReplay(chosen(filter, group), MOST);
        return ids.length;
      },
      none: "No failed job is left here.",
      told: (found) => ({
        title: `Replay ${first(found)}?`,
        body: [h("p", null, "They are queued again with their counters at zero; their history stays."), group ? what(filter, group) : scope(filter)],
        action: `Replay ${jobsSaid(found)}`,
      }),
      perform: () => inChunks(ids, async (some) => (await post("/dlq/replay", { ids: some })).replayed, "queued again"),
      said: (many) => `${jobsSaid(many)} queued again`,
    });
    if (group && done !== null) this.canaries.forget(group);
    this.refresh.soon();
  }

  // Which they would be: these are then replayed, and no others.
  async toReplay(wanted, limit) {
    return (await post("/dlq/replay", { ...wanted, limit, dry_run: true }, { signal: this.signal })).ids;
  }

  async purge(group, pressed) {
    const { filter } = this;
    const { all, ...wanted } = chosen(filter, group);
    const find = async (options) =>
      (await post("/jobs/actions", { action: "delete", filter: { ...wanted, status: ["failed"] }, limit: MOST, dry_run: true }, options)).ids;
    let ids = [];
    await ask({
      button: pressed,
      dryRun: async () => {
        ids = await find({ signal: this.signal });
        return ids.length;
      },
      none: "No failed job is left here.",
      told: (found) => ({
        title: `Delete ${first(found)}?`,
        body: [h("p", null, "They and their history are gone for good."), group ? what(filter, group) : scope(filter)],
        action: `Delete ${jobsSaid(found)}`,
        danger: true,
      }),
      perform: async () => {
        // Those that were replayed since are not dead letters any more.
        const still = new Set(await find({}));
        const meant = ids.filter((id) => still.has(id));
        return inChunks(meant, async (some) => (await post("/jobs/actions", { action: "delete", ids: some })).changed, "deleted");
      },
      said: (done) => `${jobsSaid(done)} deleted`,
    });
    this.refresh.soon();
  }

  async deed(pressed, act) {
    pressed.disabled = true;
    try {
      await act();
    } catch (error) {
      report(error);
    } finally {
      pressed.disabled = false;
      this.refresh.soon();
    }
  }

  // Live

  hear({ jobs, reset, events }) {
    this.canaries.hear(jobs, reset);
    if (reset) this.refresh.soon();
    if (!events) return;
    for (const event of jobs.values()) {
      // A job that leaves its group is as much news as one that comes.
      if (event.status === "failed" || event.status === "deleted" || (event.status === "queued" && event.fence > 0)) {
        this.refresh.soon();
        return;
      }
    }
  }

  showCanary(node, group) {
    const { canary } = node.view;
    const watched = this.canaries.of(group);
    canary.hidden = !watched;
    if (!watched) return;
    const { completed, failed, other, underWay, total } = watched.score();
    const done = underWay === 0;
    const verdict = done ? (failed ? "bad" : "good") : "";
    const key = `${completed} ${failed} ${other} ${underWay} ${group.count}`;
    if (canary.dataset.key === key) return;
    canary.dataset.key = key;
    const name = total === 1 ? "The one replayed" : `Canary of ${total}`;
    const parts = [[completed, "completed", "completed"], [failed, "failed", "failed again"], [underWay, "running", "under way"], [other, "canceled", "canceled or deleted"]].filter(([many]) => many);
    replace(
      canary,
      h("div", { class: "row", role: "status" }, h("b", null, name), parts.map(([many, kind, said]) => h("span", { class: "badge num", dataset: { status: kind } }, `${many} ${said}`))),
      h("div", { class: "meter canary-meter", "aria-hidden": "true" }, parts.map(([many, kind]) => h("i", { dataset: { status: kind }, style: { width: `${(many / total) * 100}%` } }))),
      h(
        "div",
        { class: "row" },
        done && group.count > 0 && can("admin") ? button(`Replay the other ${count(group.count)}`, { kind: failed ? "tiny" : "primary tiny", onclick: (event) => this.replay(node.group, event.currentTarget) }) : null,
        done ? h("span", { class: `small ${verdict}` }, failed ? "Look at why they failed again before you replay the rest." : group.count > 0 ? "All went well." : "All went well, and none is left.") : null,
        h("span", { class: "grow" }),
        button("Dismiss", { kind: "quiet tiny", onclick: () => this.canaries.forget(group) }),
      ),
    );
  }
}

// What was counted is what is meant: of the queue that is looked at, not of the others too.
function chosen({ type, queue }, group = null) {
  const filter = { ...(type ? { type } : {}), ...(queue ? { queue } : {}) };
  if (group) return { ...filter, type: group.type, fingerprint: group.fingerprint };
  return Object.keys(filter).length ? filter : { all: true };
}

function first(found) {
  return found >= MOST ? `the first ${jobsSaid(found)}` : jobsSaid(found);
}

function what({ queue }, group) {
  return h("p", { class: "dialog-what" }, h("b", { class: "mono" }, group.error_type), ` ${group.message}`, h("br"), `type ${group.type}`, queue ? `, queue ${queue}` : null);
}

function scope({ type, queue }) {
  const said = [type ? `type ${type}` : null, queue ? `queue ${queue}` : null].filter(Boolean).join(", ");
  return h("p", null, said ? `All failed jobs of ${said}.` : "All failed jobs, of every type and queue.");
}

// Those that were replayed first, whose fate decides about the rest. Kept for as long as the tab lives.
class Canaries {
  constructor(changed, signal) {
    this.changed = changed;
    this.signal = signal;
    this.watched = new Map();
    for (const { group, ids, states } of stored()) this.watched.set(keyOf(group), new Canary(group, ids, states));
    this.refresh = refresher(() => this.look(), { every: EVERY_MS, signal });
    // Events may be lost: what is under way is looked at now and then.
    this.timer = setInterval(() => this.underWay().length && this.refresh.soon(), 3 * EVERY_MS);
    if (this.underWay().length) this.refresh.soon();
  }

  dispose() {
    clearInterval(this.timer);
  }

  of(group) {
    return this.watched.get(keyOf(group)) ?? null;
  }

  add(group, ids) {
    if (ids.length === 0) return;
    // Those of the group that are under way already stay watched.
    const before = this.of(group);
    const known = before?.open().length ? before : { ids: [], states: [] };
    const again = new Set(ids);
    const states = [...known.states].filter(([id]) => !again.has(id));
    this.watched.set(keyOf(group), new Canary(group, [...new Set([...known.ids, ...ids])], states));
    this.store();
    this.refresh.soon();
  }

  forget(group) {
    if (this.watched.delete(keyOf(group))) this.store();
  }

  // Groups that have a canary, but no failed job any more.
  without(groups, { type, queue }) {
    const known = new Set(groups.map(keyOf));
    return [...this.watched.entries()]
      .filter(([key, { group }]) => !known.has(key) && (!type || group.type === type) && (!queue || group.queues.includes(queue)))
      .map(([, { group }]) => ({ ...group, count: 0 }));
  }

  underWay() {
    return [...this.watched.values()].flatMap((canary) => canary.open());
  }

  hear(jobs, reset) {
    let changed = false;
    for (const canary of this.watched.values()) {
      for (const id of canary.open()) {
        const event = jobs.get(id);
        if (event) changed = canary.take(id, event.status) || changed;
      }
    }
    if (changed) this.store();
    if (reset) this.refresh.soon();
  }

  async look() {
    await Promise.all(
      [...this.watched.values()].flatMap((canary) =>
        canary.open().map(async (id) => {
          try {
            canary.take(id, (await get(`/jobs/${id}`, null, { signal: this.signal })).status);
          } catch (error) {
            if (error.status === 404) canary.take(id, "deleted");
            else throw error;
          }
        }),
      ),
    );
    this.store();
  }

  store() {
    try {
      const kept = [...this.watched.values()].map(({ group, ids, states }) => ({ group, ids, states: [...states] }));
      sessionStorage.setItem(STORED, JSON.stringify(kept));
    } catch {
      // It is then forgotten when the page is left.
    }
    this.changed();
  }
}

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(STORED) ?? "[]");
  } catch {
    return [];
  }
}

class Canary {
  constructor(group, ids, states = []) {
    this.group = group;
    this.ids = ids;
    this.states = new Map(states);
  }

  open() {
    return this.ids.filter((id) => !ENDED.has(this.states.get(id)));
  }

  take(id, status) {
    const changed = this.states.get(id) !== status;
    this.states.set(id, status);
    return changed;
  }

  score() {
    const many = (...wanted) => this.ids.filter((id) => wanted.includes(this.states.get(id))).length;
    return { completed: many("completed"), failed: many("failed"), other: many("canceled", "deleted"), underWay: this.open().length, total: this.ids.length };
  }
}
