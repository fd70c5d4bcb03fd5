"""Every metric, declared once, on a registry of its own per server.

Names and units follow the Prometheus guidelines. Labels are bounded: the first 200 types and 200 queues have
names of their own, the rest are "other". Counting is a plain addition and takes no lock: each series is written by
one thread alone (the event loop's, but for `event_loop_blocked`), and a scrape reads it from whichever.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry, Gauge, Info
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

MAX_LABELS: Final = 200
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_JOB: Final = ("type", "queue")
REASONS: Final = ("invalid", "key_reused", "overloaded", "unavailable", "backlog", "rate_limited")
REFUSALS: Final = ("no_key", "bad_key", "mistakes", "forbidden", "foreign")
CALLBACK_REASONS: Final = ("network", "status", "refused", "unsigned")
LOST: Final = ("overflow", "refused")
RESETS: Final = (*LOST, "died", "missed", "wiped", "unavailable")
STEPS: Final = ("finish", "heartbeat")

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


class Count:
    """How often something happened. `count.value += 1` counts it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Distribution:
    """How often a value fell between which bounds, what all came to, and the last trace seen in each place."""

    __slots__ = ("_bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: list[tuple[str, float, float] | None] = [None] * (len(bounds) + 1)

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Count a value. `trace_id` names a trace that is kept, for somebody to look at."""
        place = bisect_left(self._bounds, value)
        self.counts[place] += 1
        self.total += value
        if trace_id is not None:
            self.exemplars[place] = (trace_id, value, time.time())


Series = TypeVar("Series", Count, Distribution)


class _Family(Collector, Generic[Series]):
    """The series of one metric by their labels."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], new: Callable[[], Series]) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._new: Callable[[], Series] = new
        self._series: dict[tuple[str, ...], Series] = {}
        if not labels:
            self.of()

    def of(self, *labels: str) -> Series:
        """The series with these labels, to be kept by whoever counts often."""
        return self._series.get(labels) or self._series.setdefault(labels, self._new())

    def rows(self) -> list[tuple[tuple[str, ...], Series]]:
        """Labels and series as they are now: another thread may be adding one."""
        return list(self._series.items())


class Counter(_Family[Count]):
    """A metric that only goes up."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        super().__init__(name, text, labels, Count)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, count in self.rows():
            family.add_metric(labels, count.value)
        yield family


class Histogram(_Family[Distribution]):
    """A metric of values in buckets, with exemplars."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        super().__init__(name, text, labels, lambda: Distribution(bounds))
        self._bounds = (*(str(float(bound)) for bound in bounds), "+Inf")

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, found in self.rows():
            # Copied first, and the count is their sum: a value that comes meanwhile does not make them disagree.
            sums = accumulate(found.counts[:])
            family.add_metric(
                labels,
                [
                    (bound, n, _exemplar(*seen)) if seen else (bound, n)
                    for bound, n, seen in zip(self._bounds, sums, found.exemplars, strict=True)
                ],
                found.total,
            )
        yield family


def _exemplar(trace_id: str, value: float, seconds: float) -> Exemplar:
    return Exemplar({"trace_id": trace_id}, value, seconds)


class Metrics:
    """The metrics of one server."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        # Counters by type and queue.
        self.of_jobs: list[Counter] = []

        def counter(name: str, text: str, labels: tuple[str, ...] = _JOB, known: Iterable[str] = ()) -> Counter:
            made = Counter(f"jobserver_{name}", text, labels)
            for value in known:
                # From zero on: an increase from nothing to 1 is none to a query.
                made.of(value)
            self.registry.register(made)
            if labels == _JOB:
                self.of_jobs.append(made)
            return made

        def histogram(name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> Histogram:
            made = Histogram(f"jobserver_{name}", text, labels, bounds)
            self.registry.register(made)
            return made

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
        self.rejected = counter("submits_rejected", "Requests to submit that were refused.", ("reason",), REASONS)
        self.refused = counter("requests_refused", "Requests refused for who makes them.", ("reason",), REFUSALS)
        self.deduplicated = counter("submits_deduplicated", "Submits answered with the job of their key.", ())
        self.callbacks_delivered = counter("callbacks_delivered", "Callbacks that their receiver took.", ())
        self.callbacks_failed = counter(
            "callbacks_failed", "Attempts at a callback that failed.", ("reason",), CALLBACK_REASONS
        )
        self.stale = counter("stale_writes_rejected", "Writes refused as their fence was stale.", ("step",), STEPS)
        self.dropped = counter("deliveries_dropped", "Messages dropped because the queue to Redis was full.", ())
        self.events_sent = counter("events_sent", "Live events that readers were given.", ())
        self.events_lost = counter("events_lost", "Live events that Redis was not told of.", ("reason",), LOST)
        self.events_reset = counter("event_resets", "Gaps that readers were told of.", ("reason",), RESETS)
        self.events_cut = counter("event_readers_cut_off", "Readers cut off because they were slow.", ())
        self.rebuilt = counter("connections_rebuilt", "Times that the watchdog rebuilt the connections to Redis.", ())
        self.spans_dropped = counter("spans_dropped", "Spans that the collector did not take in time.", ())
        self.abandoned = counter("attempts_abandoned", "Handlers given up because they did not end.", ("type",))
        self.loop_blocked = counter("event_loop_blocked", "Times the event loop was blocked for over 1 s.", ("type",))
        self.attempt_seconds = histogram(
            "attempt_duration_seconds", "Duration of attempts.", ("type", "outcome"), SECONDS
        )
        self.wait_seconds = histogram("queue_wait_seconds", "From due to claimed.", ("queue",), SECONDS)
        self.end_to_end_seconds = histogram("end_to_end_seconds", "From created to terminal.", ("type",), SECONDS)
        self.batch_size = histogram("batch_size", "Items in a flush.", ("batcher",), _SIZES)
        self.flush_seconds = histogram("flush_duration_seconds", "Duration of flushes.", ("batcher",), SECONDS)
        Info("jobserver_build", "The version that runs.", registry=self.registry).info({"version": version})

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge of this process, read when it is scraped."""
        Gauge(f"jobserver_{name}", text, registry=self.registry).set_function(read)

    def gauges(self, name: str, text: str, labels: Iterable[str], read: Samples) -> None:
        """A gauge whose rows are read when it is scraped: from memory, from no engine. No rows: nothing is known."""
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
