// Numbers as they were written: 64-bit ids and 1.0 survive being shown, edited and submitted again.

import { get, parse, stringify } from "./api.js";

const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

/** The number that a person typed, exactly; undefined for what is none. */
export function number(text) {
  return NUMBER.test(text) ? parse(text) : undefined;
}

/** Whether a value is a number that was kept as its text. */
export function isKept(value) {
  return JSON.isRawJSON?.(value) ?? false;
}

/** Whether two values are equal as JSON. */
export function same(one, other) {
  return stringify(sorted(one)) === stringify(sorted(other));
}

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object" || isKept(value)) return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

/** One job, or what a call that answers with it gave: its payload and result exact, its own figures plain. */
export async function exactJob(id, { signal } = {}) {
  return withPlainFigures(await get(`/jobs/${encodeURIComponent(id)}`, null, { signal, exact: true }));
}

export function withPlainFigures(job) {
  const { payload, result, ...figures } = job;
  return { ...plain(figures), payload, result };
}

function plain(value) {
  if (isKept(value)) return Number(value.rawJSON);
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, plain(part)]));
}
