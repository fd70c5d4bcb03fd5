// Keys for those who never reach for the mouse. None of them works while something is typed.

import { open } from "./dialog.js";
import { h } from "./dom.js";
import { navigate } from "./router.js";

const GO = { o: ["/", "overview"], j: ["/jobs", "jobs"], d: ["/dead-letters", "dead letters"], q: ["/queues", "queues"], w: ["/workers", "workers"], s: ["/submit", "submit a job"] };
const GO_MS = 1_200;

let going = 0;

export function start() {
  addEventListener("keydown", pressed);
}

function pressed(event) {
  if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey) return;
  const target = event.target;
  if (target instanceof Element && target.closest("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  if (document.querySelector("dialog[open]")) return;
  if (going && performance.now() - going < GO_MS) {
    going = 0;
    const found = GO[event.key];
    if (found) {
      event.preventDefault();
      navigate(found[0]);
    }
    return;
  }
  if (event.key === "g") going = performance.now();
  else if (event.key === "?") help();
  else if (event.key === "/") search(event);
  else if (event.key === "j" || event.key === "k") step(event, event.key === "j" ? 1 : -1);
  else if (event.key === "x") tick(event);
}

function search(event) {
  const field = document.querySelector("main input[data-search]");
  if (!field) return;
  event.preventDefault();
  field.focus();
  field.select();
}

function step(event, by) {
  const rows = [...document.querySelectorAll("main tbody tr")].filter((row) => row.offsetParent !== null);
  if (!rows.length) return;
  event.preventDefault();
  const at = rows.indexOf(document.activeElement?.closest("tr"));
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + by))];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

function tick(event) {
  const box = document.activeElement?.closest("tr")?.querySelector("td.check input");
  if (!box) return;
  event.preventDefault();
  box.click();
}

/** What the keys do. */
export function help() {
  const line = (keys, says) => [h("dt", null, keys.map((key) => h("kbd", null, key))), h("dd", null, says)];
  return open({
    title: "Keyboard",
    body: h("dl", { class: "keys" },
      Object.entries(GO).map(([key, [, name]]) => line(["g", key], `go to ${name}`)),
      line(["/"], "search"), line(["j"], "next row"), line(["k"], "row before"), line(["Enter"], "open the row"), line(["x"], "select the row"), line(["Esc"], "close a dialog, leave a field"), line(["?"], "this help")),
  });
}
