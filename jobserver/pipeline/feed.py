"""Feed: fans the events of Redis out to the readers of this process, by one task that runs while there are any.

A reader gets, for each job, only increasing fences. What is missing is told by a reset, as far as it is known. A
reader that is slow is cut off: it may come back, and goes on from the last event that it saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import msgspec

from jobserver.errors import NotFound, Overloaded, StreamUnavailable
from jobserver.job.events import (
    KEEPALIVE,
    Change,
    Place,
    job_event,
    place_event,
    progress_event,
    reset_event,
    shown,
)
from jobserver.job.model import Progress
from jobserver.pipeline.lasting import lasting
from jobserver.pipeline.waiting import Waiters
from jobserver.stream.events import Entry, EventStream, Head, Saids
from jobserver.telemetry import Telemetry

logger = logging.getLogger(__name__)

MAX_READERS: Final = 10_000
# What a reader has not taken yet; the kernel's buffers come on top.
MAX_BEHIND_BYTES: Final = 1_048_576
KEEPALIVE_SECONDS: Final = 15.0
READY_SECONDS: Final = 2.0
_AGAIN_SECONDS: Final = (0.05, 0.25, 1.0)
# Jobs whose latest fence is remembered, so that an event that was overtaken is left out: twice as many at the most.
_FENCES: Final = 50_000
# Who goes on from a place reads so many entries before it for that.
_WARM_ENTRIES: Final = 32
# Readers that catch up at the same time; the others wait.
_CATCH_UPS: Final = 8
_TICK_SECONDS: Final = 1.0
_MOST_HELD: Final = 1_000
_BEHIND_SECONDS: Final = 0.005
# Before the first entry.
_NOTHING: Final = "0-0"


class Wanted(msgspec.Struct, frozen=True):
    """Which events a reader wants: all those in which everything that is given fits."""

    type: str | None = None
    queue: str | None = None
    statuses: frozenset[str] = frozenset()

    def fits(self, change: Change) -> bool:
        return (
            (self.type is None or change.type == self.type)
            and (self.queue is None or change.queue == self.queue)
            and (not self.statuses or change.status in self.statuses)
        )


class _Gap(msgspec.Struct, frozen=True):
    """Where events are missing, and why."""

    place: str
    reason: str


class _Fences:
    """The latest fence of each job that was told of lately."""

    def __init__(self) -> None:
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}

    def rises(self, job_id: str, fence: int) -> bool:
        """Whether this is the highest fence of the job so far; it is from now on."""
        known = self._young.get(job_id)
        if known is None:
            known = self._old.get(job_id, -1)
        if fence <= known:
            return False
        self._young[job_id] = fence
        if len(self._young) >= _FENCES:
            self._old, self._young = self._young, {}
        return True

    def get(self, job_id: str) -> int | None:
        known = self._young.get(job_id)
        return self._old.get(job_id) if known is None else known


class Reader:
    """One stream on its way out: what it has not taken yet, within a bound."""

    __slots__ = ("_chunks", "_size", "_wakes", "cut", "ended", "fed_at", "on_cut", "sent")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self._wakes: asyncio.Future[None] | None = None
        self.ended = False
        self.cut = False
        # Ends a connection that takes nothing.
        self.on_cut: Callable[[], None] = _nothing
        self.fed_at = time.monotonic()
        # Events that were given to it.
        self.sent = 0

    def push(self, chunk: bytes, events: int) -> None:
        """Give it something, or cut it off."""
        if self.ended:
            return
        if self._size + len(chunk) > MAX_BEHIND_BYTES and self._chunks:
            self._chunks.clear()
            self.cut = True
            self.end()
            self.on_cut()
            return
        self._chunks.append(chunk)
        self._size += len(chunk)
        self.sent += events
        self._wake()

    def end(self) -> None:
        """What it has been given is the last."""
        self.ended = True
        self._wake()

    @property
    def idle(self) -> bool:
        return not self._chunks

    async def next(self) -> bytes:
        """What it was given since the last time, as soon as there is something; nothing when it has ended."""
        while not self._chunks:
            if self.ended:
                return b""
            self._wakes = asyncio.get_running_loop().create_future()
            await self._wakes
        chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        self.fed_at = time.monotonic()
        return chunk

    def _wake(self) -> None:
        if self._wakes is not None and not self._wakes.done():
            self._wakes.set_result(None)


def _nothing() -> None:
    return None


class JobReader(Reader):
    """A stream of one job: from a state on, each higher fence once, up to the terminal one."""

    __slots__ = ("_gap", "_held", "fence", "job_id")

    def __init__(self, job_id: UUID, fence: int = -1) -> None:
        """`fence`: the one that its reader has seen before."""
        super().__init__()
        self.job_id = job_id
        self.fence = fence
        self._gap: _Gap | None = None
        # While it catches up, what comes meanwhile.
        self._held: list[tuple[str, Change, str]] | None = []

    def hear(self, place: str, change: Change, at: str) -> None:
        """A transition, from wherever."""
        if self._held is not None:
            # What finds no place here is found by a look at SQL.
            if len(self._held) < _MOST_HELD:
                self._held.append((place, change, at))
            return
        if change.fence <= self.fence or self.ended:
            return
        self.fence = change.fence
        self.push(job_event(f"{place}.{change.fence}", change, at).encode(), 1)
        if change.terminal:
            self.end()

    def say(self, chunk: bytes, fence: int) -> None:
        """What its handler says of itself, unless it has not begun or a later transition is known."""
        if self._held is None and fence >= self.fence:
            self.push(chunk, 1)

    def miss(self, gap: _Gap) -> None:
        """Events may be missing."""
        if self._held is not None:
            # Told when it has caught up: its id names the fence that was seen before it.
            self._gap = gap
            return
        # One that has not begun yet begins again, if it comes back with this.
        seen = f"{gap.place}.{self.fence}" if self.fence >= 0 else gap.place
        self.push(reset_event(seen, gap.reason), 0)

    def release(self, *, first: tuple[str, Change, str] | None = None) -> None:
        """It has caught up, or begins with a state; what was heard meanwhile follows."""
        held, self._held = self._held or [], None
        if self._gap is not None:
            self.miss(self._gap)
        for each in held if first is None else [first, *held]:
            self.hear(*each)


class Feed:
    """Owns the task that reads. `stream` is None where live events are off: streams of one job look at SQL alone."""

    def __init__(self, stream: EventStream | None, waiters: Waiters, telemetry: Telemetry) -> None:
        self._stream = stream
        self._waiters = waiters
        self._telemetry = telemetry
        waiters.on_wait = self._ensure
        waiters.live = lambda: self.live
        waiters.place = self._shown_place
        self._readers: set[Reader] = set()
        self._groups: dict[Wanted, set[Reader]] = {}
        self._task: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._closed = False
        self._catch_ups = asyncio.Semaphore(_CATCH_UPS)
        self._ready = asyncio.Event()
        # Where this process has read to, and how many events that were.
        self._place: Place | None = None
        self._count = 0
        self._progress = _NOTHING
        self._fences = _Fences()
        self._silent_turns = 0
        self._tries = 0

    @property
    def is_on(self) -> bool:
        return self._stream is not None

    @property
    def live(self) -> bool:
        """Whether events arrive as they happen."""
        return self._ready.is_set()

    @property
    def readers(self) -> int:
        return len(self._readers)

    async def close(self) -> None:
        """End every stream, and begin none any more."""
        self._closed = True
        for reader in self._readers:
            reader.end()
        tasks = [task for task in (self._task, self._ticker) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Streams.

    async def follow(self, reader: Reader, wanted: Wanted, after: Place | None) -> AsyncGenerator[bytes, None]:
        """Every event that is wanted, from now or from a place on. Raises Overloaded before the first."""
        with self._reading(reader):
            self._ensure()
            ready = await self._is_ready(reader, READY_SECONDS)
            yield _opening()
            if not ready:
                async for chunk in self._until_ready(reader):
                    yield chunk
                if after is None and self._place is not None and not reader.ended:
                    yield self._reset(_Gap(self._place.text, "unavailable"))
            if after is not None and not reader.ended:
                async with contextlib.aclosing(self._catch_up(reader, wanted, after)) as missed:
                    async for chunk in missed:
                        yield chunk
            if self._place is not None and not reader.ended:
                # In one turn with the last look: nothing falls in between.
                self._groups.setdefault(wanted, set()).add(reader)
                yield place_event(self._place.text)
            while chunk := await reader.next():
                yield chunk

    async def follow_job(
        self, reader: JobReader, after: tuple[Place | None, int] | None
    ) -> AsyncGenerator[bytes, None]:
        """One job: its present state, or what came after a place; then what it becomes, up to its end.

        Raises Overloaded, NotFound and DatabaseUnavailable before the first.
        """
        with self._reading(reader), self._waiters.watching(reader):
            self._ensure()
            if self._stream is not None:
                await self._is_ready(reader, READY_SECONDS)
            state = await self._waiters.state(reader.job_id)
            if state is None:
                raise NotFound(f"There is no job {reader.job_id}.")
            yield _opening()
            since = None
            if after is not None and after[1] <= state.change.fence:
                since = after[0]
            else:
                reader.fence = -1
            if since is not None and self._place is not None:
                async with contextlib.aclosing(self._missed_of(reader, since)) as missed:
                    async for chunk in missed:
                        yield chunk
                reader.release()
            else:
                reader.release(first=(self._shown_place(), state.change, state.at))
            self._waiters.look_soon()
            while chunk := await reader.next():
                yield chunk

    @contextmanager
    def _reading(self, reader: Reader) -> Iterator[None]:
        if len(self._readers) >= MAX_READERS:
            raise Overloaded("too many streams are open")
        if self._closed:
            raise Overloaded("the server stops")
        self._readers.add(reader)
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.create_task(lasting("keepalives", self._tick), name="keepalives")
        try:
            yield
        finally:
            self._readers.discard(reader)
            for wanted, readers in list(self._groups.items()):
                readers.discard(reader)
                if not readers:
                    del self._groups[wanted]
            self._tell_sent(reader)
            if reader.cut:
                self._telemetry.event_reader_cut_off(MAX_BEHIND_BYTES)

    async def _is_ready(self, reader: Reader, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        return self._ready.is_set()

    async def _until_ready(self, reader: Reader) -> AsyncGenerator[bytes, None]:
        """Keepalives, until Redis answers."""
        waited = time.monotonic()
        while not self._ready.is_set() and not reader.ended:
            await self._is_ready(reader, _TICK_SECONDS)
            if time.monotonic() - waited >= KEEPALIVE_SECONDS:
                waited = time.monotonic()
                yield KEEPALIVE + b"\n"

    async def _catch_up(self, reader: Reader, wanted: Wanted, after: Place) -> AsyncGenerator[bytes, None]:
        """What a reader missed since a place, up to where this process has read to."""
        fences = _Fences()
        async with contextlib.aclosing(self._pages(reader, after, fences)) as pages:
            async for entry in pages:
                if isinstance(entry, _Gap):
                    yield self._reset(entry)
                    continue
                chunk, events = _chunk(entry[0], entry[1], wanted, fences, after)
                reader.sent += events
                if chunk:
                    yield chunk

    async def _missed_of(self, reader: JobReader, after: Place) -> AsyncGenerator[bytes, None]:
        job_id = str(reader.job_id)
        async with contextlib.aclosing(self._pages(reader, after, None)) as pages:
            async for entry in pages:
                if isinstance(entry, _Gap):
                    # Who comes back with this has seen what it has seen of the job.
                    yield self._reset(_Gap(f"{entry.place}.{reader.fence}", entry.reason))
                    continue
                for place, change, at in _rows(entry[0], entry[1]):
                    if change.id == job_id and change.fence > reader.fence:
                        reader.fence = change.fence
                        reader.sent += 1
                        yield job_event(f"{place}.{change.fence}", change, at).encode()
                        if change.terminal:
                            reader.end()
                            return

    async def _pages(
        self, reader: Reader, after: Place, fences: _Fences | None
    ) -> AsyncGenerator[_Gap | tuple[str, Entry], None]:
        """Entries since a place, with the feed's name, up to where this process has read to; resets for gaps."""
        stream, cursor, expected = self._stream, "", 0
        while stream is not None and not reader.ended and self._place is not None:
            try:
                # A few at a time: all who come back after a restart would ask for everything at once.
                async with self._catch_ups:
                    if cursor:
                        page: list[Entry] | None = await stream.page(f"({cursor}")
                    else:
                        page = await self._first_page(stream, after, fences)
            except StreamUnavailable:
                await asyncio.sleep(_AGAIN_SECONDS[1])
                continue
            if page is None or self._place.feed != after.feed:
                yield _Gap(self._place.text, "missed")
                return
            if not cursor:
                cursor = after.entry
                expected = 0 if cursor == _NOTHING or not page else page[0].start
            for entry in page:
                cursor = entry.id
                if entry.stray:
                    continue
                if entry.start != expected or (entry.gap and entry.id != after.entry):
                    yield _Gap(f"{after.feed}-{entry.id}-0", entry.gap or "missed")
                expected = entry.start + entry.count
                yield after.feed, entry
            # Ahead of the task that reads for all: wait for it, so that nothing comes twice.
            while self._is_before(cursor, after.feed) and not reader.ended:  # noqa: ASYNC110 - it takes milliseconds
                await asyncio.sleep(_BEHIND_SECONDS)
            if self._place is None or cursor == self._place.entry:
                return
            if not page:
                await asyncio.sleep(_BEHIND_SECONDS)

    def _is_before(self, cursor: str, feed: str) -> bool:
        place = self._place
        return place is not None and place.feed == feed and _order(place.entry) < _order(cursor)

    async def _first_page(self, stream: EventStream, after: Place, fences: _Fences | None) -> list[Entry] | None:
        """The entry of a place and some that follow; None when it is not there any more."""
        head = await stream.head()
        if head.feed != after.feed:
            return None
        if after.entry == _NOTHING:
            return await stream.page("-")
        page = await stream.page(after.entry)
        if not page or page[0].id != after.entry:
            return None
        if fences is not None:
            for entry in await stream.before(after.entry, _WARM_ENTRIES):
                _warm(fences, entry, after)
        return page

    # The task that reads for all.

    def _ensure(self) -> None:
        if self._stream is None or self._closed:
            return
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(lasting("events", self._run), name="events")

    async def _run(self) -> None:
        stream = self._stream
        while stream is not None and (self._readers or self._waiters.names):
            try:
                if not self._ready.is_set():
                    await self._join(stream)
                await self._turn(stream)
            except StreamUnavailable as error:
                if self._tries == 0:
                    self._telemetry.warn("events_unavailable", error=str(error))
                self._ready.clear()
                await asyncio.sleep(_AGAIN_SECONDS[min(self._tries, len(_AGAIN_SECONDS) - 1)])
                self._tries += 1
        # Whoever comes next begins at what is then the present.
        self._ready.clear()
        self._place = None
        self._fences = _Fences()

    async def _join(self, stream: EventStream) -> None:
        """Begin at the present, or go on from where the connection was lost."""
        head = await stream.head()
        if self._place is None:
            self._progress = await stream.progress_head()
            for entry in await stream.before(head.last, _WARM_ENTRIES):
                _warm(self._fences, entry, None)
            self._take(head)
        elif head.feed != self._place.feed or head.count < self._count:
            self._begin_anew(head, "wiped")
        self._ready.set()
        self._tries = 0
        self._silent_turns = 0
        # What fell between a look and this is found by another.
        self._waiters.look_soon()

    async def _turn(self, stream: EventStream) -> None:
        if self._place is None:
            return
        entries, said = await stream.read(self._place.entry, self._progress)
        if not entries:
            await self._silent(stream)
        for entry in entries:
            await self._entry(stream, entry)
        for progress_id, saids in said:
            self._progress = progress_id
            self._say(saids)

    async def _silent(self, stream: EventStream) -> None:
        """Nothing came: that may be because there is nothing, or because it is another feed."""
        head = await stream.head()
        if self._place is None or head.feed != self._place.feed or head.count < self._count:
            self._begin_anew(head, "wiped")
        elif head.count == self._count:
            self._silent_turns = 0
        else:
            # Once it may have come between the two questions.
            self._silent_turns += 1
            if self._silent_turns > 1:
                self._begin_anew(head, "missed")

    def _take(self, head: Head) -> None:
        milliseconds, sequence = _order(head.last)
        self._place = Place(head.feed, milliseconds, sequence)
        self._count = head.count

    def _begin_anew(self, head: Head, reason: str) -> None:
        self._take(head)
        if reason == "wiped":
            self._progress = _NOTHING
        self._silent_turns = 0
        if self._place is not None:
            self._reset_all(self._place.text, reason)

    async def _entry(self, stream: EventStream, entry: Entry) -> None:
        if self._place is None:
            return
        feed = self._place.feed
        if entry.stray:
            # Somebody else's: what is missing of ours, if anything, the next one tells.
            self._place = Place(feed, *_order(entry.id))
            return
        if entry.start != self._count or entry.gap:
            reason = entry.gap or "missed"
            if entry.start != self._count:
                now = await stream.head()
                reason = reason if now.feed == feed else "wiped"
                feed = now.feed
            self._reset_all(f"{feed}-{entry.id}-0", reason)
        milliseconds, sequence = _order(entry.id)
        self._place = Place(feed, milliseconds, sequence)
        self._count = entry.start + entry.count
        fresh = [
            (place, change, at)
            for place, change, at in _rows(feed, entry)
            if self._fences.rises(change.id, change.fence)
        ]
        self._fan_out(fresh)

    def _fan_out(self, fresh: Sequence[tuple[str, Change, str]]) -> None:
        names = self._waiters.names
        if names:
            for place, change, at in fresh:
                if change.id in names:
                    self._waiters.hear(names[change.id], place, change, at)
        if not self._groups:
            return
        texts: Mapping[str, str] = {place: job_event(place, change, at) for place, change, at in fresh}
        for wanted, readers in self._groups.items():
            chosen = [texts[place] for place, change, _ in fresh if wanted.fits(change)]
            if chosen:
                chunk = "".join(chosen).encode()
                for reader in readers:
                    reader.push(chunk, len(chosen))

    def _say(self, saids: Saids) -> None:
        at_us, rows = saids
        at = shown(at_us)
        for said in rows:
            # Not after what came later: each claim and each end has a higher fence.
            known = self._fences.get(said.id)
            if known is not None and known > said.fence:
                continue
            self._say_one(said.id, said.fence, said.progress, at)

    def _say_one(self, job_id: str, fence: int, progress: Progress, at: str) -> None:
        chunk = progress_event(job_id, progress, at)
        name = self._waiters.names.get(job_id)
        if name is not None:
            for watcher in self._waiters.watchers(name):
                if isinstance(watcher, JobReader):
                    watcher.say(chunk, fence)
        # They say of no job what it is: filters by type, queue and status do not fit.
        for reader in self._groups.get(_EVERYTHING, ()):
            reader.push(chunk, 1)

    def _reset(self, gap: _Gap) -> bytes:
        self._telemetry.event_reset(gap.reason)
        return reset_event(gap.place, gap.reason)

    def _reset_all(self, place: str, reason: str) -> None:
        chunk = reset_event(place, reason)
        for readers in self._groups.values():
            for reader in readers:
                self._telemetry.event_reset(reason)
                reader.push(chunk, 0)
        for watcher in self._waiters.every_watcher():
            if isinstance(watcher, JobReader):
                self._telemetry.event_reset(reason)
                watcher.miss(_Gap(place, reason))
        self._waiters.look_soon()

    def _shown_place(self) -> str:
        return "none" if self._place is None else self._place.text

    def _tell_sent(self, reader: Reader) -> None:
        self._telemetry.events_sent(reader.sent)
        reader.sent = 0

    async def _tick(self) -> None:
        """Keepalives for those that have had nothing for a while; each also says where it is by now."""
        while self._readers:
            await asyncio.sleep(_TICK_SECONDS)
            for reader in self._readers:
                self._tell_sent(reader)
            now = time.monotonic()
            place = b"" if self._place is None else place_event(self._place.text)
            late = [each for each in self._readers if each.idle and now - each.fed_at >= KEEPALIVE_SECONDS]
            following = {each for readers in self._groups.values() for each in readers} if late else set()
            for reader in late:
                reader.fed_at = now
                reader.push(KEEPALIVE + (place if reader in following and place else b"\n"), 0)


