"""A TCP relay that leaves connections in silence: those of now for good, or all, as a machine that hangs."""

from __future__ import annotations

import asyncio
from typing import Self


class Relay:
    """`async with Relay(port) as relay:` listens on `relay.port` of loopback and passes on to `upstream_port`."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        # That of the connections of now: set once they are stranded.
        self._stranded = asyncio.Event()
        self._silent = False
        self.port = 0

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

    def strand(self) -> None:
        """What is open stays open and never says another word; new connections work."""
        self._stranded.set()
        self._stranded = asyncio.Event()

    def cut(self) -> None:
        """What is open is reset; new connections work."""
        for link in self._links:
            link.cancel()

    def silence(self) -> None:
        """Nothing passes any more; new connections are accepted, and meet the same."""
        self._silent = True
        self._stranded.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            try:
                await self._link((reader, up_writer), (up_reader, writer))
            finally:
                up_writer.transport.abort()
        except OSError:
            pass  # nobody listens there
        finally:
            writer.transport.abort()
            self._links.discard(task)

    async def _link(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        stranded = self._stranded
        pumps = [asyncio.create_task(_pump(*way, stranded), name="relay") for way in ways]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if stranded.is_set():
                # The client's own end is its own affair; the server's is not to be heard of.
                await pumps[0]
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, stranded: asyncio.Event) -> None:
    try:
        while data := await source.read(65_536):
            if not stranded.is_set():
                sink.write(data)
                await sink.drain()
    except OSError:
        return  # the other side went away
