"""Activity: the last minutes of all processes, as those who ask want them: read on demand, and kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from jobserver.errors import StreamUnavailable
from jobserver.job.activity import Bucket, Minutes, Recent
from jobserver.stream.activity import PAGE_ENTRIES, ActivityStream
from jobserver.stream.client import REQUEST_SECONDS
from jobserver.telemetry.metrics import SECONDS

# A look is as good as new for so long; and while Redis is away it is left alone for as long.
FRESH_SECONDS: Final = 1.0
# Somebody tells every five seconds. Who hears nothing for longer may be at a place that is ahead of a new Redis.
SILENT_SECONDS: Final = 15.0


class Activity:
    """Nobody looks while nobody asks. Of many who ask at once one looks, and none waits for long."""

    def __init__(self, stream: ActivityStream, now_us: Callable[[], int]) -> None:
        self._stream = stream
        self._now_us = now_us
        self._minutes = Minutes(SECONDS)
        self._last = "0-0"
        self._looked = float("-inf")
        self._heard = time.monotonic()
        self._whole = False
        self._looking: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End a look that is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def recent(self) -> Recent:
        """The present rates; of what is not known, None."""
        await self._look()
        return self._minutes.recent(self._now)

    async def buckets(self, minutes: int) -> tuple[list[Bucket], bool]:
        """The last minutes, oldest first, and whether they are whole: Redis may be away."""
        await self._look()
        return self._minutes.buckets(self._now, minutes), self._whole

    @property
    def _now(self) -> float:
        return self._now_us() / 1e6

    async def _look(self) -> None:
        if self._looking is None:
            if time.monotonic() - self._looked < FRESH_SECONDS:
                return
            self._looking = asyncio.create_task(self._look_once(), name="look at activity")
        # What is not there by then is there for the next one who asks.
        await asyncio.wait([self._looking], timeout=REQUEST_SECONDS)

    async def _look_once(self) -> None:
        try:
            await self._read()
            self._whole = True
        except StreamUnavailable:
            # What is known is shown, and said not to be all.
            self._whole = False
        finally:
            self._looked = time.monotonic()
            self._looking = None

    async def _read(self) -> None:
        while True:
            found = await self._stream.after(self._last)
            if found:
                self._heard = time.monotonic()
            elif time.monotonic() - self._heard > SILENT_SECONDS:
                # What is known already is not added again.
                self._last, self._heard = "0-0", time.monotonic()
                continue
            for name, grown in found:
                self._last = name
                if grown is not None:
                    self._minutes.add(grown, self._now)
            if len(found) < PAGE_ENTRIES:
                return
