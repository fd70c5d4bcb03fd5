"""Reconcile: finds waiting jobs whose message was lost, by the FIFO watermark.

Messages of a stream are delivered in order. A waiting job whose `available_at` lies before that of the oldest
undelivered message was overtaken by younger ones, so its own message is lost: its `available_at` is bumped and
it is published again. A backlog of millions triggers nothing, a wiped Redis everything: its incarnation key is
gone, and everything older than the new one is published again, with no grace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

from jobserver.job.model import Priority
from jobserver.job.times import from_us
from jobserver.pipeline.deliver import Deliveries, message_of
from jobserver.pipeline.known import Queues
from jobserver.store.jobs import JobStore
from jobserver.stream.jobs import Dead, JobStream
from jobserver.telemetry import Telemetry
from jobserver.upkeep.loop import Loop

INTERVAL_SECONDS: Final = 1.0
GRACE: Final = timedelta(seconds=5)
FEED_SECONDS: Final = 60.0
LIMIT: Final = 1_000
FEED_LIMIT: Final = 1_000

Watermark = tuple[str, Priority, datetime]


class Reconcile:
    """Owns the loop. `on_wiped` hears that Redis was wiped, for what else has to be filled again."""

    def __init__(
        self,
        store: JobStore,
        stream: JobStream,
        deliveries: Deliveries,
        queues: Queues,
        telemetry: Telemetry,
        *,
        on_wiped: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._stream = stream
        self._deliveries = deliveries
        self._queues = queues
        self._telemetry = telemetry
        self._on_wiped = on_wiped
        self._incarnation: str | None = None
        self._fed = time.monotonic() - FEED_SECONDS
        self._resumed = False
        self.loop = Loop("reconcile", INTERVAL_SECONDS, self.step)

    def resumed(self) -> None:
        """A queue was resumed: publish what waits in it, without the grace."""
        self._resumed = True
        self.loop.wake()

    async def step(self) -> float | None:
        """One pass. Returns 0 when there is more to do at once."""
        wiped_at = await self._wiped_at()
        if wiped_at is not None:
            self._on_wiped()
            await self._everything_before(wiped_at)
        resumed, self._resumed = self._resumed, False
        found = await self.overtaken(timedelta(0) if resumed else GRACE)
        if resumed and found >= LIMIT:
            self._resumed = True
        if time.monotonic() - self._fed > FEED_SECONDS:
            self._fed = time.monotonic()
            await self.feed_dead_letters()
        return 0.0 if found >= LIMIT else None

    async def pass_over(self) -> int:
        """One pass over everything, for recovery by hand; returns how many jobs were published again."""
        # Nothing that this pass has bumped is judged again.
        began = self._store.database.clock.now()
        wiped_at = await self._wiped_at()
        published = 0
        if wiped_at is not None:
            published += await self._everything_before(min(wiped_at, began))
        while found := await self.overtaken(GRACE, began):
            published += found
        return published

    async def overtaken(self, grace: timedelta, until: datetime | None = None) -> int:
        """Publish overtaken jobs again, up to 1,000, none that is younger than `until`; returns how many."""
        streams = self._readable()
        if not streams:
            return 0
        # Asked before the streams: what is submitted after it is not judged.
        now = until or self._store.database.clock.now()
        oldest = await self._stream.watermarks(streams)
        marks = [
            (queue, priority, min(now, from_us(us) if us is not None else now) - grace)
            for (queue, priority), us in oldest.items()
        ]
        return await self._publish_before(marks)

    async def _wiped_at(self) -> datetime | None:
        """When this content of Redis began, if this process has not seen it yet."""
        now_us = self._store.database.clock.now_us()
        value, _ = await self._stream.incarnation(f"{uuid4()}:{now_us}")
        if value == self._incarnation:
            return None
        first = self._incarnation is None
        self._incarnation = value
        began = from_us(int(value.rpartition(":")[2]))
        if not first:
            self._telemetry.warn("stream_wiped", incarnation=value)
        return began

    async def _everything_before(self, moment: datetime) -> int:
        """All processes share the moment, so each job is published again by one of them."""
        published = 0
        while found := await self._publish_before([(queue, priority, moment) for queue, priority in self._readable()]):
            published += found
        return published

    def _readable(self) -> list[tuple[str, Priority]]:
        """The streams of queues that are not paused: a resume publishes its queue."""
        return [stream for stream in self._queues.streams() if not self._queues.paused.get(stream[0], False)]

    async def _publish_before(self, marks: Sequence[Watermark]) -> int:
        if not marks:
            return 0
        found = await self._store.bump_overtaken(marks, limit=LIMIT)
        self._deliveries.publish(message_of(each) for each in found)
        by_queue: dict[str, int] = {}
        for each in found:
            by_queue[each.queue] = by_queue.get(each.queue, 0) + 1
        for queue, count in by_queue.items():
            self._telemetry.reconciled(queue, count)
        return len(found)

    async def feed_dead_letters(self) -> int:
        """Add failed jobs that a crash left out of the feed; returns how many."""
        failed = await self._store.recently_failed(limit=FEED_LIMIT)
        fed = set(await self._stream.dead_letters()) if failed else set()
        missing = [each for each in reversed(failed) if (each[0], each[1]) not in fed]
        self._deliveries.bury(Dead(job_id, fence, kind) for job_id, fence, kind in missing)
        return len(missing)
