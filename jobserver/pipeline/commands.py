"""Commands: what people do to jobs and queues. Each is one guarded statement, then a word to Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from jobserver.errors import Conflict, NotFound, StreamUnavailable
from jobserver.job.model import Job, QueueInfo, Status
from jobserver.job.query import Cancellation, Selection
from jobserver.pipeline.deliver import Deliveries, message_of
from jobserver.pipeline.held import Holdings
from jobserver.pipeline.known import Queues
from jobserver.pipeline.waiting import Waiters
from jobserver.store.jobs import Available, JobStore
from jobserver.store.views import Views
from jobserver.stream.jobs import JobStream
from jobserver.telemetry import Telemetry

_CHUNK: Final = 500


class Commands:
    """Raises NotFound, Conflict, DatabaseUnavailable. `resumed` hears of queues to be published again."""

    def __init__(
        self,
        store: JobStore,
        views: Views,
        stream: JobStream,
        deliveries: Deliveries,
        holdings: Holdings,
        waiters: Waiters,
        queues: Queues,
        telemetry: Telemetry,
        *,
        resumed: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._views = views
        self._stream = stream
        self._deliveries = deliveries
        self._holdings = holdings
        self._waiters = waiters
        self._queues = queues
        self._telemetry = telemetry
        self.resumed = resumed

    async def cancel(self, job_id: UUID) -> Cancellation:
        """Cancel a waiting job at once; ask a running one to end, whichever process runs it."""
        results = await self._store.cancel([job_id])
        if not results:
            job = await self._job(job_id)
            raise Conflict(f"the job is {job.status.value}")
        [result] = results
        if result.status is Status.RUNNING:
            self._telemetry.cancel_requested(job_id, result.worker_id)
            if not self._holdings.cancel(job_id, result.fence):
                # Redis is not needed to answer: the owner's heartbeat brings a cancel that this does not.
                with contextlib.suppress(StreamUnavailable):
                    await self._stream.wake([job_id])
        else:
            self._telemetry.canceled(result)
            self._waiters.wake(job_id)
        job = await self._job(job_id)
        if self._telemetry.tracing is not None:
            self._telemetry.tracing.commanded("cancel", job)
        return Cancellation(job, was_running=result.status is Status.RUNNING)

    async def replay(self, job_id: UUID, *, failed_only: bool) -> Job:
        """Queue a failed (or canceled, unless `failed_only`) job again."""
        if not await self._replay([job_id], failed_only=failed_only):
            job = await self._job(job_id)
            raise Conflict(f"the job is {job.status.value}")
        job = await self._job(job_id)
        if self._telemetry.tracing is not None:
            self._telemetry.tracing.commanded("replay", job)
        return job

    async def replay_many(self, selection: Selection, *, limit: int, dry_run: bool) -> list[UUID]:
        """Queue selected failed jobs again, oldest failure first; returns which (or which it would be)."""
        ids = await self._store.select_failed(selection, limit=limit)
        if dry_run:
            return ids
        done: set[UUID] = set()
        for start in range(0, len(ids), _CHUNK):
            done |= {each.job_id for each in await self._replay(ids[start : start + _CHUNK], failed_only=True)}
        return [job_id for job_id in ids if job_id in done]

    async def delete(self, job_id: UUID) -> None:
        """Delete a failed job with its history."""
        if not await self._store.delete_failed([job_id]):
            job = await self._job(job_id)
            raise Conflict(f"the job is {job.status.value}, not failed")

    async def delete_many(self, selection: Selection, *, dry_run: bool) -> int:
        """Delete selected failed jobs in batches; returns how many (or how many it would be)."""
        if dry_run:
            return await self._store.count_failed(selection)
        deleted = 0
        while True:
            ids = await self._store.select_failed(selection, limit=_CHUNK)
            gone = await self._store.delete_failed(ids) if ids else []
            deleted += len(gone)
            if not gone:
                return deleted

    async def pause(self, queue: str) -> QueueInfo:
        """No claim of the queue's jobs commits after this. The queue may be new."""
        return await self._set_paused(queue, True)

    async def resume(self, queue: str) -> QueueInfo:
        """The queue's jobs are published again."""
        info = await self._set_paused(queue, False)
        self.resumed()
        return info

    async def wait(self, job_id: UUID, seconds: float) -> Job:
        """The job, as soon as it is terminal, or as it is after `seconds`."""
        return await self._waiters.wait(job_id, seconds)

    async def _replay(self, ids: Sequence[UUID], *, failed_only: bool) -> list[Available]:
        again = await self._store.replay(ids, failed_only=failed_only)
        self._deliveries.publish(message_of(each) for each in again)
        for each in again:
            self._telemetry.replayed(each.job_id, each.type, each.queue)
        return again

    async def _set_paused(self, queue: str, paused: bool) -> QueueInfo:
        await self._queues.ensure([queue])
        await self._store.set_paused(queue, paused)
        self._queues.paused[queue] = paused
        info = await self._views.queue(queue)
        if info is None:
            raise NotFound(f"there is no queue {queue}")
        return info

    async def _job(self, job_id: UUID) -> Job:
        job = await self._views.job(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id}")
        return job
