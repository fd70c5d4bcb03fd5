"""Cross-origin requests, for the origins that were configured and nobody else. Without any this is not there at all."""

from __future__ import annotations

from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from jobserver.http.reply import DATA, Headers, Reply

_METHODS: Final = b"GET, HEAD, POST, DELETE"
_TAKEN: Final = b"Authorization, Content-Type, Idempotency-Key, Last-Event-ID, traceparent, tracestate"
_SHOWN: Final = b"Location, Idempotency-Replayed, RateLimit, RateLimit-Policy, Retry-After"
# How long a browser may remember the answer to a preflight, in seconds.
_MAX_AGE: Final = b"600"


class Cors:
    """Tells browsers that pages of these origins may read the answers, and answers their preflights."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        origin = _only(scope, b"origin")
        if origin is None or origin.lower() not in self._origins:
            await self._app(scope, receive, _adding(send, ((b"vary", b"Origin"),)))
            return
        allowed: Headers = ((b"vary", b"Origin"), (b"access-control-allow-origin", origin))
        if scope["method"] == "OPTIONS" and _only(scope, b"access-control-request-method") is not None:
            preflight = (
                (b"access-control-allow-methods", _METHODS),
                (b"access-control-allow-headers", _TAKEN),
                (b"access-control-max-age", _MAX_AGE),
            )
            await Reply(204, headers=(*DATA, *allowed, *preflight))(scope, receive, send)
            return
        await self._app(scope, receive, _adding(send, (*allowed, (b"access-control-expose-headers", _SHOWN))))


def _only(scope: HTTPScope, name: bytes) -> bytes | None:
    """A header that was sent once, else None."""
    found = [value for each, value in scope["headers"] if each == name]
    return found[0].strip() if len(found) == 1 else None


def _adding(send: Send, headers: Headers) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            started: Any = {**message, "headers": [*message["headers"], *headers]}
            await send(started)
        else:
            await send(message)

    return sending
