"""Finish: Outcome -> decide -> fenced write -> acknowledge, redeliver or dead-letter.

An end is written however long SQL is away: the flush repeats, and knows its own earlier commit by its history row.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import msgspec

from jobserver.errors import DatabaseUnavailable, Unavailable
from jobserver.job.lifecycle import Policy, Transition, decide
from jobserver.job.model import TERMINAL, WAITING, Ended, Outcome, Status, bounded_error
from jobserver.pipeline.announce import Row
from jobserver.pipeline.batch import Batcher, Observe, Settle
from jobserver.pipeline.deliver import Deliveries, message_of
from jobserver.pipeline.held import Held
from jobserver.pipeline.waiting import Waiters
from jobserver.store.jobs import JobStore, Moved, Settlement
from jobserver.stream.jobs import Dead, Message
from jobserver.telemetry import Telemetry

logger = logging.getLogger(__name__)

_REPEATS_SECONDS: Final = (0.05, 0.2, 0.5, 1.0, 2.0)


class Ending(msgspec.Struct, frozen=True):
    """What a held job becomes, and how long its attempt ran."""

    held: Held
    transition: Transition
    seconds: float


def _weight(ending: Ending) -> int:
    """A unit an end, and one for every 16 KiB of its result."""
    return 1 + len(ending.transition.result or b"") // 16_384


def _contexts(endings: Sequence[Ending], _: Sequence[object]) -> list[str | None]:
    return [ending.held.job.trace_context for ending in endings]


def _rows(endings: Sequence[Ending], moves: Sequence[Moved | None]) -> list[Row]:
    """What readers of live events are told of the ends that were won."""
    return [
        (
            moved.job_id,
            moved.type,
            moved.queue,
            moved.status,
            ending.held.job.attempt + ending.transition.attempt_delta,
            moved.fence,
        )
        for ending, moved in zip(endings, moves, strict=True)
        if moved is not None
    ]


# Hears what a held job has become; None when somebody else decides about it.
Done = Callable[[Held, Moved | None], object]


class Finisher:
    """Writes the ends of attempts, in batches."""

    def __init__(
        self,
        store: JobStore,
        deliveries: Deliveries,
        waiters: Waiters,
        policy: Policy,
        telemetry: Telemetry,
        *,
        jitter: Callable[[], float] = random.random,
        observe: Observe | None = None,
    ) -> None:
        self._store = store
        self._deliveries = deliveries
        self._waiters = waiters
        self._policy = policy
        self._telemetry = telemetry
        self._jitter = jitter
        self.batcher: Batcher[Ending, Moved | None] = Batcher(
            "finish",
            telemetry.batch("settle", "settle", self._flush, _contexts),
            flights=1 if store.database.sqlite else 2,
            max_weight=500,
            weigh=_weight,
            # Each consumer has one end at the most, so none is ever refused.
            max_waiting=10_000_000,
            observe=observe,
        )

    def finish(self, held: Held, outcome: Outcome, done: Done) -> None:
        """Write the end of an attempt. `done` hears of it, in any case once."""
        transition = decide(held.job, outcome, self._policy, self._jitter())
        ending = Ending(held, transition, time.monotonic() - held.started)
        self._post(ending, functools.partial(self._answered, done))

    def _post(self, ending: Ending, settle: Settle[Ending, Moved | None]) -> None:
        try:
            self.batcher.post((ending,), settle)
        except Unavailable as error:
            settle(ending, error)

    def _answered(self, done: Done, ending: Ending, answer: Moved | Exception | None) -> None:
        held = ending.held
        if not isinstance(answer, Exception):
            done(held, answer)
        elif isinstance(answer, Unavailable):
            self._not_written(held, done, answer)
        else:
            # The row itself was refused. The job must not be lost for that, nor run for ever.
            logger.error("end_not_storable", extra={"job_id": str(held.job.id)}, exc_info=answer)
            error = bounded_error("NotStorable", f"the end of the attempt was refused by SQL: {type(answer).__name__}")
            failed = Ending(held, Transition(status=Status.FAILED, ended=Ended.FAILED, error=error), ending.seconds)
            self._post(failed, functools.partial(self._answered_again, done))

    def _answered_again(self, done: Done, ending: Ending, answer: Moved | Exception | None) -> None:
        if isinstance(answer, Exception):
            self._not_written(ending.held, done, answer)
        else:
            done(ending.held, answer)

    def _not_written(self, held: Held, done: Done, error: Exception) -> None:
        """At a stop without the database: the lease will end, and another process takes the job."""
        logger.error("end_not_written", extra={"job_id": str(held.job.id), "error": str(error)})
        done(held, None)

    async def _flush(self, endings: Sequence[Ending]) -> Sequence[Moved | None]:
        moves = await self._settle(endings)
        again: list[Message] = []
        dead: list[Dead] = []
        called: list[UUID] = []
        for ending, moved in zip(endings, moves, strict=True):
            held = ending.held
            if moved is None:
                self._telemetry.stale(held.job, "finish")
                continue
            if moved.status in WAITING:
                again.append(message_of(moved))
            elif moved.status is Status.FAILED:
                dead.append(Dead(moved.job_id, moved.fence, moved.type))
            self._telemetry.ended(
                held.job, moved, moved.ended or ending.transition.ended, ending.seconds, ending.transition.error
            )
            if moved.status in TERMINAL:
                self._waiters.wake(moved.job_id)
            if moved.callback_id is not None:
                called.append(moved.callback_id)
        if self._deliveries.announcer is not None:
            self._deliveries.announcer.moved(_rows(endings, moves))
        # Also those that were refused: their message names a fence that is gone.
        self._deliveries.acknowledge(ending.held.delivery for ending in endings)
        self._deliveries.publish(again)
        self._deliveries.bury(dead)
        if called:
            self._deliveries.call_back(called)
            self._telemetry.called_back(len(called))
        return moves

    async def _settle(self, endings: Sequence[Ending]) -> list[Moved | None]:
        settlements = [
            Settlement(
                each.held.job.id,
                each.held.job.fence,
                each.transition,
                each.held.progress,
                calls_back=each.held.job.callback_url is not None,
            )
            for each in endings
        ]
        repeats = 0
        while True:
            try:
                return await self._store.settle(settlements, repeated=repeats > 0)
            except DatabaseUnavailable as error:
                if repeats == 0:
                    self._telemetry.warn("finish_waits_for_database", jobs=len(endings), error=str(error))
                await asyncio.sleep(_REPEATS_SECONDS[min(repeats, len(_REPEATS_SECONDS) - 1)])
                repeats += 1
