// What the last minutes were: the server's buckets, and after their end what the event stream told since then.

const KINDS = ["submitted", "completed", "failed", "retried", "canceled"];
const LATENCIES = ["latency_p50", "latency_p95", "wait_p50", "wait_p95"];
const WINDOW_MS = 3_000;
const MOST_SLOTS = 760;
// What happened longer ago was missed and came later: it is not of now. Clocks may be apart by some of it.
const FRESH_MS = 3_000;
// So long the last that was told stands for now.
const TOLD_MS = 20_000;

export class Rates {
  constructor(slotMs = 5_000) {
    this.slotMs = slotMs;
    // By the number of the slot since the epoch; both are pruned.
    this.told = new Map();
    this.heard = new Map();
    // What happened lately, a second at a time: the rates of now.
    this.seconds = new Map();
    // Since when every event is heard; null while they are not.
    this.since = null;
  }

  /** The server's answer: it replaces all that it told before. */
  learn({ bucket_seconds: seconds, items }) {
    const slotMs = seconds * 1_000;
    if (slotMs !== this.slotMs) this.heard.clear();
    this.slotMs = slotMs;
    this.told = new Map(items.map((item) => [Math.floor(Date.parse(item.at) / slotMs), item]));
  }

  /** From `at` on, if not before, every event is heard. */
  listen(at) {
    this.since ??= at;
  }

  /** Events that were heard at `at`, by the second in which they happened. */
  add(seconds, at) {
    for (const [second, counts] of seconds) {
      const happened = Math.min(second * 1_000, at);
      bump(this.heard, Math.floor(happened / this.slotMs), counts, MOST_SLOTS);
      if (this.since !== null && happened > at - FRESH_MS) bump(this.seconds, Math.floor(at / 1_000), counts, 10);
    }
  }

  /** Forgets what was heard: events are missing. */
  forget() {
    this.heard.clear();
    this.seconds.clear();
    this.since = null;
  }

  /** What happens now, a second; null while too little was heard. */
  present(at) {
    if (this.since === null || at - this.since < 1_000) return null;
    const span = Math.min(WINDOW_MS, at - this.since);
    const first = Math.floor((at - span) / 1_000);
    const total = Object.fromEntries(KINDS.map((kind) => [kind, 0]));
    for (const [second, counts] of this.seconds) if (second > first) for (const kind of KINDS) total[kind] += counts[kind];
    const covered = Math.max(1, at / 1_000 - (first + 1));
    for (const kind of KINDS) total[kind] /= covered;
    return total;
  }

  /**
   * The last `minutes`, a value a slot: rates a second, latencies in seconds or null. A server that began later than
   * that fills the whole chart with what there is, a minute at least. What nobody told, and nobody heard from its
   * beginning to its end, is not known: null.
   */
  series(minutes, at) {
    const last = Math.floor(at / this.slotMs);
    const slots = (span) => last - Math.ceil((span * 60_000) / this.slotMs) + 1;
    const first = Math.max(slots(minutes), Math.min(this.first(), slots(1)));
    const times = [];
    const values = Object.fromEntries([...KINDS, ...LATENCIES].map((key) => [key, []]));
    const present = this.present(at);
    for (let slot = first; slot <= last; slot += 1) {
      times.push(slot * this.slotMs);
      const told = this.told.get(slot);
      const heard = this.heard.get(slot);
      for (const kind of KINDS) {
        let value;
        // The slot of now is not over: what happens now stands for it.
        if (slot === last) value = present?.[kind] ?? null;
        else if (told) value = ((told[kind] ?? 0) * 1_000) / this.slotMs;
        else if (this.since !== null && slot * this.slotMs >= this.since) value = ((heard?.[kind] ?? 0) * 1_000) / this.slotMs;
        else value = null;
        values[kind].push(value);
      }
      for (const key of LATENCIES) values[key].push(told?.[key] ?? null);
    }
    return { times, values };
  }

  /** The last of these values that is known, if it is not too old to stand for now. */
  latest(values) {
    return values.slice(-Math.ceil(TOLD_MS / this.slotMs)).findLast((value) => value !== null) ?? null;
  }

  first() {
    let begun = Infinity;
    for (const slots of [this.told, this.heard]) for (const slot of slots.keys()) if (slot < begun) begun = slot;
    return begun;
  }
}

function bump(slots, slot, counts, most) {
  let sums = slots.get(slot);
  if (!sums) {
    sums = Object.fromEntries(KINDS.map((kind) => [kind, 0]));
    slots.set(slot, sums);
    if (slots.size > most) slots.delete(slots.keys().next().value);
  }
  for (const kind of KINDS) sums[kind] += counts[kind] ?? 0;
}
