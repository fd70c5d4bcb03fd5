// Charts as SVG: lines over time with axes and hover values, and sparklines. Drawn at most once a frame.

import { attribute, h, keyed, svg, text } from "./dom.js";

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const EXACT = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const TOP = 10;
const BOTTOM = 22;
const RIGHT = 8;
const STEPS = [1, 2, 5, 10];
const TIME_STEPS = [10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600];

/** A round number that is not below `value`, cut in at most `parts` round steps: [step, top]. */
export function scale(value, parts = 4, least = 1e-9) {
  const rough = Math.max(value, least) / parts;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = STEPS.map((each) => each * power).find((each) => each >= rough * 0.999) ?? 10 * power;
  return [step, step * Math.max(1, Math.ceil((value / step) * 0.999))];
}

/**
 * Lines over time. `series` is [{key, name, color, area?}], colours are custom properties of the page; `unit` words a
 * value. `update({times, values})`: moments in ms, oldest first, and for each key as many numbers or nulls.
 */
export function lineChart({ label, unit, series, height = 190, least = 1e-9 }) {
  const grid = svg("g", { class: "chart-grid" });
  const marks = svg("g", { class: "chart-marks" });
  const lines = series.map(({ color, area }) => ({
    area: area ? svg("path", { class: "chart-area", style: { "--c": `var(${color})` } }) : null,
    line: svg("path", { class: "chart-line", style: { "--c": `var(${color})` } }),
    dot: svg("circle", { class: "chart-dot", r: 3, style: { "--c": `var(${color})` } }),
  }));
  const rule = svg("line", { class: "chart-rule" });
  const picture = svg("svg", { class: "chart-picture", height, "aria-hidden": "true", focusable: "false" },
    grid, marks, lines.map(({ area }) => area), lines.map(({ line }) => line), rule, lines.map(({ dot }) => dot));
  const said = series.map(() => h("b", { class: "num" }));
  const when = h("span", { class: "chart-when muted" });
  const legend = h("div", { class: "chart-legend" },
    series.map(({ name, color }, at) => h("span", { class: "chart-key" }, h("i", { style: { "--c": `var(${color})` }, "aria-hidden": "true" }), name, said[at])), when);
  const plot = h("div", { class: "chart-plot", tabindex: 0, role: "slider", "aria-label": `${label}: values over time`,
    "aria-valuemin": 0, "aria-valuemax": 0, "aria-valuenow": 0 }, picture);
  const nothing = h("div", { class: "chart-nothing muted" }, "Nothing happened in these minutes");
  const element = h("figure", { class: "chart", "aria-label": label }, legend, plot);

  let data = { times: [], values: {} };
  let width = 0;
  let hover = null;
  let frame = null;
  let place = null;

  const observer = new ResizeObserver(([entry]) => {
    const next = Math.floor(entry.contentRect.width);
    if (next && next !== width) {
      width = next;
      plan();
    }
  });
  observer.observe(plot);

  plot.addEventListener("pointermove", (event) => {
    if (!place) return;
    const x = event.clientX - plot.getBoundingClientRect().left;
    const at = place.first + ((x - place.left) / place.across) * (place.last - place.first);
    point(nearest(data.times, at));
  });
  plot.addEventListener("pointerleave", () => point(null));
  plot.addEventListener("blur", () => point(null));
  plot.addEventListener("keydown", (event) => {
    const end = data.times.length - 1;
    const from = hover ?? end;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: end, PageUp: from - 12, PageDown: from + 12 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    point(Math.max(0, Math.min(end, to)));
  });

  function point(at) {
    if (at === hover || (at !== null && !data.times.length)) return;
    hover = at;
    plan();
  }

  function plan() {
    frame ??= requestAnimationFrame(draw);
  }

  function draw() {
    frame = null;
    if (!width || !element.isConnected) return;
    const { times, values } = data;
    const top = Math.max(0, ...series.map(({ key }) => most(values[key])));
    const [step, ceiling] = scale(top, 4, least);
    const ticks = [];
    for (let value = 0; value <= ceiling * 1.0001; value += step) ticks.push(value);
    const left = 10 + 6.6 * Math.max(...ticks.map((value) => unit(value).length));
    const across = Math.max(10, width - left - RIGHT);
    const down = height - TOP - BOTTOM;
    const last = times.at(-1) ?? 0;
    const first = times.length > 1 ? times[0] : last - 1;
    place = { left, across, first, last };
    const x = (at) => left + ((at - first) / (last - first)) * across;
    const y = (value) => TOP + down - (value / ceiling) * down;

    attribute(picture, "width", width);
    attribute(picture, "viewBox", `0 0 ${width} ${height}`);
    keyed(grid, ticks, (value) => unit(value), () => svg("g", null, svg("line", { x1: 0 }), svg("text", { "text-anchor": "end", dy: "0.32em" })), (node, value) => {
      const [line, words] = node.children;
      attribute(line, "x1", left);
      attribute(line, "x2", width - RIGHT);
      attribute(line, "y1", round(y(value)));
      attribute(line, "y2", round(y(value)));
      attribute(words, "x", left - 6);
      attribute(words, "y", round(y(value)));
      text(words, unit(value));
    });
    keyed(marks, times.length > 1 ? moments(first, last, across) : [], (at) => at, (at) => svg("text", { "text-anchor": "middle", y: height - 6 }, (at % 60_000 ? EXACT : CLOCK).format(at)), (node, at) => attribute(node, "x", round(Math.min(x(at), width - RIGHT - 4 * node.textContent.length + 4))));
    series.forEach(({ key }, number) => {
      const { line, area, dot } = lines[number];
      const [path, closed] = trace(times, values[key] ?? [], x, y, TOP + down);
      attribute(line, "d", path);
      if (area) attribute(area, "d", closed);
      const value = hover === null ? null : values[key]?.[hover];
      dot.style.display = value === null || value === undefined ? "none" : "";
      if (value !== null && value !== undefined) {
        attribute(dot, "cx", round(x(times[hover])));
        attribute(dot, "cy", round(y(value)));
      }
      const shown = hover === null ? latest(values[key]) : values[key]?.[hover];
      text(said[number], shown === null || shown === undefined ? "–" : unit(shown));
    });
    rule.style.display = hover === null ? "none" : "";
    if (hover !== null) {
      attribute(rule, "x1", round(x(times[hover])));
      attribute(rule, "x2", round(x(times[hover])));
      attribute(rule, "y1", TOP);
      attribute(rule, "y2", TOP + down);
    }
    text(when, hover === null ? "" : EXACT.format(times[hover]));
    const at = hover ?? times.length - 1;
    attribute(plot, "aria-valuemax", Math.max(0, times.length - 1));
    attribute(plot, "aria-valuenow", Math.max(0, at));
    attribute(plot, "aria-valuetext", times.length ? `${EXACT.format(times[at])}: ${series.map(({ name }, number) => `${name} ${said[number].textContent}`).join(", ")}` : "no values");
    if (top === 0) plot.append(nothing);
    else nothing.remove();
  }

  return {
    element,
    update(next) {
      if (hover !== null && data.times.length) {
        // What is looked at keeps its moment while time goes on.
        const at = data.times[hover];
        hover = next.times.length ? nearest(next.times, at) : null;
      }
      data = next;
      plan();
    },
    stop() {
      observer.disconnect();
      if (frame !== null) cancelAnimationFrame(frame);
    },
  };
}

