"""Commands: what people do to jobs and queues. Each is one guarded statement, then a word to Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec

from jobserver.errors import Conflict, NotFound, StreamUnavailable
from jobserver.job.model import Job, QueueInfo, Status
from jobserver.job.query import Cancellation, Done, JobFilter, Order, Selection
from jobserver.pipeline.deliver import Deliveries, message_of
from jobserver.pipeline.held import Holdings
from jobserver.pipeline.known import Queues
from jobserver.pipeline.waiting import Waiters
from jobserver.store.jobs import ACTIVE, FAILED, REPLAYABLE, Available, CancelResult, Gone, JobStore
from jobserver.store.search import Place
from jobserver.store.views import Views
from jobserver.stream.jobs import JobStream
from jobserver.telemetry import Telemetry

_CHUNK: Final = 500
_ANY: Final[Mapping[UUID, int]] = {}


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
        results = await self._cancel([job_id], ACTIVE)
        job = await self._job(job_id)
        if not results:
            raise Conflict(f"the job is {job.status.value}")
        return Cancellation(job, was_running=results[0].status is Status.RUNNING)

    async def _cancel(self, ids: Sequence[UUID], statuses: Collection[Status]) -> list[CancelResult]:
        results = await self._store.cancel(ids, statuses=statuses)
        elsewhere = []
        for result in results:
            if self._telemetry.tracing is not None:
                self._telemetry.tracing.canceled(result, result.status)
            if result.status is Status.RUNNING:
                self._telemetry.cancel_requested(result.job_id, result.worker_id)
                if not self._holdings.cancel(result.job_id, result.fence):
                    elsewhere.append(result.job_id)
            else:
                self._telemetry.canceled(result)
                self._waiters.wake(result.job_id)
        canceled = [result for result in results if result.status is not Status.RUNNING]
        if self._deliveries.announcer is not None:
            self._deliveries.announcer.commanded(
                [(each.job_id, each.type, each.queue, each.status, each.attempt, each.fence) for each in canceled]
            )
        if called := [each.callback_id for each in canceled if each.callback_id is not None]:
            self._deliveries.call_back(called)
            self._telemetry.called_back(len(called))
        if elsewhere:
            # Redis is not needed to answer: the owner's heartbeat brings a cancel that this does not.
            with contextlib.suppress(StreamUnavailable):
                await self._stream.wake(elsewhere)
        return results

    async def replay(self, job_id: UUID, *, failed_only: bool) -> Job:
        """Queue a failed (or canceled, unless `failed_only`) job again."""
        if not await self._replay([job_id], FAILED if failed_only else REPLAYABLE):
            job = await self._job(job_id)
            raise Conflict(f"the job is {job.status.value}")
        return await self._job(job_id)

    async def replay_many(self, selection: Selection, *, limit: int, dry_run: bool) -> list[UUID]:
        """Queue selected failed jobs again, oldest failure first; returns which (or which it would be).

        `limit` is for those that are found: with ids, all of them are meant.
        """
        fences = await self._failed(selection, limit)
        ids = list(fences)
        if dry_run:
            return ids
        done: set[UUID] = set()
        for start in range(0, len(ids), _CHUNK):
            done |= {each.job_id for each in await self._replay(ids[start : start + _CHUNK], FAILED, fences)}
        return [job_id for job_id in ids if job_id in done]

    async def _failed(self, selection: Selection, limit: int) -> dict[UUID, int]:
        if selection.ids:
            ids = selection.ids
            return await self._store.among(ids, selection, statuses=FAILED, not_asked=False, limit=len(ids))
        found: dict[UUID, int] = {}
        after: Place | None = None
        while len(found) < limit:
            part = await self._views.oldest_failed(_filter_of(selection), limit=limit - len(found), after=after)
            found.update((each.job_id, each.fence) for each in part.jobs)
            if (after := part.after) is None:
                break
        return found

    async def carry_out(self, order: Order) -> Done:
        """Cancel, queue again or delete many jobs, in chunks.

        A job is changed only while it is in a status that the order is about. One to which anything happened since it
        was chosen is neither queued again nor deleted: it may have ended in another way. A cancel is still meant.
        """
        if order.ids:
            not_asked = order.verb == "cancel"
            fences = await self._store.among(
                order.ids, Selection(), statuses=order.statuses, not_asked=not_asked, limit=len(order.ids)
            )
            next_cursor = None
        else:
            wanted = msgspec.structs.replace(
                order.wanted, statuses=order.statuses, not_asked=order.verb == "cancel", dead_first=False
            )
            chosen = await self._views.select(wanted, limit=order.limit, cursor=order.cursor)
            fences, next_cursor = chosen.fences, chosen.next_cursor
        ids = list(fences)
        if order.dry_run:
            return Done(matched=len(ids), changed=0, ids=ids, next_cursor=next_cursor)
        done: set[UUID] = set()
        for start in range(0, len(ids), _CHUNK):
            done.update(await self._change(order, ids[start : start + _CHUNK], fences))
        changed = [job_id for job_id in ids if job_id in done]
        return Done(matched=len(ids), changed=len(changed), ids=changed, next_cursor=next_cursor)

    async def _change(self, order: Order, ids: Sequence[UUID], fences: Mapping[UUID, int]) -> Iterable[UUID]:
        if order.verb == "cancel":
            return (each.job_id for each in await self._cancel(ids, order.statuses))
        if order.verb == "retry":
            return (each.job_id for each in await self._replay(ids, order.statuses, fences))
        return (each.job_id for each in await self._delete(ids, order.statuses, fences))

    async def delete(self, job_id: UUID) -> None:
        """Delete a failed job with its history."""
        if not await self._delete([job_id], FAILED):
            job = await self._job(job_id)
            raise Conflict(f"the job is {job.status.value}, not failed")

    async def delete_many(self, selection: Selection, *, dry_run: bool) -> int:
        """Delete failed jobs by a filter, in chunks; returns how many (or how many it would be)."""
        wanted = _filter_of(selection)
        if dry_run:
            return await self._views.count_failed(wanted)
        deleted = 0
        after: Place | None = None
        while True:
            part = await self._views.oldest_failed(wanted, limit=_CHUNK, after=after)
            fences = {each.job_id: each.fence for each in part.jobs}
            if fences:
                deleted += len(await self._delete(list(fences), FAILED, fences))
            if (after := part.after) is None:
                return deleted

    async def _delete(
        self, ids: Sequence[UUID], statuses: Collection[Status], fences: Mapping[UUID, int] = _ANY
    ) -> list[Gone]:
        gone = await self._store.delete(ids, statuses=statuses, fences=fences)
        if self._deliveries.announcer is not None:
            self._deliveries.announcer.deleted((each.job_id, each.type, each.queue, each.fence) for each in gone)
        return gone

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

    async def _replay(
        self, ids: Sequence[UUID], statuses: Collection[Status], fences: Mapping[UUID, int] = _ANY
    ) -> list[Available]:
        again = await self._store.replay(ids, statuses=statuses, fences=fences)
        if self._deliveries.announcer is not None:
            self._deliveries.announcer.moved(
                [(each.job_id, each.type, each.queue, Status.QUEUED, 0, each.fence) for each in again]
            )
        if self._telemetry.tracing is not None:
            self._telemetry.tracing.replayed(again)
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


def _filter_of(selection: Selection) -> JobFilter:
    return JobFilter(statuses=FAILED, type=selection.type, queue=selection.queue, fingerprint=selection.fingerprint)
