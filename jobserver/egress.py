"""The guarded way out: HTTP requests to addresses that users name, to public targets only (SSRF).

A name is resolved once, each address checked, and the connection made to the checked address; certificate and
Host header stay those of the name. No redirects, no proxies of the environment, time and size are limited.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import httpx
import msgspec

from jobserver.errors import JobserverError

RESOLVE_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 10.0
_MAX_ADDRESSES: Final = 4

# `is_global` alone says yes to multicast, to NAT64 and 6to4 around any address, and what it knows differs by version.
_REFUSED_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
# Only global unicast is public: mapped, compatible, unique local, link-local and multicast lie outside of it.
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_REFUSED_V6: Final = tuple(
    IPv6Network(network)
    # IETF assignments with Teredo and ORCHID, documentation (two), 6to4
    for network in ("2001::/23", "2001:db8::/32", "3fff::/20", "2002::/16")
)
# The well-known prefix carries an IPv4 address in its last 32 bits. The local one, 64:ff9b:1::/48, may carry it
# anywhere, so it is not global unicast to us.
_NAT64: Final = IPv6Network("64:ff9b::/96")


class TargetRefused(JobserverError):  # named like Refused and its kind
    """The target is not a public address, and private ones are not allowed."""


class ResponseTooLarge(JobserverError):
    """The response has more bytes than allowed."""


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A request, and its limits."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None
    timeout_seconds: float
    max_bytes: int
    allow_private: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A response, read to its end."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    charset: str


def is_public(address: str) -> bool:
    """Whether `address`, an IPv4 or IPv6 literal, lies in the public internet."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        if parsed.scope_id is not None:
            return False
        if parsed not in _NAT64:
            return parsed in _GLOBAL_UNICAST and not any(parsed in network for network in _REFUSED_V6)
        parsed = IPv4Address(int(parsed) & 0xFFFF_FFFF)
    return parsed.is_global and not any(parsed in network for network in _REFUSED_V4)


async def resolve_public(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of `host` that may be connected to, in the resolver's order.

    Raises TargetRefused when there are only others, OSError when the name does not resolve, and TimeoutError.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(RESOLVE_SECONDS):
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    allowed = [address for address in addresses if allow_private or is_public(address)]
    if not allowed:
        raise TargetRefused(f"{host} is not a public address ({', '.join(addresses[:_MAX_ADDRESSES])})")
    return allowed[:_MAX_ADDRESSES]


class GuardedTransport(httpx.AsyncBaseTransport):
    """Connects to checked addresses only. Keeps no connection, since one belongs to a name and not to an address."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._transport = httpx.AsyncHTTPTransport(
            verify=_ssl_context(), trust_env=False, retries=0, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.raw_host.decode("ascii")
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            addresses = await resolve_public(host, port, allow_private=self._allow_private)
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"{host} does not resolve: {error}", request=request) from error
        name = request.url
        failure: httpx.ConnectError | httpx.ConnectTimeout | None = None
        for address in addresses:
            request.url = name.copy_with(host=address)
            if host != address:
                request.extensions = {**request.extensions, "sni_hostname": host}
            try:
                return await self._transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error  # nothing was sent: the next address may be tried
            finally:
                request.url = name
        raise failure or httpx.ConnectError(f"{host} has no address", request=request)

    async def aclose(self) -> None:
        await self._transport.aclose()


async def exchange(request: Exchange) -> Answer:
    """Send one request and read its response.

    Raises TargetRefused, ResponseTooLarge, TimeoutError when the whole takes longer than its limit,
    httpx.TransportError for what the network does, httpx.InvalidURL and httpx.UnsupportedProtocol.
    """
    transport = GuardedTransport(allow_private=request.allow_private)
    limits = httpx.Timeout(request.timeout_seconds, connect=min(request.timeout_seconds, CONNECT_SECONDS))
    async with (
        asyncio.timeout(request.timeout_seconds),
        httpx.AsyncClient(transport=transport, timeout=limits, follow_redirects=False, trust_env=False) as client,
        client.stream(
            request.method,
            request.url,
            # Compressed, a few bytes may unfold into many.
            headers={"Accept-Encoding": "identity", "User-Agent": "jobserver", **request.headers},
            content=request.content,
        ) as response,
    ):
        raw = await _bounded(response.aiter_raw(), request.max_bytes)
        return Answer(
            status=response.status_code,
            headers=[(name.lower(), value) for name, value in response.headers.multi_items()],
            body=_unfolded(raw, response.headers.get("content-encoding", ""), request.max_bytes),
            charset=response.charset_encoding or "utf-8",
        )


async def _bounded(chunks: AsyncIterator[bytes], max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _unfolded(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """For servers that compress unasked. What is neither gzip nor deflate stays as it came."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    inflater = zlib.decompressobj(wbits=47)  # recognises both
    try:
        unfolded = inflater.decompress(body, max_bytes + 1)
    except zlib.error:
        return body
    if len(unfolded) > max_bytes:
        raise _too_large(max_bytes)
    return unfolded


def _too_large(max_bytes: int) -> ResponseTooLarge:
    return ResponseTooLarge(f"the response has more than {max_bytes} bytes")


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """Made once: reading the certificates takes tens of milliseconds."""
    return httpx.create_ssl_context(trust_env=False)
