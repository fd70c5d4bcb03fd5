// The page's frame: navigation, state of the live events, session, theme; and which module shows which address.

import { watch } from "./api.js";
import { closeAll, report } from "./dialog.js";
import { attribute, h, replace, text } from "./dom.js";
import { coarse } from "./format.js";
import * as keyboard from "./keyboard.js";
import * as live from "./live.js";
import { button, emptyState, icon, pageHead, problemNote } from "./parts.js";
import { here, href, link, navigate, recover, reload, start } from "./router.js";
import { can, forget, loadSession, onSession, session, signOut } from "./session.js";

// Loaded when they are first shown, or when there is nothing else to do: what is loaded works without the server.
const ROUTES = [
  { pattern: "/", name: "overview", load: () => import("./overview.js") },
  { pattern: "/jobs", name: "jobs", load: () => import("./jobs.js") },
  { pattern: "/jobs/:id", name: "job", load: () => import("./job.js") },
  { pattern: "/dead-letters", name: "dead-letters", load: () => import("./dead_letters.js") },
  { pattern: "/queues", name: "queues", load: () => import("./queues.js") },
  { pattern: "/workers", name: "workers", load: () => import("./workers.js") },
  { pattern: "/submit", name: "submit", load: () => import("./submit.js") },
  { pattern: "/login", name: "login", load: () => import("./login.js") },
];
const NAVIGATION = [
  ["overview", "/", "Overview"],
  ["jobs", "/jobs", "Jobs"],
  ["dead-letters", "/dead-letters", "Dead letters"],
  ["queues", "/queues", "Queues"],
  ["workers", "/workers", "Workers"],
];
// A page belongs to an entry of the navigation that is not its own.
const BELONGS = { job: "jobs" };
const THEMES = ["system", "light", "dark"];
// A trouble that was not told again is over, or nobody asks any more.
const TROUBLE_MS = 15_000;
const LIVE_WORDS = { connecting: "Connecting", live: "Live", stale: "Stale" };

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const tools = document.getElementById("tools");
const banner = document.getElementById("banner");
const announcer = document.getElementById("announcer");

const entries = new Map(NAVIGATION.map(([name, path, label]) => [name, link(path, label)]));
replace(nav, ...entries.values());

const liveWords = h("span", { class: "live-words" });
const liveState = h("span", { class: "live", dataset: { state: "connecting" } }, h("i", { "aria-hidden": "true" }), liveWords);
const submit = link("/submit", { class: "button primary submit-link" }, icon("plus"), h("span", null, "Submit"));
const themeButton = h("button", { type: "button", class: "icon-button", onclick: nextTheme });
const helpButton = h("button", { type: "button", class: "icon-button help-button", "aria-label": "Keyboard help", title: "Keyboard help (?)", onclick: () => keyboard.help() }, icon("help"));
const whoName = h("b");
const whoScope = h("span", { class: "muted" });
const who = h("details", { class: "who" },
  h("summary", { class: "icon-button", "aria-label": "Session", title: "Session" }, icon("user")),
  h("div", { class: "menu" }, h("div", { class: "who-facts" }, whoName, whoScope),
    h("button", { type: "button", class: "button quiet", onclick: leave }, icon("exit"), "Sign out")));
replace(tools, liveState, submit, themeButton, helpButton, who);

document.querySelector(".skip").addEventListener("click", (event) => {
  // Fragments are addresses here.
  event.preventDefault();
  main.focus();
});
addEventListener("click", (event) => {
  if (who.open && !who.contains(event.target)) who.open = false;
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && who.open) {
    who.open = false;
    who.querySelector("summary").focus();
  }
});

function nextTheme() {
  const theme = THEMES[(THEMES.indexOf(window.jobserverTheme.get()) + 1) % THEMES.length];
  window.jobserverTheme.set(theme);
  showTheme();
  text(announcer, `Theme: ${theme}`);
}

function showTheme() {
  const theme = window.jobserverTheme.get();
  replace(themeButton, icon({ light: "sun", dark: "moon", system: "system" }[theme]));
  attribute(themeButton, "aria-label", `Theme: ${theme}. Change it`);
  attribute(themeButton, "title", `Theme: ${theme}`);
}

function showSession() {
  const { open, name, scope, signed_in: signedIn, version } = session();
  const inside = open || signedIn;
  submit.hidden = !can("submit");
  who.hidden = open || !signedIn;
  nav.hidden = !inside;
  liveState.hidden = !inside;
  text(whoName, name ?? "");
  text(whoScope, `${scope ?? ""} key`);
  attribute(document.querySelector(".brand"), "title", version ? `jobserver ${version}` : null);
}

let ticking = null;

