// A worker: reads the event stream and folds it, so that thousands of events a second never reach the page's thread.
//
// Not an EventSource: this one sees bytes, so that silence, refusals and keepalives can be told apart, and it reads
// a piece with hundreds of events at once. One fold is on its way at a time: the page asks for the next.

const FOLD_MS = 100;
const MOST_JOBS = 2_000;
const MOST_PROGRESS = 500;
const MOST_SECONDS = 3_600;
// The server says something at least every 15 s.
const SILENCE_MS = 20_000;
const AGAIN_MS = [500, 1_000, 2_000, 3_000];
const OFF_MS = 30_000;
// The longest event is far below: what does not end is not a stream of events.
const MOST_TEXT = 4_194_304;

const KINDS = { running: "started", completed: "completed", failed: "failed", canceled: "canceled", retrying: "retried" };

let url = null;
let lastId = null;
let connection = null;
let tries = 0;
let retryMs = AGAIN_MS[0];
let waiting = null;
let wanted = false;

let fold = empty();
let asked = true;
let timer = null;
let sentAt = 0;

function empty() {
  return {
    jobs: new Map(),
    progress: new Map(),
    counts: none(),
    // By the second in which it happened: what was missed comes late, and all at once.
    seconds: new Map(),
    events: 0,
    reset: false,
    // Events are missing.
    gap: false,
  };
}

function none() {
  return { submitted: 0, started: 0, completed: 0, failed: 0, retried: 0, canceled: 0 };
}

onmessage = ({ data }) => {
  if (data.type === "open") {
    url = data.url;
    wanted = true;
    if (data.fresh) {
      lastId = null;
      fold = empty();
    }
    tries = 0;
    connect();
  } else if (data.type === "close") {
    wanted = false;
    stop();
  } else if (data.type === "next") {
    asked = true;
    if (fold.events || fold.reset) schedule();
  }
};

function stop() {
  clearTimeout(waiting);
  waiting = null;
  connection?.abort();
  connection = null;
}

function again(delay) {
  clearTimeout(waiting);
  waiting = setTimeout(connect, delay);
}

async function connect() {
  stop();
  if (!wanted) return;
  const mine = new AbortController();
  connection = mine;
  let silent = setTimeout(() => mine.abort(), SILENCE_MS);
  const heard = () => {
    clearTimeout(silent);
    silent = setTimeout(() => mine.abort(), SILENCE_MS);
  };
  let status = 0;
  try {
    const headers = { accept: "text/event-stream" };
    const resumed = lastId !== null;
    if (resumed) headers["last-event-id"] = lastId;
    const answer = await fetch(url, { headers, signal: mine.signal, cache: "no-store", credentials: "same-origin" });
    status = answer.status;
    if (answer.ok && answer.body) {
      tries = 0;
      postMessage({ type: "live", resumed });
      await read(answer.body, heard);
    } else {
      await answer.body?.cancel();
    }
  } catch {
    // Down, cut off, or silent for too long: all the same to a reader.
  }
  clearTimeout(silent);
  if (connection !== mine) return;
  connection = null;
  postMessage({ type: "lost", status });
  if (status === 401) return;
  const delay = status === 404 || status === 403 ? OFF_MS : Math.max(tries ? AGAIN_MS[Math.min(tries, AGAIN_MS.length - 1)] : 0, Math.min(retryMs, 2_000));
  tries += 1;
  again(delay * (0.75 + Math.random() / 2));
}

async function read(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    rest += value;
    const end = rest.lastIndexOf("\n\n");
    if (end < 0) {
      if (rest.length > MOST_TEXT) throw new Error("not a stream of events");
      continue;
    }
    const whole = rest.slice(0, end);
    rest = rest.slice(end + 2);
    for (const block of whole.split("\n\n")) take(block);
    if (fold.events || fold.reset) schedule();
  }
}

function take(block) {
  let event = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("data: ")) data = line.slice(6);
    else if (line.startsWith("event: ")) event = line.slice(7);
    else if (line.startsWith("id: ")) lastId = line.slice(4);
    else if (line.startsWith("retry: ")) retryMs = Number(line.slice(7)) || retryMs;
  }
  if (event === "job") foldJob(JSON.parse(data));
  else if (event === "progress") foldProgress(JSON.parse(data));
  else if (event === "deleted") keep(fold.jobs, { ...JSON.parse(data), status: "deleted" }, MOST_JOBS);
  else if (event === "reset") fold.reset = fold.gap = true;
  else return;
  fold.events += 1;
}

function foldJob(job) {
  const kind = KINDS[job.status] ?? (job.fence === 0 ? "submitted" : null);
  if (kind) {
    fold.counts[kind] += 1;
    const second = Math.floor(Date.parse(job.at) / 1_000);
    let counts = fold.seconds.get(second);
    if (!counts && fold.seconds.size < MOST_SECONDS) fold.seconds.set(second, (counts = none()));
    if (counts) counts[kind] += 1;
  }
  keep(fold.jobs, job, MOST_JOBS);
}

function foldProgress({ id, progress }) {
  keep(fold.progress, { id, ...progress }, MOST_PROGRESS);
}

function keep(map, value, most) {
  // Deleted first, so that the oldest is the first of the map.
  map.delete(value.id);
  map.set(value.id, value);
  if (map.size > most) {
    map.delete(map.keys().next().value);
    // Somebody may show the one that was left out.
    if (map === fold.jobs) fold.reset = true;
  }
}

function schedule() {
  if (timer !== null || !asked) return;
  timer = setTimeout(send, Math.max(0, sentAt + FOLD_MS - performance.now()));
}

function send() {
  timer = null;
  asked = false;
  sentAt = performance.now();
  const ready = fold;
  fold = empty();
  postMessage({ type: "fold", fold: ready });
}
