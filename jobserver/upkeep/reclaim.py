"""Reclaim: takes back running jobs whose process is dead or whose lease is over, and messages of dead processes.

The lease in SQL arbitrates. A process reclaims only after its own heartbeats have succeeded for a full lease:
after an outage of the database every lease looks over, and none is. On PostgreSQL a death is noticed before: the
lock of a dead process is free, because its connection has ended, and it is silent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from jobserver.job.lifecycle import Policy, decide
from jobserver.job.model import TERMINAL, WAITING, LeaseLost, Priority, Status, bounded_error
from jobserver.pipeline.consume import Consumers
from jobserver.pipeline.deliver import Deliveries, message_of
from jobserver.pipeline.held import Holdings
from jobserver.pipeline.known import Queues
from jobserver.pipeline.waiting import Waiters
from jobserver.store.jobs import JobStore, Lost, Moved, Settlement
from jobserver.store.workers import WorkerStore
from jobserver.stream.jobs import Dead, JobStream, Stream
from jobserver.telemetry import Telemetry
from jobserver.upkeep.loop import Loop
from jobserver.upkeep.pulse import SILENT_SECONDS, longest_seconds

INTERVAL_SECONDS: Final = 1.0
DEATHS_SECONDS: Final = 0.5
SWEEP_SECONDS: Final = 30.0
LIMIT: Final = 200
_ALIVE_SECONDS: Final = 60.0


class Reclaim:
    """Owns three loops: jobs of the dead, jobs by their leases in SQL, messages by XAUTOCLAIM."""

    def __init__(
        self,
        store: JobStore,
        workers: WorkerStore,
        stream: JobStream,
        deliveries: Deliveries,
        waiters: Waiters,
        queues: Queues,
        consumers: Consumers | None,
        holdings: Holdings,
        policy: Policy,
        telemetry: Telemetry,
        *,
        worker_id: str,
        lease_seconds: float,
        may_reclaim: Callable[[], bool],
        may_judge: Callable[[], bool],
    ) -> None:
        self._store = store
        self._workers = workers
        self._stream = stream
        self._deliveries = deliveries
        self._waiters = waiters
        self._queues = queues
        self._consumers = consumers
        self._holdings = holdings
        self._policy = policy
        self._telemetry = telemetry
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._may_reclaim = may_reclaim
        self._may_judge = may_judge
        self._cursors: dict[Stream, str] = {}
        self._swept = time.monotonic()
        self.deaths = Loop("reclaim from the dead", DEATHS_SECONDS, self._deaths_step)
        self.jobs = Loop("reclaim jobs", INTERVAL_SECONDS, self._jobs_step)
        self.messages = Loop("reclaim messages", max(1.0, lease_seconds / 5), self._messages_step)

    async def _deaths_step(self) -> float | None:
        if self._may_judge():
            await self.from_dead()
        return None

    async def from_dead(self) -> int:
        """Take back the jobs of processes that are proven dead, those of this one not. Returns how many were won."""
        won = 0
        for worker_id in await self._workers.silent(seconds=SILENT_SECONDS):
            if worker_id != self._worker_id:
                won += await self._from(worker_id)
        return won

    async def _from(self, dead: str) -> int:
        won = 0
        while True:
            taken = await self._store.take_from_dead(
                dead, self._end_of_dead, silent_seconds=SILENT_SECONDS, limit=LIMIT
            )
            self._tell(taken)
            won += len(taken)
            if len(taken) < LIMIT:
                if won:
                    self._telemetry.warn("worker_died", dead=dead, jobs=won)
                return won

    async def _jobs_step(self) -> float | None:
        if not self._may_reclaim():
            return None
        found = await self._find_lost()
        if found and await self._clock_jumped():
            return None
        if not self._may_reclaim():
            # The answer was long on its way: these leases may have ended while nobody could extend them.
            return None
        return 0.0 if await self._take_back(found, self._end_of_silent) >= LIMIT else None

    async def _clock_jumped(self) -> bool:
        """Whether the database's clock went on without us, such as at a failover: leases look over, and are not.

        The next beat notices it too, and takes its time for what it knows.
        """
        expected = self._store.database.clock.now()
        now = await self._workers.now()
        return (now - expected).total_seconds() > longest_seconds(self._lease_seconds)

    async def lost_jobs(self) -> int:
        """Take back up to 200 jobs whose lease is over; returns how many were won.

        For one that has no beats of its own to judge by: what processes hold that beat a moment ago is left to them.
        """
        found = await self._find_lost()
        living = set(await self._workers.alive(within_seconds=SILENT_SECONDS))
        return await self._take_back([each for each in found if each.worker_id not in living], self._end_of_silent)

    async def _find_lost(self) -> list[Lost]:
        # What this process runs is never lost to it: its lease is only late.
        held = set(self._holdings.fences())
        lost = await self._store.find_lost(limit=LIMIT)
        return [each for each in lost if (each.job.id, each.job.fence) not in held]

    async def orphans(self) -> int:
        """Take back the jobs of a predecessor that is proven dead. Returns how many were won."""
        won = 0
        while found := await self._store.find_orphans(self._worker_id, limit=LIMIT):
            taken = await self._take_back(found, self._end_of_dead)
            won += taken
            if not taken:
                break
        return won

    async def _take_back(self, lost: Sequence[Lost], end_of: Callable[[Lost], Settlement]) -> int:
        if not lost:
            return 0
        moves = await self._store.settle([end_of(each) for each in lost])
        won = [(each, moved) for each, moved in zip(lost, moves, strict=True) if moved is not None]
        self._tell(won)
        return len(won)

    def _end_of_silent(self, lost: Lost) -> Settlement:
        return self._end(lost, f"the process {lost.worker_id} did not report before its lease ended", lease_over=True)

    def _end_of_dead(self, lost: Lost) -> Settlement:
        return self._end(lost, f"the process {lost.worker_id} died", lease_over=False)

    def _end(self, lost: Lost, message: str, *, lease_over: bool) -> Settlement:
        outcome = LeaseLost(bounded_error("LeaseLost", message))
        transition = decide(lost.job, outcome, self._policy, random.random())  # noqa: S311
        return Settlement(
            lost.job.id,
            lost.job.fence,
            transition,
            lease_over=lease_over,
            calls_back=lost.job.callback_url is not None,
        )

    def _tell(self, won: Sequence[tuple[Lost, Moved]]) -> None:
        for each, moved in won:
            self._telemetry.reclaimed(each.job, moved, each.worker_id)
            if moved.status in TERMINAL:
                self._waiters.wake(moved.job_id)
        if self._deliveries.announcer is not None and won:
            # What the other process had to tell of them it may have told or not.
            self._deliveries.announcer.lost("died")
            self._deliveries.announcer.commanded(
                [(each.job_id, each.type, each.queue, each.status, lost.job.attempt, each.fence) for lost, each in won]
            )
        self._deliveries.publish(message_of(moved) for _, moved in won if moved.status in WAITING)
        self._deliveries.bury(
            Dead(moved.job_id, moved.fence, moved.type) for _, moved in won if moved.status is Status.FAILED
        )
        if called := [moved.callback_id for _, moved in won if moved.callback_id is not None]:
            self._deliveries.call_back(called)
            self._telemetry.called_back(len(called))

    async def _messages_step(self) -> float | None:
        if self._consumers is not None and not self._consumers.draining:
            for stream in self._readable():
                await self._take_over(stream, self._consumers)
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            await self.forget_dead_consumers()
        return None

    def _readable(self) -> list[Stream]:
        return [(queue, priority) for queue in self._queues.served() for priority in Priority]

    async def _take_over(self, stream: Stream, consumers: Consumers) -> None:
        """One look at a stream's pending messages. The cursor is kept: from the start, old ones hide behind new."""
        room = consumers.room
        if room <= 0:
            return
        found, cursor = await self._stream.reclaim(
            stream,
            self._worker_id,
            # Not before a lease is over: what runs is left to its owner.
            min_idle_ms=int(self._lease_seconds * 1000),
            cursor=self._cursors.get(stream, "0-0"),
            count=min(room, 100),
        )
        self._cursors[stream] = cursor
        consumers.take(found)

    async def forget_dead_consumers(self) -> int:
        """Delete consumers of processes that are gone and have nothing pending; returns how many."""
        streams = self._queues.streams()
        if not streams:
            return 0
        alive = await self._workers.alive(within_seconds=_ALIVE_SECONDS)
        return await self._stream.forget_consumers(streams, alive, idle_ms=int(self._lease_seconds * 2000))
