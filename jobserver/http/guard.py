"""What a browser must not be used for while everything is open.

A page on any site can make its visitor's browser call a server on that visitor's own machine. By DNS rebinding it
comes with a foreign Host; without it, with a foreign Origin or as cross-site. Programs send neither.
"""

from __future__ import annotations

from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from jobserver.http.problems import problem

_TELLING: Final = frozenset({b"host", b"origin", b"sec-fetch-site"})
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class OpenModeGuard:
    """Answers 403 to requests that a foreign page may have caused; passes on the others."""

    def __init__(self, app: ASGIApp, bound_host: str) -> None:
        self._app = app
        self._hosts = _LOCAL | {bound_host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and (refusal := self._refusal(scope)):
            await problem(403, refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: HTTPScope) -> str | None:
        hosts: list[str] = []
        origins: list[str] = []
        cross_site = False
        for name, value in scope["headers"]:
            if name not in _TELLING:
                continue
            if name == b"host":
                hosts.append(value.decode("latin-1").strip().lower())
            elif name == b"origin":
                origins.append(value.decode("latin-1").strip().lower())
            else:
                cross_site = cross_site or value.strip().lower() == b"cross-site"
        # Without a Host it is no browser.
        if not all(self._is_ours(host, scope) for host in hosts):
            return "Without API keys this server answers to its own address only; the Host header names another."
        if scope["method"] in _SAFE:
            return None
        if cross_site or not all(_authority(origin) in hosts for origin in origins):
            return "The request comes from a page of another site."
        return None

    def _is_ours(self, host: str, scope: HTTPScope) -> bool:
        name = _without_port(host)
        if name in self._hosts:
            return True
        # Bound to every address, this is the one that the connection came in by.
        server = scope.get("server")
        return server is not None and name == server[0]


def _without_port(host: str) -> str:
    if host.startswith("["):
        address, bracket, port = host[1:].partition("]")
        return address if bracket and (not port or port.startswith(":")) else host
    return host.partition(":")[0]


def _authority(origin: str) -> str | None:
    scheme, separator, authority = origin.partition("://")
    return authority if separator and scheme in ("http", "https") else None
