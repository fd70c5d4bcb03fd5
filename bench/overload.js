// Submits arrive at a constant rate, whether or not the server keeps up: run with k6 by bench/overload.py.
import http from "k6/http";
import { Counter, Trend } from "k6/metrics";

const url = `${__ENV.URL}/jobs`;
const parameters = { headers: { "Content-Type": "application/json" }, timeout: "60s" };
const body = JSON.stringify({ type: "echo", payload: { to: "user@example.com", text: "x".repeat(60) } });

const accepted = new Trend("accepted", true);
const refused = new Trend("refused", true);
const told = new Counter("told");
const broken = new Counter("broken");

export const options = {
  discardResponseBodies: true,
  scenarios: {
    overload: {
      executor: "constant-arrival-rate",
      rate: Number(__ENV.RATE),
      timeUnit: "1s",
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: Number(__ENV.CLIENTS),
      maxVUs: Number(__ENV.CLIENTS),
      gracefulStop: "60s",
    },
  },
  summaryTrendStats: ["count", "p(50)", "p(99)", "max"],
};

export default function () {
  const answer = http.post(url, body, parameters);
  if (answer.status === 201) {
    accepted.add(answer.timings.duration);
  } else if (answer.status === 503) {
    refused.add(answer.timings.duration);
    if (Number(answer.headers["Retry-After"]) >= 1) told.add(1);
  } else {
    broken.add(1);
  }
}

export function handleSummary(data) {
  const of = (name) => (data.metrics[name] ? data.metrics[name].values : { count: 0 });
  const trend = (name) => ({ count: of(name).count, p50: of(name)["p(50)"] || 0, p99: of(name)["p(99)"] || 0 });
  return {
    stdout: JSON.stringify({
      accepted: trend("accepted"),
      refused: trend("refused"),
      told: of("told").count,
      broken: of("broken").count,
      dropped: of("dropped_iterations").count,
    }),
  };
}
