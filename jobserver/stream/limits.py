"""Rate limits that all processes share: counted in Redis by the `limits` library, in one atomic script a hit.

Two windows, weighted by how much of the older one is still in sight: two small keys a caller, and no process's clock.
"""

from __future__ import annotations

import time
from typing import Final

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from jobserver.access import Quota, Standing
from jobserver.stream.client import REQUEST_SECONDS, StreamClient, available
from jobserver.stream.keys import Keys


class SharedLimit:
    """The quota of each caller, over all processes. Raises StreamUnavailable, within the time of a request."""

    def __init__(self, client: StreamClient, prefix: str, quota: Quota) -> None:
        self._item: Final = RateLimitItemPerSecond(quota.amount, quota.window_seconds)
        storage = RedisStorage(
            # The pool knows where the server is; this only names the kind.
            "async+redis://",
            implementation="redispy",
            key_prefix=Keys(prefix).limits,
            connection_pool=client.commands.connection_pool,
        )
        self._limiter: Final = SlidingWindowCounterRateLimiter(storage)

    async def hit(self, caller: str) -> Standing:
        """Count one hit, if the quota permits it."""
        async with available(REQUEST_SECONDS):
            allowed = await self._limiter.hit(self._item, caller)
            stats = await self._limiter.get_window_stats(self._item, caller)
        # Up, so that who waits for so long does not come too early.
        return Standing(allowed, stats.remaining if allowed else 0, max(1, int(stats.reset_time - time.time() + 0.999)))
