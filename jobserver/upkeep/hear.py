"""Hear: once a second, what was decided elsewhere: cancels, pauses, new types. And tells how far handlers are.

On the event loop, whose state it changes; that the process lives is said by `heartbeat.py`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from jobserver.errors import StreamUnavailable
from jobserver.pipeline.announce import Announcer
from jobserver.pipeline.held import Holdings
from jobserver.pipeline.known import Queues, Types
from jobserver.store.jobs import JobStore
from jobserver.stream.jobs import JobStream
from jobserver.upkeep.loop import Loop

logger = logging.getLogger(__name__)

HEAR_SECONDS: Final = 1.0
TYPES_EVERY_TURNS: Final = 3


class Hear:
    """Owns the loop, and the ear for wake-ups."""

    def __init__(
        self,
        store: JobStore,
        stream: JobStream,
        holdings: Holdings,
        queues: Queues,
        types: Types,
        *,
        worker_id: str,
        announcer: Announcer | None = None,
    ) -> None:
        self._store = store
        self._stream = stream
        self._holdings = holdings
        self._queues = queues
        self._types = types
        self._worker_id = worker_id
        self._announcer = announcer
        self._turns = 0
        self._ear: asyncio.Task[None] | None = None
        self.loop = Loop("hear", HEAR_SECONDS, self.step)

    async def start(self) -> None:
        """The first turn comes before anything is asked of this process. Raises DatabaseUnavailable."""
        await self.step()
        self.loop.start()
        self._ear = asyncio.create_task(self._listen(), name="upkeep wakes")

    async def close(self) -> None:
        if self._ear is not None:
            self._ear.cancel()
            await asyncio.gather(self._ear, return_exceptions=True)
        await self.loop.close()

    async def step(self) -> float | None:
        """Ask and tell once."""
        await self._queues.refresh()
        if self._holdings:
            for job_id, fence in await self._store.cancel_requests(self._worker_id):
                self._holdings.cancel(job_id, fence)
            await self._save_progress()
        if self._turns % TYPES_EVERY_TURNS == 0:
            await self._types.refresh()
        self._turns += 1
        return HEAR_SECONDS

    async def _save_progress(self) -> None:
        said = [held for held in self._holdings if held.progress is not None]
        if not said:
            return
        sent = [(held.job.id, held.job.fence, held.progress) for held in said if held.progress is not None]
        await self._store.save_progress(sent)
        if self._announcer is not None:
            self._announcer.said(sent)
        for held, (_, _, progress) in zip(said, sent, strict=True):
            if held.progress is progress:
                held.progress = None

    async def _listen(self) -> None:
        """Cancels reach a running job at once through Redis; without it the next turn brings them."""
        while True:
            try:
                async with self._stream.listening() as wakes:
                    while True:
                        if any(self._holdings.get(job_id) for job_id in await wakes.next()):
                            self.loop.wake()
            except StreamUnavailable as error:
                logger.debug("wakes_unavailable", extra={"error": str(error)})
            except Exception:
                logger.exception("upkeep_failed", extra={"loop": "wakes"})
            await asyncio.sleep(HEAR_SECONDS)
