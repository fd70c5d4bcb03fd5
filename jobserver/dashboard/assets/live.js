// Live events for the whole page: one stream, folded in a worker, told to pages once a frame at the most.
//
// Without a stream the page is stale: subscribers get a reset every few seconds and load what they show.

import { now } from "./format.js";

const POLL_MS = 3_000;
// A stream that is longer under way is not waited for; a worker that failed is started again.
const CONNECT_MS = 3_000;
const RESTART_MS = 3_000;
// A tab that nobody sees gives its connection back: browsers allow six to a server, for all tabs together.
const HIDDEN_MS = 30_000;
// However slow the server is, what is shown is not older.
const SLOWEST_MS = 3_000;
const AGAIN_MS = 2_000;

const subscribers = new Set();
const stateListeners = new Set();

let worker = null;
let state_ = "connecting";
let since = now();
let reachable = true;
let streaming = false;
let off = false;
let poll = null;
let hiding = null;
let held = null;
let frame = null;
let connecting = null;
let restarting = null;

/** connecting, live or stale. */
export function state() {
  return state_;
}

/** How long it has been in its state, in seconds, and whether the server has live events at all. */
export function stateDetails() {
  return { state: state_, seconds: Math.max(0, (now() - since) / 1_000), off, reachable };
}

export function onState(listener) {
  stateListeners.add(listener);
  return () => stateListeners.delete(listener);
}

/** Hear of what happens, folded. Returns the end of it. */
export function subscribe(listener) {
  subscribers.add(listener);
  return () => subscribers.delete(listener);
}

/** Begins, once a visitor may read. */
export function start() {
  if (worker || restarting !== null) return;
  document.addEventListener("visibilitychange", seen);
  addEventListener("pagehide", hide);
  addEventListener("pageshow", back);
  employ();
}

function employ() {
  restarting = null;
  const mine = new Worker(address("/assets/stream.js"));
  worker = mine;
  mine.onmessage = ({ data }) => hear(data);
  // It could not be loaded, or met what it cannot read.
  mine.onerror = (event) => {
    event.preventDefault();
    if (mine !== worker) return;
    mine.terminate();
    worker = held = null;
    streaming = false;
    restarting = setTimeout(employ, RESTART_MS);
    judge();
  };
  if (!document.hidden) open(true);
}

function hide() {
  worker?.postMessage({ type: "close" });
}

function back(event) {
  if (event.persisted) open(true);
}

/** Ends: the visitor signed out. */
export function stop() {
  worker?.terminate();
  worker = null;
  document.removeEventListener("visibilitychange", seen);
  removeEventListener("pagehide", hide);
  removeEventListener("pageshow", back);
  clearInterval(poll);
  for (const timer of [hiding, connecting, restarting]) clearTimeout(timer);
  poll = hiding = connecting = restarting = held = null;
  streaming = false;
  become("connecting");
}

/** A call got through, or did not: both tell of the server sooner than the stream may. */
export function reached() {
  if (reachable) return;
  reachable = true;
  judge();
  if (!streaming && !document.hidden) open(false);
}

export function lost() {
  if (!reachable) return;
  reachable = false;
  judge();
}

function address(path) {
  // The policy wants scripts of workers to be named by somebody it can trust: this line is all of it.
  const rules = { createScriptURL: (url) => url };
  return window.trustedTypes ? window.trustedTypes.createPolicy("jobserver", rules).createScriptURL(path) : path;
}

function open(fresh) {
  if (!worker) return;
  if (state_ === "connecting" && connecting === null) connecting = setTimeout(judge, CONNECT_MS);
  worker.postMessage({ type: "open", url: new URL("/events", location.href).href, fresh });
}

function seen() {
  clearTimeout(hiding);
  hiding = null;
  if (document.hidden) {
    hiding = setTimeout(() => {
      worker?.postMessage({ type: "close" });
      streaming = false;
      clearInterval(poll);
      clearTimeout(connecting);
      poll = connecting = null;
      become("connecting");
    }, HIDDEN_MS);
  } else if (!streaming) {
    open(true);
    reset();
  }
}

function hear(message) {
  if (message.type === "live") {
    streaming = true;
    off = false;
    reachable = true;
    // What happened in between follows by itself where it goes on from a place.
    const anew = state_ === "stale" || !message.resumed;
    judge();
    if (anew) reset();
  } else if (message.type === "lost") {
    streaming = false;
    // A refusal is an answer.
    reachable ||= message.status > 0;
    off = message.status === 404 || message.status === 403;
    judge();
  } else if (message.type === "fold") {
    held = message.fold;
    // A hidden tab gets no frames: its timers still run, once a second.
    if (document.hidden) setTimeout(tell, 0);
    else if (frame === null) frame = requestAnimationFrame(tell);
  }
}

function judge() {
  clearTimeout(connecting);
  connecting = null;
  const stale = !streaming || !reachable;
  become(stale ? "stale" : "live");
  if (stale && poll === null) poll = setInterval(reset, POLL_MS);
  if (!stale) {
    clearInterval(poll);
    poll = null;
  }
}

function become(next) {
  if (next === state_) return;
  state_ = next;
  since = now();
  for (const listener of stateListeners) listener(next);
}

function tell() {
  if (frame !== null) cancelAnimationFrame(frame);
  frame = null;
  const fold = held;
  held = null;
  worker?.postMessage({ type: "next" });
  if (fold) spread(fold);
}

function reset() {
  spread({
    jobs: new Map(),
    progress: new Map(),
    counts: { submitted: 0, started: 0, completed: 0, failed: 0, retried: 0, canceled: 0 },
    seconds: new Map(),
    events: 0,
    reset: true,
    gap: true,
  });
}

function spread(fold) {
  for (const subscriber of [...subscribers]) {
    try {
      subscriber(fold);
    } catch (error) {
      // One page's mistake is not to end the news of the others; tests see it all the same.
      console.error(error);
    }
  }
}

/**
 * Calls `load` when it is told that something changed: at most once in `every` milliseconds, one at a time, less often
 * while it is slow (a busy server is not to be asked more). What the server could not do at present is asked for again.
 * Ends with `signal`.
 */
export function refresher(load, { every = 1_000, signal } = {}) {
  let running = false;
  let due = false;
  let timer = null;
  let ended = false;
  let nextAt = 0;

  async function run() {
    timer = null;
    running = true;
    due = false;
    const began = performance.now();
    try {
      await load();
      const ended = performance.now();
      nextAt = Math.max(began + every, ended + Math.min(4 * (ended - began), SLOWEST_MS));
    } catch (error) {
      nextAt = performance.now() + Math.max(every, AGAIN_MS);
      // While there is nobody, the polls of a stale page ask.
      if (error?.name === "Problem") due ||= error.status >= 500;
      else if (error?.name !== "AbortError") console.error(error);
    }
    running = false;
    if (due) plan();
  }

  function plan() {
    if (ended || timer !== null || running) return;
    timer = setTimeout(run, Math.max(0, nextAt - performance.now()));
  }

  const refresh = {
    soon() {
      due = true;
      plan();
    },
    stop() {
      ended = true;
      clearTimeout(timer);
      timer = null;
    },
  };
  signal?.addEventListener("abort", refresh.stop, { once: true });
  return refresh;
}
