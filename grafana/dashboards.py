"""The dashboards, written down once: `python -m grafana.dashboards` makes the JSON that Grafana reads.

*Overview* says whether all is well and since when not, *Job type* why one type is slow or fails and leads to its
traces, *Internals* what the server itself is busy with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.panels import figure, heat, lines, new, variable
from grafana.queries import mean, own, quantile, rate, selector, shared, success

FOLDER: Final = Path(__file__).with_name("dashboards")
PROCESS: Final = "{{instance}} {{process}}"
PER_PROCESS: Final = ("instance", "process")
QUANTILES: Final = ((0.5, "half"), (0.95, "95 %"), (0.99, "99 %"))


def overview() -> Dashboard:
    waiting = shared("jobs", "queue", "status", status="queued|scheduled|retrying")
    return (
        new("jobserver-overview", "jobserver: Overview", "Is all well, and since when not.")
        .with_panel(figure("Completed", "Jobs that completed, a second.", "ops", rate("jobs_completed_total")))
        .with_panel(
            figure("Success", "Completed, of all that completed or failed.", "percentunit", success(), (0.99, 0.95))
        )
        .with_panel(
            figure(
                "Waiting",
                "Jobs that are queued, scheduled or to be retried. From SQL.",
                "short",
                f"sum({waiting})",
            )
        )
        .with_panel(
            figure(
                "Oldest waiting",
                "Age of the oldest job that is due and not running. A growing age means too few consumers.",
                "s",
                shared("oldest_waiting_seconds"),
                (60, 300),
            )
        )
        .with_panel(
            figure(
                "Dead letters",
                "Jobs that failed for good, and were neither replayed nor deleted.",
                "short",
                shared("dead_letters"),
                (1, 100),
            )
        )
        .with_panel(
            figure(
                "Workers alive",
                "Processes with consumers whose heartbeat is recent.",
                "short",
                f"{shared('workers_alive')} or vector(0)",
                (1, 0.5),
                width=2,
            )
        )
        .with_panel(
            figure(
                "Alerts",
                "Alert rules that fire now.",
                "short",
                'count(ALERTS{alertstate="firing", alertname=~"Jobserver.*"}) or vector(0)',
                (1, 1),
                width=2,
            )
        )
        .with_row(Row("Flow"))
        .with_panel(
            lines(
                "Rates",
                "What became of jobs, a second, on all processes.",
                "ops",
                [
                    (rate(f"jobs_{name}_total"), name.replace("_", " "))
                    for name in ("created", "completed", "failed", "retried", "canceled", "snoozed", "handed_back")
                ],
            )
        )
        .with_panel(
            lines(
                "Success by type",
                "Completed, of all that completed or failed. Idle types count as 1.",
                "percentunit",
                [(success("type"), "{{type}}")],
                (0.99, 0.95),
                top=1,
            )
        )
        .with_row(Row("Backlog"))
        .with_panel(
            lines(
                "Jobs that wait",
                "By queue and status, as SQL holds them. Every process shows the same, so the max is taken.",
                "short",
                [(waiting, "{{queue}} {{status}}")],
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Oldest waiting job",
                "Age of the oldest job that is due, by queue.",
                "s",
                [(shared("oldest_waiting_seconds", "queue"), "{{queue}}")],
                (60, 300),
            )
        )
        .with_row(Row("Latency"))
        .with_panel(
            heat(
                "From created to terminal",
                "How many jobs took how long from their submit to their end, retries and waits included.",
                rate("end_to_end_seconds_bucket", "le"),
            )
        )
        .with_panel(
            lines(
                "Wait in the queue",
                "From due to claimed. Points lead to a trace.",
                "s",
                [(quantile(q, "queue_wait_seconds"), name) for q, name in QUANTILES],
                (1, 10),
                exemplars=True,
            )
        )
        .with_row(Row("Workers"))
        .with_panel(
            lines(
                "Consumers",
                "All of them, and those that have a job. All busy while jobs wait: add processes.",
                "short",
                [(own("consumers", "sum"), "all"), (own("consumers_busy", "sum"), "busy")],
            )
        )
        .with_panel(
            lines(
                "Dead letters and workers",
                "Jobs that failed for good, and processes with consumers that are alive.",
                "short",
                [(shared("dead_letters"), "dead letters"), (shared("workers_alive"), "workers alive")],
            )
        )
    )


def job_type() -> Dashboard:
    chosen = {"type": "$type"}
    ends = ("completed", "failed", "retried", "canceled", "snoozed", "handed_back", "expired", "crashed")
    return (
        new("jobserver-type", "jobserver: Job type", "Why one type is slow or fails, and its traces.")
        .with_variable(variable("type", "Type", "The type of the jobs."))
        .with_panel(figure("Created", "Jobs submitted, a second.", "ops", rate("jobs_created_total", **chosen)))
        .with_panel(figure("Completed", "Jobs completed, a second.", "ops", rate("jobs_completed_total", **chosen)))
        .with_panel(
            figure(
                "Success",
                "Completed, of all that completed or failed.",
                "percentunit",
                success(**chosen),
                (0.99, 0.95),
            )
        )
        .with_panel(
            figure(
                "Attempts a job",
                "Attempts that ended, for each job that completed or failed. Above 1: retries, snoozes, hand-backs.",
                "short",
                f"{rate('attempt_duration_seconds_count', **chosen)} / {rate('end_to_end_seconds_count', **chosen)}",
                (1.5, 3),
            )
        )
        .with_panel(
            figure(
                "Attempt, 95 %",
                "95 % of the attempts took less.",
                "s",
                quantile(0.95, "attempt_duration_seconds", **chosen),
            )
        )
        .with_panel(
            figure(
                "Busy",
                "Consumers that this type keeps busy: seconds of its attempts, a second.",
                "short",
                rate("attempt_duration_seconds_sum", **chosen),
            )
        )
        .with_row(Row("What became of them"))
        .with_panel(
            lines(
                "Ends",
                "What became of the jobs of this type, a second.",
                "ops",
                [(rate(f"jobs_{name}_total", **chosen), name.replace("_", " ")) for name in ends],
            )
        )
        .with_panel(
            lines(
                "Attempts by outcome",
                "How attempts ended, a second. `retrying` is a failure with retries left.",
                "ops",
                [(rate("attempt_duration_seconds_count", "outcome", **chosen), "{{outcome}}")],
                stacked=True,
            )
        )
        .with_row(Row("How long they took; points lead to a trace"))
        .with_panel(
            heat(
                "Duration of attempts",
                "How many attempts took how long. The points are attempts whose trace was kept.",
                rate("attempt_duration_seconds_bucket", "le", **chosen),
            )
        )
        .with_panel(
            lines(
                "Duration of attempts",
                "The time in the handler.",
                "s",
                [(quantile(q, "attempt_duration_seconds", **chosen), name) for q, name in QUANTILES],
                exemplars=True,
            )
        )
        .with_panel(
            lines(
                "From created to terminal",
                "The whole life, with every wait and retry. Far above the attempts: look at the queue and at retries.",
                "s",
                [(quantile(q, "end_to_end_seconds", **chosen), name) for q, name in QUANTILES],
                exemplars=True,
            )
        )
        .with_panel(
            lines(
                "Duration by outcome",
                "The mean time in the handler.",
                "s",
                [(mean("attempt_duration_seconds", "outcome", **chosen), "{{outcome}}")],
            )
        )
        .with_row(Row("What should not happen"))
        .with_panel(
            lines(
                "Leases lost",
                "Running jobs taken back, jobs given up after too many crashes, and replays, a second.",
                "ops",
                [(rate(f"jobs_{name}_total", **chosen), name) for name in ("reclaimed", "crashed", "replayed")],
            )
        )
        .with_panel(
            lines(
                "Handlers that do harm",
                "Handlers given up because they did not end, and handlers that blocked the event loop for over 1 s.",
                "ops",
                [
                    (rate("attempts_abandoned_total", **chosen), "abandoned"),
                    (rate("event_loop_blocked_total", **chosen), "blocked the loop"),
                ],
            )
        )
    )


def internals() -> Dashboard:
    used, limit = (
        own("database_connections_used", "max", *PER_PROCESS),
        own("database_connections_limit", "max", *PER_PROCESS),
    )
    return (
        new("jobserver-internals", "jobserver: Internals", "What the server itself is busy with.")
        .with_panel(
            figure(
                "Engines up",
                "The least that any process says of PostgreSQL and Redis: 1 means that all of them were answered.",
                "short",
                own("engine_up", "min"),
                (1, 0.5),
            )
        )
        .with_panel(
            figure(
                "Loop lag",
                "How late the event loop of the worst process answers.",
                "s",
                own("event_loop_lag_seconds", "max"),
                (0.1, 0.5),
            )
        )
        .with_panel(
            figure(
                "Connections",
                "Connections to the database in use, of those allowed; the worst process.",
                "percentunit",
                f"max({used} / {limit})",
                (0.8, 1),
            )
        )
        .with_panel(
            figure(
                "Buffers",
                "The fullest in-memory queue of any process. At 1 submits are refused, or messages dropped.",
                "percentunit",
                f"max({selector('buffer_items')} / ({selector('buffer_bound')} > 0))",
                (0.5, 0.9),
            )
        )
        .with_panel(
            figure(
                "Processes",
                "Processes that are scraped.",
                "short",
                f"count(count by (instance, process) ({selector('build_info')}))",
            )
        )
        .with_panel(
            figure(
                "Versions",
                "Different versions that run: 2 during a rolling update.",
                "short",
                f"count(count by (version) ({selector('build_info')}))",
                (2, 3),
            )
        )
        .with_row(Row("Batchers"))
        .with_panel(
            lines(
                "Items in a flush",
                "The mean. Grows with the load: what arrives during a commit goes out together with the next one.",
                "short",
                [(mean("batch_size", "batcher"), "{{batcher}}")],
            )
        )
        .with_panel(
            lines(
                "Duration of flushes, 99 %",
                "99 % were faster. submit, claim and finish are commits to SQL, deliveries is one call of Redis.",
                "s",
                [(quantile(0.99, "flush_duration_seconds", "batcher"), "{{batcher}}")],
                (0.5, 2),
            )
        )
        .with_panel(
            lines(
                "Flushes",
                "A second, on all processes.",
                "ops",
                [(rate("flush_duration_seconds_count", "batcher"), "{{batcher}}")],
            )
        )
        .with_panel(
            lines(
                "What waits in memory",
                "Share of the bound of each in-memory queue, the worst process.",
                "percentunit",
                [
                    (
                        f"max by (buffer) ({selector('buffer_items')} / ({selector('buffer_bound')} > 0))",
                        "{{buffer}}",
                    )
                ],
                (0.5, 0.9),
            )
        )
        .with_row(Row("Processes"))
        .with_panel(
            lines(
                "Event loop lag",
                "How late the event loop answers.",
                "s",
                [(own("event_loop_lag_seconds", "max", *PER_PROCESS), PROCESS)],
                (0.1, 0.5),
            )
        )
        .with_panel(
            lines(
                "Connections to the database",
                "In use.",
                "short",
                [(used, PROCESS), (f"max({limit})", "limit of one process")],
            )
        )
        .with_panel(
            lines(
                "Consumers that are busy",
                "Share of the consumers of each process.",
                "percentunit",
                [
                    (
                        f"{own('consumers_busy', 'sum', *PER_PROCESS)} / ({own('consumers', 'sum', *PER_PROCESS)} > 0)",
                        PROCESS,
                    )
                ],
                top=1,
            )
        )
        .with_panel(
            lines(
                "Engines",
                "Whether each engine answered each process's last sample.",
                "short",
                [(own("engine_up", "min", "engine", *PER_PROCESS), "{{engine}} " + PROCESS)],
                (1, 0.5),
                top=1,
            )
        )
        .with_row(Row("Mending"))
        .with_panel(
            lines(
                "Reclaim and reconcile",
                "Jobs taken back from processes that went silent, and jobs whose lost message was published again.",
                "ops",
                [
                    (rate("jobs_reclaimed_total"), "reclaimed"),
                    (rate("jobs_crashed_total"), "crashed for good"),
                    (rate("jobs_reconciled_total"), "reconciled"),
                ],
            )
        )
        .with_panel(
            lines(
                "Refused and dropped",
                "Writes under a stale fence, messages that found no place, and connections that were rebuilt.",
                "ops",
                [
                    (rate("stale_writes_rejected_total", "step"), "stale {{step}}"),
                    (rate("deliveries_dropped_total"), "messages dropped"),
                    (rate("connections_rebuilt_total"), "connections rebuilt"),
                ],
            )
        )
        .with_panel(
            lines(
                "Submits that made no job",
                "Refused, by reason, and answered with the job of their idempotency key.",
                "ops",
                [
                    (rate("submits_rejected_total", "reason"), "{{reason}}"),
                    (rate("submits_deduplicated_total"), "deduplicated"),
                ],
            )
        )
        .with_panel(
            lines(
                "Redis",
                "Messages in the job streams, those delivered and not acknowledged, and members of the delayed sets.",
                "short",
                [
                    (shared("stream_entries"), "entries"),
                    (shared("stream_pending"), "pending"),
                    (shared("delayed_members"), "delayed"),
                ],
            )
        )
        .with_row(Row("Live events"))
        .with_panel(
            lines(
                "Readers of events",
                "Streams that are open, and those that were cut off because they took nothing, a second.",
                "short",
                [
                    (own("event_readers", "max", *PER_PROCESS), PROCESS),
                    (rate("event_readers_cut_off_total"), "cut off"),
                ],
            )
        )
        .with_panel(
            lines(
                "Events sent",
                "Events given to readers, a second, on all processes.",
                "ops",
                [(rate("events_sent_total"), "sent")],
            )
        )
        .with_panel(
            lines(
                "Gaps",
                "Events that Redis was not told of, and resets that readers were sent, a second.",
                "ops",
                [
                    (rate("events_lost_total", "reason"), "lost: {{reason}}"),
                    (rate("event_resets_total", "reason"), "reset: {{reason}}"),
                ],
            )
        )
        .with_row(Row("Callbacks and access"))
        .with_panel(
            lines(
                "Callbacks",
                "Taken by their receiver, and attempts that failed, by reason, a second.",
                "ops",
                [
                    (rate("callbacks_delivered_total"), "delivered"),
                    (rate("callbacks_failed_total", "reason"), "failed: {{reason}}"),
                ],
            )
        )
        .with_panel(
            lines(
                "Requests refused",
                "For who made them, a second: no key, a wrong one, its scope, another site.",
                "ops",
                [(rate("requests_refused_total", "reason"), "{{reason}}")],
            )
        )
        .with_panel(
            lines(
                "API keys and traces",
                "Keys that are not revoked, and spans a second that the collector did not take in time.",
                "short",
                [(own("api_keys", "max"), "API keys"), (rate("spans_dropped_total"), "spans dropped")],
            )
        )
    )


DASHBOARDS: Final[Mapping[str, Callable[[], Dashboard]]] = {
    "overview": overview,
    "job-type": job_type,
    "internals": internals,
}


def as_json(make: Callable[[], Dashboard]) -> str:
    """A dashboard as Grafana reads it, with a stable number for each panel."""
    made = json.loads(JSONEncoder(sort_keys=True).encode(make().build()))
    for number, panel in enumerate(made["panels"], 1):
        panel["id"] = number
    return json.dumps(made, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    for name, make in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(as_json(make), encoding="utf-8")


if __name__ == "__main__":
    main()
