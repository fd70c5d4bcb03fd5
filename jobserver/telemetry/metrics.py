"""Every metric, declared once, on a registry of its own per server.

Names and units follow the Prometheus guidelines. Labels are bounded: the first 200 types and 200 queues have
names of their own, the rest are "other".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

MAX_LABELS: Final = 200
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_JOB: Final = ("type", "queue")

# What a gauge with labels gives: (labels, value) rows.
Sample = tuple[tuple[str, ...], float]
Samples = Callable[[], Iterable[Sample]]


class BoundedLabel:
    """The first `MAX_LABELS` values keep their names; later ones are "other"."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._seen:
            return value
        if len(self._seen) >= MAX_LABELS:
            return "other"
        self._seen.add(value)
        return value


class Metrics:
    """The metrics of one server."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: Iterable[str] = _JOB) -> Counter:
            return Counter(f"jobserver_{name}", text, tuple(labels), registry=self.registry)

        def histogram(name: str, text: str, labels: Iterable[str], buckets: Iterable[float]) -> Histogram:
            return Histogram(f"jobserver_{name}", text, tuple(labels), registry=self.registry, buckets=tuple(buckets))

        self.created = counter("jobs_created", "Jobs accepted and committed.")
        self.completed = counter("jobs_completed", "Jobs whose handler returned.")
        self.failed = counter("jobs_failed", "Jobs that failed for good.")
        self.retried = counter("jobs_retried", "Attempts that failed and will be retried.")
        self.canceled = counter("jobs_canceled", "Jobs that were canceled.")
        self.snoozed = counter("jobs_snoozed", "Attempts that ended in a snooze.")
        self.handed_back = counter("jobs_handed_back", "Attempts that were handed back by no fault of the job.")
        self.reclaimed = counter("jobs_reclaimed", "Running jobs taken back after their lease was lost.")
        self.crashed = counter("jobs_crashed", "Jobs that failed because their lease was lost too often.")
        self.replayed = counter("jobs_replayed", "Failed or canceled jobs that were queued again.")
        self.expired = counter("jobs_expired", "Jobs that expired before they were started.")
        self.reconciled = counter("jobs_reconciled", "Jobs whose lost message was published again.", ("queue",))
        self.rejected = counter("submits_rejected", "Requests to submit that were refused.", ("reason",))
        self.deduplicated = counter("submits_deduplicated", "Submits answered with the job of their key.", ())
        self.stale = counter("stale_writes_rejected", "Writes refused because their fence was stale.", ("step",))
        self.dropped = counter("deliveries_dropped", "Messages dropped because the queue to Redis was full.", ())
        self.rebuilt = counter("connections_rebuilt", "Times that the watchdog rebuilt the connections to Redis.", ())
        self.abandoned = counter("attempts_abandoned", "Handlers given up because they did not end.", ("type",))
        self.loop_blocked = counter("event_loop_blocked", "Times the event loop was blocked for over 1 s.", ("type",))
        self.attempt_seconds = histogram(
            "attempt_duration_seconds", "Duration of attempts.", ("type", "outcome"), _SECONDS
        )
        self.wait_seconds = histogram("queue_wait_seconds", "From due to claimed.", ("queue",), _SECONDS)
        self.end_to_end_seconds = histogram("end_to_end_seconds", "From created to terminal.", ("type",), _SECONDS)
        self.batch_size = histogram("batch_size", "Items in a flush.", ("batcher",), _SIZES)
        self.flush_seconds = histogram("flush_duration_seconds", "Duration of flushes.", ("batcher",), _SECONDS)
        Info("jobserver_build", "The version that runs.", registry=self.registry).info({"version": version})

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge of this process, read when it is scraped."""
        Gauge(f"jobserver_{name}", text, registry=self.registry).set_function(read)

    def gauges(self, name: str, text: str, labels: Iterable[str], read: Samples) -> None:
        """A gauge with labels, whose rows are read when it is scraped: from memory, and from no engine."""
        self.registry.register(_Gauges(f"jobserver_{name}", text, tuple(labels), read))

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page for an Accept header: its body and its media type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class _Gauges(Collector):
    def __init__(self, name: str, text: str, labels: tuple[str, ...], read: Samples) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._read = read

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self._read():
            family.add_metric(labels, value)
        yield family
