"""Readers of live events: they hang up and come back, and remember what they saw."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

_decode: Final = msgspec.json.Decoder(type=dict).decode


class Event(msgspec.Struct, frozen=True):
    """One event as it came; `data` is what its JSON says."""

    kind: str
    id: str
    data: dict[str, object]


async def events_of(
    port: int, path: str, last_event_id: str | None = None, *, comments: list[str] | None = None
) -> AsyncIterator[Event]:
    """The events of one answer, until its end. An id that stands alone comes with the kind ""."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        resume = "" if last_event_id is None else f"Last-Event-ID: {last_event_id}\r\n"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{resume}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status = int(head.split()[1])
        if status == 204:
            return
        if status != 200:
            raise ConnectionError(head)
        left = b""
        while size := int(await reader.readline(), 16):
            left += (await reader.readexactly(size + 2))[:-2]
            blocks = left.split(b"\n\n")
            left = blocks.pop()
            for block in blocks:
                event = _event(block.decode(), comments)
                if event is not None:
                    yield event
    except (asyncio.IncompleteReadError, ValueError) as error:
        raise ConnectionResetError(str(error)) from error
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _event(block: str, comments: list[str] | None) -> Event | None:
    kind, place, data = "", "", {}
    for line in block.split("\n"):
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "id":
            place = value
        elif name == "data":
            data = _decode(value)
        elif line.startswith(":") and comments is not None:
            comments.append(line)
    return Event(kind, place, data) if kind or place else None


class Follower:
    """A reader of `path` that comes back as often as it has to, each time with the last id that it saw."""

    def __init__(self, ports: Callable[[], int], path: str, seed: int) -> None:
        self._ports = ports
        self._path = path
        self._random = random.Random(seed)
        self.last_event_id: str | None = None
        # By job: (fence, status), in the order in which they came.
        self.seen: dict[str, list[tuple[int, str]]] = {}
        self.resets: list[str] = []
        self.connections = 0
        self.count = 0
        self.ready = asyncio.Event()

    async def follow(self, *, hang_up_after: float = 0.0) -> None:
        """Until cancelled; or to the end, for the stream of one job. `hang_up_after`: at random about so soon."""
        loop = asyncio.get_running_loop()
        while True:
            self.connections += 1
            with contextlib.suppress(ConnectionError, OSError, TimeoutError):
                until = None
                if hang_up_after:
                    until = loop.time() + self._random.uniform(0.1, 2.0) * hang_up_after
                async with (
                    contextlib.aclosing(events_of(self._ports(), self._path, self.last_event_id)) as events,
                    asyncio.timeout_at(until),
                ):
                    async for event in events:
                        self._note(event)
                if self._path != "/events":
                    return
            await asyncio.sleep(self._random.uniform(0.0, 0.1))

    def _note(self, event: Event) -> None:
        if event.id:
            self.last_event_id = event.id
        if event.kind in {"job", "deleted"}:
            status = str(event.data.get("status", "deleted"))
            self.seen.setdefault(str(event.data["id"]), []).append((int(str(event.data["fence"])), status))
            self.count += 1
        elif event.kind == "reset":
            self.resets.append(str(event.data["reason"]))
        self.ready.set()

    @property
    def disordered(self) -> list[str]:
        """Jobs whose fences did not rise."""
        return [
            job_id
            for job_id, events in self.seen.items()
            if any(later[0] <= earlier[0] for earlier, later in itertools.pairwise(events))
        ]


@contextlib.asynccontextmanager
async def following(
    followers: list[Follower], *, hang_up_after: float = 0.0
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The followers run, each from its first connection on."""
    tasks = [asyncio.create_task(each.follow(hang_up_after=hang_up_after)) for each in followers]
    try:
        await asyncio.gather(*(each.ready.wait() for each in followers))
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
