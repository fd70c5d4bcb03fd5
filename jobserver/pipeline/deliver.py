"""The one bounded queue of what Redis is to be told: messages, acknowledgements, dead letters.

Nobody waits for it and nothing depends on it: SQL has decided already. When Redis is away it keeps what fits and
drops the rest, and reconcile mends what was dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID

from jobserver.errors import StreamUnavailable
from jobserver.job.model import CALLBACK, CALLBACK_QUEUE, Delivery, Priority, Status
from jobserver.job.times import instant_us
from jobserver.pipeline.announce import Announcer
from jobserver.pipeline.batch import Observe
from jobserver.pipeline.lasting import lasting
from jobserver.store.jobs import Available, Moved
from jobserver.stream.jobs import Batch, Dead, JobStream, Message

logger = logging.getLogger(__name__)

NEAR_HORIZON_SECONDS: Final = 600.0
MAX_WAITING: Final = 50_000
MAX_BATCH: Final = 1_000
_QUEUED: Final = Status.QUEUED.value
_RETRY_SECONDS: Final = (0.05, 0.2, 0.5, 1.0)

_Operation = Delivery | Message | Dead


def message_of(waiting: Available | Moved) -> Message:
    """The message that a waiting job should have."""
    return Message(waiting.job_id, waiting.fence, waiting.queue, waiting.priority, instant_us(waiting.available_at))


class Deliveries:
    """Owns one task that tells Redis. `now_us` is the database's clock; `on_delay` hears of due times to come."""

    def __init__(
        self,
        stream: JobStream,
        now_us: Callable[[], int],
        *,
        on_delay: Callable[[int], None] = lambda due_us: None,
        on_dropped: Callable[[int], None] = lambda count: None,
        observe: Observe | None = None,
        announcer: Announcer | None = None,
    ) -> None:
        self._stream = stream
        self._now_us = now_us
        self.on_delay = on_delay
        self._on_dropped = on_dropped
        self._observe = observe
        # What readers of live events are told goes with the rest.
        self.announcer = announcer
        if announcer is not None:
            announcer.wake = self.wake
        self._waiting: deque[_Operation] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(lasting("deliveries", self._run), name="deliveries")

    async def close(self, *, within_seconds: float = 2.0) -> None:
        """Send what is waiting, if Redis takes it in time."""
        if self._task is None:
            return
        if self.announcer:
            self.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self._idle.wait()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def publish(self, messages: Iterable[Message]) -> None:
        """Make jobs known to the consumers, when they are due. Those beyond the near horizon stay in SQL alone."""
        horizon = self._now_us() + int(NEAR_HORIZON_SECONDS * 1e6)
        self._put(message for message in messages if message.available_at_us <= horizon)

    def delay(self, message: Message) -> None:
        """Put a job into the delayed set, however far its due time is away."""
        self._put([message])

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Messages that have done their work."""
        self._put(deliveries)

    def call_back(self, callback_ids: Iterable[UUID]) -> None:
        """Callbacks that were stored just now, under fence 0."""
        callback_ids = list(callback_ids)
        if self.announcer is not None:
            self.announcer.moved([(each, CALLBACK, CALLBACK_QUEUE, _QUEUED, 0, 0) for each in callback_ids])
        now_us = self._now_us()
        self._put(Message(each, 0, CALLBACK_QUEUE, Priority.NORMAL, now_us) for each in callback_ids)

    def bury(self, dead: Iterable[Dead]) -> None:
        """Entries for the feed of dead letters."""
        self._put(dead)

    def _put(self, operations: Iterable[_Operation]) -> None:
        operations = list(operations)
        room = max(0, MAX_WAITING - len(self._waiting))
        self._waiting.extend(operations[:room])
        if len(operations) > room:
            self._on_dropped(len(operations) - room)
        # Also where no message follows an event: that of a job that is due in an hour.
        if self._waiting or self.announcer:
            self.wake()

    def wake(self) -> None:
        """There is something to tell."""
        self._idle.clear()
        self._arrived.set()

    async def _run(self) -> None:
        while True:
            while not self._waiting and not self.announcer:
                self._idle.set()
                self._arrived.clear()
                await self._arrived.wait()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
            started = time.perf_counter()
            await self._send(batch)
            if self._observe is not None:
                self._observe("deliveries", len(batch), time.perf_counter() - started)

    async def _send(self, operations: list[_Operation]) -> None:
        now_us = self._now_us()
        acks = [each for each in operations if isinstance(each, Delivery)]
        messages = [each for each in operations if isinstance(each, Message)]
        batch = Batch(
            acks=acks,
            adds=[each for each in messages if each.available_at_us <= now_us],
            delays=[each for each in messages if each.available_at_us > now_us],
            dead=[each for each in operations if isinstance(each, Dead)],
            told=None if self.announcer is None else self.announcer.take(),
        )
        tries = 0
        while True:
            try:
                refused = await self._stream.apply(batch)
            except StreamUnavailable as error:
                if tries == 0:
                    logger.warning("stream_unavailable", extra={"error": str(error)})
                # Repeating a batch that was applied makes duplicates, which the claim refuses.
                await asyncio.sleep(_RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)])
                tries += 1
                continue
            except Exception:
                logger.exception("delivery_failed")
                self._on_dropped(len(operations))
                self._untold(batch)
                return
            break
        if refused is not None:
            logger.warning("stream_refused", extra={"error": refused.why})
            # Messages that were refused are mended by reconcile, and no concern of whoever reads events.
            if refused.untold:
                self._untold(batch)
        if batch.delays:
            self.on_delay(min(each.available_at_us for each in batch.delays))

    def _untold(self, batch: Batch) -> None:
        if self.announcer is not None and batch.told is not None:
            self.announcer.lost("refused", batch.told.count)
