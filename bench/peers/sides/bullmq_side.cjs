/* BullMQ on Node with ioredis, with 100 jobs at once in one process.

Persists: to Redis only, as durable as that Redis is. A job is a hash and an entry of a list before `add` returns; it
moves between lists in one script when it starts and when it ends. The last 1,000 finished jobs are kept.
Recovery: a worker puts back what has lost its lock of 30 s, and looks each 30 s (the defaults).
Settings: as its guide for production says (`maxRetriesPerRequest: null` in the worker, jobs removed when finished). */
"use strict";

const fs = require("node:fs");
const { Queue, Worker } = require("bullmq");
const IORedis = require("ioredis");

const BULK = 1000;
const TEXT = "x".repeat(80);
const MARK_BYTES = 16;
const MARK_MILLISECONDS = 30000;
// How long a handler goes on for, where recovery is measured.
const HOLD_SECONDS = Number(process.env.BENCH_HOLD ?? 0);

const redis = (options) => new (IORedis.default ?? IORedis)(process.env.BENCH_REDIS, options);
// The clock that all processes of the machine share, in seconds.
const monotonic = () => Number(process.hrtime.bigint()) / 1e9;
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const data = (n) => ({ n, text: TEXT });

function work() {
  const marks = fs.openSync(process.env.BENCH_MARKS, "a", 0o600);
  const worker = new Worker(
    "bench",
    async (job) => {
      const record = Buffer.allocUnsafe(MARK_BYTES);
      record.writeDoubleLE(monotonic(), 0);
      record.writeBigInt64LE(BigInt(job.data.n), 8);
      fs.writeSync(marks, record);
      if (HOLD_SECONDS) await sleep(HOLD_SECONDS * 1000);
    },
    { connection: redis({ maxRetriesPerRequest: null }), concurrency: Number(process.env.BENCH_CONCURRENCY) },
  );
  worker.on("error", (error) => console.error(error));
  process.once("SIGTERM", () => worker.close().then(() => process.exit(0)));
}

async function latency(queue, numbers) {
  const file = fs.openSync(process.env.BENCH_MARKS, "r");
  let position = fs.fstatSync(file).size;
  const record = Buffer.alloc(MARK_BYTES);
  const milliseconds = [];
  for (const n of numbers) {
    await sleep(10 + Math.random() * 20);
    const submitted = monotonic();
    await queue.add("noop", data(n));
    while (fs.readSync(file, record, 0, MARK_BYTES, position) < MARK_BYTES) {
      if ((monotonic() - submitted) * 1000 > MARK_MILLISECONDS) throw new Error(`job ${n} did not start`);
      await sleep(1);
    }
    position += MARK_BYTES;
    milliseconds.push((record.readDoubleLE(0) - submitted) * 1000);
  }
  return milliseconds;
}

async function main() {
  const [command, first, count] = process.argv.slice(2);
  if (command === "worker") return work();
  if (command === "setup") return console.log(JSON.stringify({ bulks: true }));
  const connection = redis({});
  const defaultJobOptions = { removeOnComplete: { count: 1000 }, removeOnFail: { count: 5000 } };
  const queue = new Queue("bench", { connection, defaultJobOptions });
  await queue.waitUntilReady();
  const numbers = Array.from({ length: Number(count) }, (_, index) => Number(first) + index);
  const started = monotonic();
  const answer = {};
  if (command === "submit") {
    for (const n of numbers) await queue.add("noop", data(n));
    answer.seconds = monotonic() - started;
  } else if (command === "bulk") {
    for (let at = 0; at < numbers.length; at += BULK) {
      await queue.addBulk(numbers.slice(at, at + BULK).map((n) => ({ name: "noop", data: data(n) })));
    }
    answer.seconds = monotonic() - started;
  } else {
    answer.milliseconds = await latency(queue, numbers);
  }
  console.log(JSON.stringify(answer));
  await queue.close();
  connection.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
