// What pages are made of.

import { parse, stringify } from "./api.js";
import { toast } from "./dialog.js";
import { attribute, h, keyed, replace, svg, text } from "./dom.js";
import { ago, coarse, now, percent, shortId, time, until } from "./format.js";
import { href, link, navigate } from "./router.js";

export const STATUSES = ["queued", "scheduled", "retrying", "running", "completed", "failed", "canceled"];
export const WAITING = ["queued", "scheduled", "retrying"];

const ICONS = {
  pause: "M6 4v8M10 4v8", play: "M5 3.5v9l7-4.5z", retry: "M12.5 8a4.5 4.5 0 1 1-1.4-3.3M11.5 2.2v2.8H8.7", trash: "M3 4.5h10M6.5 4.5V3h3v1.5M4.5 4.5l.6 8.5h5.8l.6-8.5",
  stop: "M4.5 4.5h7v7h-7z", copy: "M5.5 5.5h7v7h-7zM3.5 10.5v-7h7", search: "M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM10.3 10.3 13.5 13.5", plus: "M8 3v10M3 8h10",
  sun: "M8 10.8a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6zM8 1.5v1.3M8 13.2v1.3M1.5 8h1.3M13.2 8h1.3M3.4 3.4l.9.9M11.7 11.7l.9.9M3.4 12.6l.9-.9M11.7 4.3l.9-.9",
  moon: "M13 9.5A5.5 5.5 0 0 1 6.5 3 5.5 5.5 0 1 0 13 9.5z", system: "M2.5 3.5h11v7.5h-11zM6 13.5h4", help: "M6 6.2a2 2 0 1 1 2.9 1.8c-.6.3-.9.7-.9 1.4M8 11.8v.1", user: "M8 8a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM3.5 13.5c.5-2.4 2.2-3.5 4.5-3.5s4 1.1 4.5 3.5",
  exit: "M6.5 3h-3v10h3M7 8h6M10.5 5.5 13 8l-2.5 2.5", next: "M6 3.5 10.5 8 6 12.5", back: "M10 3.5 5.5 8l4.5 4.5", check: "M3.5 8.5 6.5 11.5 12.5 4.5", link: "M6 3H3v10h10v-3M9 3h4v4M13 3 7 9", warn: "M8 2.5 14 13H2zM8 6.5v3M8 11.3v.1", close: "M4 4l8 8M12 4l-8 8",
};

export function icon(name) {
  return svg("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true", focusable: "false" }, svg("path", { d: ICONS[name] }));
}

export function statusBadge(status) {
  return setStatus(h("span", { class: "badge" }), status);
}

/** Makes a badge that of another status. */
export function setStatus(badge, status) {
  if (badge.dataset.status !== status) {
    badge.dataset.status = status;
    text(badge, status.replaceAll("_", " "));
  }
  return badge;
}

export function button(label, { kind = "", icon: name, ...props } = {}) {
  return h("button", { type: "button", ...props, class: `button ${kind} ${props.class ?? ""}`.trim() }, name ? icon(name) : null, label ? h("span", null, label) : null);
}

/** The head of a page: its name, which takes the focus when the page is shown, and what can be done with all of it. */
export function pageHead(title, ...actions) {
  return h("div", { class: "page-head" }, h("h1", { tabindex: -1 }, title), h("div", { class: "row" }, actions));
}

export function card(title, ...body) {
  const { actions = null, class: kind = "", id = null } = body[0]?.constructor === Object ? body.shift() : {};
  const head = title === null ? null : h("div", { class: "card-head" }, h("h2", null, title), actions ? h("div", { class: "row" }, actions) : null);
  return h("section", { class: `card ${kind}`.trim(), id }, head, body);
}

export function emptyState(title, hint = null, ...actions) {
  return h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), hint ? h("p", { class: "muted" }, hint) : null, actions.length ? h("div", { class: "row center" }, actions) : null);
}

/** Why something is not shown, and a way to try again. */
export function problemNote(error, retry = null) {
  const title = error?.title ?? "Something went wrong";
  return h("div", { class: "note bad", role: "alert" }, icon("warn"), h("div", { class: "grow" }, h("b", null, title), error?.detail ? h("div", { class: "muted" }, error.detail) : null),
    retry ? button("Try again", { onclick: retry }) : null);
}

export function skeleton(lines = 3) {
  return h("div", { class: "skeleton", "aria-hidden": "true" }, Array.from({ length: lines }, () => h("i")));
}

// Times that tick, all by one timer; nodes that left the page are forgotten by looking only at those in it.

const WORDING = {
  ago: (at) => ago(at),
  until: (at) => until(at),
  elapsed: (at) => coarse(Math.max(0, (now() - Date.parse(at)) / 1_000)),
};

setInterval(() => {
  if (document.hidden) return;
  for (const node of document.querySelectorAll("time[data-tick]")) tick(node);
}, 1_000);

function tick(node) {
  text(node, (node.dataset.prefix ?? "") + WORDING[node.dataset.tick](node.dateTime));
}

