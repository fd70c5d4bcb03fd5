// Questions and notices: native dialogs, which hold the focus, and toasts, which are read out.

import { h } from "./dom.js";

const TOAST_MS = 6_000;
const MOST_TOASTS = 4;

const shown = new Set();
// A question belongs to the page that asks it.
addEventListener("hashchange", closeAll);

/** Closes every dialog, as Escape does. */
export function closeAll() {
  for (const box of shown) box.close();
}

/** Asks, and answers whether the action was chosen. Escape and the backdrop mean no. */
export async function confirm({ title, body = null, action = "Continue", danger = false, cancel = "Cancel" }) {
  return (await open({ title, body, actions: [{ label: cancel, value: false }, { label: action, value: true, kind: danger ? "danger" : "primary" }] })) === true;
}

/**
 * A dialog; answers the value of the chosen action, null when it was closed or its page was left. The last action has
 * the focus, or the first where the last destroys something.
 */
export function open({ title, body = null, actions = [{ label: "Close", value: null, kind: "primary" }], wide = false }) {
  return new Promise((resolve) => {
    let chosen = null;
    const buttons = actions.map(({ label, value, kind }) =>
      h("button", { type: "button", class: `button ${kind ?? ""}`, onclick: () => { chosen = value; box.close(); } }, label));
    const heading = h("h2", { id: "dialog-title" }, title);
    const box = h("dialog", { class: wide ? "wide-dialog" : null, "aria-labelledby": "dialog-title" },
      heading, body === null ? null : h("div", { class: "dialog-body" }, body), h("div", { class: "dialog-actions" }, buttons));
    box.addEventListener("click", (event) => {
      if (event.target === box) box.close();
    });
    box.addEventListener("close", () => {
      shown.delete(box);
      box.remove();
      resolve(chosen);
    });
    document.body.append(box);
    box.showModal();
    shown.add(box);
    buttons.at(actions.at(-1)?.kind === "danger" ? 0 : -1)?.focus();
  });
}

/** A short notice at the edge; `kind` is good, bad or info. */
export function toast(text, kind = "info") {
  const host = document.getElementById("toasts");
  const close = () => note.remove();
  const note = h("div", { class: `toast ${kind}`, role: kind === "bad" ? "alert" : "status" },
    h("span", { class: "grow" }, text),
    h("button", { type: "button", class: "icon-button", "aria-label": "Dismiss", onclick: close }, "×"));
  host.append(note);
  while (host.children.length > MOST_TOASTS) host.firstChild.remove();
  setTimeout(close, kind === "bad" ? 2 * TOAST_MS : TOAST_MS);
}

/** Tells of a refusal. */
export function report(error) {
  if (error?.name === "AbortError") return;
  if (error?.name !== "Problem") {
    console.error(error);
    toast("Something went wrong on this page.", "bad");
    return;
  }
  toast(error.detail ? `${error.title}: ${error.detail}` : error.title, "bad");
}