function most(values) {
  let top = 0;
  for (const value of values ?? []) if (value > top) top = value;
  return top;
}

/** The last value that is known. */
function latest(values) {
  return values?.findLast((value) => value !== null && value !== undefined);
}

function nearest(times, at) {
  let low = 0;
  let high = times.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < at) low = middle + 1;
    else high = middle;
  }
  return low > 0 && at - times[low - 1] < times[low] - at ? low - 1 : low;
}

function moments(first, last, across) {
  const most = Math.max(2, Math.floor(across / 80));
  const span = (last - first) / 1_000;
  const step = 1_000 * (TIME_STEPS.find((each) => span / each <= most) ?? 7_200);
  const found = [];
  for (let at = Math.ceil(first / step) * step; at <= last; at += step) found.push(at);
  return found;
}

const round = (value) => Math.round(value * 10) / 10;

/** The path of a line, broken where there is no value, and of the area below it. */
function trace(times, values, x, y, floor) {
  let line = "";
  let area = "";
  let begun = null;
  const close = (until) => {
    if (begun !== null) area += `L${round(x(until))},${floor}L${round(x(begun))},${floor}Z`;
    begun = null;
  };
  for (let at = 0; at < times.length; at += 1) {
    const value = values[at];
    if (value === null || value === undefined) {
      if (begun !== null) close(times[at - 1]);
      continue;
    }
    const point = `${round(x(times[at]))},${round(y(value))}`;
    line += begun === null ? `M${point}` : `L${point}`;
    area += begun === null ? `M${point}` : `L${point}`;
    // A lonely value is a dot: a line with round ends.
    if (begun === null && (values[at + 1] === null || values[at + 1] === undefined)) line += "h0";
    begun ??= times[at];
  }
  if (times.length) close(times.at(-1));
  return [line, area];
}

/** A line without axes, for the course of one number. */
export function sparkline({ color = "--accent", width = 120, height = 28 } = {}) {
  const line = svg("path", { class: "chart-line" });
  const area = svg("path", { class: "chart-area" });
  const element = svg("svg", { class: "sparkline", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false", style: { "--c": `var(${color})` } }, area, line);
  return {
    element,
    update(values) {
      const top = Math.max(most(values), 1e-9);
      const times = values.map((_, at) => at);
      const last = Math.max(1, values.length - 1);
      const [path, closed] = trace(times, values, (at) => (at / last) * width, (value) => height - 2 - (value / top) * (height - 4), height);
      attribute(line, "d", path);
      attribute(area, "d", closed);
    },
  };
}

/** A bar of parts that add up to a whole: [{key, name, color, value}]. */
export function meter() {
  const element = h("div", { class: "meter", role: "img" });
  return {
    element,
    update(parts, whole) {
      const sum = whole ?? parts.reduce((total, { value }) => total + value, 0);
      keyed(element, parts.filter(({ value }) => value > 0), ({ key }) => key, ({ color }) => h("i", { style: { "--c": `var(${color})` } }), (node, { value }) => {
        node.style.width = `${sum ? Math.max(0.5, (value / sum) * 100) : 0}%`;
      });
      attribute(element, "aria-label", parts.filter(({ value }) => value > 0).map(({ name, value }) => `${name} ${value}`).join(", ") || "nothing");
    },
  };
}

