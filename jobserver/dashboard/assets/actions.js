// What changes many jobs at once: first a dry run that says how many, then a question, then the deed.

import { post } from "./api.js";
import { confirm, report, toast } from "./dialog.js";
import { count, now } from "./format.js";

/** The most that one call changes. */
export const MOST = 10_000;
// Calls that name jobs name so many at the most: that fits each limit of bodies, and each call ends soon.
const CHUNK = 1_000;
// The page knows the server's clock no better.
const CLOCK_MS = 2_000;

/**
 * Asks `ask()` how many it would be, then the person, then does it. `told(n)` gives {title, body, action, danger} of the
 * question, `perform()` answers how many it were, `said(n)` is told then. Answers what `perform` gave, null if not done.
 */
export async function ask({ button, dryRun, none, told, perform, said }) {
  const busy = (is) => {
    if (button) {
      button.disabled = is;
      button.setAttribute("aria-busy", String(is));
    }
  };
  busy(true);
  try {
    const many = await dryRun();
    if (!many) {
      toast(none);
      return null;
    }
    busy(false);
    if (!(await confirm({ cancel: "Back", ...told(many) }))) return null;
    busy(true);
    const done = await perform();
    toast(said(done), "good");
    return done;
  } catch (error) {
    report(error);
    return null;
  } finally {
    busy(false);
  }
}

/**
 * Does `call(ids)`, which answers how many it changed, to some of `ids` at a time; answers how many it were in all.
 * `done` is the word for what was done before a call that failed.
 */
export async function inChunks(ids, call, done) {
  let changed = 0;
  for (let at = 0; at < ids.length; at += CHUNK) {
    try {
      changed += await call(ids.slice(at, at + CHUNK));
    } catch (error) {
      if (changed) toast(`${jobs(changed)} ${done} before it stopped`, "bad");
      throw error;
    }
  }
  return changed;
}

/** "1 job", "12 jobs". */
export function jobs(many) {
  return many === 1 ? "1 job" : `${count(many)} jobs`;
}

const ACTIONS = {
  cancel: {
    label: "Cancel",
    done: "canceled",
    danger: true,
    does: "Waiting jobs end at once; the handlers of running ones are asked to end.",
    left: "Jobs that have ended stay as they are.",
    none: "None of these can be canceled: all have ended.",
  },
  retry: {
    label: "Retry",
    done: "queued again",
    danger: false,
    does: "They are queued again with their counters at zero (a replay); their history stays.",
    left: "Only failed and canceled jobs can be retried.",
    none: "None of these can be retried: only failed and canceled jobs can.",
  },
  delete: {
    label: "Delete",
    done: "deleted",
    danger: true,
    does: "They and their history are gone for good.",
    left: "Only jobs that have ended can be deleted.",
    none: "None of these can be deleted: only jobs that have ended can.",
  },
};

/** The names of the actions, in the order in which they are offered. */
export const NAMES = Object.keys(ACTIONS);
export const labelOf = (name) => ACTIONS[name].label;

/**
 * Does `name` to the jobs of `ids` or of a `filter`; `of` is how many were meant, if that is known. What is done is what
 * was confirmed: the jobs of the dry run, less those that do not match any more. `signal` ends the dry run.
 */
export function actOn(name, chosen, { button, of = null, signal } = {}) {
  const action = ACTIONS[name];
  const dry = () => post("/jobs/actions", { action: name, ...chosen, limit: MOST, dry_run: true }, { signal });
  const real = async (body) => (await post("/jobs/actions", { action: name, ...body })).changed;
  let capped = false;
  let meant = [];
  let until = null;
  return ask({
    button,
    dryRun: async () => {
      const found = await dry();
      meant = found.ids;
      until = new Date(now() + CLOCK_MS).toISOString();
      capped = found.matched >= MOST;
      return found.matched;
    },
    none: action.none,
    told: (many) => ({
      title: `${action.label} ${capped ? `the first ${jobs(many)}` : jobs(many)}?`,
      body: [
        of !== null && of > many ? `${count(many)} of the ${count(of)} chosen. ${action.left}` : null,
        action.does,
        capped ? `One call changes ${count(MOST)} at the most: repeat it for the rest.` : null,
      ]
        .filter(Boolean)
        .join(" "),
      action: `${action.label} ${jobs(many)}`,
      danger: action.danger,
    }),
    perform: async () => {
      const { filter } = chosen;
      // Jobs that wait begin to run at any moment: whether those are meant, too, only the filter says.
      if (name === "cancel" && filter) return real({ filter: { ...filter, created_before: earlier(filter.created_before, until) }, limit: meant.length });
      if (filter) {
        const still = new Set((await dry()).ids);
        meant = meant.filter((id) => still.has(id));
      }
      return inChunks(meant, (ids) => real({ ids }), action.done);
    },
    said: (many) => `${jobs(many)} ${action.done}`,
  });
}

function earlier(one, other) {
  return one && Date.parse(one) < Date.parse(other) ? one : other;
}
