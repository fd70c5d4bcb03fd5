"""JobStream: publish, fetch, reclaim, acknowledge, promote. Every call may raise StreamUnavailable.

A message is `job id:fence:available_at in microseconds`; a member of a delayed set is `job id:fence`. Duplicates
are harmless everywhere: the claim in SQL decides.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import msgspec
from redis.exceptions import ResponseError

from jobserver.errors import StreamUnavailable
from jobserver.job.model import Delivery, Priority
from jobserver.stream.client import BLOCK_MILLISECONDS, CALL_SECONDS, REQUEST_SECONDS, StreamClient, available
from jobserver.stream.events import Told, told_operation
from jobserver.stream.keys import GROUP, Keys

logger = logging.getLogger(__name__)

Stream = tuple[str, Priority]

DLQ_MAXLEN: Final = 10_000
CHUNK: Final = 1_000


class Message(msgspec.Struct, frozen=True):
    """A job that may run now (or at `available_at_us`, when it goes to the delayed set)."""

    job_id: UUID
    fence: int
    queue: str
    priority: Priority
    available_at_us: int


class Dead(msgspec.Struct, frozen=True):
    """An entry of the feed of dead letters."""

    job_id: UUID
    fence: int
    type: str


class Refusal(msgspec.Struct, frozen=True):
    """What Redis did not take of a batch, and why. `untold`: its transitions are among that."""

    why: str
    untold: bool


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one call does, frees first: acknowledge, then tell of transitions, add, delay, dead-letter."""

    acks: Sequence[Delivery] = ()
    adds: Sequence[Message] = ()
    delays: Sequence[Message] = ()
    dead: Sequence[Dead] = ()
    told: Told | None = None


class Fetched(msgspec.Struct, frozen=True):
    """What a read brought; `made_group` says that a stream had lost its group, so Redis may have been wiped."""

    deliveries: list[Delivery]
    made_group: bool = False


class Sizes(msgspec.Struct, frozen=True):
    """Entries in job streams, of them pending, and members of delayed sets."""

    entries: int
    pending: int
    delayed: int


