"""Watchdog: rebuilds the connections to Redis when work that could run here waits and nothing is read.

A connection that is silent and yet not closed, or one to a server that was replaced, raises no error. What Redis
says is then worth nothing, so SQL is asked: only it knows that there is work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from jobserver.job.model import Priority
from jobserver.pipeline.consume import Consumers
from jobserver.pipeline.known import Queues
from jobserver.store.jobs import JobStore
from jobserver.stream.client import StreamClient
from jobserver.telemetry import Telemetry
from jobserver.upkeep.loop import Loop

INTERVAL_SECONDS: Final = 5.0
# Longer than a lost message waits until reconcile publishes it again.
WAITS_SECONDS: Final = 8.0
# Where rebuilding does not help, it is tried less and less often.
LONGEST_SECONDS: Final = 300.0


class Watchdog:
    """Owns the loop. `on_rebuilt` hears that what is in Redis should be looked at, as after a wipe."""

    def __init__(
        self,
        store: JobStore,
        client: StreamClient,
        consumers: Consumers,
        queues: Queues,
        types: Collection[str],
        telemetry: Telemetry,
        *,
        on_rebuilt: Callable[[], None],
    ) -> None:
        self._store = store
        self._client = client
        self._consumers = consumers
        self._queues = queues
        self._types = tuple(types)
        self._telemetry = telemetry
        self._on_rebuilt = on_rebuilt
        self._fetched = 0
        self._suspects = False
        self._rebuilt_delay = INTERVAL_SECONDS
        self.loop = Loop("watchdog", INTERVAL_SECONDS, self.step)

    async def step(self) -> float | None:
        """One look. The second in a row that finds waiting work and an idle fetcher rebuilds the connections.

        Raises Unavailable: an engine that says so itself is no case for a watchdog.
        """
        suspected, self._suspects = self._suspects, False
        if self._is_reading():
            self._rebuilt_delay = INTERVAL_SECONDS
            return None
        if not await self._work_waits() or self._is_reading():
            return None
        if not suspected:
            # One look may come after a pause of the whole process, before the fetcher had its turn.
            self._suspects = True
            return None
        await self._client.rebuild()
        await self._consumers.fetch_anew()
        self._telemetry.connections_rebuilt()
        self._on_rebuilt()
        delay, self._rebuilt_delay = self._rebuilt_delay, min(2 * self._rebuilt_delay, LONGEST_SECONDS)
        return delay

    def _is_reading(self) -> bool:
        """Whether messages were read since the last look, or none can be: no consumer is free for one."""
        before, self._fetched = self._fetched, self._consumers.fetched
        return self._consumers.draining or self._consumers.free <= 0 or self._fetched != before

    async def _work_waits(self) -> bool:
        streams = [(queue, priority) for queue in self._queues.served() for priority in Priority]
        return bool(streams) and await self._store.work_waits(streams, self._types, for_seconds=WAITS_SECONDS)
