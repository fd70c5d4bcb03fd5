// Who looks at the page, and what they may do.

import { get, post, del } from "./api.js";

const SCOPES = { read: ["read"], submit: ["read", "submit"], admin: ["read", "submit", "admin"] };

let known = null;
const listeners = new Set();

/** What the server said of this visitor: {open, name, scope, signed_in, version, trace_url_template, max_payload_bytes}. */
export function session() {
  return known ?? { open: false, name: null, scope: null, signed_in: false, version: "", trace_url_template: null, max_payload_bytes: 1_048_576 };
}

/** Whether the visitor's key, or the open server, allows it. */
export function can(scope) {
  const { open, scope: own } = session();
  return open || (SCOPES[own] ?? []).includes(scope);
}

export function onSession(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export async function loadSession() {
  take(await get("/session"));
}

export async function signIn(key) {
  take(await post("/session", { key }));
}

/** The key is not good any more. */
export function forget() {
  take({ ...session(), open: false, name: null, scope: null, signed_in: false });
}

export async function signOut() {
  await del("/session");
  await loadSession();
}

function take(told) {
  known = told;
  for (const listener of listeners) listener(told);
}
