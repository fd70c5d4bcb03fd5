"""Pulse: says every second that this process lives, and keeps the leases of the jobs that it holds.

Pure of threads: `heartbeat.py` lets it run off the event loop. Only a refusal cancels a handler: when SQL does not
answer, the job goes on, and its end is fenced anyway.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from jobserver.errors import DatabaseUnavailable, Unavailable
from jobserver.pipeline.held import Holdings
from jobserver.store.jobs import JobStore
from jobserver.store.workers import Beat, WorkerStore

logger = logging.getLogger(__name__)

BEAT_SECONDS: Final = 1.0
# A process that was silent for so long, and whose lock is free, is dead.
SILENT_SECONDS: Final = 3.0
# After an outage everybody gets so long to come back before anybody is judged.
JUDGE_SECONDS: Final = 5.0


def longest_seconds(lease_seconds: float) -> float:
    """So long may pass between two beats before others may have missed the time to extend a lease."""
    return max(2 * BEAT_SECONDS, lease_seconds / 3)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a process says of itself once."""

    worker_id: str
    version: str
    concurrency: int
    queues: tuple[str, ...] | None
    types: tuple[str, ...]
    host: str = msgspec.field(default_factory=socket.gethostname)
    pid: int = msgspec.field(default_factory=os.getpid)


class Pulse:
    """What is known of one's own beats, and so whether others may be judged.

    `refuse` hears of each (job, fence) that is not ours any more. Attributes are read from other threads.
    """

    def __init__(
        self, holdings: Holdings, identity: Identity, *, lease_seconds: float, refuse: Callable[[UUID, int], None]
    ) -> None:
        self._holdings = holdings
        self._identity = identity
        self._lease_seconds = lease_seconds
        self._refuse = refuse
        self._steady_since: float | None = None
        self._last_now: datetime | None = None
        self._longest_seconds = longest_seconds(lease_seconds)
        self._last_beat: float | None = None
        self.beats = 0
        self.locked = False
        self.draining = False
        self.loop_lag_seconds = 0.0

    def may_reclaim(self) -> bool:
        """Whether own heartbeats have succeeded for a full lease: after an outage every lease looks over."""
        return self._steady_for(self._lease_seconds)

    def may_judge(self) -> bool:
        """Whether own heartbeats have succeeded for long enough to take a silent process for dead."""
        return self._steady_for(JUDGE_SECONDS)

    def may_claim(self) -> bool:
        """Whether others know that this process lives: what it claims now would not be taken from it at once."""
        return self._last_beat is not None and time.monotonic() - self._last_beat < SILENT_SECONDS

    def _steady_for(self, seconds: float) -> bool:
        since = self._steady_since
        return since is not None and not self._broken() and time.monotonic() - since >= seconds

    def _broken(self) -> bool:
        """Whether the last beat is too long ago for a judgement about others."""
        return self._last_beat is None or time.monotonic() - self._last_beat > self._longest_seconds

    async def beat(self, workers: WorkerStore, *, stopped: bool = False) -> None:
        """Say once that this process lives, or that it `stopped`. Raises DatabaseUnavailable."""
        identity = self._identity
        try:
            answer = await workers.beat(
                Beat(
                    worker_id=identity.worker_id,
                    host=identity.host,
                    pid=identity.pid,
                    version=identity.version,
                    draining=self.draining,
                    stopped=stopped,
                    concurrency=identity.concurrency,
                    running=self._holdings.running,
                    loop_lag_seconds=self.loop_lag_seconds,
                    queues=identity.queues,
                    types=identity.types,
                )
            )
        except Unavailable:
            self._steady_since = None
            raise
        now = answer.now
        if self._last_now is not None and (now - self._last_now).total_seconds() > self._longest_seconds:
            # The database's clock jumped: leases look over, and are not.
            self._steady_since = None
        self._last_now = now
        self.locked = answer.locked
        if self._steady_since is None or self._broken():
            self._steady_since = time.monotonic()
        self._last_beat = time.monotonic()
        self.beats += 1

    async def extend(self, store: JobStore) -> float | None:
        """Extend the leases of what is held. Returns the seconds until that is to be tried again, None: as usual."""
        held = self._holdings.fences()
        # While the loop is blocked nobody hears that a claim was won, and its lease runs.
        leases = list({*held, *self._holdings.claims()})
        if not leases:
            return None
        try:
            asked = time.monotonic()
            still_ours = await store.extend_leases(leases, lease_seconds=self._lease_seconds)
        except DatabaseUnavailable as error:
            # At once again, on another connection: one that stalls must not cost the leases.
            logger.warning("leases_not_extended", extra={"jobs": len(held), "error": str(error)})
            return min(0.5, self._lease_seconds / 10)
        self._holdings.kept_at = asked
        for job_id, fence in held:
            if job_id not in still_ours:
                # One that ended meanwhile is not held any more, and then this does nothing.
                self._refuse(job_id, fence)
        return None
