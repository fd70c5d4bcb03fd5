// The list of jobs: filters and search in the address, pages that stay where they are while jobs arrive, and
// actions on many.

import { actOn, jobs as jobsSaid, labelOf, NAMES } from "./actions.js";
import { get } from "./api.js";
import { report } from "./dialog.js";
import { attribute, h, replace, text } from "./dom.js";
import { count, now } from "./format.js";
import { columns, ENDED, isVague, merged } from "./job_list.js";
import { refresher, state, subscribe } from "./live.js";
import { button, emptyState, icon, problemNote, skeleton, STATUSES, table } from "./parts.js";
import { href, link, navigate, setQuery } from "./router.js";
import { can } from "./session.js";

const PAGE = 50;
const MOST_NEW = 1_000;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const SINCE = {
  "5m": { seconds: 300, said: "last 5 minutes" },
  "15m": { seconds: 900, said: "last 15 minutes" },
  "1h": { seconds: 3_600, said: "last hour" },
  "24h": { seconds: 86_400, said: "last 24 hours" },
  "7d": { seconds: 604_800, said: "last 7 days" },
};
const FILTERS = ["status", "type", "queue", "tag", "since", "created_after", "created_before", "q", "error", "fingerprint"];
// Of these alone an event tells whether its job matches.
const TOLD = new Set(["status", "type", "queue", "since"]);

const ICONS = { cancel: "stop", retry: "retry", delete: "trash" };

// From each page's cursor to that of the page before it, for as long as this tab lives.
const before = new Map();

/** The parameters of GET /jobs for a query of the address. */
function wanted(query) {
  const params = {};
  for (const name of FILTERS) {
    const values = query.getAll(name).filter(Boolean);
    if (values.length) params[name] = name === "status" ? values : values[0];
  }
  if (params.since) {
    const seconds = SINCE[params.since]?.seconds;
    if (seconds) params.created_after = new Date(now() - seconds * 1_000).toISOString();
    delete params.since;
  }
  return params;
}

/** The filter of POST /jobs/actions for what was loaded. */
function filterOf(params) {
  return params.status ? { ...params, status: [].concat(params.status) } : params;
}

export const page = {
  title: "Jobs",
  mount(root, { query, signal }) {
    const list = new JobList(root, signal);
    this.list = list;
    list.show(query);
    return () => list.dispose();
  },
  update({ query }) {
    this.list.show(query);
  },
};

class JobList {
  constructor(root, signal) {
    this.signal = signal;
    this.admin = can("admin");
    this.jobs = new Map();
    this.fresh = new Set();
    this.everything = false;
    this.acting = false;
    // Whether events may have been missed since the last look.
    this.missed = false;
    this.details = new Set();
    this.loading = null;
    // Which load what is shown is of: answers to an earlier one come too late.
    this.turn = 0;
    this.query = new URLSearchParams();
    this.params = {};
    this.build(root);
    this.recheck = refresher(() => this.look(), { every: 3_000, signal });
    this.counter = refresher(() => this.count(), { every: 2_000, signal });
    this.end = subscribe((news) => this.hear(news));
    this.suggest();
  }

  dispose() {
    this.end();
    this.loading?.abort();
  }

  // What is there

