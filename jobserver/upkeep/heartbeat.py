"""Heartbeat: a thread that lets the pulse go on while a handler blocks the event loop.

On connections of its own, one of which holds the lock that proves that this process lives. A loop that does not
tick for `max_loop_block_seconds` is taken for hung: the beats stop, and other processes get its jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from jobserver.errors import Unavailable
from jobserver.job.model import Claimed
from jobserver.pipeline.held import Holdings
from jobserver.store.engine import Database
from jobserver.store.jobs import JobStore
from jobserver.store.workers import WorkerStore
from jobserver.telemetry import Telemetry
from jobserver.upkeep.loop import Loop
from jobserver.upkeep.pulse import BEAT_SECONDS, Identity, Pulse

logger = logging.getLogger(__name__)

WATCH_SECONDS: Final = 0.5
BLOCKED_SECONDS: Final = 1.0
# A sleep that ends so much too late was none: the whole process was paused.
PAUSED_SECONDS: Final = 0.5
_START_SECONDS: Final = 20.0
_CLOSE_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 0.5


class Heartbeat:
    """Owns the thread. Started and closed on the event loop that it watches."""

    def __init__(
        self,
        database: Database,
        holdings: Holdings,
        identity: Identity,
        telemetry: Telemetry,
        *,
        lease_seconds: float,
        max_loop_block_seconds: float,
        job_of: Callable[[asyncio.Task[Any]], Claimed | None] = lambda task: None,
    ) -> None:
        self._database = database
        self._telemetry = telemetry
        self._lease_seconds = lease_seconds
        self._max_block_seconds = max_loop_block_seconds
        self._job_of = job_of
        self._holdings = holdings
        self.pulse = Pulse(holdings, identity, lease_seconds=lease_seconds, refuse=self._refuse)
        self._watched: asyncio.AbstractEventLoop | None = None
        self._watched_thread = 0
        self._thread: threading.Thread | None = None
        self._first: asyncio.Future[None] | None = None
        self._ended: asyncio.Event | None = None
        # Of the thread's own loop.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._beat: Loop | None = None
        # The question to the watched loop that is under way, and when it answered.
        self._asked = 0.0
        self._ticked = 0.0
        self._blocked: tuple[str, str | None, str] | None = None
        self._hung = False

    # On the watched loop.

    async def start(self) -> None:
        """The first beat comes before anything is claimed. Raises DatabaseUnavailable."""
        self._watched = asyncio.get_running_loop()
        self._watched_thread = threading.get_ident()
        self._first = self._watched.create_future()
        self._ended = asyncio.Event()
        # A daemon: whatever it waits for, it does not keep the process.
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()
        async with asyncio.timeout(_START_SECONDS):
            await self._first

    async def close(self) -> None:
        """Stop, and say so: the process is not alive any more."""
        if self._thread is None or self._ended is None:
            return
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._ended.wait()

    def drain(self) -> None:
        """Say at once that this process takes no more jobs."""
        self.pulse.draining = True
        if self._loop is not None and self._beat is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._beat.wake)

    @property
    def loop_lag_seconds(self) -> float:
        """How late the loop answered last, or is by now."""
        return self.pulse.loop_lag_seconds

    def _tick(self) -> None:
        self._ticked = time.monotonic()

    # On the thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except Exception:
            logger.exception("upkeep_failed", extra={"loop": "heartbeat"})
        finally:
            self._tell(self._note_end)

    def _note_end(self) -> None:
        if self._ended is not None:
            self._ended.set()
        if self._first is not None and not self._first.done():
            self._first.set_exception(RuntimeError("the heartbeat did not start"))

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        # A connection each: a lease that waits for a row must not hold up the beat.
        presence = self._database.sibling(keepalive_seconds=5)
        leases = self._database.sibling()
        workers, store = WorkerStore(presence), JobStore(leases)
        self._beat = Loop("heartbeat", BEAT_SECONDS, lambda: self._beat_step(workers))
        lease = Loop("leases", self._lease_seconds / 3, lambda: self._lease_step(store))
        watch = asyncio.create_task(self._watch(), name="watch")
        try:
            try:
                # A first lease must not wait for its connection, which takes its time on a busy machine.
                await WorkerStore(leases).measure_clock()
                await self.pulse.beat(workers)
            except Exception as error:
                self._tell(self._answer_start, error)
                return
            self._tell(self._answer_start, None)
            self._beat.start()
            lease.start()
            await self._stop.wait()
            await lease.close(within_seconds=1.0)
            await self._beat.close(within_seconds=1.0)
            with contextlib.suppress(Unavailable):
                await self.pulse.beat(workers, stopped=True)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await presence.close()
            await leases.close()

    def _answer_start(self, error: Exception | None) -> None:
        if self._first is None or self._first.done():
            return
        if error is None:
            self._first.set_result(None)
        else:
            self._first.set_exception(error)

    async def _beat_step(self, workers: WorkerStore) -> float | None:
        if self._hung:
            return None
        started = time.monotonic()
        try:
            await self.pulse.beat(workers)
        except Unavailable as error:
            logger.warning("heartbeat_failed", extra={"error": str(error)})
            return _AGAIN_SECONDS
        return max(0.05, BEAT_SECONDS - (time.monotonic() - started))

    async def _lease_step(self, store: JobStore) -> float | None:
        return None if self._hung else await self.pulse.extend(store)

    def _refuse(self, job_id: UUID, fence: int) -> None:
        if self._thread is None:
            # Not started: somebody takes the steps by hand, on the loop.
            self._holdings.refuse(job_id, fence)
        self._tell(self._holdings.refuse, job_id, fence)

    def _tell(self, call: Callable[..., object], *arguments: object) -> None:
        """Call something on the watched loop, which may be closed by now."""
        if self._watched is not None:
            with contextlib.suppress(RuntimeError):
                self._watched.call_soon_threadsafe(call, *arguments)

    async def _watch(self) -> None:
        """Ask the loop for a tick again and again: how late it answers is its lag."""
        self._ask(time.monotonic())
        while True:
            slept, busy = time.monotonic(), time.process_time()
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            late = now - slept - WATCH_SECONDS
            paused = late > PAUSED_SECONDS and time.process_time() - busy < late / 2
            if paused and self._ticked < self._asked:
                # The whole process was paused: that is not the loop's fault.
                self._asked += late
            self.look(now)

    def _ask(self, now: float) -> None:
        self._asked = now
        self._tell(self._tick)

    def look(self, now: float) -> None:
        """Judge the loop by its last answer."""
        answered = self._ticked >= self._asked
        lag = max(0.0, (self._ticked if answered else now) - self._asked)
        self.pulse.loop_lag_seconds = lag
        if lag > BLOCKED_SECONDS and self._blocked is None and not answered:
            self._blocked = self._culprit()
            kind, job_id, at = self._blocked
            self._telemetry.loop_blocked(kind, job_id, at, lag)
        if answered:
            if self._blocked is not None:
                kind, job_id, at = self._blocked
                self._telemetry.loop_free(kind, job_id, at, lag)
                self._blocked = None
            self._hung = False
            self._ask(now)
        elif lag > self._max_block_seconds and not self._hung:
            self._hung = True
            self._telemetry.warn("event_loop_hung", seconds=round(lag, 3), at=self._culprit()[2])
            # Beats and leases stop: what this process holds may be run by others.

    def _culprit(self) -> tuple[str, str | None, str]:
        """Type and id of the job whose handler runs on the loop ("" when none does), and the line where it is."""
        task = None if self._watched is None else asyncio.current_task(self._watched)
        job = None if task is None else self._job_of(task)
        kind, job_id = ("", None) if job is None else (job.type, str(job.id))
        frame = sys._current_frames().get(self._watched_thread)
        at = "unknown"
        if frame is not None:
            at = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
        return kind, job_id, at
