// Calls the public API. Every refusal is a Problem; a call that needs a login leads there.

import { learnClock } from "./format.js";

const PATIENCE_MS = 15_000;
// What changes many jobs at once takes its time.
const DEED_MS = 120_000;
const DEEDS = new Set(["POST /jobs/actions", "POST /dlq/replay", "DELETE /dlq"]);

/** A refusal: RFC 9457 as the server tells it; status 0 when it did not answer at all. */
export class Problem extends Error {
  constructor({ status, title, detail = null, errors = [], retryAfter = null }) {
    super(detail ?? title);
    this.name = "Problem";
    this.status = status;
    this.title = title;
    this.detail = detail;
    this.errors = errors;
    this.retryAfter = retryAfter;
  }
}

const watchers = { login: () => {}, reached: () => {}, lost: () => {}, troubled: () => {} };

/**
 * Who is told of what all calls have in common: `login` is needed, the server was `reached` or `lost`, is `troubled`:
 * what it cannot show at present, by its path, with the Problem, and null once it can.
 */
export function watch(told) {
  Object.assign(watchers, told);
}

// `patience`: how many milliseconds an answer may take.
export const get = (path, params, options) => call("GET", path, { params, ...options });
export const post = (path, body, options) => call("POST", path, { body: body ?? null, ...options });
export const del = (path, params, options) => call("DELETE", path, { params, ...options });

/** A query string without what is not said; lists repeat their name. */
export function queryOf(params) {
  const query = new URLSearchParams();
  const entries = params instanceof URLSearchParams ? params.entries() : Object.entries(params ?? {});
  for (const [name, value] of entries) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== null && each !== undefined && each !== "") query.append(name, String(each));
    }
  }
  return query.toString();
}

async function call(method, path, { params, body, signal, exact = false, headers = {}, patience = DEEDS.has(`${method} ${path}`) ? DEED_MS : PATIENCE_MS } = {}) {
  const query = queryOf(params);
  const limit = AbortSignal.timeout(patience);
  const request = {
    method,
    headers: { accept: "application/json", ...headers },
    signal: signal ? AbortSignal.any([signal, limit]) : limit,
    credentials: "same-origin",
    redirect: "error",
  };
  if (body !== undefined && body !== null) {
    request.body = typeof body === "string" ? body : stringify(body);
    request.headers["content-type"] = "application/json";
  }
  let answer, said;
  try {
    answer = await fetch(query ? `${path}?${query}` : path, request);
    said = await answer.text();
  } catch (error) {
    if (signal?.aborted) throw new DOMException("The page was left.", "AbortError");
    const late = error.name === "TimeoutError";
    const reads = method === "GET";
    // A deed may be long; what is read comes at once, or something is wrong.
    if (reads || !late) watchers.lost();
    const why = late ? `Nothing came within ${patience / 1_000} s` : "It may be down, or the network is";
    throw new Problem({ status: 0, title: "The server does not answer", detail: reads ? `${why}.` : `${why}: it is not known whether it was done.` });
  }
  learnClock(answer.headers.get("date"));
  watchers.reached();
  const problem = answer.ok ? null : problemOf(answer, said);
  if (method === "GET") watchers.troubled(path, answer.status >= 500 ? problem : null);
  if (answer.ok) return said ? (exact ? exactly(said) : JSON.parse(said)) : null;
  if (answer.status === 401 && path !== "/session") watchers.login();
  throw problem;
}

function problemOf(answer, said) {
  let told = {};
  try {
    told = JSON.parse(said) ?? {};
  } catch {
    // A proxy in between may say it in HTML.
  }
  return new Problem({
    status: answer.status,
    title: told.title ?? `HTTP ${answer.status}`,
    detail: told.detail,
    errors: told.errors,
    retryAfter: Number(answer.headers.get("retry-after")) || null,
  });
}

/** A job whose figures are numbers, and whose payload and result are what they were. */
function exactly(said) {
  const job = JSON.parse(said);
  const exact = parse(said);
  for (const name of ["payload", "result"]) if (name in job) job[name] = exact[name];
  return job;
}

/** JSON whose numbers the browser would change stay as they were written: raw JSON. */
export function parse(said) {
  if (!JSON.rawJSON) return JSON.parse(said);
  return JSON.parse(said, (_, value, context) =>
    typeof value === "number" && String(value) !== context.source ? JSON.rawJSON(context.source) : value,
  );
}

/** JSON of what `parse` read, its raw numbers unchanged. */
export function stringify(value, indent) {
  return JSON.stringify(value, null, indent);
}
