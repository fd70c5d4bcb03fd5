"""A TCP proxy between one server process and one engine, which can be told to misbehave.

drop       requests pass, replies vanish, and then the connection is reset: applied, and nobody knows
cut        half of a reply, then a reset
reset      every connection is reset, new ones too
blackhole  nothing passes, and nobody is told; goes on where it stopped when it is healed, as TCP would
delay      everything passes, late
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final, Literal, Self

Mode = Literal["pass", "drop", "cut", "reset", "blackhole", "delay"]

CHUNK: Final = 65_536
DELAY_SECONDS: Final = 0.15
DROPPED_SECONDS: Final = 0.3
CUT_SECONDS: Final = 0.05
CONNECT_SECONDS: Final = 5.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Proxy:
    """`async with Proxy(port) as proxy:` listens on `proxy.port` of loopback, and passes on to `upstream_port`."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port: Final = upstream_port
        self._mode: Mode = "pass"
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        # How often it misbehaved: a fault that met no traffic proves nothing.
        self.hits = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        self.reset_all()

    @property
    def mode(self) -> Mode:
        return self._mode

    def set(self, mode: Mode) -> None:
        """Behave like this from now on."""
        self._mode = mode
        if mode == "reset":
            self.reset_all()
        self._changed.set()
        self._changed = asyncio.Event()

    def reset_all(self) -> None:
        """Reset the connections that are open."""
        for writer in list(self._writers):
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        self._writers.add(writer)
        try:
            await self._link(reader, writer)
        except (OSError, TimeoutError):
            pass  # one side went away, so both do
        finally:
            _reset(writer)
            self._writers.discard(writer)
            self._links.discard(task)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "reset":
            self.hits += 1
            return
        async with asyncio.timeout(CONNECT_SECONDS):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        self._writers.add(up_writer)
        try:
            # The end of one direction is the end of both.
            pumps = [
                asyncio.create_task(self._pump(reader, up_writer, reply=False), name="proxy requests"),
                asyncio.create_task(self._pump(up_reader, writer, reply=True), name="proxy replies"),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            _reset(up_writer)
            self._writers.discard(up_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reply: bool) -> None:
        while data := await reader.read(CHUNK):
            while self._mode == "blackhole":
                self.hits += 1
                await self._changed.wait()
            if self._mode == "delay":
                self.hits += 1
                await asyncio.sleep(DELAY_SECONDS)
            elif self._mode == "reset":
                return
            elif reply and self._mode == "cut":
                self.hits += 1
                writer.write(data[: len(data) // 2])
                with contextlib.suppress(OSError):
                    await writer.drain()
                # Time to arrive: a reset throws away what is still on its way.
                await asyncio.sleep(CUT_SECONDS)
                return
            elif reply and self._mode == "drop":
                self.hits += 1
                # What the next one asked could be answered by this one's reply: the connection cannot go on.
                await asyncio.sleep(DROPPED_SECONDS)
                return
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a machine does that knows nothing of the connection."""
    found = writer.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
