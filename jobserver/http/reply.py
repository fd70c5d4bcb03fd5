"""An answer on its way out: status, headers, bytes. It is its own ASGI application, which Litestar sends as is."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar.types import Receive, Scope, Send

Headers = tuple[tuple[bytes, bytes], ...]

# Nothing here is for caches, no answer is to be guessed at by a browser or shown in a page of another site.
COMMON: Final[Headers] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
# For what is no page: it loads nothing and is in no frame.
DATA: Final[Headers] = (*COMMON, (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"))
JSON: Final[Headers] = ((b"content-type", b"application/json"), *DATA)
PROBLEM: Final[Headers] = ((b"content-type", b"application/problem+json"), *DATA)

# They never have a body, and no length of one.
_BODILESS: Final = (204, 304)

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
        if self.status not in _BODILESS:
            headers.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        body = b"" if scope.get("method") == "HEAD" else self.body
        await send({"type": "http.response.body", "body": body, "more_body": False})


def answer(value: Any, status: int = 200) -> Reply:
    """`value`, a struct of `job.wire`, as JSON."""
    return Reply(status, encode(value))
