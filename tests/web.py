"""A small real HTTP server whose answers a test writes down byte by byte."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Self


def response(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A response with its Content-Length; `_` in header names stands for `-`."""
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class WebServer:
    """Listens on 127.0.0.1, on a free port unless told otherwise.

    `answer` gets the head and the body of each request; None closes the connection.
    """

    def __init__(
        self, answer: Callable[[str, bytes], bytes | None], tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self._answer = answer
        self._tls = tls
        self._server: asyncio.Server | None = None
        self.requests: list[tuple[str, bytes]] = []
        self.port = port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = next(
                (int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length:")),
                0,
            )
            body = await reader.readexactly(length)
            self.requests.append((head, body))
            answer = self._answer(head, body)
            if answer is not None:
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            writer.close()
