"""A small real HTTP server that streams events, each connection as its test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
JOB = UUID("019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11")


def job(fence: int, status: str = "running", event_id: str | None = None, job_id: UUID = JOB) -> bytes:
    """A transition as the server sends it."""
    data = {"id": str(job_id), "type": "echo", "queue": "default", "status": status, "attempt": 1, "fence": fence}
    return message("job", data | {"at": "2026-03-07T10:00:00.123456Z"}, event_id)


def message(event: str, data: object, event_id: str | None = None) -> bytes:
    named = "" if event_id is None else f"id: {event_id}\n"
    return f"event: {event}\n{named}data: {json.dumps(data)}\n\n".encode()


def refusal(status: int, **headers: str) -> bytes:
    body = json.dumps({"title": "No", "status": status, "detail": "not now"}).encode()
    lines = [f"HTTP/1.1 {status} No", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Feed:
    """Plays one script a connection; the last again and again. What was asked is in `heads`."""

    def __init__(self, *scripts: list[bytes], held_open: asyncio.Event | None = None) -> None:
        self._scripts = list(scripts)
        # The first connection then says no more until this is set.
        self._held_open = held_open
        self.heads: list[str] = []
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Feed]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    def header(self, index: int, name: str) -> str | None:
        """A header of the request of this number."""
        for line in self.heads[index].splitlines()[1:]:
            found, _, value = line.partition(": ")
            if found.lower() == name:
                return value
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            for piece in self._scripts[min(len(self.heads), len(self._scripts)) - 1]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if self._held_open is not None and len(self.heads) == 1:
                await self._held_open.wait()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
