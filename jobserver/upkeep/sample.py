"""Sample: reads the shared state for the gauges, so that a scrape never asks an engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from jobserver.errors import StreamUnavailable
from jobserver.job.model import Status
from jobserver.job.query import Stats
from jobserver.pipeline.known import Queues
from jobserver.store.views import Views
from jobserver.stream.jobs import JobStream, Sizes
from jobserver.telemetry import Telemetry
from jobserver.upkeep.loop import Loop

INTERVAL_SECONDS: Final = 5.0


class Sample:
    """Owns the loop, and the gauges that show its last answer."""

    def __init__(self, views: Views, stream: JobStream, queues: Queues, telemetry: Telemetry) -> None:
        self._views = views
        self._stream = stream
        self._queues = queues
        self._stats: Stats | None = None
        self._sizes = Sizes(0, 0, 0)
        self._stream_up = False
        self.loop = Loop("sample", INTERVAL_SECONDS, self.step)
        metrics = telemetry.metrics
        metrics.gauges("jobs", "Jobs by queue and status.", ("queue", "status"), self._jobs)
        metrics.gauges("oldest_waiting_seconds", "Age of the oldest job that is due.", ("queue",), self._oldest)
        metrics.gauge("dead_letters", "Jobs that failed for good.", lambda: self._count(Status.FAILED))
        metrics.gauge("workers_alive", "Processes with a recent heartbeat.", self._workers)
        metrics.gauge("stream_entries", "Messages in the job streams.", lambda: self._sizes.entries)
        metrics.gauge("stream_pending", "Messages delivered and not acknowledged.", lambda: self._sizes.pending)
        metrics.gauge("delayed_members", "Members of the delayed sets.", lambda: self._sizes.delayed)
        metrics.gauge("stream_up", "Whether Redis answered the last sample.", lambda: float(self._stream_up))

    async def step(self) -> float | None:
        """Ask both engines once."""
        self._stats = await self._views.stats()
        try:
            self._sizes = await self._stream.sizes(self._queues.streams())
        except StreamUnavailable:
            self._stream_up = False
            raise
        self._stream_up = True
        return None

    def _jobs(self) -> Iterable[tuple[tuple[str, ...], float]]:
        if self._stats is not None:
            for queue in self._stats.queues[:200]:
                for status, n in queue.counts.items():
                    yield (queue.name, status.value), n

    def _oldest(self) -> Iterable[tuple[tuple[str, ...], float]]:
        if self._stats is not None:
            for queue in self._stats.queues[:200]:
                yield (queue.name,), queue.oldest_waiting_seconds or 0.0

    def _count(self, status: Status) -> float:
        return 0.0 if self._stats is None else self._stats.by_status[status]

    def _workers(self) -> float:
        return 0.0 if self._stats is None else self._stats.workers
