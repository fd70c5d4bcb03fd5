"""Promote: moves due jobs from the delayed sets to their streams, and keeps the sets filled from SQL.

Only the near horizon of delayed jobs is in Redis. The frontier up to which it was filled advances; the whole
horizon is filled again only when Redis was wiped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

from jobserver.job.times import from_us, instant_us
from jobserver.pipeline.deliver import NEAR_HORIZON_SECONDS, Deliveries, message_of
from jobserver.pipeline.known import Queues
from jobserver.store.jobs import JobStore
from jobserver.stream.jobs import JobStream
from jobserver.upkeep.loop import Loop

INTERVAL_SECONDS: Final = 0.5
REFILL_SECONDS: Final = 20.0
LIMIT: Final = 1_000
# A submit decides by the horizon at its own time, before its commit. So a refill looks a bit further, and counts
# as filled a bit less: no job falls between the two.
OVERLAP: Final = timedelta(seconds=60)
# Beyond this many operations that Redis was not told yet a refill takes a break.
_BACKLOG: Final = 20_000


class Promote:
    """Owns the loop; `hear` of a due time that is about to be put into a set, so that it is not slept over."""

    def __init__(self, store: JobStore, stream: JobStream, deliveries: Deliveries, queues: Queues) -> None:
        self._store = store
        self._stream = stream
        self._deliveries = deliveries
        self._queues = queues
        self._now_us: Callable[[], int] = store.database.clock.now_us
        self._frontier_us: int | None = None
        self._refilled = 0.0
        self._wakes_us = 0
        self.loop = Loop("promote", INTERVAL_SECONDS, self.step)

    def hear(self, due_us: int) -> None:
        """A member with this due time was put into a delayed set."""
        if due_us < self._wakes_us:
            self.loop.wake()

    def refill_all(self) -> None:
        """Redis was wiped: the whole horizon is to be filled again."""
        self._frontier_us = None
        self._refilled = 0.0
        self.loop.wake()

    async def step(self) -> float | None:
        """Promote what is due. Returns the seconds until the next is."""
        if time.monotonic() - self._refilled > REFILL_SECONDS:
            await self._refill()
        streams = self._queues.streams()
        if not streams:
            return None
        moved, next_us = await self._stream.promote(streams, now_us=self._now_us(), limit=LIMIT)
        if moved >= LIMIT:
            return 0.0
        now_us = self._now_us()
        delay = INTERVAL_SECONDS
        if next_us is not None:
            delay = min(delay, max(0.001, (next_us - now_us) / 1e6))
        self._wakes_us = now_us + int(delay * 1e6)
        return delay

    async def _refill(self) -> None:
        horizon = from_us(self._now_us()) + timedelta(seconds=NEAR_HORIZON_SECONDS)
        after = from_us(self._now_us() if self._frontier_us is None else self._frontier_us)
        after_id: UUID | None = None
        streams = self._queues.streams()
        while streams:
            if self._deliveries.waiting > _BACKLOG:
                self._frontier_us = instant_us(after) - 1
                return
            found = await self._store.near_horizon(
                streams, after=after, after_id=after_id, until=horizon + OVERLAP, limit=LIMIT
            )
            for each in found:
                self._deliveries.delay(message_of(each))
            if len(found) < LIMIT:
                break
            after, after_id = found[-1].available_at, found[-1].job_id
        self._frontier_us = instant_us(horizon - OVERLAP)
        self._refilled = time.monotonic()
