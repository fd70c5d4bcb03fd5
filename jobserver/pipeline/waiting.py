"""Waiters: requests that want to know when a job is terminal, and streams that watch one job.

Woken at once by what this process writes, and by the feed of events; what that leaves out is seen by one look at SQL
for all, every 2 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Protocol
from uuid import UUID

from jobserver.errors import NotFound, Overloaded, Unavailable
from jobserver.job.events import Change, State
from jobserver.job.model import TERMINAL, Job
from jobserver.pipeline.lasting import lasting
from jobserver.store.views import Views

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
MAX_WAITERS = 10_000
# However many ask for a look: those who come back all at once need one, not one each.
PAUSE_SECONDS = 0.1
# What a look has found is on its way as an event more often than not: it is waited for so long.
EVENT_SECONDS = 0.5
_CHUNK: Final = 1_000


class Watcher(Protocol):
    """A stream of one job."""

    job_id: UUID
    fence: int

    def hear(self, place: str, change: Change, at: str) -> None:
        """A transition, known or not."""

    def end(self) -> None: ...


class Waiters:
    """Owns the task that looks at SQL; it runs only while somebody waits."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._waiting: dict[UUID, set[asyncio.Event]] = {}
        self._count = 0
        self._looker: asyncio.Task[None] | None = None
        self._closed = False
        self._watching: dict[UUID, set[Watcher]] = {}
        # Every job that somebody waits for or watches, by its text.
        self._names: dict[str, UUID] = {}
        self._hurry = asyncio.Event()
        # Hears that somebody waits.
        self.on_wait: Callable[[], None] = _nothing
        # Whether events arrive as they happen.
        self.live: Callable[[], bool] = _never
        # Where the feed is, for the ids of events that are found by looking.
        self.place: Callable[[], str] = _nowhere

    @property
    def names(self) -> Mapping[str, UUID]:
        return self._names

    def watchers(self, job_id: UUID) -> frozenset[Watcher]:
        return frozenset(self._watching.get(job_id, ()))

    def every_watcher(self) -> list[Watcher]:
        return [each for watchers in self._watching.values() for each in watchers]

    def hear(self, job_id: UUID, place: str, change: Change, at: str) -> None:
        """An event of a job that somebody waits for or watches."""
        if change.terminal:
            self.wake(job_id)
        for watcher in self.watchers(job_id):
            watcher.hear(place, change, at)

    @contextmanager
    def watching(self, watcher: Watcher) -> Iterator[None]:
        """The watcher hears of its job within this."""
        job_id = watcher.job_id
        self._watching.setdefault(job_id, set()).add(watcher)
        self._names[str(job_id)] = job_id
        self._begin_looks()
        try:
            yield
        finally:
            self._watching[job_id].discard(watcher)
            if not self._watching[job_id]:
                del self._watching[job_id]
            self._forget(job_id)

    async def state(self, job_id: UUID) -> State | None:
        """Where a job is. Raises DatabaseUnavailable."""
        return (await self._views.states([job_id])).get(job_id)

    def look_soon(self) -> None:
        """Look at SQL now, not only in two seconds."""
        self._hurry.set()

    async def close(self) -> None:
        """Let everybody who waits answer with what is, and nobody wait any more."""
        self._closed = True
        for job_id in list(self._waiting):
            self.wake(job_id)
        if self._looker is not None:
            # A look is let come to its end: a connection that is cancelled while it opens is never closed.
            self._hurry.set()
            _, late = await asyncio.wait([self._looker], timeout=LOOK_SECONDS)
            for looker in late:
                looker.cancel()
                await asyncio.wait([looker])

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
        self._names[str(job_id)] = job_id
        try:
            job = await self._job(job_id)
            if job.status in TERMINAL or self._closed:
                return job
            self._begin_looks()
            self.on_wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await event.wait()
            return await self._job(job_id)
        finally:
            self._count -= 1
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
            self._forget(job_id)

    def _forget(self, job_id: UUID) -> None:
        if job_id not in self._waiting and job_id not in self._watching:
            self._names.pop(str(job_id), None)

    def _begin_looks(self) -> None:
        if not self._closed and (self._looker is None or self._looker.done()):
            self._looker = asyncio.create_task(lasting("waiters", self._look), name="waiters")

    async def _job(self, job_id: UUID) -> Job:
        job = await self._views.job(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id}")
        return job

    async def _look(self) -> None:
        """Looks begin every two seconds, however long each takes; sooner, but not without a pause, when asked to."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self._waiting or self._watching:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(began + LOOK_SECONDS):
                    await self._hurry.wait()
            await asyncio.sleep(max(0.0, began + PAUSE_SECONDS - loop.time()))
            if self._closed:
                return
            self._hurry.clear()
            began = loop.time()
            # Side by side: who waits is not held up by those who watch.
            await asyncio.gather(_tried(self._look_for_waiting), _tried(self._look_for_watching))

    async def _look_for_waiting(self) -> None:
        wanted = list(self._waiting)
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            found = await self._views.statuses(chunk)
            for job_id in chunk:
                if found.get(job_id) is None or found[job_id] in TERMINAL:
                    self.wake(job_id)

    async def _look_for_watching(self) -> None:
        wanted = list(self._watching)
        behind: list[tuple[Watcher, State]] = []
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            found = await self._views.states(chunk)
            for job_id in chunk:
                for watcher in self.watchers(job_id):
                    state = found.get(job_id)
                    if state is None:
                        watcher.end()
                    elif state.change.fence > watcher.fence:
                        behind.append((watcher, state))
        if behind and self.live():
            asyncio.get_running_loop().call_later(EVENT_SECONDS, self._tell, behind)
        else:
            self._tell(behind)

    def _tell(self, behind: Sequence[tuple[Watcher, State]]) -> None:
        for watcher, state in behind:
            # The watcher may have heard it by now.
            watcher.hear(self.place(), state.change, state.at)


async def _tried(look: Callable[[], Awaitable[None]]) -> None:
    try:
        await look()
    except Unavailable as error:
        logger.warning("wait_look_failed", extra={"error": str(error)})


def _nothing() -> None:
    return None


def _never() -> bool:
    return False


def _nowhere() -> str:
    return "none"
