"""Tell: every five seconds, at the same moment as all others, what the counters of this process grew by."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

from jobserver.errors import StreamUnavailable
from jobserver.job.activity import BUCKET_SECONDS, MAX_MINUTES, Grown, bucket_of
from jobserver.stream.activity import ActivityStream
from jobserver.telemetry.growth import Growth
from jobserver.telemetry.metrics import Metrics
from jobserver.upkeep.loop import Loop

# What is told at the end of the process may take so long.
LAST_SECONDS: Final = 0.5
_CHUNK: Final = 100
# So long after the end of a bucket the loop looks, for whatever was counted in its last moment.
_AFTER_SECONDS: Final = 0.02


class Tell:
    """Owns the loop. While Redis is away it remembers an hour, and tells that later."""

    def __init__(self, stream: ActivityStream, metrics: Metrics, worker_id: str, now_us: Callable[[], int]) -> None:
        self._stream = stream
        self._growth = Growth(metrics)
        self._worker_id = worker_id
        self._now_us = now_us
        self._number = 0
        self._untold: deque[Grown] = deque(maxlen=MAX_MINUTES * 60 // BUCKET_SECONDS)
        self.loop = Loop("tell", BUCKET_SECONDS, self.step, pace=self._until_end)

    async def step(self) -> None:
        """Look at the counters, and tell. Raises StreamUnavailable."""
        # The bucket that has just ended: whoever looks late counts for the one that it looks in.
        self._look(self._now_us() / 1e6 - BUCKET_SECONDS / 2)
        while self._untold:
            growths = [self._untold[place] for place in range(min(_CHUNK, len(self._untold)))]
            await self._stream.tell(growths)
            for _ in growths:
                self._untold.popleft()

    async def close(self) -> None:
        """Stop, and tell what was not told yet if Redis takes it at once."""
        await self.loop.close()
        self._look(self._now_us() / 1e6)
        with contextlib.suppress(StreamUnavailable):
            await self._stream.tell(list(self._untold)[-_CHUNK:], within_seconds=LAST_SECONDS)

    def _until_end(self) -> float:
        """Seconds to the end of the present bucket: each has its look, also while Redis is away."""
        now = self._now_us() / 1e6
        return bucket_of(now) + BUCKET_SECONDS - now + _AFTER_SECONDS

    def _look(self, at: float) -> None:
        queues, latency, wait = self._growth.take()
        self._untold.append(Grown(self._worker_id, self._number, bucket_of(at), queues, latency, wait))
        self._number += 1
