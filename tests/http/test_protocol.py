"""Answers on their way out: as few writes as possible, in order, and nothing kept back. Heads: bounded."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from jobserver.http import protocol
from jobserver.http.protocol import OneWriteProtocol, OneWriteTransport
from tests.engines import eventually


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


def test_what_is_written_when_the_client_has_gone_is_nobodys_fault() -> None:
    """The connection may be closed between a write and the end of its turn: uvloop raises for a write to it then."""
    wrong: list[dict[str, Any]] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: wrong.append(context))
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        try:
            wire, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
            one = OneWriteTransport(wire, loop)
            one.write(b"late")
            wire.abort()
            await asyncio.sleep(0.05)
            assert one.is_closing()
            one.write(b"later")
            await asyncio.sleep(0.05)
        finally:
            server.close()
            await asyncio.sleep(0.05)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    assert wrong == []


# Heads.


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Says the path, after the body; of /never, after the connection."""
    while (message := await receive()).get("more_body") or (
        scope["path"] == "/never" and message["type"] != "http.disconnect"
    ):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()[:2]})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of a listener that speaks our protocol, with nothing behind it."""
    config = uvicorn.Config(answer, http=OneWriteProtocol, log_config=None, lifespan="off", ws="none")
    config.load()
    state = ServerState()
    listener = await asyncio.get_running_loop().create_server(lambda: OneWriteProtocol(config, state, {}), "127.0.0.1")
    yield listener.sockets[0].getsockname()[1]
    listener.close()
    for connection in list(state.connections):
        connection.transport.abort()  # type: ignore[union-attr]
    await eventually(lambda: not state.connections)


async def said(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that is answered to these pieces up to the end of the connection, which the server makes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard: list[bytes] = []

    async def listen() -> None:
        # What we say after the server's last word resets the connection.
        with contextlib.suppress(ConnectionError):
            while more := await reader.read(65_536):
                heard.append(more)

    async with asyncio.timeout(10):
        listening = asyncio.create_task(listen())
        for piece in pieces:
            writer.write(piece)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            await asyncio.sleep(pause)
            if listening.done():
                break
        await listening
    writer.close()
    return b"".join(heard)


GET = b"GET /a HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST /b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "a header": (GET + b"X: ", b"x" * 4_096),
    "headers": (GET, b"X: y\r\n" * 700),
    "a URL": (b"GET /", b"x" * 4_096),
    "a trailer": (CHUNKED + b"0\r\nX: ", b"x" * 4_096),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n" * 700),
    "a later header": (GET + b"\r\n" + GET + b"X: ", b"x" * 4_096),
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_a_head_without_end_is_refused(port: int, kind: str) -> None:
    first, rest = ENDLESS[kind]
    heard = await said(port, first, *[rest] * 256)
    head, _, body = heard.removeprefix(OK if kind == "a later header" else b"").partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 431 Request Header Fields Too Large"
    assert {b"content-type: application/problem+json", b"connection: close"} <= set(lines)
    assert json.loads(body)["status"] == 431


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/a"


async def test_an_endless_head_behind_a_request_under_way_is_not_answered(port: int) -> None:
    """Its client would take the refusal for that of the first, which may be stored."""
    first = b"POST /never HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
    with contextlib.suppress(ConnectionError):
        assert await said(port, first + GET + b"X: ", *[b"x" * 4_096] * 256) == b""


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", GET + b"X: y", b"\r\n", GET + b"\r\n" + GET])
async def test_a_head_that_does_not_come_ends_the_connection(
    port: int, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    started = time.monotonic()
    assert await said(port, sent) == (OK if GET + b"\r\n" in sent else b"")
    assert 0.05 < time.monotonic() - started < 3


async def test_a_head_that_comes_byte_by_byte_has_no_more_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    assert await said(port, *[b"%c" % byte for byte in GET + b"X: " + b"y" * 200], pause=0.01) == b""


async def test_what_is_no_head_has_its_own_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow body, many small parts of one, and a connection that waits for its next request."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(protocol, "MAX_HEAD_BYTES", 64)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(10):
        writer.write(CHUNKED)
        for part in (b"5\r\n", b"hello", b"\r\n") * 12:
            writer.write(part)
            await asyncio.sleep(0.01)
        writer.write(b"0\r\nX: y\r\n\r\n")
        assert (await reader.readexactly(len(OK))).endswith(b"/b")
        await asyncio.sleep(0.15)
        # In two pieces, and in one with another.
        for piece in (GET[:9], GET[9:] + b"\r\n", GET + b"\r\n" + GET + b"\r\n" + GET, b"\r\n"):
            writer.write(piece)
            await asyncio.sleep(0.01)
        assert await reader.readexactly(4 * len(OK)) == OK * 4
    writer.close()


def test_what_is_overridden_is_called_by_uvicorn() -> None:
    """It promises no names: a method that it does not have any more would never run, and say nothing."""
    overridden = ("connection_made", "connection_lost", "data_received", "on_body", "send_400_response")
    assert [name for name in (*overridden, "_start_asgi_task") if name not in vars(HttpToolsProtocol)] == []
    assert "self._start_asgi_task(" in inspect.getsource(HttpToolsProtocol.on_headers_complete)
    assert {*overridden, "_start_asgi_task"} <= set(vars(OneWriteProtocol))