  build(root) {
    this.total = h("span", { class: "muted num", role: "status" });
    this.statuses = new Map(
      STATUSES.map((status) => {
        const figure = h("span", { class: "num" });
        const chip = { type: "button", class: "chip", "aria-pressed": "false", dataset: { status }, title: "The figure is of all jobs of the server, whatever the filters", onclick: () => this.toggleStatus(status) };
        return [status, { node: h("button", chip, h("span", null, status), figure), figure }];
      }),
    );
    const typed = { type: "text", autocomplete: "off", spellcheck: "false", placeholder: "any" };
    this.fields = {
      search: h("input", { type: "search", "aria-label": "Search", placeholder: "Search text, or the id of a job", maxlength: 200, autocomplete: "off", spellcheck: "false", dataset: { search: "" } }),
      within: h("select", { "aria-label": "Search in" }, h("option", { value: "q" }, "in payloads"), h("option", { value: "error" }, "in errors")),
      type: h("input", { ...typed, list: "known-types" }),
      queue: h("input", { ...typed, list: "known-queues" }),
      tag: h("input", { ...typed, maxlength: 64 }),
      since: h(
        "select",
        { onchange: () => this.timeChosen() },
        h("option", { value: "" }, "any time"),
        Object.entries(SINCE).map(([value, { said }]) => h("option", { value }, said)),
        h("option", { value: "between" }, "between…"),
      ),
      after: h("input", { type: "datetime-local", step: 1 }),
      before: h("input", { type: "datetime-local", step: 1 }),
    };
    const labelled = (name, control) => h("label", { class: "filter" }, h("span", null, name), control);
    this.between = h("div", { class: "filter-between", hidden: true }, labelled("From", this.fields.after), labelled("To", this.fields.before));
    this.known = { types: h("datalist", { id: "known-types" }), queues: h("datalist", { id: "known-queues" }) };
    this.clear = link("/jobs", { class: "button quiet" }, "Clear");
    this.group = h("p", { class: "filter-group", hidden: true });
    const form = h(
      "form",
      { class: "filters", role: "search", "aria-label": "Jobs", onsubmit: (event) => { event.preventDefault(); this.apply(); } },
      h("div", { class: "search" }, this.fields.search, this.fields.within, h("button", { type: "submit", class: "button" }, icon("search"), "Search")),
      labelled("Type", this.fields.type),
      labelled("Queue", this.fields.queue),
      labelled("Tag", this.fields.tag),
      labelled("Submitted", this.fields.since),
      this.between,
      this.clear,
      Object.values(this.known),
    );
    for (const name of ["type", "queue", "tag", "after", "before"]) this.fields[name].addEventListener("change", () => this.apply());

    this.newer = h("button", { type: "button", class: "button new-jobs", hidden: true, onclick: () => this.newest() });
    this.table = table({
      label: "Jobs, newest first",
      columns: columns("status", "job", "queue", "detail", "attempt", "submitted", "took"),
      keyOf: (job) => job.id,
      href: (job) => href(`/jobs/${job.id}`),
      select: this.admin,
      onselect: () => {
        this.everything = false;
        this.sayChoice();
      },
    });
    this.table.element.classList.add("jobs-table");
    this.list = h("div", { class: "list" }, skeleton(8));
    this.below = h("div", { class: "list-below" });
    this.buildBar();
    replace(
      root,
      h("div", { class: "page-head" }, h("div", { class: "row titled" }, h("h1", { tabindex: -1 }, "Jobs"), this.total)),
      h("div", { class: "chips", role: "group", "aria-label": "Status" }, [...this.statuses.values()].map(({ node }) => node)),
      form,
      this.group,
      h("div", { class: "new-place" }, this.newer),
      this.list,
      this.below,
      this.bar,
    );
  }

  async suggest() {
    try {
      const [types, queues] = await Promise.all([get("/types", null, { signal: this.signal }), get("/queues", null, { signal: this.signal })]);
      replace(this.known.types, types.items.map(({ type }) => h("option", { value: type })));
      replace(this.known.queues, queues.items.map(({ name }) => h("option", { value: name })));
    } catch {
      // The filters work without suggestions.
    }
  }

  // Filters

  fill(query) {
    const { fields } = this;
    const chosen = new Set(query.getAll("status"));
    for (const [status, { node }] of this.statuses) node.setAttribute("aria-pressed", String(chosen.has(status)));
    const inError = query.has("error");
    fields.within.value = inError ? "error" : "q";
    fields.search.value = query.get(inError ? "error" : "q") ?? "";
    for (const name of ["type", "queue", "tag"]) fields[name].value = query.get(name) ?? "";
    const between = query.has("created_after") || query.has("created_before");
    fields.since.value = between ? "between" : (query.get("since") ?? "");
    this.between.hidden = !between;
    fields.after.value = local(query.get("created_after"));
    fields.before.value = local(query.get("created_before"));
    this.clear.hidden = !FILTERS.some((name) => query.has(name));
    const fingerprint = query.get("fingerprint");
    this.group.hidden = !fingerprint;
    replace(
      this.group,
      "Only failures of the group ",
      h("code", null, fingerprint),
      " ",
      button("Show all", { kind: "quiet", onclick: () => setQuery({ fingerprint: null, cursor: null }) }),
    );
  }