class JobStream:
    """The job streams below one prefix, read by one consumer group."""

    def __init__(self, client: StreamClient, prefix: str) -> None:
        self._client = client
        self.keys = Keys(prefix)

    async def apply(self, batch: Batch) -> Refusal | None:
        """One call for a whole batch. Returns why additions failed (memory full), None when all went well."""
        keys: dict[str, int] = {}
        args: list[Any] = [GROUP]

        def number(key: str) -> int:
            return keys.setdefault(key, len(keys) + 1)

        entries: dict[Stream, list[str]] = {}
        for delivery in batch.acks:
            entries.setdefault(delivery.stream, []).append(delivery.entry_id)
        for stream, ids in entries.items():
            for start in range(0, len(ids), CHUNK):
                chunk = ids[start : start + CHUNK]
                args += ("ack", number(self.keys.jobs(*stream)), len(chunk), *chunk)
        if batch.told is not None:
            args += told_operation(self.keys, batch.told, number)
        numbers: dict[Stream, int] = {}
        # All ids at once, in C.
        ids_of_adds = msgspec.to_builtins([message.job_id for message in batch.adds])
        for message, job_id in zip(batch.adds, ids_of_adds, strict=True):
            stream = (message.queue, message.priority)
            key_number = numbers.get(stream) or numbers.setdefault(stream, number(self.keys.jobs(*stream)))
            args += ("add", key_number, f"{job_id}:{message.fence}:{message.available_at_us}")
        for message in batch.delays:
            key = self.keys.delayed(message.queue, message.priority)
            args += ("delay", number(key), message.available_at_us, _member(message))
        for dead in batch.dead:
            args += ("dead", number(self.keys.dlq), DLQ_MAXLEN, str(dead.job_id), dead.fence, dead.type)
        if len(args) == 1:
            return None
        failed, why, untold = await self._client.script("apply", list(keys), args)
        if not failed:
            return None
        return Refusal(f"{failed} additions failed: {why.decode(errors='replace')}", untold=bool(untold))

    async def fetch(self, streams: Sequence[Stream], consumer: str, count: int) -> Fetched:
        """At most `count` new messages, in the order of the streams, without waiting."""
        names = [self.keys.jobs(*stream) for stream in streams]
        made, found = await self._client.script("fetch", names, [GROUP, consumer, count])
        deliveries = [delivery for number, entries in found for delivery in _deliveries(entries, streams[number - 1])]
        return Fetched(deliveries, bool(made))

    async def wait(self, streams: Sequence[Stream], consumer: str, count: int) -> Fetched:
        """Block for up to a second until one of the streams has a message; at most `count` a stream."""
        names = {self.keys.jobs(*stream): stream for stream in streams}
        try:
            async with available():
                reply = await self._client.reader.execute_command(
                    "XREADGROUP",
                    "GROUP",
                    GROUP,
                    consumer,
                    "COUNT",
                    count,
                    "BLOCK",
                    BLOCK_MILLISECONDS,
                    "STREAMS",
                    *names,
                    *([">"] * len(names)),
                )
        except StreamUnavailable as error:
            # A wipe during the read: Valkey says NOGROUP, Redis 7 UNBLOCKED, Redis 6.2 nothing at all.
            if isinstance(error.__cause__, ResponseError) and str(error).startswith(("NOGROUP", "UNBLOCKED")):
                return Fetched([], made_group=True)
            raise
        deliveries = [
            delivery for key, entries in _pairs(reply) for delivery in _deliveries(entries, names[key.decode()])
        ]
        return Fetched(deliveries)

    async def reclaim(
        self, stream: Stream, consumer: str, *, min_idle_ms: int, cursor: str, count: int
    ) -> tuple[list[Delivery], str]:
        """Take over messages that are pending for longer than `min_idle_ms`. Returns them and the next cursor."""
        try:
            async with available(CALL_SECONDS):
                reply = await self._client.commands.execute_command(
                    "XAUTOCLAIM",
                    self.keys.jobs(*stream),
                    GROUP,
                    consumer,
                    min_idle_ms,
                    cursor,
                    "COUNT",
                    count,
                )
        except StreamUnavailable as error:
            if isinstance(error.__cause__, ResponseError) and "NOGROUP" in str(error):
                return [], "0-0"
            raise
        return list(_deliveries(reply[1], stream)), reply[0].decode()

    async def promote(self, streams: Sequence[Stream], *, now_us: int, limit: int) -> tuple[int, int | None]:
        """Move due members of the delayed sets to their streams. Returns how many, and when the next is due."""
        keys = [key for stream in streams for key in (self.keys.delayed(*stream), self.keys.jobs(*stream))]
        moved, following = await self._client.script("promote", keys, [now_us, limit])
        return int(moved), int(following) if following else None

    async def watermarks(self, streams: Sequence[Stream]) -> dict[Stream, int | None]:
        """For each stream the `available_at` of its oldest undelivered message, None if it has none."""
        keys = [self.keys.jobs(*stream) for stream in streams]
        oldest = await self._client.script("watermark", keys, [GROUP])
        return {
            stream: _available_at(message) if message else None for stream, message in zip(streams, oldest, strict=True)
        }

    async def incarnation(self, candidate: str) -> tuple[str, bool]:
        """The value that names this content of Redis, set to `candidate` where there is none; and whether it was."""
        value, created = await self._client.script("incarnation", [self.keys.incarnation], [candidate])
        return value.decode(), bool(created)

    async def forget_consumers(self, streams: Sequence[Stream], alive: Sequence[str], *, idle_ms: int) -> int:
        """Delete consumers of dead processes that have nothing pending. Returns how many."""
        keys = [self.keys.jobs(*stream) for stream in streams]
        return int(await self._client.script("forget_consumers", keys, [GROUP, idle_ms, *alive]))

    async def sizes(self, streams: Sequence[Stream]) -> Sizes:
        keys = [key for stream in streams for key in (self.keys.jobs(*stream), self.keys.delayed(*stream))]
        entries, pending, delayed = await self._client.script("sizes", keys, [GROUP])
        return Sizes(int(entries), int(pending), int(delayed))

    async def dead_letters(self) -> list[tuple[UUID, int]]:
        """The feed of dead letters, newest first: (job, fence)."""
        async with available(CALL_SECONDS):
            entries = await self._client.commands.execute_command(
                "XREVRANGE", self.keys.dlq, "+", "-", "COUNT", DLQ_MAXLEN
            )
        found = []
        for _, flat in entries:
            fields = _fields(flat)
            found.append((UUID(fields[b"id"].decode()), int(fields[b"fence"])))
        return found

    async def wake(self, ids: Sequence[UUID]) -> None:
        """Tell every process, within 100 ms, that the cancel of these running jobs was requested."""
        async with available(REQUEST_SECONDS):
            await self._client.commands.publish(self.keys.wake, " ".join(str(job_id) for job_id in ids))

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Wakes]:
        """Subscribe to the wake-ups."""
        pubsub = self._client.reader.pubsub(ignore_subscribe_messages=True)
        try:
            async with available():
                await pubsub.subscribe(self.keys.wake)
            yield Wakes(pubsub)
        finally:
            await pubsub.aclose()


