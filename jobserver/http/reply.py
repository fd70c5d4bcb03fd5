"""An answer on its way out: status, headers, bytes. It is its own ASGI application, which Litestar sends as is."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar.types import Receive, Scope, Send

Headers = tuple[tuple[bytes, bytes], ...]

# Nothing here is for caches, and no answer is to be guessed at by a browser.
COMMON: Final[Headers] = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
JSON: Final[Headers] = ((b"content-type", b"application/json"), *COMMON)
PROBLEM: Final[Headers] = ((b"content-type", b"application/problem+json"), *COMMON)

encode: Final = msgspec.json.Encoder().encode


class Reply:
    """What an operation answers."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", headers: Headers = JSON) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = list(self.headers)
        if self.status != 204:
            headers.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        body = b"" if scope.get("method") == "HEAD" else self.body
        await send({"type": "http.response.body", "body": body, "more_body": False})


def answer(value: Any, status: int = 200) -> Reply:
    """`value`, a struct of `job.wire`, as JSON."""
    return Reply(status, encode(value))
