"""Sample: reads the shared state for the gauges, so that a scrape never asks an engine.

Every process shows the same figures, so a query takes the max of them. One that has not seen the engines for a
while shows none: of a partition the dashboards hear from the other side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from jobserver.errors import DatabaseUnavailable, StreamUnavailable, Unavailable
from jobserver.job.model import Status
from jobserver.job.query import Stats
from jobserver.pipeline.known import Queues
from jobserver.store.views import Views
from jobserver.stream.jobs import JobStream, Sizes
from jobserver.telemetry import Telemetry
from jobserver.upkeep.loop import Loop

INTERVAL_SECONDS: Final = 5.0
# So long the last answer of an engine is worth showing.
FRESH_SECONDS: Final = 30.0

_Rows = Iterable[tuple[tuple[str, ...], float]]


class Sample:
    """Owns the loop, and the gauges that show its last answer."""

    def __init__(self, views: Views, stream: JobStream, queues: Queues, telemetry: Telemetry) -> None:
        self._views = views
        self._stream = stream
        self._queues = queues
        self._queue_label = telemetry.queue_label
        self._stats: Stats | None = None
        self._workers = 0
        # Of any kind, this one among them: those that may take in submits.
        self.processes = 1
        self._sizes: Sizes | None = None
        # Of each engine: whether it answered the last sample, and when it last did.
        self._up = {"database": False, "redis": False}
        self._at = {"database": 0.0, "redis": 0.0}
        self.loop = Loop("sample", INTERVAL_SECONDS, self.step)
        gauges = telemetry.metrics.gauges
        gauges("jobs", "Jobs by queue and status.", ("queue", "status"), self._jobs)
        gauges("oldest_waiting_seconds", "Age of the oldest job that is due.", ("queue",), self._oldest)
        gauges("dead_letters", "Jobs that failed for good.", (), self._of_stats(lambda s: s.by_status[Status.FAILED]))
        gauges("workers_alive", "Processes with consumers and a recent heartbeat.", (), self._alive)
        gauges("stream_entries", "Messages in the job streams.", (), self._of_sizes(lambda s: s.entries))
        gauges("stream_pending", "Messages delivered and not acknowledged.", (), self._of_sizes(lambda s: s.pending))
        gauges("delayed_members", "Members of the delayed sets.", (), self._of_sizes(lambda s: s.delayed))
        gauges("engine_up", "Whether the engine answered the last sample.", ("engine",), self._engines)

    async def step(self) -> float | None:
        """Ask both engines once. Raises what the first of them that is away said, after asking the other."""
        away: Unavailable | None = None
        try:
            self._stats = await self._views.stats()
            alive = [worker for worker in await self._views.workers() if worker.alive]
            self._workers = sum(worker.concurrency > 0 for worker in alive)
            self.processes = max(1, len(alive))
            self._note("database", up=True)
        except DatabaseUnavailable as error:
            self._note("database", up=False)
            away = error
        try:
            self._sizes = await self._stream.sizes(self._queues.streams())
            self._note("redis", up=True)
        except StreamUnavailable as error:
            self._note("redis", up=False)
            away = away or error
        if away is not None:
            raise away
        return None

    def _note(self, engine: str, *, up: bool) -> None:
        self._up[engine] = up
        if up:
            self._at[engine] = time.monotonic()

    def _fresh(self, engine: str) -> bool:
        return time.monotonic() - self._at[engine] < FRESH_SECONDS

    # the gauges

    def _engines(self) -> _Rows:
        for engine, up in self._up.items():
            yield (engine,), float(up)

    def _jobs(self) -> _Rows:
        rows: dict[tuple[str, ...], float] = {}
        if self._stats is not None and self._fresh("database"):
            for queue in self._stats.queues:
                label = self._queue_label(queue.name)
                for status, n in queue.counts.items():
                    rows[label, status.value] = rows.get((label, status.value), 0.0) + n
        return rows.items()

    def _oldest(self) -> _Rows:
        rows: dict[tuple[str, ...], float] = {}
        if self._stats is not None and self._fresh("database"):
            for queue in self._stats.queues:
                labels = (self._queue_label(queue.name),)
                rows[labels] = max(rows.get(labels, 0.0), queue.oldest_waiting_seconds or 0.0)
        return rows.items()

    def _alive(self) -> _Rows:
        if self._stats is not None and self._fresh("database"):
            yield (), self._workers

    def _of_stats(self, read: Callable[[Stats], float]) -> Callable[[], _Rows]:
        return lambda: [] if self._stats is None or not self._fresh("database") else [((), read(self._stats))]

    def _of_sizes(self, read: Callable[[Sizes], float]) -> Callable[[], _Rows]:
        return lambda: [] if self._sizes is None or not self._fresh("redis") else [((), read(self._sizes))]
