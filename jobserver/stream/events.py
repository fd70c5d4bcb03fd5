"""EventStream: the feed of transitions, a capped stream with an entry a flush, and what handlers say of themselves.

Each entry says how many events went before it, so that whoever reads notices what is missing: trimmed, wiped, or
lost with the last second of a server that died. Every call may raise StreamUnavailable.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from jobserver.job.events import Change
from jobserver.job.model import Progress
from jobserver.stream.client import BLOCK_MILLISECONDS, CALL_SECONDS, StreamClient, available
from jobserver.stream.keys import Keys

logger = logging.getLogger(__name__)

READ_ENTRIES: Final = 64
PAGE_ENTRIES: Final = 16
PROGRESS_ENTRIES: Final = 100
# A repeated call is told from a new one for so long.
SENT_SECONDS: Final = 86_400


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What one call appends. `number` is the sender's own: a call that is repeated is applied once.

    `gap` says why events before these are missing, "" when none are known to be.
    """

    sender: str
    number: int
    most: int
    count: int
    payload: bytes
    gap: str = ""
    progress: bytes = b""


class Head(msgspec.Struct, frozen=True):
    """Where the feed is: its name, how many events it has had, and its last entry."""

    feed: str
    count: int
    last: str


class Entry(msgspec.Struct, frozen=True):
    """One flush's events: (microseconds, changes) each; `start` is how many events went before them."""

    id: str
    start: int
    gap: str
    flushes: list[tuple[int, list[Change]]]
    count: int
    stray: bool = False


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What the handler of a job said of itself, under the fence of its claim."""

    id: str
    fence: int
    progress: Progress


Saids = tuple[int, list[Said]]

_decode: Final = msgspec.json.Decoder(list[tuple[int, list[Change]]]).decode
_decode_said: Final = msgspec.json.Decoder(tuple[int, list[Said]]).decode


class EventStream:
    """The feed below one prefix."""

    def __init__(self, client: StreamClient, prefix: str) -> None:
        self._client = client
        self._keys = Keys(prefix)

    async def head(self) -> Head:
        """Where the feed is now; it begins if it has not yet."""
        feed, count, last = await self._client.script(
            "feed", [self._keys.feed, self._keys.events], [secrets.token_hex(4)]
        )
        return Head(feed.decode(), int(count), last.decode())

    async def progress_head(self) -> str:
        """The last of what handlers said."""
        async with available(CALL_SECONDS):
            found = await self._client.commands.execute_command("XREVRANGE", self._keys.progress, "+", "-", "COUNT", 1)
        return found[0][0].decode() if found else "0-0"

    async def read(self, after: str, said_after: str) -> tuple[list[Entry], list[tuple[str, Saids]]]:
        """What follows these two entries; waits for up to a second where nothing does."""
        async with available():
            reply = await self._client.reader.execute_command(
                "XREAD",
                "COUNT",
                READ_ENTRIES,
                "BLOCK",
                BLOCK_MILLISECONDS,
                "STREAMS",
                self._keys.events,
                self._keys.progress,
                after,
                said_after,
            )
        found = dict(reply.items() if isinstance(reply, dict) else reply or ())
        entries = [_entry(each) for each in found.get(self._keys.events.encode(), ())]
        return entries, [_said(each) for each in found.get(self._keys.progress.encode(), ())]

    async def page(self, first: str) -> list[Entry]:
        """Some entries, from this one on: `id` with it, `(id` without."""
        async with available(CALL_SECONDS):
            found = await self._client.commands.execute_command(
                "XRANGE", self._keys.events, first, "+", "COUNT", PAGE_ENTRIES
            )
        return [_entry(each) for each in found]

    async def before(self, last: str, entries: int) -> list[Entry]:
        """So many entries up to this one, oldest first."""
        async with available(CALL_SECONDS):
            found = await self._client.commands.execute_command(
                "XREVRANGE", self._keys.events, last, "-", "COUNT", entries
            )
        return [_entry(each) for each in reversed(found)]


def _fields(entry: Any) -> tuple[str, dict[bytes, bytes]]:
    name, flat = entry
    fields = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
    return name.decode(), fields


def _entry(raw: Any) -> Entry:
    """A stray entry of somebody else says nothing."""
    name, fields = _fields(raw)
    try:
        flushes = _decode(fields[b"e"])
        count = sum(len(changes) for _, changes in flushes)
        return Entry(name, int(fields[b"n"]), fields.get(b"g", b"").decode(), flushes, count)
    except (KeyError, ValueError) as error:
        logger.warning("event_unreadable", extra={"entry": name, "error": str(error)})
        return Entry(name, 0, "", [], 0, stray=True)


def _said(raw: Any) -> tuple[str, Saids]:
    name, fields = _fields(raw)
    try:
        return name, _decode_said(fields[b"e"])
    except (KeyError, ValueError) as error:
        logger.warning("event_unreadable", extra={"entry": name, "error": str(error)})
        return name, (0, [])


def told_operation(keys: Keys, told: Told, number_of: Any) -> Sequence[Any]:
    """The operations of `apply` that append this."""
    operations: list[Any] = []
    if told.count or told.gap:
        operations += (
            "event",
            number_of(keys.feed),
            number_of(keys.events),
            number_of(keys.marks),
            number_of(keys.sent(told.sender)),
            told.number,
            told.most,
            told.count,
            told.gap,
            told.payload,
            secrets.token_hex(4),
        )
    if told.progress:
        operations += ("progress", number_of(keys.progress), PROGRESS_ENTRIES, told.progress)
    return operations