  apply() {
    const { fields } = this;
    const search = fields.search.value.trim();
    if (UUID.test(search)) {
      navigate(href(`/jobs/${search.toLowerCase()}`));
      return;
    }
    const between = fields.since.value === "between";
    const before = location.hash;
    setQuery({
      q: fields.within.value === "q" ? search : null,
      error: fields.within.value === "error" ? search : null,
      type: fields.type.value.trim(),
      queue: fields.queue.value.trim(),
      tag: fields.tag.value.trim(),
      since: between ? null : fields.since.value,
      created_after: between ? universal(fields.after.value) : null,
      created_before: between ? universal(fields.before.value) : null,
      cursor: null,
    });
    // The same search once more.
    if (location.hash === before) this.load();
  }

  timeChosen() {
    this.between.hidden = this.fields.since.value !== "between";
    if (this.between.hidden) this.apply();
    else this.fields.after.focus();
  }

  toggleStatus(status) {
    const chosen = new Set(this.query.getAll("status"));
    if (!chosen.delete(status)) chosen.add(status);
    setQuery({ status: STATUSES.filter((one) => chosen.has(one)), cursor: null });
  }

  // Loading

  get searching() {
    return this.query.has("q") || this.query.has("error");
  }

  async show(query) {
    this.query = query;
    this.fill(query);
    this.clearChoice();
    this.counter.soon();
    await this.load();
  }

