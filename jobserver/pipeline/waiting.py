"""Waiters: requests that want to know when a job is terminal.

Woken at once by what this process writes; what others write is seen by one look at SQL for all, every 2 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from uuid import UUID

from jobserver.errors import NotFound, Overloaded, Unavailable
from jobserver.job.model import TERMINAL, Job
from jobserver.store.views import Views

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
MAX_WAITERS = 10_000


class Waiters:
    """Owns the task that looks at SQL; it runs only while somebody waits."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._waiting: dict[UUID, set[asyncio.Event]] = {}
        self._count = 0
        self._looker: asyncio.Task[None] | None = None
        self._closed = False

    async def close(self) -> None:
        """Let everybody who waits answer with what is, and nobody wait any more."""
        self._closed = True
        for job_id in list(self._waiting):
            self.wake(job_id)
        if self._looker is not None:
            self._looker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looker

    def wake(self, job_id: UUID) -> None:
        """The job may be terminal now."""
        for event in self._waiting.get(job_id, ()):
            event.set()

    async def wait(self, job_id: UUID, seconds: float) -> Job:
        """The job, as soon as it is terminal, or as it is after `seconds`. Raises NotFound, Overloaded."""
        event = asyncio.Event()
        if self._count >= MAX_WAITERS:
            raise Overloaded("too many requests wait for a job")
        self._count += 1
        # Listening before the first look, so that no end falls in between.
        self._waiting.setdefault(job_id, set()).add(event)
        try:
            job = await self._job(job_id)
            if job.status in TERMINAL or self._closed:
                return job
            if self._looker is None or self._looker.done():
                self._looker = asyncio.create_task(self._look(), name="waiters")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await event.wait()
            return await self._job(job_id)
        finally:
            self._count -= 1
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _job(self, job_id: UUID) -> Job:
        job = await self._views.job(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id}")
        return job

    async def _look(self) -> None:
        while self._waiting:
            await asyncio.sleep(LOOK_SECONDS)
            wanted = list(self._waiting)
            try:
                for start in range(0, len(wanted), 500):
                    chunk = wanted[start : start + 500]
                    found = await self._views.statuses(chunk)
                    for job_id in chunk:
                        if found.get(job_id) is None or found[job_id] in TERMINAL:
                            self.wake(job_id)
            except Unavailable as error:
                logger.warning("wait_look_failed", extra={"error": str(error)})
