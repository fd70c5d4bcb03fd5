"""Heartbeat: says every second that this process lives, and hears what was decided about its jobs.

A lease is extended every third of its length. Only a refusal cancels a handler: when SQL does not answer, the
job goes on, and its end is fenced anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from datetime import datetime

import msgspec

from jobserver.errors import DatabaseUnavailable, StreamUnavailable, Unavailable
from jobserver.pipeline.held import Holdings
from jobserver.pipeline.known import Queues, Types
from jobserver.store.jobs import JobStore
from jobserver.store.workers import WorkerStore
from jobserver.stream.jobs import JobStream
from jobserver.upkeep.loop import Loop

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
TYPES_EVERY_BEATS = 3


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a process says of itself once."""

    worker_id: str
    version: str
    concurrency: int
    queues: tuple[str, ...] | None
    types: tuple[str, ...]
    host: str = msgspec.field(default_factory=socket.gethostname)
    pid: int = msgspec.field(default_factory=os.getpid)


class Heartbeat:
    """Owns the beat, the leases' loop and the ear for wake-ups."""

    def __init__(
        self,
        store: JobStore,
        workers: WorkerStore,
        stream: JobStream,
        holdings: Holdings,
        queues: Queues,
        types: Types,
        identity: Identity,
        *,
        lease_seconds: float,
        busy: Callable[[], int],
    ) -> None:
        self._store = store
        self._workers = workers
        self._stream = stream
        self._holdings = holdings
        self._queues = queues
        self._types = types
        self._identity = identity
        self._lease_seconds = lease_seconds
        self._busy = busy
        self._beats = 0
        self._steady_since: float | None = None
        self._last_now: datetime | None = None
        # So long may pass between two beats before others may have missed the time to extend a lease.
        self._longest_seconds = max(2 * BEAT_SECONDS, lease_seconds / 3)
        self._last_beat: float | None = None
        self._expected: float | None = None
        self.loop_lag_seconds = 0.0
        self.draining = False
        self.beat = Loop("heartbeat", BEAT_SECONDS, self._beat)
        self.leases = Loop("leases", lease_seconds / 3, self._extend)
        self._ear: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """The first beat comes before anything is claimed. Raises DatabaseUnavailable."""
        await self._beat()
        self.beat.start()
        self.leases.start()
        self._ear = asyncio.create_task(self._listen(), name="upkeep wakes")

    async def close(self) -> None:
        """Stop, and say so: the process is not alive any more."""
        if self._ear is not None:
            self._ear.cancel()
            await asyncio.gather(self._ear, return_exceptions=True)
        await self.leases.close()
        await self.beat.close()
        with contextlib.suppress(Unavailable):
            await self._say(stopped=True)

    def may_reclaim(self) -> bool:
        """Whether own heartbeats have succeeded for a full lease: after an outage every lease looks over."""
        return (
            self._steady_since is not None
            and not self._broken()
            and time.monotonic() - self._steady_since >= self._lease_seconds
        )

    def _broken(self) -> bool:
        """Whether the last beat is too long ago for a judgement about the leases of others."""
        return self._last_beat is None or time.monotonic() - self._last_beat > self._longest_seconds

    async def _beat(self) -> float | None:
        started = time.monotonic()
        if self._expected is not None:
            self.loop_lag_seconds = max(0.0, started - self._expected)
        try:
            now = await self._say(stopped=False)
        except Unavailable:
            self._steady_since = None
            raise
        if self._last_now is not None and (now - self._last_now).total_seconds() > self._longest_seconds:
            # The database's clock jumped: leases look over, and are not.
            self._steady_since = None
        self._last_now = now
        if self._steady_since is None or self._broken():
            self._steady_since = time.monotonic()
        self._last_beat = time.monotonic()
        await self._queues.refresh()
        if self._holdings:
            for job_id, fence in await self._store.cancel_requests(self._identity.worker_id):
                self._holdings.cancel(job_id, fence)
            await self._save_progress()
        if self._beats % TYPES_EVERY_BEATS == 0:
            await self._types.refresh()
        self._beats += 1
        delay = max(0.05, BEAT_SECONDS - (time.monotonic() - started))
        self._expected = time.monotonic() + delay
        return delay

    async def _say(self, *, stopped: bool) -> datetime:
        return await self._workers.beat(
            self._identity.worker_id,
            host=self._identity.host,
            pid=self._identity.pid,
            version=self._identity.version,
            draining=self.draining,
            stopped=stopped,
            concurrency=self._identity.concurrency,
            running=self._busy(),
            loop_lag_seconds=self.loop_lag_seconds,
            queues=self._identity.queues,
            types=self._identity.types,
        )

    async def _save_progress(self) -> None:
        said = [held for held in self._holdings if held.progress is not None]
        if not said:
            return
        sent = [(held.job.id, held.job.fence, held.progress) for held in said if held.progress is not None]
        await self._store.save_progress(sent)
        for held, (_, _, progress) in zip(said, sent, strict=True):
            if held.progress is progress:
                held.progress = None

    async def _extend(self) -> float | None:
        held = self._holdings.fences()
        if not held:
            return None
        try:
            still_ours = await self._store.extend_leases(held, lease_seconds=self._lease_seconds)
        except DatabaseUnavailable as error:
            # At once again, on another connection: one that stalls must not cost the leases.
            logger.warning("leases_not_extended", extra={"jobs": len(held), "error": str(error)})
            return min(0.5, self._lease_seconds / 10)
        for job_id, fence in held:
            if job_id not in still_ours:
                # One that ended meanwhile is not held any more, and then this does nothing.
                self._holdings.refuse(job_id, fence)
        return None

    async def _listen(self) -> None:
        """Cancels reach a running job at once through Redis; without it the next beat brings them."""
        while True:
            try:
                async with self._stream.listening() as wakes:
                    while True:
                        if any(self._holdings.get(job_id) for job_id in await wakes.next()):
                            self.beat.wake()
            except StreamUnavailable as error:
                logger.debug("wakes_unavailable", extra={"error": str(error)})
            except Exception:
                logger.exception("upkeep_failed", extra={"loop": "wakes"})
            await asyncio.sleep(BEAT_SECONDS)
