"""What the headers of a request prove: an API key, in Authorization or in the cookie of a signed-in page.

A browser sends the cookie with whatever makes it call here, so with the cookie alone a request changes nothing unless
the browser says that a page of this server makes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

Headers = Iterable[tuple[bytes, bytes]]

MAX_KEY: Final = 512
COOKIE: Final = "jobserver_session"
_SCHEME: Final = b"bearer "
_COOKIE: Final = COOKIE.encode()


def bearer(given: list[bytes]) -> bytes | None:
    """The key in the Authorization headers, None for anything else. Two headers are none: which one would count?"""
    if len(given) != 1 or len(given[0]) > MAX_KEY or given[0][: len(_SCHEME)].lower() != _SCHEME:
        return None
    return given[0][len(_SCHEME) :].strip(b" ") or None


def session_keys(headers: Headers) -> list[bytes]:
    """The keys in cookies of ours, as they came: none, the one, or more, of which none counts."""
    found: list[bytes] = []
    for header, value in headers:
        if header != b"cookie":
            continue
        for pair in value.split(b";"):
            name, separator, key = pair.strip(b" \t").partition(b"=")
            if separator and name == _COOKIE:
                found.append(key)
    return found


def same_origin(headers: Headers) -> bool:
    """Whether a browser says that a page of this very server makes the request. Pages cannot write these headers."""
    hosts: list[bytes] = []
    origins: list[bytes] = []
    sites: list[bytes] = []
    for name, value in headers:
        if name == b"host":
            hosts.append(value.strip().lower())
        elif name == b"origin":
            origins.append(value.strip().lower())
        elif name == b"sec-fetch-site":
            sites.append(value.strip().lower())
    if sites:
        return all(site == b"same-origin" for site in sites)
    return bool(origins) and all(_authority(origin) in hosts for origin in origins)


def _authority(origin: bytes) -> bytes | None:
    scheme, separator, authority = origin.partition(b"://")
    return authority if separator and scheme in (b"http", b"https") else None
