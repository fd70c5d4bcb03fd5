"""The proxy between a server and an engine: what it does to bytes that pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from jobserver.torture.proxy import DELAY_SECONDS, Proxy


class Echo:
    """An engine that repeats every line, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.heard = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.asked.append(line)
                self.heard.set()
                writer.write(line)
                await writer.drain()
        except ConnectionError:
            pass  # reset, as some tests want it
        finally:
            writer.close()


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Proxy, Echo]]:
    echo = Echo()
    server = await asyncio.start_server(echo.answer, "127.0.0.1", 0)
    async with Proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy, echo
    server.close()


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def ask(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes) -> bytes:
    """The answer; what came of it before the end, where the connection ended."""
    reader, writer = connection
    writer.write(line)
    async with asyncio.timeout(5):
        return await reader.readline()


async def test_bytes_pass_both_ways() -> None:
    async with proxied() as (proxy, _):
        connection = await connect(proxy)
        assert await ask(connection, b"hello\n") == b"hello\n"
        assert await ask(connection, b"x" * 50_000 + b"\n") == b"x" * 50_000 + b"\n"
        connection[1].close()


async def test_a_dropped_reply_belongs_to_a_request_that_was_applied() -> None:
    async with proxied() as (proxy, echo):
        connection = await connect(proxy)
        proxy.set("drop")
        with pytest.raises(ConnectionResetError):
            await ask(connection, b"commit\n")
        assert echo.asked == [b"commit\n"]
        assert proxy.hits
        proxy.set("pass")
        again = await connect(proxy)
        assert await ask(again, b"hello\n") == b"hello\n"
        again[1].close()


async def test_a_cut_reply_ends_in_the_middle() -> None:
    async with proxied() as (proxy, echo):
        reader, writer = await connect(proxy)
        proxy.set("cut")
        writer.write(b"0123456789\n")
        async with asyncio.timeout(5):
            assert await reader.readexactly(5) == b"01234"
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
        assert echo.asked == [b"0123456789\n"]


async def test_reset_ends_open_connections_and_new_ones() -> None:
    async with proxied() as (proxy, echo):
        connection = await connect(proxy)
        assert await ask(connection, b"hello\n") == b"hello\n"
        proxy.set("reset")
        with pytest.raises(ConnectionResetError):
            await ask(connection, b"lost\n")
        new = await connect(proxy)
        with pytest.raises(ConnectionResetError):
            await ask(new, b"lost\n")
        assert echo.asked == [b"hello\n"]


async def test_a_black_hole_says_nothing_and_goes_on_when_it_is_healed() -> None:
    async with proxied() as (proxy, echo):
        reader, writer = await connect(proxy)
        assert await ask((reader, writer), b"hello\n") == b"hello\n"
        proxy.set("blackhole")
        writer.write(b"later\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.readline()
        assert echo.asked == [b"hello\n"]
        echo.heard.clear()
        proxy.set("pass")
        async with asyncio.timeout(5):
            await echo.heard.wait()
            assert await reader.readline() == b"later\n"
        writer.close()


async def test_delay_makes_both_ways_late() -> None:
    async with proxied() as (proxy, _):
        connection = await connect(proxy)
        proxy.set("delay")
        started = time.monotonic()
        assert await ask(connection, b"hello\n") == b"hello\n"
        assert time.monotonic() - started >= 2 * DELAY_SECONDS
        connection[1].close()
