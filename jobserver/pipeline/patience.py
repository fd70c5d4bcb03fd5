"""Patience: how long callers wait for what is under way. One timer for all, where a timeout each costs more than
reading their requests.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeVar

T = TypeVar("T")


class Patience:
    """Waits for futures, for the same time each. Lives on one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds: Final = seconds
        # In the order of their deadlines, which is that of their arrival.
        self._waiting: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, future: asyncio.Future[T]) -> T:
        """The result. Raises TimeoutError when it took too long, and then the future has failed with it."""
        loop = future.get_loop()
        self._waiting[future] = deadline = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._look)
        try:
            return await future
        finally:
            del self._waiting[future]

    @property
    def waiting(self) -> int:
        """Those who wait now."""
        return len(self._waiting)

    @property
    def longest(self) -> float:
        """Seconds that the one has waited who came first; 0 while nobody waits."""
        for future, deadline in self._waiting.items():
            return future.get_loop().time() - (deadline - self._seconds)
        return 0.0

    def close(self) -> None:
        """Limit nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        for future, deadline in self._waiting.items():
            if deadline > loop.time():
                self._timer = loop.call_at(deadline, self._look)
                return
            if not future.done():
                future.set_exception(TimeoutError())
