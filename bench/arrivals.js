// Jobs arrive at a constant rate, however long each takes to be answered: run with k6 by bench/latency.py.
import http from "k6/http";
import { Counter } from "k6/metrics";

const url = `${__ENV.URL}/jobs`;
const text = "x".repeat(60);
const parameters = { headers: { "Content-Type": "application/json" }, timeout: "30s" };

export const options = {
  discardResponseBodies: true,
  scenarios: {
    arrivals: {
      executor: "constant-arrival-rate",
      rate: Number(__ENV.RATE),
      timeUnit: "1s",
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: Number(__ENV.READY_CLIENTS),
      maxVUs: Number(__ENV.CLIENTS),
      gracefulStop: "30s",
    },
  },
  summaryTrendStats: ["p(50)", "p(95)", "p(99)", "p(99.9)", "max"],
};

// Of all answers, those that say that there is no room, and what must not be.
const refused = new Counter("refused");
const failed = new Counter("failed");

export default function () {
  const answer = http.post(url, JSON.stringify({ type: "bench.timed", payload: { sent: Date.now() / 1000, text } }), parameters);
  if (answer.status === 503) refused.add(1);
  else if (answer.status !== 201) failed.add(1);
}

export function handleSummary(data) {
  const count = (name) => (data.metrics[name] ? data.metrics[name].values.count : 0);
  return {
    stdout: JSON.stringify({
      answered: count("http_reqs"),
      refused: count("refused"),
      failed: count("failed"),
      dropped: count("dropped_iterations"),
      // Those that k6 expects: of 2xx and 3xx.
      milliseconds: data.metrics["http_req_duration{expected_response:true}"].values,
    }),
  };
}