class Wakes:
    """The wake-ups of one subscription."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub

    async def next(self) -> list[UUID]:
        """Wait for up to a second for the jobs of the next one; none when there was none."""
        async with available():
            message = await self._pubsub.get_message(timeout=BLOCK_MILLISECONDS / 1000)
        try:
            return [] if message is None else [UUID(text) for text in message["data"].decode().split()]
        except ValueError:
            return []  # not one of ours


_NOBODY: Final = UUID(int=0)


def _member(message: Message) -> str:
    return f"{message.job_id}:{message.fence}"


def _available_at(message: bytes) -> int:
    digits = message.rpartition(b":")[2]
    # A stray entry says nothing of time: no job of its stream is judged until it was read.
    return int(digits) if digits.isdigit() else 0


def _deliveries(entries: Sequence[Any], stream: Stream) -> list[Delivery]:
    # Redis 6.2 returns nothing where XAUTOCLAIM meets a deleted entry.
    entries = [entry for entry in entries if entry is not None and entry[0] is not None and entry[1] is not None]
    try:
        return _read(entries, stream)
    except ValueError:
        # Somebody's stray entry. It must not stop the messages that came with it.
        return [delivery for entry in entries for delivery in _read_one(entry, stream)]


def _read(entries: Sequence[Any], stream: Stream) -> list[Delivery]:
    """Raises ValueError when one of them is not a message."""
    texts = [_text_of(fields).split(":") for _, fields in entries]
    # All at once, in C: an eighth of what UUID() costs.
    ids = msgspec.convert([text[0] for text in texts], list[UUID])
    return [
        Delivery(job_id, int(fence), int(available_at), stream, entry[0].decode())
        for job_id, (_, fence, available_at), entry in zip(ids, texts, entries, strict=True)
    ]


def _read_one(entry: Any, stream: Stream) -> list[Delivery]:
    try:
        return _read([entry], stream)
    except ValueError:
        entry_id = entry[0].decode()
        logger.warning("message_unreadable", extra={"queue": stream[0], "entry": entry_id})
        # Its claim finds no job, and then it is acknowledged.
        return [Delivery(_NOBODY, 0, 0, stream, entry_id)]


def _text_of(fields: Any) -> str:
    """The one field of a message. Raises ValueError."""
    name, text = fields if type(fields) is list else [each for pair in fields.items() for each in pair]
    if name != b"m":
        raise ValueError(name)
    decoded: str = text.decode()
    return decoded


def _fields(flat: Any) -> Mapping[bytes, bytes]:
    if isinstance(flat, dict):
        return flat
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _pairs(reply: Any) -> list[tuple[bytes, Any]]:
    """XREADGROUP answers a list of pairs, a dict, or nothing."""
    if not reply:
        return []
    return list(reply.items()) if isinstance(reply, dict) else [(key, entries) for key, entries in reply]
