"""A bounded number of places, taken in the order of asking. Asking ends early when the attempt is to stop."""

from __future__ import annotations

import asyncio
from collections import deque

from jobserver.pipeline.running import Running


class Slots:
    """Lives on one event loop. Each `acquire` that answers True needs one `release`."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiters: deque[asyncio.Future[bool]] = deque()

    async def acquire(self, running: Running) -> bool:
        """Wait for a place. False: the attempt was asked to stop before there was one."""
        if running.is_stopping():
            return False
        if self._free > 0:
            self._free -= 1
            return True
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        running.stop_with(lambda: _answer(waiter, False))
        try:
            # No time limit of its own: whoever has a place is bounded by its timeout and its grace.
            granted = await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.result():
                self.release()  # the place came in the same turn as the cancellation
            raise
        finally:
            running.stop_with(None)
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        if granted and running.is_stopping():
            # Asked to stop in the same turn, after the answer: nobody would ask again.
            self.release()
            return False
        return granted

    def release(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(True)
                return
        self._free += 1


def _answer(waiter: asyncio.Future[bool], granted: bool) -> None:
    if not waiter.done():
        waiter.set_result(granted)
