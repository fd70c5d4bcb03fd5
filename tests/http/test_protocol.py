"""Answers on their way out: as few writes as possible, in order, and nothing kept back."""

from __future__ import annotations

import asyncio

from jobserver.http.protocol import OneWriteTransport


class Wire:
    """Stands where the loop's transport does, and notes what it is told."""

    def __init__(self) -> None:
        self.said: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.said.append(data)

    def close(self) -> None:
        self.said.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.said


def transport(wire: Wire) -> OneWriteTransport:
    return OneWriteTransport(wire, asyncio.get_running_loop())  # type: ignore[arg-type]


async def test_what_is_written_in_one_turn_is_one_write() -> None:
    wire = Wire()
    one = transport(wire)
    one.write(b"head ")
    one.write(b"body")
    assert wire.said == []
    await asyncio.sleep(0)
    assert wire.said == [b"head body"]
    one.write(b"next")
    await asyncio.sleep(0)
    assert wire.said == [b"head body", b"next"]


async def test_what_is_written_is_sent_before_the_end() -> None:
    wire = Wire()
    one = transport(wire)
    one.write(b"last")
    one.close()
    assert wire.said == [b"last", "closed"]
    assert one.is_closing()
    await asyncio.sleep(0)
    assert wire.said == [b"last", "closed"]


async def test_much_is_not_kept_back() -> None:
    wire = Wire()
    one = transport(wire)
    part = b"x" * 40_000
    one.write(part)
    one.write(part)
    assert wire.said == [part + part]
    one.write(b"rest")
    await asyncio.sleep(0)
    assert wire.said == [part + part, b"rest"]