_EVERYTHING: Final = Wanted()


def _opening() -> bytes:
    """How soon to come back after a break: spread out, so that not all come at once."""
    return b"retry: %d\n\n" % (500 + secrets.randbelow(1_500))


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def _rows(feed: str, entry: Entry) -> Iterator[tuple[str, Change, str]]:
    """The events of an entry: the place after each, what happened, and when."""
    prefix = f"{feed}-{entry.id}-"
    number = 0
    for at_us, changes in entry.flushes:
        at = shown(at_us)
        for change in changes:
            number += 1
            yield f"{prefix}{number}", change, at


def _warm(fences: _Fences, entry: Entry, after: Place | None) -> None:
    """What a reader has seen up to a place."""
    behind = None if after is None or entry.id != after.entry else after.behind
    seen = (change for _, changes in entry.flushes for change in changes)
    for number, change in enumerate(seen):
        if behind is not None and number >= behind:
            return
        fences.rises(change.id, change.fence)


def _chunk(feed: str, entry: Entry, wanted: Wanted, fences: _Fences, after: Place) -> tuple[bytes, int]:
    """What a reader that wants this gets of an entry, without what it has seen."""
    skipped = 0
    if entry.id == after.entry:
        skipped = entry.count if after.behind is None else after.behind
    chosen = []
    for number, (place, change, at) in enumerate(_rows(feed, entry)):
        if number >= skipped and fences.rises(change.id, change.fence) and wanted.fits(change):
            chosen.append(job_event(place, change, at))
    return "".join(chosen).encode(), len(chosen)
