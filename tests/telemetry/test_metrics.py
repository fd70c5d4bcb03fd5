"""Metrics have stable names and bounded labels, and count what SQL permitted."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from jobserver.job.model import Ended, JobError, Priority, Status
from jobserver.store.jobs import Moved
from jobserver.telemetry import Telemetry
from jobserver.telemetry.metrics import MAX_LABELS, REASONS, STEPS, BoundedLabel, Histogram, Metrics
from jobserver.telemetry.telemetry import MAX_PAIRS
from tests.conftest import Pair
from tests.parts import body, consuming, ended, parts, submitted
from tests.pipeline.attempts import claimed

NAMES = {
    "jobserver_attempt_duration_seconds",
    "jobserver_attempts_abandoned",
    "jobserver_batch_size",
    "jobserver_build",
    "jobserver_deliveries_dropped",
    "jobserver_end_to_end_seconds",
    "jobserver_flush_duration_seconds",
    "jobserver_jobs_canceled",
    "jobserver_jobs_completed",
    "jobserver_jobs_crashed",
    "jobserver_jobs_created",
    "jobserver_jobs_expired",
    "jobserver_jobs_failed",
    "jobserver_jobs_handed_back",
    "jobserver_jobs_reclaimed",
    "jobserver_jobs_reconciled",
    "jobserver_jobs_replayed",
    "jobserver_jobs_retried",
    "jobserver_jobs_snoozed",
    "jobserver_queue_wait_seconds",
    "jobserver_stale_writes_rejected",
    "jobserver_submits_deduplicated",
    "jobserver_submits_rejected",
}


def page(metrics: Metrics) -> str:
    return metrics.render("text/plain")[0].decode()


def samples(metrics: Metrics, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", page(metrics), re.MULTILINE)
    return {tuple(sorted(re.findall(r'(\w+)="([^"]*)"', labels))): float(value) for labels, value in found}


def test_the_names_are_those_that_dashboards_and_alerts_use() -> None:
    families = {family.name for family in Metrics("1").registry.collect()}
    assert families >= NAMES
    assert all(name.startswith("jobserver_") for name in families)


def test_names_follow_the_guidelines() -> None:
    for family in Metrics("1").registry.collect():
        assert family.documentation.endswith("."), family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds") or family.name == "jobserver_batch_size"


def test_two_servers_of_one_process_count_apart() -> None:
    one, other = Telemetry("1", "a"), Telemetry("1", "b")
    one.dropped(3)
    assert samples(one.metrics, "jobserver_deliveries_dropped_total") == {(): 3.0}
    assert samples(other.metrics, "jobserver_deliveries_dropped_total") == {(): 0.0}


def test_a_label_keeps_the_first_names_and_calls_the_rest_other() -> None:
    label = BoundedLabel()
    assert [label(f"t{number}") for number in range(MAX_LABELS)] == [f"t{number}" for number in range(MAX_LABELS)]
    assert label("one more") == "other"
    assert label("t0") == "t0"
    assert label("another") == "other"


def test_a_thousand_types_make_a_bounded_page() -> None:
    telemetry = Telemetry("1", "w")
    for number in range(1_000):
        job = claimed(f"type{number}", queue=f"queue{number}")
        telemetry.claimed(job)
        telemetry.stale(job, "finish")
        telemetry.abandoned(job)
        telemetry.replayed(job.id, job.type, job.queue)
    assert len(samples(telemetry.metrics, "jobserver_jobs_replayed_total")) == MAX_LABELS + 1
    assert samples(telemetry.metrics, "jobserver_jobs_replayed_total")[("queue", "other"), ("type", "other")] == 800
    assert "type999" not in page(telemetry.metrics)
    assert len(page(telemetry.metrics)) < 2_000_000


def test_a_thousand_types_in_a_thousand_queues_make_a_bounded_page() -> None:
    telemetry = Telemetry("1", "w")
    for number in range(150 * 150):
        telemetry.claimed(claimed(f"type{number // 150}", queue=f"queue{number % 150}"))
    created = samples(telemetry.metrics, "jobserver_jobs_created_total")
    assert len(created) == MAX_PAIRS + 1
    assert (("queue", "other"), ("type", "other")) in created


def test_what_may_happen_is_counted_from_zero_on() -> None:
    telemetry = Telemetry("1", "w")
    assert samples(telemetry.metrics, "jobserver_submits_rejected_total") == {
        (("reason", reason),): 0.0 for reason in REASONS
    }
    assert samples(telemetry.metrics, "jobserver_stale_writes_rejected_total") == {
        (("step", step),): 0.0 for step in STEPS
    }
    telemetry.expect("t", "q")
    for name in ("created", "completed", "failed", "retried", "canceled", "crashed", "reclaimed", "replayed"):
        found = samples(telemetry.metrics, f"jobserver_jobs_{name}_total")
        assert found == {(("queue", "q"), ("type", "t")): 0.0}


def test_a_value_on_a_bound_is_within_it() -> None:
    histogram = Histogram("h", "H.", (), (1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.of().observe(value)
    [family] = histogram.collect()
    assert [(sample.name, sample.labels.get("le"), sample.value) for sample in family.samples] == [
        ("h_bucket", "1.0", 2),
        ("h_bucket", "2.0", 4),
        ("h_bucket", "+Inf", 5),
        ("h_count", None, 5),
        ("h_sum", None, 14.0),
    ]


def test_a_scrape_by_another_thread_sees_whole_histograms() -> None:
    metrics = Metrics("1")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            metrics.attempt_seconds.of(f"t{number % 500}", "completed").observe(0.002 * (number % 7), "a" * 32)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        pages = [metrics.render("application/openmetrics-text")[0].decode() for _ in range(5)]
    finally:
        stop.set()
        writer.join()
    # Not earlier: who parses and who writes would wait for each other.
    for page in pages:
        for family in text_string_to_metric_families(page):
            buckets = {
                sample.labels["type"]: sample.value for sample in family.samples if sample.labels.get("le") == "+Inf"
            }
            counts = {
                sample.labels["type"]: sample.value for sample in family.samples if sample.name.endswith("n_count")
            }
            assert not counts or counts == buckets


SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03"


@pytest.mark.parametrize("context", [SAMPLED, SAMPLED[:-1] + "2", None, ""])
def test_durations_name_a_trace_that_is_kept(context: str | None) -> None:
    telemetry = Telemetry("1", "w")
    began = datetime.now(UTC)
    job = claimed(
        "t",
        trace_context=context,
        created_at=began - timedelta(seconds=5),
        due_at=began - timedelta(seconds=3),
        started_at=began,
    )
    telemetry.claimed(job)
    moved = Moved(job.id, 6, Status.COMPLETED, "default", Priority.NORMAL, "t", began)
    telemetry.ended(job, moved, Ended.COMPLETED, 0.25, None)
    shown = {
        sample.name: (sample.labels["le"], sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in text_string_to_metric_families(
            telemetry.metrics.render("application/openmetrics-text")[0].decode()
        )
        for sample in family.samples
        if sample.exemplar is not None
    }
    kept = {
        "jobserver_queue_wait_seconds_bucket": ("5.0", SAMPLED[3:35], 3.0),
        "jobserver_attempt_duration_seconds_bucket": ("0.25", SAMPLED[3:35], 0.25),
        "jobserver_end_to_end_seconds_bucket": ("10.0", SAMPLED[3:35], 5.25),
    }
    assert shown == (kept if context == SAMPLED else {})
    # The plain format has no exemplars.
    assert SAMPLED[3:35] not in page(telemetry.metrics)


@pytest.mark.parametrize(
    ("ended_as", "status", "counter"),
    [
        (Ended.COMPLETED, Status.COMPLETED, "completed"),
        (Ended.RETRYING, Status.RETRYING, "retried"),
        (Ended.FAILED, Status.FAILED, "failed"),
        (Ended.SNOOZED, Status.SCHEDULED, "snoozed"),
        (Ended.HANDED_BACK, Status.QUEUED, "handed_back"),
        (Ended.CANCELED, Status.CANCELED, "canceled"),
    ],
)
def test_each_end_moves_its_counter_and_no_other(ended_as: Ended, status: Status, counter: str) -> None:
    telemetry = Telemetry("1", "w")
    job = claimed("t", queue="q")
    moved = Moved(job.id, 6, status, "q", Priority.NORMAL, "t", datetime.now(UTC))
    telemetry.ended(job, moved, ended_as, 0.25, JobError("E", "e"))
    for name in ("completed", "retried", "failed", "snoozed", "handed_back", "canceled"):
        found = samples(telemetry.metrics, f"jobserver_jobs_{name}_total")
        assert found.get((("queue", "q"), ("type", "t")), 0.0) == (name == counter)
    labels = (("outcome", ended_as.value), ("type", "t"))
    assert samples(telemetry.metrics, "jobserver_attempt_duration_seconds_sum")[labels] == 0.25
    terminal = status in {Status.COMPLETED, Status.FAILED, Status.CANCELED}
    assert (samples(telemetry.metrics, "jobserver_end_to_end_seconds_count") != {}) is terminal


def test_gauges_are_read_when_they_are_scraped() -> None:
    metrics = Metrics("1")
    value = 1.0
    metrics.gauge("level", "A level.", lambda: value)

    def rows() -> Iterable[tuple[tuple[str, ...], float]]:
        yield ("a",), value

    metrics.gauges("levels", "Levels.", ("of",), rows)
    assert samples(metrics, "jobserver_level") == {(): 1.0}
    value = 2.0
    assert samples(metrics, "jobserver_level") == {(): 2.0}
    assert samples(metrics, "jobserver_levels") == {(("of", "a"),): 2.0}


def test_both_formats_are_served() -> None:
    metrics = Metrics("1")
    text, kind = metrics.render("text/plain")
    assert kind.startswith("text/plain")
    opened, kind = metrics.render("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert opened.endswith(b"# EOF\n")
    assert b"# EOF" not in text


async def test_counters_equal_what_sql_holds(pair: Pair) -> None:
    async with parts(pair) as server, consuming(server):
        for job in [await submitted(server) for _ in range(7)]:
            await ended(server, job.id)
        for job in [await submitted(server, "fail", {"retryable": False}) for _ in range(3)]:
            await ended(server, job.id)
        again = await server.submitter.submit(body(idempotency_key="k"), scope="", trace_context=None)
        await server.submitter.submit(body(idempotency_key="k"), scope="", trace_context=None)
        await ended(server, again.job.id)
        stats = await server.views.stats()
        metrics = server.telemetry.metrics
        assert sum(samples(metrics, "jobserver_jobs_created_total").values()) == stats.total == 11
        assert sum(samples(metrics, "jobserver_jobs_completed_total").values()) == stats.by_status[Status.COMPLETED]
        assert sum(samples(metrics, "jobserver_jobs_failed_total").values()) == stats.by_status[Status.FAILED]
        assert samples(metrics, "jobserver_submits_deduplicated_total") == {(): 1.0}
        for name in ("submit", "claim", "finish"):
            assert samples(metrics, "jobserver_batch_size_count")[(("batcher", name),)] >= 1
    # Never a job id.
    assert str(again.job.id) not in page(metrics)
