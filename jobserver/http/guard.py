"""What a browser must not be used for.

A page on any site can make its visitor's browser call a server on that visitor's own machine. By DNS rebinding it
comes with a foreign Host, which matters while everything is open; without it, with a foreign Origin or as cross-site,
which never changes anything here. Programs send neither.
"""

from __future__ import annotations

from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from jobserver.http.api import Access
from jobserver.http.problems import problem

_TELLING: Final = frozenset({b"host", b"origin", b"sec-fetch-site"})
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """Answers 403 to requests that a foreign page may have caused; passes on the others.

    `origins` are those of pages that may do what they like.
    """

    def __init__(self, app: ASGIApp, bound_host: str, access: Access, origins: tuple[str, ...] = ()) -> None:
        self._app = app
        self._access = access
        self._hosts = _LOCAL | {bound_host.lower()}
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and (refusal := self._refusal(scope)):
            self._access.refused("foreign")
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
        # Without a Host it is no browser. With keys it is they that protect: any name may lead here.
        if not self._access.ever and not all(self._is_ours(host, scope) for host in hosts):
            return "Without API keys this server answers to its own address only; the Host header names another."
        if scope["method"] in _SAFE:
            return None
        if origins and self._origins.issuperset(origins):
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
