"""Consume: fetch -> claim -> hand to a free consumer -> execute -> finish.

One fetcher a process reads at most as many messages as consumers are free; N consumers run attempts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final
from uuid import uuid4

import msgspec

from jobserver.errors import DatabaseUnavailable, Overloaded, StreamUnavailable, Unavailable
from jobserver.job.model import Claimed, Delivery, HandedBack, Outcome, Priority
from jobserver.job.times import instant_us
from jobserver.pipeline.batch import Batcher, Observe
from jobserver.pipeline.deliver import Deliveries
from jobserver.pipeline.execute import Executor
from jobserver.pipeline.finish import Finisher
from jobserver.pipeline.held import Held, Holdings
from jobserver.pipeline.known import Queues
from jobserver.pipeline.lasting import lasting
from jobserver.pipeline.running import CancelReason
from jobserver.store.jobs import JobStore, Moved, Refusal
from jobserver.stream.jobs import JobStream, Message, Stream
from jobserver.telemetry import Telemetry

logger = logging.getLogger(__name__)

_REPEATS_SECONDS: Final = (0.05, 0.2, 0.5, 1.0)
_RECONNECT_SECONDS: Final = 0.25
# A read that was begun ends within its block and what a lost connection takes.
_LAST_READ_SECONDS: Final = 10.0
_GIVE_UP_SECONDS: Final = 1.0
_MAX_FETCH: Final = 500
_MAX_STREAMS: Final = 3_000
# For each consumer so many short jobs are claimed ahead of their turn: with two, the loop was idle a fifth of a drain.
_AHEAD: Final = 3
# For each consumer so many ends may wait to be written.
_MOST_ENDING: Final = 3
# Jobs that take no longer than this are short, on average.
_SHORT_SECONDS: Final = 0.02
# The share of the latest job in that average.
_LATEST: Final = 0.05
# So long a claimed job waits for its turn at the most.
_TURN_SECONDS: Final = 1.0
_NORMAL_FIRST: Final = (4, 9, 14)
# After a cancelled handler's grace, for writing what became of it.
_LAST_WRITES_SECONDS: Final = 10.0


def fetch_order(turn: int, queues: Sequence[str]) -> list[Stream]:
    """The streams of a fetch, first ones first: high before normal before low, queues rotating within a level.

    Of 20 fetches 3 start at normal and 1 at low, so that nothing starves.
    """
    cycle, within = divmod(turn, 20)
    # How often a fetch began with this level before: by the turn alone, 20 queues would never change places.
    if within == 19:
        levels, before = [Priority.LOW, Priority.HIGH, Priority.NORMAL], cycle
    elif within in _NORMAL_FIRST:
        levels = [Priority.NORMAL, Priority.HIGH, Priority.LOW]
        before = cycle * len(_NORMAL_FIRST) + _NORMAL_FIRST.index(within)
    else:
        levels = [Priority.HIGH, Priority.NORMAL, Priority.LOW]
        before = cycle * 16 + within - sum(each < within for each in _NORMAL_FIRST)
    start = before % len(queues) if queues else 0
    rotated = [*queues[start:], *queues[:start]]
    return [(queue, level) for level in levels for queue in rotated]


def _contexts(_: Sequence[Delivery], answers: Sequence[Held | Refusal]) -> list[str | None]:
    return [answer.job.trace_context for answer in answers if isinstance(answer, Held)]


class ConsumeOptions(msgspec.Struct, frozen=True, kw_only=True):
    workers: int
    worker_id: str
    lease_seconds: float


class Consumers:
    """Owns the fetcher and the batcher of claims.

    A consumer is a place for one job, from its claim until its handler has ended. While that end is written the
    consumer takes the next job; it waits only when three ends wait for each consumer.

    While jobs are short, three times as many are claimed ahead of their turn, so that none waits for a commit. One
    that has waited for a second all the same is handed back, for another process.
    """

    def __init__(
        self,
        store: JobStore,
        stream: JobStream,
        deliveries: Deliveries,
        executor: Executor,
        finisher: Finisher,
        holdings: Holdings,
        queues: Queues,
        options: ConsumeOptions,
        telemetry: Telemetry,
        *,
        on_wiped: Callable[[], None] = lambda: None,
        observe: Observe | None = None,
    ) -> None:
        self._store = store
        self._stream = stream
        self._deliveries = deliveries
        self._executor = executor
        self._finisher = finisher
        self._holdings = holdings
        self._queues = queues
        self._options = options
        self._telemetry = telemetry
        self.on_wiped = on_wiped
        # Whether others know that this process lives.
        self.may_claim: Callable[[], bool] = lambda: True
        self.claims: Batcher[Delivery, Held | Refusal] = Batcher(
            "claim",
            telemetry.batch("claim", "receive", self._flush_claims, _contexts),
            flights=1 if store.database.sqlite else 2,
            observe=observe,
        )
        # Consumers without a job, and without one being claimed for them.
        self.free = options.workers
        # Attempts under way.
        self._running = 0
        # Jobs that were claimed ahead, and wait for a consumer.
        self._ready: deque[Held] = deque()
        self._ready_timer: asyncio.TimerHandle | None = None
        # How long a job takes, on average; until some have ended they are taken for long ones.
        self._usual_seconds = 1.0
        # Attempts whose end is not written yet.
        self._ending = 0
        self._most_ending = _MOST_ENDING * options.workers
        # Jobs that are claimed, run or end.
        self._open = 0
        self._freed = asyncio.Event()
        self._draining = asyncio.Event()
        self._hurried = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._turn = 0
        self._fetcher: asyncio.Task[None] | None = None
        # Fetchers that were given up, until they end.
        self._given_up: set[asyncio.Task[None]] = set()
        # Messages that the fetcher has read so far.
        self.fetched = 0

    def start(self) -> None:
        self.claims.start()
        if self._options.workers:
            self._fetcher = asyncio.create_task(lasting("fetcher", self._fetch), name="fetcher")

    @property
    def busy(self) -> int:
        """Consumers whose handler runs."""
        return self._running

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    async def drain(self, *, within_seconds: float) -> None:
        """Stop fetching, hand back what was not started, wait for what runs, then cancel and hand back the rest."""
        self._draining.set()
        self._freed.set()
        self._hand_back(len(self._ready))
        for held in self._holdings:
            # Those that wait for a thread or a child. What is claimed from here on is not started either.
            if not held.running.started:
                held.running.cancel(CancelReason.SHUTDOWN)
        if self._fetcher is not None:
            # Not cancelled: the message of a blocked read may be ours already. Its block is short.
            await asyncio.wait([self._fetcher], timeout=_LAST_READ_SECONDS)
        await self.claims.close()
        waits = [asyncio.create_task(event.wait()) for event in (self._empty, self._hurried)]
        await asyncio.wait(waits, timeout=within_seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self.hurry()
        try:
            async with asyncio.timeout(_LAST_WRITES_SECONDS):
                await self._empty.wait()
        except TimeoutError:
            # Their ends cannot be written: the leases end, and another process takes the jobs.
            logger.error("drain_incomplete", extra={"jobs": len(self._holdings)})

    def hurry(self) -> None:
        """Cancel what runs; it is handed back. A drain under way waits no longer."""
        self._hurried.set()
        for held in self._holdings:
            held.running.cancel(CancelReason.SHUTDOWN)

    async def close(self) -> None:
        if self._fetcher is not None:
            self._fetcher.cancel()
            await asyncio.gather(self._fetcher, return_exceptions=True)
        await self.claims.close(within_seconds=0.1)

    async def fetch_anew(self) -> None:
        """Give up a read that does not end, and begin another. A message that it may bring is found as any lost one."""
        old = self._fetcher
        if old is None or self._draining.is_set():
            return
        old.cancel()
        self._fetcher = asyncio.create_task(lasting("fetcher", self._fetch), name="fetcher")
        self._given_up.add(old)
        old.add_done_callback(self._given_up.discard)
        await asyncio.wait([old], timeout=_GIVE_UP_SECONDS)

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Claim messages that are in our hands, whoever fetched them."""
        if not deliveries:
            return
        try:
            if self._draining.is_set():
                # Fetched while the stop began: back to the stream, for another process.
                raise Overloaded("the server stops")
            self.claims.post(deliveries, self._claimed)
        except Unavailable:
            for delivery in deliveries:
                self._return(delivery)
            return
        self.free -= len(deliveries)
        self._open += len(deliveries)
        self._empty.clear()

    def _return(self, delivery: Delivery) -> None:
        queue, priority = delivery.stream
        self._deliveries.acknowledge([delivery])
        self._deliveries.publish([Message(delivery.job_id, delivery.fence, queue, priority, delivery.available_at_us)])

    # fetch

    async def _fetch(self) -> None:
        while not self._draining.is_set():
            if self.room < self._least or self._ending > self._most_ending:
                self._freed.clear()
                await self._freed.wait()
                continue
            if not self.may_claim():
                # What is claimed while others take us for dead would be taken from us at once.
                await self._pause(_RECONNECT_SECONDS)
                continue
            try:
                await self._fetch_once()
            except StreamUnavailable as error:
                self._telemetry.warn("fetch_failed", error=str(error))
                await self._pause(_RECONNECT_SECONDS)
            except Exception:
                logger.exception("fetch_failed")
                await self._pause(_RECONNECT_SECONDS)

    async def _fetch_once(self) -> None:
        streams = fetch_order(self._turn, self._queues.served())[:_MAX_STREAMS]
        if not streams:
            await self._pause(_RECONNECT_SECONDS)
            return
        self._turn += 1
        # Two batches take turns: of long jobs by halves of the consumers, of short ones ahead of them.
        batch = self._options.workers if self._are_short() else (self._options.workers + 1) // 2
        count = min(self.room, max(1, batch), _MAX_FETCH)
        worker_id = self._options.worker_id
        fetched = await self._stream.fetch(streams, worker_id, count)
        if not fetched.deliveries and not fetched.made_group:
            # Nothing there: wait for the first message of any stream.
            fetched = await self._stream.wait(streams, worker_id, max(1, count // len(streams)))
        if fetched.made_group:
            self.on_wiped()
        self.fetched += len(fetched.deliveries)
        # A blocked read counts by stream: of many streams it may bring more than there are consumers free.
        room = max(0, self.room)
        self.take(fetched.deliveries[:room])
        for delivery in fetched.deliveries[room:]:
            self._return(delivery)

    @property
    def room(self) -> int:
        """How many jobs may be claimed now; less than 1: none."""
        return self.free + (_AHEAD * self._options.workers if self._are_short() else 0)

    @property
    def _least(self) -> int:
        """Ahead of their turn jobs are claimed by whole batches: small ones, once there, would stay small."""
        return min(self._options.workers, _MAX_FETCH) if self._are_short() else 1

    def _are_short(self) -> bool:
        return self._usual_seconds < _SHORT_SECONDS

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._draining.wait()

    # claim

    async def _flush_claims(self, deliveries: Sequence[Delivery]) -> Sequence[Held | Refusal]:
        with self._holdings.claiming(deliveries):
            asked, claims = await self._claim(deliveries)
            answers: list[Held | Refusal] = []
            for delivery, claim in zip(deliveries, claims, strict=True):
                if isinstance(claim, Claimed):
                    held = Held(claim, delivery, asked)
                    self._holdings.add(held)
                    answers.append(held)
                else:
                    answers.append(claim)
            if self._deliveries.announcer is not None:
                self._deliveries.announcer.claimed([claim for claim in claims if isinstance(claim, Claimed)])
            return answers

    async def _claim(self, deliveries: Sequence[Delivery]) -> tuple[float, Sequence[Claimed | Refusal]]:
        """The answers, and when the question was asked that they answer."""
        token = uuid4()
        repeats = 0
        while True:
            asked = time.monotonic()
            try:
                return asked, await self._store.claim(
                    deliveries,
                    worker_id=self._options.worker_id,
                    token=token,
                    lease_seconds=self._options.lease_seconds,
                    repeated=repeats > 0,
                )
            except DatabaseUnavailable as error:
                if self._draining.is_set():
                    raise
                if repeats == 0:
                    self._telemetry.warn("claim_waits_for_database", jobs=len(deliveries), error=str(error))
                await asyncio.sleep(_REPEATS_SECONDS[min(repeats, len(_REPEATS_SECONDS) - 1)])
                repeats += 1

    def _claimed(self, delivery: Delivery, answer: Held | Refusal | Exception) -> None:
        if isinstance(answer, Held):
            self._telemetry.claimed(answer.job)
            if self._running < self._options.workers or self._draining.is_set():
                self._begin(answer)
            else:
                self._ready.append(answer)
                self._watch_ready()
            return
        self._release()
        self._close()
        if isinstance(answer, Refusal):
            self._refused(delivery, answer)
        # Else not claimed as far as we know: the message stays pending.

    def _refused(self, delivery: Delivery, refusal: Refusal) -> None:
        """What becomes of a message whose claim did not win."""
        if refusal.verdict in {"gone", "stale", "expired", "paused"}:
            # Expired ones are failed by upkeep; a resume publishes its queue again.
            self._deliveries.acknowledge([delivery])
        elif refusal.verdict == "early" and refusal.due_at is not None:
            queue, priority = delivery.stream
            self._deliveries.acknowledge([delivery])
            self._deliveries.publish(
                [Message(delivery.job_id, delivery.fence, queue, priority, instant_us(refusal.due_at))]
            )
        elif refusal.verdict == "again":
            self.take([delivery])
        elif refusal.verdict == "held":
            held = self._holdings.get(delivery.job_id)
            if held is not None and held.delivery.entry_id != delivery.entry_id:
                self._deliveries.acknowledge([delivery])
        # Else somebody runs it, or its lease is over and upkeep reclaims it: the message stays pending.

    # execute and finish

    def _begin(self, held: Held) -> None:
        """A consumer is free for this job: it runs until its end is written."""
        if self._draining.is_set():
            self._not_begun(held)
            return
        self._running += 1
        held.started = time.monotonic()
        try:
            held.running.lease_is_over = functools.partial(self._lease_is_over, held)
            self._executor.start(held.running, functools.partial(self._ended, held))
        except Exception as error:
            self._running -= 1
            self._release()
            self._ending += 1
            self._failed(held, error)
            # Not at once: they may all fail, each within the one before.
            asyncio.get_running_loop().call_soon(self._begin_ready)

    def _begin_ready(self) -> None:
        if self._ready and self._running < self._options.workers:
            self._begin(self._ready.popleft())

    def _watch_ready(self) -> None:
        if self._ready_timer is None:
            self._ready_timer = asyncio.get_running_loop().call_later(_TURN_SECONDS, self._turn_is_over)

    def _turn_is_over(self) -> None:
        """Jobs became long: what still waits for its turn should not wait for them."""
        self._ready_timer = None
        now = time.monotonic()
        over = sum(now - held.claimed >= _TURN_SECONDS for held in self._ready)
        if over:
            self._usual_seconds = _TURN_SECONDS
            self._hand_back(over)
        if self._ready:
            self._watch_ready()

    def _hand_back(self, count: int) -> None:
        """The first of those that wait for a consumer."""
        for _ in range(count):
            self._not_begun(self._ready.popleft())

    def _not_begun(self, held: Held) -> None:
        self._release()
        self._finish(held, held.running.stopped() or HandedBack())

    def _lease_is_over(self, held: Held) -> bool:
        return time.monotonic() > max(held.asked, self._holdings.kept_at) + self._options.lease_seconds

    def _ended(self, held: Held, outcome: Outcome) -> None:
        self._usual_seconds += _LATEST * (time.monotonic() - held.started - self._usual_seconds)
        self._running -= 1
        self._release()
        self._begin_ready()
        self._finish(held, outcome)

    def _finish(self, held: Held, outcome: Outcome) -> None:
        self._ending += 1
        try:
            if held.refused:
                self._telemetry.stale(held.job, "heartbeat")
                self._deliveries.acknowledge([held.delivery])
                self._done(held, None)
            else:
                self._finisher.finish(held, outcome, self._done)
        except Exception as error:
            self._failed(held, error)

    def _failed(self, held: Held, error: Exception) -> None:
        """A fault of ours costs no consumer: the lease will end, and the job is run again."""
        logger.error("consumer_failed", extra={"job_id": str(held.job.id)}, exc_info=error)
        self._done(held, None)

    def _done(self, held: Held, moved: Moved | None) -> None:
        self._holdings.remove(held)
        if self._telemetry.tracing is not None:
            self._telemetry.tracing.released(held.job)
        self._ending -= 1
        self._freed.set()
        self._close()

    def _release(self) -> None:
        self.free += 1
        self._freed.set()

    def _close(self) -> None:
        self._open -= 1
        if not self._open:
            self._empty.set()