function showLive() {
  const { state, seconds, off, reachable } = live.stateDetails();
  const trouble = troubleNow();
  // Events may come while figures do not.
  liveState.dataset.state = trouble ? "stale" : state;
  text(liveWords, trouble && state === "live" ? LIVE_WORDS.stale : state === "stale" && !off ? `${LIVE_WORDS.stale} · ${coarse(seconds)}` : off ? "Polling" : LIVE_WORDS[state]);
  attribute(liveState, "title", { connecting: "Connecting to the event stream", live: "Every change shows within a second", stale: off ? "This server has no live events: the page asks every 3 s" : "The event stream is gone: the page asks every 3 s" }[state]);
  clearInterval(ticking);
  ticking = state === "stale" || trouble ? setInterval(showLive, 1_000) : null;
  const gone = state === "stale" && !reachable;
  if (gone) showBanner("The server does not answer. ", "What you see is from before; the page goes on by itself when it is back.");
  else if (trouble) showBanner(`The server cannot show everything: ${trouble.title}. `, `${trouble.detail ?? ""} What you see is from before; the page goes on by itself.`);
  else if (version !== null && session().version !== version) showBanner(`The server is now ${session().version}. `, `This page is of ${version}.`, button("Reload", { kind: "tiny", onclick: () => location.reload() }));
  else showBanner(null);
}

let bannerWords = null;

/** Once for those who listen: what stays the same goes on in silence. */
function showBanner(title, detail = "", action = null) {
  const words = title && title + detail;
  if (words === bannerWords) return;
  bannerWords = words;
  banner.hidden = !title;
  replace(banner, title ? [icon("warn"), h("span", null, h("b", null, title), detail), action] : null);
}

// What the server could not show, by its path.
const troubles = new Map();

function troubled(path, problem) {
  if (problem) troubles.set(path, { problem, at: performance.now() });
  else if (!troubles.delete(path)) return;
  showLive();
  if (!troubles.size) recover();
}

function troubleNow() {
  for (const [path, { at }] of troubles) if (performance.now() - at > TROUBLE_MS) troubles.delete(path);
  return troubles.values().next().value?.problem ?? null;
}

// Of the server that this page came from.
let version = null;

function reached() {
  const away = !live.stateDetails().reachable;
  live.reached();
  if (away) returned();
}

/** After an outage: another server may be there, and what failed may be had. */
async function returned() {
  try {
    await loadSession();
  } catch {
    // It is away again; its next return is told.
    return;
  }
  showLive();
  await recover();
}

let told = null;
live.onState((state) => {
  showLive();
  if (state !== told && (state === "stale" || told === "stale")) text(announcer, state === "live" ? "Live again" : state === "stale" ? "The page is stale: live events are gone" : "");
  if (state === "live" && told === "stale") returned();
  told = state;
});

async function leave() {
  who.open = false;
  try {
    await signOut();
  } catch (error) {
    report(error);
    return;
  }
  live.stop();
  navigate("/login");
}

// Without events nothing else tells of the server's return.
live.subscribe(({ reset }) => {
  if (reset && live.stateDetails().off) recover();
});

/** To the login, and back to where the visitor was. */
function toLogin() {
  const { path } = here();
  if (path === "/login") return;
  closeAll();
  forget();
  live.stop();
  navigate(href("/login", { next: location.hash || "#/" }), { replace: true });
}

function failed(root, error, retry = reload) {
  if (error === null) {
    replace(root, h("div", { class: "page" }, pageHead("Not found"), emptyState("There is no such page", null, link("/", { class: "button" }, "To the overview"))));
    return;
  }
  if (error.name !== "Problem") console.error(error);
  if (error.status === 401) return;
  const note = error.name === "Problem" ? error : { title: "This page could not be shown", detail: "Load it again; the console says more." };
  replace(root, h("div", { class: "page" }, pageHead("Not available"), problemNote(note, () => retry())));
}

function arrived({ name, title }) {
  // Of the page before.
  troubles.clear();
  showLive();
  document.title = title === "Overview" ? "jobserver" : `${title} · jobserver`;
  const at = BELONGS[name] ?? name;
  for (const [each, entry] of entries) attribute(entry, "aria-current", each === at ? "page" : null);
  attribute(submit, "aria-current", name === "submit" ? "page" : null);
  // A reader of screens hears where it is; the one who just loaded the page is at its beginning already.
  if (document.activeElement && document.activeElement !== document.body && !document.activeElement.closest("dialog")) main.focus({ preventScroll: true });
  text(announcer, title);
}

async function begin() {
  showTheme();
  showLive();
  keyboard.start();
  watch({ login: toLogin, reached, lost: live.lost, troubled });
  onSession(() => {
    showSession();
    const { open, signed_in: signedIn } = session();
    if (open || signedIn) live.start();
  });
  for (;;) {
    try {
      await loadSession();
      break;
    } catch (error) {
      await new Promise((resolve) => {
        failed(main, error, resolve);
        setTimeout(resolve, 2_000);
      });
    }
  }
  version = session().version;
  const { open, signed_in: signedIn } = session();
  if (!open && !signedIn) toLogin();
  await start(main, ROUTES, { onfailure: failed, onarrival: arrived });
  const idle = window.requestIdleCallback ?? ((call) => setTimeout(call, 500));
  // What cannot be had now is asked for again when it is shown.
  idle(() => ROUTES.forEach(({ load }) => load().catch(() => {})));
}

begin();
