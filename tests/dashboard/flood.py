"""A server in front of a real one, whose event stream is as busy as a test wants; all else is passed through."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import uuid
from datetime import UTC, datetime
from typing import Self
from urllib.parse import urlsplit

_TURN_SECONDS = 0.02
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
_STATUSES = ("queued", "running", "completed")


class Flood:
    """`rate` events a second to whoever asks for `/events`, as a server with that load would send them."""

    def __init__(self, url: str) -> None:
        self._behind = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.rate = 0
        self.sent = 0
        self.readers = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not left to the streams: their task would outlive the test's event loop.
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /events "):
                    await self._flood(writer)
                else:
                    await self._pass(head, reader, writer)
        finally:
            await _closed(writer)

    async def _pass(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        kept = [line for line in lines if not line.lower().startswith(("connection:", "host:"))]
        length = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")), 0)
        body = await reader.readexactly(length)
        assert self._behind.port is not None
        theirs, ours = await asyncio.open_connection("127.0.0.1", self._behind.port)
        said = "\r\n".join([first, f"host: {self._behind.netloc}", *kept, "connection: close", "", ""])
        try:
            ours.write(said.encode("latin-1") + body)
            while chunk := await theirs.read(65_536):
                writer.write(chunk)
                await writer.drain()
        finally:
            await _closed(ours)

    async def _flood(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD + b"retry: 500\n\n")
        self.readers += 1
        loop = asyncio.get_running_loop()
        began, owed, counter = loop.time(), 0.0, itertools.count()
        last = began
        try:
            while True:
                await asyncio.sleep(_TURN_SECONDS)
                now = loop.time()
                owed += (now - last) * self.rate
                last = now
                at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
                events = []
                while owed >= len(_STATUSES):
                    owed -= len(_STATUSES)
                    job = {"id": str(uuid.uuid4()), "type": "shown.quick", "queue": "quick", "at": at}
                    for fence, status in enumerate(_STATUSES):
                        data = json.dumps({**job, "status": status, "attempt": int(fence > 0), "fence": fence})
                        events.append(f"id: 0123abcd-{next(counter)}-0-1\nevent: job\ndata: {data}\n\n")
                writer.write("".join(events).encode())
                self.sent += len(events)
                await writer.drain()
        finally:
            self.readers -= 1


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
