// The queues: what waits in them, how fast they go, and the switch that pauses them.

import { get, post } from "./api.js";
import { confirm, report, toast } from "./dialog.js";
import { h, replace } from "./dom.js";
import { count, duration, rate } from "./format.js";
import { jobs as jobsSaid } from "./actions.js";
import { refresher, subscribe } from "./live.js";
import { button, emptyState, pageHead, problemNote, skeleton, statusBadge, table, WAITING } from "./parts.js";
import { href, link } from "./router.js";
import { can } from "./session.js";

const EVERY_MS = 1_000;

export const page = {
  title: "Queues",
  async mount(root, { signal }) {
    const list = new QueueList(root, signal);
    await list.load();
    return null;
  },
};

const waiting = (queue) => WAITING.reduce((sum, status) => sum + queue.counts[status], 0);

class QueueList {
  constructor(root, signal) {
    this.signal = signal;
    this.refresh = refresher(() => this.load(), { every: EVERY_MS, signal });
    this.end = subscribe(({ events, reset }) => (events || reset) && this.refresh.soon());
    // Ages and rates change while nothing happens.
    this.timer = setInterval(() => this.refresh.soon(), 2 * EVERY_MS);
    // Also when the page is left before its first answer.
    signal.addEventListener("abort", () => this.dispose(), { once: true });
    this.table = table({
      label: "Queues",
      keyOf: (queue) => queue.name,
      columns: [
        { key: "name", label: "Queue", class: "queue-cell", cell: (queue) => [link(href("/jobs", { queue: queue.name }), { class: "type-name" }, queue.name), queue.paused ? statusBadge("paused") : null], signature: (queue) => String(queue.paused) },
        figure("Waiting", (queue) => waiting(queue), (queue) => ({ queue: queue.name, status: WAITING }), (queue) => said(queue)),
        figure("Running", (queue) => queue.counts.running, (queue) => ({ queue: queue.name, status: "running" })),
        figure("Failed", (queue) => queue.counts.failed, (queue) => ({ queue: queue.name, status: "failed" }), null, "bad"),
        figure("Completed", (queue) => queue.counts.completed, (queue) => ({ queue: queue.name, status: "completed" })),
        { key: "age", label: "Oldest waiting", class: "num", cell: (queue) => duration(queue.oldest_waiting_seconds) },
        { key: "in", label: "In /s", class: "num", cell: (queue) => rate(queue.rates?.submitted_per_second) },
        { key: "out", label: "Done /s", class: "num", cell: (queue) => rate(queue.rates?.completed_per_second) },
        { key: "bad", label: "Failed /s", class: "num", cell: (queue) => rate(queue.rates?.failed_per_second) },
        ...(can("admin") ? [{ key: "actions", label: "", class: "actions", cell: (queue) => this.pauseButton(queue), signature: (queue) => String(queue.paused) }] : []),
      ],
      empty: emptyState("No queues yet", "A queue appears with its first job."),
    });
    this.table.element.classList.add("queues-table");
    this.place = h("div", null, skeleton(4));
    replace(root, pageHead("Queues"), this.place);
  }

  dispose() {
    this.end();
    clearInterval(this.timer);
  }

  async load() {
    try {
      const { items } = await get("/queues", null, { signal: this.signal });
      if (this.table.element.parentNode !== this.place) replace(this.place, this.table.element);
      this.queues = items;
      this.table.update(items);
    } catch (error) {
      if (error.name !== "Problem" || this.queues) throw error;
      replace(this.place, problemNote(error, () => this.refresh.soon()));
    }
  }

  pauseButton(queue) {
    const { name, paused } = queue;
    return button(paused ? "Resume" : "Pause", {
      kind: paused ? "primary tiny" : "tiny",
      icon: paused ? "play" : "pause",
      "aria-label": `${paused ? "Resume" : "Pause"} ${name}`,
      onclick: (event) => this.toggle(this.queues.find((one) => one.name === name), event.currentTarget),
    });
  }

  async toggle(queue, pressed) {
    const { name, paused } = queue;
    if (!paused) {
      const many = waiting(queue);
      const runs = queue.counts.running;
      const body = `${many ? `${jobsSaid(many)} wait in it and will not start` : "No job waits in it; those that arrive will not start"} until it is resumed. It goes on to accept jobs${runs ? `, and ${jobsSaid(runs)} that run go on to their end` : ""}.`;
      if (!(await confirm({ title: `Pause ${name}?`, body, action: "Pause", danger: true, cancel: "Back" }))) return;
    }
    pressed.disabled = true;
    try {
      const changed = await post(`/queues/${encodeURIComponent(name)}/${paused ? "resume" : "pause"}`);
      this.queues = this.queues.map((one) => (one.name === name ? { ...one, paused: changed.paused, counts: changed.counts } : one));
      this.table.update(this.queues);
      toast(paused ? `${name} resumed` : `${name} paused`, "good");
    } catch (error) {
      report(error);
    } finally {
      pressed.disabled = false;
      this.refresh.soon();
    }
  }
}

// A figure that leads to its jobs; nothing leads nowhere.
function figure(label, of, params, title = null, kind = "") {
  return {
    key: label,
    label,
    class: "num",
    cell: (queue) => {
      const many = of(queue);
      return many ? link(href("/jobs", params(queue)), { class: `figure ${kind}`, title: title?.(queue) }, count(many)) : h("span", { class: "muted" }, "0");
    },
    signature: (queue) => `${of(queue)} ${title?.(queue) ?? ""}`,
  };
}

function said({ counts }) {
  return WAITING.filter((status) => counts[status]).map((status) => `${count(counts[status])} ${status}`).join(", ");
}
