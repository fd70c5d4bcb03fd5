"""The shape of every upkeep loop: a step, repeated at jittered intervals, at once when woken, never dying."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from jobserver.errors import Unavailable
from jobserver.pipeline.lasting import lasting

logger = logging.getLogger(__name__)

Step = Callable[[], Awaitable[float | None]]


class Loop:
    """Owns one task. A step returns the seconds until the next one, or None for the usual interval.

    With `pace`, which says the seconds until the next one, each comes at its time, whatever became of the one before.
    """

    def __init__(
        self, name: str, interval_seconds: float, step: Step, *, pace: Callable[[], float] | None = None
    ) -> None:
        self.name = name
        self._interval_seconds = interval_seconds
        self._step = step
        self._pace = pace
        self._woken = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._unavailable = False

    def start(self) -> None:
        name = f"upkeep {self.name}"
        self._task = asyncio.create_task(lasting(name, self._run), name=name)

    def wake(self) -> None:
        """Take the next step now."""
        self._woken.set()

    async def close(self, *, within_seconds: float = 5.0) -> None:
        """Let the step under way end, then stop."""
        if self._task is None:
            return
        self._stopping = True
        self._woken.set()
        _, late = await asyncio.wait([self._task], timeout=within_seconds)
        for task in late:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while not self._stopping:
            self._woken.clear()
            delay = await self._take_step()
            if self._pace is not None:
                delay = self._pace()
            elif delay is None:
                # Spread out, so that processes which started together do not work in step.
                delay = self._interval_seconds * (0.8 + 0.4 * random.random())  # noqa: S311
            if not self._stopping:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._woken.wait()

    async def _take_step(self) -> float | None:
        try:
            delay = await self._step()
        except Unavailable as error:
            if not self._unavailable:
                logger.warning("upkeep_waits", extra={"loop": self.name, "error": str(error)})
            self._unavailable = True
            return None
        except Exception:
            logger.exception("upkeep_failed", extra={"loop": self.name})
            return None
        self._unavailable = False
        return delay
