"""A bounded pool of threads for plain functions.

Daemon threads of our own: one that cannot be stopped must not hold up the exit of the process, as those of
concurrent.futures do. Such a thread is abandoned, and its place given to another, up to as many again.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

from jobserver.job.model import Outcome
from jobserver.pipeline.running import Running
from jobserver.pipeline.slots import Slots


class Threads:
    """At most `limit` functions at a time, and at most as many abandoned ones beside them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._slots = Slots(limit)
        self._idle = 0
        self._spawned = 0
        self._abandoned = 0
        # Bounded by the slots: a call is put in only when a thread is there to take it.
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()

    async def acquire(self, running: Running) -> bool:
        """Wait for a place; `start` must follow. False: the attempt was asked to stop first."""
        return await self._slots.acquire(running)

    def start(self, function: Callable[[], Outcome], done: Callable[[Outcome], None], name: str) -> _Call:
        """Run `function`, which never raises, and call `done` on this loop with what it returns.

        Raises RuntimeError when the system gives no thread; the place is free again then.
        """
        call = _Call(asyncio.get_running_loop(), function, done, name, self._finished)
        if self._idle == 0:
            try:
                threading.Thread(target=_work, args=(self._calls,), name="jobserver thread", daemon=True).start()
            except RuntimeError:
                self._slots.release()
                raise
            self._spawned += 1
        else:
            self._idle -= 1
        self._calls.put(call)
        return call

    def abandon(self, call: _Call) -> None:
        """Stop waiting for a call. Its place is free at once, or at its end when too many are abandoned."""
        if call.finished or call.abandoned:
            return
        call.abandoned = True
        self._abandoned += 1
        if self._abandoned <= self._limit:
            call.holds_slot = False
            self._slots.release()

    def close(self) -> None:
        """Let idle threads end. Those that still run end with the process."""
        for _ in range(self._spawned):
            self._calls.put(None)

    def _finished(self, call: _Call, outcome: Outcome) -> None:
        call.finished = True
        self._idle += 1
        if call.abandoned:
            self._abandoned -= 1
        if call.holds_slot:
            self._slots.release()
        call.done(outcome)


class _Call:
    """One function on its way through a thread."""

    __slots__ = ("_function", "_loop", "_report", "abandoned", "done", "finished", "holds_slot", "name")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[[], Outcome],
        done: Callable[[Outcome], None],
        name: str,
        report: Callable[[_Call, Outcome], None],
    ) -> None:
        self._loop = loop
        self._function = function
        self._report = report
        self.done = done
        self.name = name
        self.abandoned = False
        self.finished = False
        self.holds_slot = True

    def run(self) -> None:
        outcome = self._function()
        try:
            self._loop.call_soon_threadsafe(self._report, self, outcome)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more


def _work(calls: queue.SimpleQueue[_Call | None]) -> None:
    thread = threading.current_thread()
    idle_name = thread.name
    while (call := calls.get()) is not None:
        thread.name = call.name
        call.run()
        thread.name = idle_name
        del call  # or the last job's arguments live on until the next one