function ticking(kind, iso, prefix = null) {
  if (!iso) return h("span", { class: "muted" }, "–");
  const node = h("time", { datetime: iso, title: time(iso), dataset: { tick: kind, prefix } });
  tick(node);
  return node;
}

/** "12 s ago" or "in 3 min", which goes on by itself. */
export function timeAgo(iso, { prefix = null } = {}) {
  return ticking("ago", iso, prefix);
}

/** The seconds since a moment, for what is under way. */
export function elapsed(iso, { prefix = null } = {}) {
  return ticking("elapsed", iso, prefix);
}

/** Gives a ticking time another moment. */
export function setMoment(node, iso) {
  if (!node.dataset?.tick || node.dateTime === iso || !iso) return;
  node.dateTime = iso;
  node.title = time(iso);
  tick(node);
}

export function progressBar(value = null, message = "") {
  const fill = h("i");
  const figure = h("span");
  const rest = h("span", { class: "progress-rest" });
  const words = h("span", { class: "progress-words small" }, figure, rest);
  const bar = h("div", { class: "progress-bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "Progress" }, fill);
  const element = h("div", { class: "progress" }, bar, words);
  element.set = (next, said = "") => {
    const known = next !== null && next !== undefined;
    element.classList.toggle("unknown", !known);
    fill.style.width = known ? `${Math.max(0, Math.min(100, next))}%` : "";
    attribute(bar, "aria-valuenow", known ? Math.round(next) : null);
    attribute(bar, "aria-valuetext", said || null);
    text(figure, known ? percent(next) : "");
    text(rest, known && said ? ` · ${said}` : said);
    words.title = said;
  };
  element.set(value, message);
  return element;
}

export function copyButton(source, label = "Copy") {
  const said = h("span", null, label);
  return h("button", { type: "button", class: "button quiet", onclick: async () => {
    const copied = await copy(typeof source === "function" ? source() : source);
    text(said, copied ? "Copied" : "Not copied");
    setTimeout(() => text(said, label), 1_500);
  } }, icon("copy"), said);
}

async function copy(value) {
  try {
    await navigator.clipboard.writeText(value);
    return true;
  } catch {
    // Without TLS there is no clipboard: the old way, by a selection.
    const area = h("textarea", { class: "sr", readonly: true });
    area.value = value;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    if (!copied) toast("The browser does not allow it here.", "bad");
    return copied;
  }
}

export function idLink(id) {
  return link(href(`/jobs/${id}`), { class: "mono id-link", title: id }, shortId(id));
}

export function typeName(type) {
  return h("span", { class: "type-name", title: type }, type);
}

export function queueLink(name) {
  return link(href("/jobs", { queue: name }), { class: "queue-name", title: name }, name);
}

export function tags(names) {
  return h("span", { class: "tags" }, names.map((name) => link(href("/jobs", { tag: name }), { class: "tag" }, name)));
}

// JSON, coloured and folded; long ones stay cheap because folded parts are made when they are opened.

const OPEN_ENTRIES = 40;
const OPEN_DEPTH = 3;
const MOST_ENTRIES = 500;
const MOST_TEXT = 2_000;

export function jsonView(value, { copy: withCopy = true, label = "JSON" } = {}) {
  return h("div", { class: "json-view" },
    withCopy ? h("div", { class: "json-copy" }, copyButton(() => stringify(value, 2))) : null,
    h("div", { class: "code json", tabindex: 0, role: "region", "aria-label": label }, shown(value, 0)));
}

const isRaw = (value) => JSON.isRawJSON?.(value) ?? false;

function shown(value, depth) {
  if (value === null) return h("span", { class: "j-null" }, "null");
  if (isRaw(value)) return h("span", { class: "j-number" }, value.rawJSON);
  if (typeof value === "string") return longText(value);
  if (typeof value !== "object") return h("span", { class: `j-${typeof value}` }, String(value));
  const list = Array.isArray(value);
  const [opening, closing] = list ? "[]" : "{}";
  const size = list ? value.length : Object.keys(value).length;
  if (!size) return h("span", { class: "j-mark" }, opening + closing);
  const body = h("div", { class: "j-body" });
  const fill = () => body.childNodes.length || replace(body, rows(value, list, depth));
  const said = `${size} ${list ? (size === 1 ? "item" : "items") : size === 1 ? "key" : "keys"}`;
  const details = h("details", { ontoggle: () => details.open && fill() },
    h("summary", null, h("span", { class: "j-mark" }, opening), h("span", { class: "j-size" }, ` ${said} `, closing)), body, h("span", { class: "j-mark" }, closing));
  if (depth === 0 || (depth < OPEN_DEPTH && size <= OPEN_ENTRIES)) {
    details.open = true;
    fill();
  }
  return details;
}

function rows(value, list, depth) {
  const entries = list ? value.slice(0, MOST_ENTRIES).map((each, at) => [at, each]) : Object.entries(value).slice(0, MOST_ENTRIES);
  const left = (list ? value.length : Object.keys(value).length) - entries.length;
  return [
    ...entries.map(([key, each]) => h("div", { class: "j-row" }, list ? null : [h("span", { class: "j-key" }, JSON.stringify(key)), ": "], shown(each, depth + 1))),
    left > 0 ? h("div", { class: "muted" }, `… and ${left} more (copy shows all)`) : null,
  ];
}

function longText(value) {
  const said = JSON.stringify(value);
  if (said.length <= MOST_TEXT) return h("span", { class: "j-string" }, said);
  const node = h("span", { class: "j-string" }, `${said.slice(0, MOST_TEXT)}…`);
  const more = h("button", { type: "button", class: "link-button", onclick: () => { text(node, said); more.remove(); } }, `show all ${said.length.toLocaleString("en-US")} characters`);
  return [node, " ", more];
}

/** JSON as text in, exact value out; throws SyntaxError. */
export const parseJson = parse;

/**
 * A table whose rows keep their nodes, focus and selection while they change.
 *
 * `columns`: [{key, label, cell(row) → node or text, class?, signature?(row)}]; a cell is made anew only when its text
 * or `signature` is another. `href(row)`: a click on the row, or Enter, goes there. `onselect(keys)` hears of another
 * choice: a person's, or that a chosen row is gone.
 */
export function table({ label, columns, keyOf, href: target = null, select = false, onselect = null, empty = null }) {
  const selected = new Set();
  const body = h("tbody");
  const all = select ? h("input", { type: "checkbox", "aria-label": "Select all rows", onchange: () => mark(all.checked) }) : null;
  const frame = h("div", { class: "table-frame", tabindex: 0, role: "region", "aria-label": label },
    h("table", null,
      h("caption", { class: "sr" }, label),
      h("thead", null, h("tr", null, select ? h("th", { class: "check", scope: "col" }, all) : null, columns.map((column) => h("th", { scope: "col", class: column.class ?? null }, column.label)))),
      body));
  const nothing = h("div", { class: "table-empty", hidden: true }, empty ?? emptyState("Nothing here"));
  const loading = h("div", { class: "table-empty" }, h("div", { class: "table-loading" }, skeleton(3)));
  const element = h("div", { class: "table" }, frame, nothing, loading);
  frame.hidden = true;
  let present = [];

  function mark(on) {
    for (const row of present) {
      const key = String(keyOf(row));
      if (on) selected.add(key);
      else selected.delete(key);
    }
    changed();
  }

  function paint() {
    for (const node of body.rows) {
      const on = selected.has(node.dataset.key);
      node.classList.toggle("selected", on);
      if (select) node.querySelector("td.check input").checked = on;
    }
    if (all) {
      all.checked = present.length > 0 && selected.size >= present.length;
      all.indeterminate = selected.size > 0 && !all.checked;
    }
  }

  function changed() {
    paint();
    onselect?.(selected);
  }

  function make(row) {
    const key = String(keyOf(row));
    const cells = columns.map((column) => h("td", { class: column.class ?? null, dataset: { label: column.label } }));
    const box = select ? h("input", { type: "checkbox", "aria-label": `Select ${key}`, onchange: () => {
      if (box.checked) selected.add(key);
      else selected.delete(key);
      changed();
    } }) : null;
    const node = h("tr", { tabindex: -1, dataset: { key } }, select ? h("td", { class: "check" }, box) : null, cells);
    node.cells_ = cells;
    node.shown_ = [];
    if (target) {
      node.classList.add("opens");
      node.addEventListener("click", (event) => {
        if (event.defaultPrevented || event.button !== 0 || getSelection()?.toString()) return;
        if (event.target.closest("a, button, input, label, select, summary, td.check")) return;
        const to = target(node.row_);
        if (event.metaKey || event.ctrlKey) window.open(to, "_blank", "noopener");
        else navigate(to);
      });
      node.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && event.target === node) navigate(target(node.row_));
      });
    }
    return node;
  }

  function update(node, row) {
    node.row_ = row;
    columns.forEach((column, at) => {
      const sign = column.signature ? column.signature(row) : null;
      if (column.signature && node.shown_[at] === sign && node.shown_.length > at) return;
      const cell = column.cell(row);
      if (cell instanceof Node || Array.isArray(cell)) {
        replace(node.cells_[at], cell);
        node.shown_[at] = sign;
      } else {
        text(node.cells_[at], cell ?? "–");
      }
    });
  }

  return {
    element,
    selected,
    update(rows) {
      present = rows;
      loading.remove();
      keyed(body, rows, (row) => String(keyOf(row)), make, update);
      frame.hidden = rows.length === 0;
      nothing.hidden = rows.length !== 0;
      const keys = new Set(rows.map((row) => String(keyOf(row))));
      let gone = false;
      for (const key of selected) gone = (!keys.has(key) && selected.delete(key)) || gone;
      // Rows that only look different are no other choice.
      if (gone) changed();
      else if (select) paint();
    },
    clear() {
      selected.clear();
      changed();
    },
  };
}
