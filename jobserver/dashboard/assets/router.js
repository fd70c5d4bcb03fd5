// Pages by the fragment of the address: everything that is on the screen has a URL, and the back button works.

import { queryOf } from "./api.js";
import { h } from "./dom.js";

const placesLeft = new Map();
const MOST_PLACES = 50;
const RETURN_MS = 2_000;

let routes = [];
let host, failed, arrived;
let current = null;
let pushed = false;

/**
 * Begins to show pages in `root`. A route is {pattern: "/jobs/:id", load() → module, name}; `onfailure(root, error)`
 * shows what could not be shown, `onarrival({name, title})` hears of every page.
 */
export function start(root, table, { onfailure, onarrival }) {
  host = root;
  failed = onfailure;
  arrived = onarrival;
  routes = table.map((route) => ({
    ...route,
    matches: new RegExp(`^${route.pattern.replace(/:(\w+)/g, "(?<$1>[^/]+)")}/?$`),
  }));
  history.scrollRestoration = "manual";
  addEventListener("hashchange", () => show(true));
  addEventListener("click", (event) => {
    // Told apart from back and forward, which return to where the page was left.
    if (event.target instanceof Element && event.target.closest('a[href^="#"]')) pushed = true;
  });
  return show(false);
}

/** `#/jobs?status=failed`. */
export function href(path, params) {
  const query = queryOf(params);
  return `#${path}${query ? `?${query}` : ""}`;
}

export function navigate(to, { replace = false } = {}) {
  const hash = to.startsWith("#") ? to : `#${to}`;
  if (hash === location.hash) return;
  if (!host) {
    // Nothing is shown yet: it is where it begins.
    history.replaceState(null, "", hash);
    return;
  }
  pushed = true;
  if (replace) {
    history.replaceState(null, "", hash);
    show(true);
  } else {
    location.hash = hash;
  }
}

export function link(to, ...children) {
  const props = children[0] && children[0].constructor === Object ? children.shift() : {};
  return h("a", { href: to.startsWith("#") ? to : `#${to}`, ...props }, ...children);
}

/** Where we are: the path and the query. */
export function here() {
  const hash = location.hash.replace(/^#/, "") || "/";
  const at = hash.indexOf("?");
  const [path, query] = at < 0 ? [hash, ""] : [hash.slice(0, at), hash.slice(at + 1)];
  return { path: path.startsWith("/") ? path : `/${path}`, query: new URLSearchParams(query) };
}

/** Changes part of the query of the page that is shown. */
export function setQuery(params, options) {
  const { path, query } = here();
  for (const [name, value] of Object.entries(params)) {
    query.delete(name);
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== null && each !== undefined && each !== "") query.append(name, String(each));
    }
  }
  navigate(href(path, query), options);
}

/** Shows the present page anew, from its beginning. */
export async function reload() {
  await leave();
  await show(false);
}

/** Tries again what could not be shown. */
export async function recover() {
  if (current?.failed) await reload();
}

function find(path) {
  for (const route of routes) {
    const found = route.matches.exec(path);
    if (!found) continue;
    try {
      const params = Object.fromEntries(Object.entries(found.groups ?? {}).map(([k, v]) => [k, decodeURIComponent(v)]));
      return { route, params };
    } catch {
      // Not an address that we made.
      return null;
    }
  }
  return null;
}

async function show(moved) {
  const { path, query } = here();
  const back = moved && !pushed;
  pushed = false;
  const found = find(path);
  const same = found && current?.route === found.route && JSON.stringify(current.params) === JSON.stringify(found.params);
  if (same && current.mounted && current.page.update) {
    current.hash = location.hash;
    await attempt(current, () => current.page.update({ params: found.params, query, signal: current.leaving.signal }));
    return;
  }
  await leave();
  const leaving = new AbortController();
  const mine = { route: found?.route ?? null, params: found?.params ?? {}, leaving, page: null, mounted: false, failed: false, dispose: null, hash: location.hash };
  current = mine;
  if (!found) {
    arrived({ name: null, title: "Not found" });
    failed(host, null);
    return;
  }
  await attempt(mine, async () => {
    const { page } = await found.route.load();
    if (mine !== current) return;
    mine.page = page;
    const title = typeof page.title === "function" ? page.title(mine.params) : page.title;
    arrived({ name: found.route.name, title });
    const root = h("div", { class: "page", dataset: { page: found.route.name } });
    host.replaceChildren(root);
    scrollTo(0, 0);
    // With the newest address: it may have changed while the module came.
    const dispose = (await page.mount(root, { params: mine.params, query: here().query, signal: leaving.signal })) ?? null;
    if (mine !== current) dispose?.();
    else Object.assign(mine, { dispose, mounted: true });
    if (mine === current && back) returnTo(placesLeft.get(mine.hash) ?? 0, leaving.signal);
  });
}

/** Back to where the page was left, as soon as it is long enough again, unless the visitor goes elsewhere. */
function returnTo(place, signal) {
  const until = performance.now() + RETURN_MS;
  const stop = new AbortController();
  for (const kind of ["wheel", "touchstart", "keydown", "pointerdown"]) addEventListener(kind, () => stop.abort(), { signal: stop.signal, passive: true });
  const step = () => {
    if (stop.signal.aborted || signal.aborted) return stop.abort();
    scrollTo(0, place);
    if (Math.abs(scrollY - place) < 1 || performance.now() > until) stop.abort();
    else requestAnimationFrame(step);
  };
  step();
}

async function attempt(mine, step) {
  try {
    await step();
  } catch (error) {
    if (mine !== current || error?.name === "AbortError") return;
    // Nothing of it is on the screen any more.
    mine.mounted = false;
    mine.failed = true;
    failed(host, error);
  }
}

async function leave() {
  const left = current;
  current = null;
  if (!left) return;
  placesLeft.delete(left.hash);
  placesLeft.set(left.hash, scrollY);
  if (placesLeft.size > MOST_PLACES) placesLeft.delete(placesLeft.keys().next().value);
  left.leaving.abort();
  try {
    left.dispose?.();
  } catch (error) {
    console.error(error);
  }
}