  async load() {
    this.loading?.abort();
    const mine = new AbortController();
    this.loading = mine;
    attribute(this.list, "aria-busy", "true");
    this.turn += 1;
    this.params = wanted(this.query);
    const cursor = this.query.get("cursor");
    try {
      const found = await get("/jobs", { ...this.params, limit: PAGE, cursor }, { signal: AbortSignal.any([mine.signal, this.signal]) });
      this.jobs.clear();
      this.fresh.clear();
      this.sayNew();
      this.add(found);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.name !== "Problem") throw error;
      this.jobs.clear();
      text(this.total, "");
      replace(this.list, problemNote(error, () => this.load()));
      replace(this.below);
    } finally {
      if (this.loading === mine) {
        this.loading = null;
        attribute(this.list, "aria-busy", null);
      }
    }
  }

  add(found) {
    for (const job of found.items) this.jobs.set(job.id, job);
    this.matching = found.total_capped ? null : found.total;
    text(this.total, found.total_capped ? (found.total && !found.partial ? `over ${jobsSaid(found.total)}` : "") : jobsSaid(found.total));
    if (this.jobs.size === 0 && !found.partial) replace(this.list, this.nothing());
    else if (this.table.element.parentNode !== this.list) replace(this.list, this.table.element);
    this.draw();
    replace(this.below, found.partial && found.next_cursor ? this.goOn(found) : null, this.pager(found));
    this.sayChoice();
  }

  draw() {
    this.table.update([...this.jobs.values()]);
  }

  nothing() {
    if (this.query.has("cursor")) return emptyState("Nothing older", "This is the end of the list.");
    if (FILTERS.some((name) => this.query.has(name))) {
      return emptyState("No job matches", "Nothing that is kept fits all of these filters.", link("/jobs", { class: "button" }, "Clear the filters"));
    }
    return emptyState(
      "No jobs yet",
      "What is submitted appears here.",
      ...(can("submit") ? [link("/submit", { class: "button primary" }, "Submit a job")] : []),
    );
  }

  // A search that ended before the end of the table did.
  goOn(found) {
    const go = button("Go on", { kind: "primary" });
    const { turn } = this;
    go.addEventListener("click", async () => {
      go.disabled = true;
      attribute(go, "aria-busy", "true");
      try {
        const more = await get("/jobs", { ...this.params, limit: PAGE, cursor: found.next_cursor }, { signal: this.signal });
        if (this.turn === turn) this.add(more);
      } catch (error) {
        report(error);
        go.disabled = false;
        attribute(go, "aria-busy", null);
      }
    });
    const said = `The search stopped after two seconds with ${jobsSaid(this.jobs.size)} found. Older jobs are not searched yet.`;
    return h("div", { class: "note", role: "status" }, h("span", { class: "grow" }, said), go);
  }

  pager(found) {
    const cursor = this.query.get("cursor");
    const at = (place) => href("/jobs", withCursor(this.query, place));
    if (found.next_cursor) remember(found.next_cursor, cursor);
    const older = found.next_cursor && !found.partial;
    if (!cursor && !older) return null;
    return h(
      "nav",
      { class: "pager", "aria-label": "Pages of jobs" },
      cursor ? link(at(null), { class: "button quiet" }, "Newest") : null,
      cursor && before.has(cursor) ? link(at(before.get(cursor)), { class: "button", rel: "prev" }, icon("back"), "Newer") : null,
      older ? link(at(found.next_cursor), { class: "button", rel: "next" }, "Older", icon("next")) : null,
    );
  }

  // The same page once more: what is shown is updated in its place, what is new is announced.
  async look() {
    if (this.loading) return;
    if (this.searching) {
      // A search costs the server up to two seconds: only people ask for another.
      for (const [id, job] of this.jobs) if (!ENDED.has(job.status)) this.ask(id);
      return;
    }
    const { turn } = this;
    const found = await get("/jobs", { ...this.params, limit: PAGE, cursor: this.query.get("cursor") }, { signal: this.signal });
    if (this.turn !== turn) return;
    const seen = new Set();
    for (const job of found.items) {
      seen.add(job.id);
      if (this.jobs.has(job.id)) this.renew(job);
      else if (!this.query.has("cursor") && this.fresh.size < MOST_NEW) this.fresh.add(job.id);
    }
    // Those that match no longer are not in the answer, and are shown still: events tell of them, if all came.
    const blind = this.missed || state() !== "live";
    this.missed = false;
    if (blind) for (const [id, job] of this.jobs) if (!seen.has(id) && !ENDED.has(job.status)) this.ask(id);
    if (this.jobs.size === 0 && this.fresh.size) await this.load();
    this.draw();
    this.sayNew();
  }

  async count() {
    const stats = await get("/admin/stats", null, { signal: this.signal });
    for (const [status, { figure }] of this.statuses) text(figure, count(stats.by_status[status]));
  }

  newest() {
    if (this.query.has("cursor")) setQuery({ cursor: null });
    else this.load();
    scrollTo({ top: 0 });
  }

  // Live

  hear({ jobs, progress, reset, events }) {
    if (reset) {
      this.missed = true;
      this.recheck.soon();
    }
    if (reset || events) this.counter.soon();
    let changed = false;
    for (const [id, job] of this.jobs) {
      const event = jobs.get(id);
      const fresh = event && merged(job, event);
      if (fresh) {
        this.jobs.set(id, fresh);
        if (isVague(fresh)) this.ask(id);
        changed = true;
      }
      const said = progress.get(id);
      if (said && this.jobs.get(id).status === "running") {
        this.jobs.set(id, { ...this.jobs.get(id), progress: said });
        changed = true;
      }
    }
    if (changed) this.draw();
    if (jobs.size) this.hearNew(jobs);
  }

  hearNew(jobs) {
    const names = FILTERS.filter((name) => this.query.has(name));
    if (!names.every((name) => TOLD.has(name))) {
      // Whether they match, only the server knows.
      if (!this.searching) this.recheck.soon();
      return;
    }
    const first = this.jobs.keys().next().value ?? "";
    const statuses = this.query.getAll("status");
    const [type, queue] = [this.query.get("type"), this.query.get("queue")];
    for (const event of jobs.values()) {
      if ((type && event.type !== type) || (queue && event.queue !== queue) || this.jobs.has(event.id)) continue;
      if (event.status === "deleted" || (statuses.length && !statuses.includes(event.status))) this.fresh.delete(event.id);
      // Ids begin with their time. What gets a status may be older than what is shown.
      else if ((statuses.length || event.id > first) && this.fresh.size < MOST_NEW) this.fresh.add(event.id);
    }
    if (this.jobs.size === 0 && this.fresh.size) this.recheck.soon();
    this.sayNew();
  }

  sayNew() {
    const many = this.fresh.size;
    this.newer.hidden = many === 0 || this.jobs.size === 0;
    if (many) text(this.newer, `${many >= MOST_NEW ? `${count(MOST_NEW)}+` : count(many)} new`);
  }

  renew(job) {
    const shown = this.jobs.get(job.id);
    if (shown && job.fence >= shown.fence && shown.status !== "deleted") this.jobs.set(job.id, job);
  }

  // What events leave open is asked of the server: a few at a time, only of what is shown.
  ask(id) {
    this.details.add(id);
    this.asking ??= this.askAll().finally(() => {
      this.asking = null;
    });
  }

  async askAll() {
    while (this.details.size && !this.signal.aborted) {
      const ids = [...this.details].slice(0, 4);
      for (const id of ids) this.details.delete(id);
      await Promise.all(ids.filter((id) => this.jobs.has(id)).map((id) => this.askOne(id)));
      this.draw();
    }
  }

  async askOne(id) {
    try {
      this.renew(await get(`/jobs/${id}`, null, { signal: this.signal }));
    } catch (error) {
      // Otherwise the row stays as it is: the next event or look mends it.
      if (error.status === 404 && this.jobs.has(id)) this.jobs.set(id, { ...this.jobs.get(id), status: "deleted" });
    }
  }

  // Choosing

  clearChoice() {
    this.everything = false;
    this.table.clear();
  }

  sayChoice() {
    if (!this.admin) return;
    const many = this.table.selected.size;
    this.bar.hidden = many === 0;
    if (many === 0) return;
    const all = this.matching === null ? "all that match" : `all ${count(this.matching)} that match`;
    text(this.chosenSaid, this.everything ? `${all[0].toUpperCase()}${all.slice(1)}` : `${count(many)} chosen`);
    this.wider.hidden = this.everything || many < this.jobs.size || (this.matching !== null && this.matching <= many);
    text(this.wider.firstElementChild, `Choose ${all}`);
  }

  // Made once: what is pressed or read out is not taken away by news.
  buildBar() {
    this.chosenSaid = h("span", { class: "num", role: "status" });
    this.wider = button("Choose all that match", { kind: "quiet", hidden: true, onclick: () => { this.everything = true; this.sayChoice(); } });
    this.bar = h(
      "div",
      { class: "bulk", role: "region", "aria-label": "Actions on the chosen jobs", hidden: true },
      this.chosenSaid,
      this.wider,
      h("span", { class: "grow" }),
      NAMES.map((name) => button(labelOf(name), { kind: name === "retry" ? "" : "danger", icon: ICONS[name], dataset: { action: name }, onclick: (event) => this.act(name, event.currentTarget) })),
      button("Clear", { kind: "quiet", onclick: () => this.clearChoice() }),
    );
  }

  async act(name, pressed) {
    if (this.acting) return;
    this.acting = true;
    try {
      await this.carryOut(name, pressed);
    } finally {
      this.acting = false;
    }
  }

  async carryOut(name, pressed) {
    const chosen = this.everything ? { filter: filterOf(this.params) } : { ids: [...this.table.selected] };
    const of = this.everything ? this.matching : this.table.selected.size;
    if ((await actOn(name, chosen, { button: pressed, of, signal: this.signal })) === null) return;
    this.clearChoice();
    this.missed = true;
    if (name === "delete") await this.load();
    else await this.look().catch(report);
  }
}

function withCursor(query, cursor) {
  const next = new URLSearchParams(query);
  next.delete("cursor");
  if (cursor) next.set("cursor", cursor);
  return next;
}

function remember(cursor, previous) {
  before.delete(cursor);
  before.set(cursor, previous);
  if (before.size > 200) before.delete(before.keys().next().value);
}

// Fields of the form hold local times, the address those of UTC.
function local(iso) {
  const at = iso ? new Date(iso) : null;
  if (!at || Number.isNaN(at.getTime())) return "";
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

function universal(value) {
  return value ? new Date(value).toISOString() : null;
}
