"""A few words of RESP on a connection of their own: the faults must not depend on the client under test."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ANSWER_SECONDS: Final = 10.0


class RedisError(Exception):
    """The server answered with an error, or not at all."""


Place = int | Path


async def ask(place: Place, commands: Sequence[Sequence[object]], *, seconds: float = ANSWER_SECONDS) -> list[Any]:
    """Send commands to the port or socket, and return their answers. Raises RedisError."""
    try:
        async with asyncio.timeout(seconds):
            if isinstance(place, Path):
                reader, writer = await asyncio.open_unix_connection(place)
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", place)
            try:
                writer.write(b"".join(map(_encoded, commands)))
                return [await _answer(reader) for _ in commands]
            finally:
                writer.close()
    except (OSError, TimeoutError, EOFError) as error:
        raise RedisError(f"no answer: {error or type(error).__name__}") from error


def _encoded(command: Sequence[object]) -> bytes:
    words = [str(word).encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


async def _answer(reader: asyncio.StreamReader) -> Any:
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:].decode()
    if kind == b"+":
        return rest
    if kind == b"-":
        raise RedisError(rest)
    if kind == b":":
        return int(rest)
    size = int(rest)
    if size < 0:
        return None
    if kind == b"$":
        return (await reader.readexactly(size + 2))[:-2].decode("utf-8", "replace")
    if kind == b"*":
        return [await _answer(reader) for _ in range(size)]
    raise RedisError(f"unexpected answer {line!r}")
