"""Batcher: group commit. What arrives while a flush is under way goes out together with the next one.

No timer and no latency added when idle; a bounded queue; a caller that goes away cancels nothing; one bad item
is found by halving, and only its own caller sees the error. Knows nothing of jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from jobserver.errors import Overloaded, Unavailable
from jobserver.pipeline.lasting import lasting

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")

Flush = Callable[[Sequence[Item]], Awaitable[Sequence["Answer | Exception"]]]
# Hears an item and the answer to it, or why there is none.
Settle = Callable[["Item", "Answer | Exception"], None]
Observe = Callable[[str, int, float], None]


class Batcher(Generic[Item, Answer]):
    """Owns its flights: tasks that flush. `flush` answers in the order of its items; an exception among the
    answers is raised to that item's caller alone. `weigh` counts an item against `max_weight` of a flush and
    `max_waiting` of the queue; without it each item weighs one.
    """

    def __init__(
        self,
        name: str,
        flush: Flush[Item, Answer],
        *,
        flights: int = 1,
        max_weight: int = 500,
        max_waiting: int = 10_000,
        weigh: Callable[[Item], int] | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.name = name
        self._flush = flush
        self._flights = flights
        self._max_weight = max_weight
        self._max_waiting = max_waiting
        self._weigh = weigh
        self._observe = observe
        self._waiting_weight = 0
        self._waiting: deque[tuple[Item, Settle[Item, Answer], int]] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        names = [f"batcher {self.name} {number}" for number in range(self._flights)]
        self._tasks = [asyncio.create_task(lasting(name, self._fly), name=name) for name in names]

    async def close(self, *, within_seconds: float = 10.0) -> None:
        """Flush what is waiting and stop. What is not flushed in time gets Overloaded."""
        self._closing = True
        self._arrived.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=within_seconds)
            for task in late:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        waiting = [(item, settle) for item, settle, _ in self._waiting]
        self._fail(waiting, Overloaded(f"the server stops before {self.name} was written"))
        self._waiting.clear()

    @property
    def waiting(self) -> int:
        """Items that no flight has taken yet."""
        return len(self._waiting)

    @property
    def waiting_weight(self) -> int:
        """What those items weigh together."""
        return self._waiting_weight

    @property
    def max_waiting(self) -> int:
        """The weight from which on nothing more is taken."""
        return self._max_waiting

    async def submit(self, item: Item) -> Answer:
        """Return when the flush that carried the item has committed. Raises Overloaded when the queue is full."""
        return await self.put(item)

    def put(self, item: Item) -> asyncio.Future[Answer]:
        """Queue an item; the future is its answer. Raises Overloaded."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.post((item,), functools.partial(_resolve, future))
        return future

    def post(self, items: Sequence[Item], settle: Settle[Item, Answer]) -> None:
        """Queue all items or none; `settle` is called with each and its answer, which costs less than a future.

        Raises Overloaded.
        """
        # What is heavier than the bound finds its place in an empty queue.
        if self._closing or self._waiting_weight >= self._max_waiting:
            raise Overloaded(f"too many waiting for {self.name}")
        for item in items:
            weight = 1 if self._weigh is None else self._weigh(item)
            self._waiting.append((item, settle, weight))
            self._waiting_weight += weight
        self._arrived.set()

    async def _fly(self) -> None:
        while True:
            while not self._waiting:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            batch = self._take()
            started = time.perf_counter()
            try:
                await self._carry(batch)
            except BaseException:
                self._fail(batch, Overloaded(f"the server stops while {self.name} is written"))
                raise
            try:
                if self._observe is not None:
                    self._observe(self.name, len(batch), time.perf_counter() - started)
            except Exception:
                # Whoever watches must not end the flight.
                logger.exception("observer_failed", extra={"batcher": self.name})

    def _take(self) -> list[tuple[Item, Settle[Item, Answer]]]:
        batch: list[tuple[Item, Settle[Item, Answer]]] = []
        total = 0
        while self._waiting:
            item, settle, weight = self._waiting[0]
            if batch and total + weight > self._max_weight:
                break
            self._waiting.popleft()
            batch.append((item, settle))
            total += weight
        self._waiting_weight -= total
        return batch

    async def _carry(self, batch: Sequence[tuple[Item, Settle[Item, Answer]]]) -> None:
        try:
            answers = await self._flush([item for item, _ in batch])
        except Unavailable as error:
            self._fail(batch, error)
            return
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch, error)
                return
            middle = len(batch) // 2
            await self._carry(batch[:middle])
            await self._carry(batch[middle:])
            return
        if len(answers) != len(batch):
            # A fault of the flush: it must not end the flight, and with it every caller to come.
            self._fail(batch, RuntimeError(f"{self.name}: {len(answers)} answers to {len(batch)} items"))
            return
        for (item, settle), answer in zip(batch, answers, strict=True):
            try:
                settle(item, answer)
            except Exception as fault:
                self._not_taken(fault)

    def _fail(self, batch: Iterable[tuple[Item, Settle[Item, Answer]]], error: Exception) -> None:
        for item, settle in batch:
            try:
                settle(item, error)
            except Exception as fault:
                self._not_taken(fault)

    def _not_taken(self, fault: Exception) -> None:
        """A fault of one caller: the others still get their answers."""
        logger.error("answer_not_taken", extra={"batcher": self.name}, exc_info=fault)


def _resolve(future: asyncio.Future[Any], item: object, answer: object) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
        # A caller that went away leaves nobody to retrieve it.
        future.exception()
    else:
        future.set_result(answer)
