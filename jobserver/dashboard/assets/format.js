// Figures, durations and moments as people read them. Moments are compared by the server's clock.

const WHOLE = new Intl.NumberFormat("en-US");
const SHORT = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const NONE = "–";

let offset = 0;

/** Milliseconds by the server's clock. */
export function now() {
  return Date.now() + offset;
}

/** Learns the server's clock from the head of an answer. It tells whole seconds: what is near enough stays. */
export function learnClock(date) {
  const told = Date.parse(date);
  if (Number.isNaN(told)) return;
  const apart = told + 500 - Date.now();
  if (Math.abs(apart - offset) > 2_000) offset = apart;
}

const absent = (value) => value === null || value === undefined || Number.isNaN(value);

/** 12,345 up to a million, then 1.23M. */
export function count(value) {
  if (absent(value)) return NONE;
  return Math.abs(value) < 1_000_000 ? WHOLE.format(Math.round(value)) : SHORT.format(value);
}

/** Something a second: three figures at the most below a thousand. */
export function rate(value) {
  if (absent(value)) return NONE;
  if (value === 0) return "0";
  if (value < 0.1) return value.toFixed(2);
  if (value < 100) return value.toFixed(1).replace(/\.0$/, "");
  return count(value);
}

export function percent(value) {
  if (absent(value)) return NONE;
  return `${value > 0 && value < 1 ? value.toFixed(1) : Math.floor(value)} %`;
}

/** Seconds as a person says them: 0.8 ms, 250 ms, 3.2 s, 4 min 12 s, 3 h 4 min, 2 d 3 h. */
export function duration(seconds) {
  if (absent(seconds)) return NONE;
  const size = Math.abs(seconds);
  const sign = seconds < 0 ? "-" : "";
  if (size === 0) return "0 s";
  if (size < 0.001) return `${sign}${(size * 1_000).toFixed(2)} ms`;
  if (size < 0.01) return `${sign}${(size * 1_000).toFixed(1)} ms`;
  if (size < 0.9995) return `${sign}${Math.round(size * 1_000)} ms`;
  if (size < 9.995) return `${sign}${size.toFixed(1).replace(/\.0$/, "")} s`;
  if (size < 59.5) return `${sign}${Math.round(size)} s`;
  return sign + pair(Math.round(size));
}

function pair(seconds) {
  const units = [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  const [name, size] = units[first];
  const whole = Math.floor(seconds / size);
  const next = units[first + 1];
  const rest = next ? Math.floor((seconds - whole * size) / next[1]) : 0;
  return rest ? `${whole} ${name} ${rest} ${next[0]}` : `${whole} ${name}`;
}

/** Whole seconds and more, for what ticks. */
export function coarse(seconds) {
  return seconds < 1 ? "0 s" : duration(Math.floor(seconds));
}

export function ago(iso) {
  if (!iso) return NONE;
  const seconds = (now() - Date.parse(iso)) / 1_000;
  if (seconds < -1) return until(iso);
  return seconds < 1 ? "now" : `${coarse(seconds)} ago`;
}

export function until(iso) {
  if (!iso) return NONE;
  const seconds = (Date.parse(iso) - now()) / 1_000;
  return seconds <= 0 ? "now" : `in ${coarse(seconds + 1)}`;
}

/** The time of day; the day too, when it is another one. */
export function clock(iso) {
  if (!iso) return NONE;
  const at = new Date(iso);
  const said = CLOCK.format(at);
  return at.toDateString() === new Date(now()).toDateString() ? said : `${DAY.format(at)} ${said}`;
}

/** The whole moment, to the millisecond, for titles. */
export function time(iso) {
  if (!iso) return NONE;
  const at = new Date(iso);
  return `${DATE.format(at)}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

/** The end of an id: the beginning of a UUIDv7 is its time, which neighbours share. */
export function shortId(id) {
  return id ? id.slice(-8) : NONE;
}

export function bytes(value) {
  if (absent(value)) return NONE;
  if (value < 1_024) return `${value} B`;
  if (value < 1_048_576) return `${(value / 1_024).toFixed(1)} KiB`;
  return `${(value / 1_048_576).toFixed(1)} MiB`;
}
