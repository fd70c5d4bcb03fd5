"""Expire: fails waiting jobs whose `expires_at` is over, whether or not anybody tried to claim them."""

from __future__ import annotations

from typing import Final

from jobserver.pipeline.deliver import Deliveries
from jobserver.pipeline.waiting import Waiters
from jobserver.store.jobs import JobStore
from jobserver.stream.jobs import Dead
from jobserver.telemetry import Telemetry
from jobserver.upkeep.loop import Loop

INTERVAL_SECONDS: Final = 1.0
LIMIT: Final = 500


class Expire:
    """Owns the loop."""

    def __init__(self, store: JobStore, deliveries: Deliveries, waiters: Waiters, telemetry: Telemetry) -> None:
        self._store = store
        self._deliveries = deliveries
        self._waiters = waiters
        self._telemetry = telemetry
        self.loop = Loop("expire", INTERVAL_SECONDS, self._step)

    async def _step(self) -> float | None:
        return 0.0 if await self.step() >= LIMIT else None

    async def step(self) -> int:
        """Fail up to 500 expired jobs; returns how many."""
        moved = await self._store.expire(limit=LIMIT)
        for each in moved:
            self._telemetry.expired(each)
            self._waiters.wake(each.job_id)
        if self._deliveries.announcer is not None:
            self._deliveries.announcer.moved(
                [(each.job_id, each.type, each.queue, each.status, each.attempt, each.fence) for each in moved]
            )
        self._deliveries.bury(Dead(each.job_id, each.fence, each.type) for each in moved)
        if called := [each.callback_id for each in moved if each.callback_id is not None]:
            self._deliveries.call_back(called)
            self._telemetry.called_back(len(called))
        return len(moved)
