"""The guarded way out: HTTP requests to addresses that users name, to public targets only (SSRF).

A name is resolved once, each address checked, and the connection made to the checked address; certificate and
Host header stay those of the name. No redirects, no proxies of the environment, time and size are limited.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import threading
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import httpx
import msgspec

from jobserver.errors import JobserverError

RESOLVE_SECONDS: Final = 10.0
# At a submit nobody waits longer for a name: the connection is checked in any case.
LOOK_SECONDS: Final = 1.0
_REMEMBERED_SECONDS: Final = 10.0
_MAX_REMEMBERED: Final = 1_000
# Names that are looked up at a time, for submits and for requests: neither keeps the other from its own.
_MAX_LOOKING: Final = 16
_MAX_RESOLVING: Final = 64
_AGAIN_SECONDS: Final = 0.02
# Of the ports that need a privilege only those of the web: a request is no letter to a mail server.
_WEB_PORTS: Final = (80, 443)
_FREE_PORTS: Final = range(1_024, 65_536)
CONNECT_SECONDS: Final = 10.0
_MAX_ADDRESSES: Final = 4

# `is_global` alone says yes to multicast, to NAT64 and 6to4 around any address, and what it knows differs by version.
_REFUSED_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        # Public by its number only: Azure's WireServer, which gives each virtual machine its secrets.
        "168.63.129.16/32",
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
    # Whether a longer response is cut at `max_bytes` instead of being an error.
    cut: bool = False


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


class Lookups:
    """Asks the system's resolver, for at most so many names at a time.

    Not by the loop's own threads: they are few, connections to the engines need them too, and whoever names hosts
    can name such as nobody answers for. A lookup cannot be stopped, so its place is free at its end, however long
    ago somebody gave up waiting. Daemon threads, which end with their lookup: they hold up no exit of the process.
    """

    def __init__(self, limit: int) -> None:
        self._places = threading.Semaphore(limit)

    def begin(self, host: str, port: int) -> asyncio.Future[list[str]] | None:
        """The addresses to come, or OSError or UnicodeError; None when there is no place."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()
        if (address := _literal(host)) is not None:
            future.set_result([address])
            return future
        if not self._places.acquire(blocking=False):
            return None
        try:
            threading.Thread(target=self._run, args=(future, host, port), name="lookup", daemon=True).start()
        except RuntimeError as error:
            self._places.release()
            future.set_exception(OSError(f"the system gives no thread: {error}"))
        return future

    def _run(self, future: asyncio.Future[list[str]], host: str, port: int) -> None:
        addresses: list[str] = []
        failure: Exception | None = None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
            addresses = [str(sockaddr[0]) for *_, sockaddr in found]
        except Exception as error:
            failure = error
        self._places.release()
        # A loop that is closed waits for nothing any more.
        with contextlib.suppress(RuntimeError):
            future.get_loop().call_soon_threadsafe(_tell, future, addresses, failure)


def _tell(future: asyncio.Future[list[str]], addresses: list[str], failure: Exception | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(addresses)
    else:
        future.set_exception(failure)


def _literal(host: str) -> str | None:
    """An address as such. With an interface, or in other spellings, it is the resolver's."""
    try:
        return str(ip_address(host)) if "%" not in host else None
    except ValueError:
        return None


_for_requests: Final = Lookups(_MAX_RESOLVING)


async def resolve_public(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of `host` that may be connected to, in the resolver's order.

    Raises TargetRefused when there are only others, OSError when the name does not resolve, and TimeoutError.
    """
    _check_port(port, allow_private=allow_private)
    async with asyncio.timeout(RESOLVE_SECONDS):
        while (lookup := _for_requests.begin(host, port)) is None:  # noqa: ASYNC110 - see below
            # Threads free the places, whichever loop waits: no event of one loop would do.
            await asyncio.sleep(_AGAIN_SECONDS)
        found = await lookup
    return _allowed(host, found, allow_private=allow_private)


def _allowed(host: str, found: Sequence[str], *, allow_private: bool) -> list[str]:
    addresses = list(dict.fromkeys(found))
    allowed = [address for address in addresses if allow_private or is_public(address)]
    if not allowed:
        # Without the addresses: names of our network are nobody's business outside of it.
        raise TargetRefused(f"{host} is not a public address")
    return allowed[:_MAX_ADDRESSES]


def _check_port(port: int, *, allow_private: bool) -> None:
    if not allow_private and port not in _WEB_PORTS and port not in _FREE_PORTS:
        raise TargetRefused(f"port {port} is not one of the web")


def target_of(url: str) -> tuple[str, int]:
    """Host and port of a URL that may be called. Raises TargetRefused for one that may not, whatever its address."""
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError):
        raise TargetRefused("the URL is not valid") from None
    if parsed.scheme not in ("http", "https") or not host:
        raise TargetRefused("the URL is not one of http:// or https:// with a host")
    if "%" in host:
        raise TargetRefused("the URL names an interface")
    if parsed.userinfo:
        raise TargetRefused("the URL carries credentials")
    port = parsed.port if parsed.port is not None else (443 if parsed.scheme == "https" else 80)
    if not 0 < port < 65_536:
        raise TargetRefused(f"{port} is not a port")
    return host, port


class Targets:
    """Says at a submit where no request may go. What no resolver answers in time is let through.

    It spares a client the wait for a failed delivery; the law is the check at the connection.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        # When the last looks end to count, and why their targets were refused.
        self._known: dict[tuple[str, int], tuple[float, str | None]] = {}
        self._lookups = Lookups(_MAX_LOOKING)

    async def check(self, url: str, *, until: float) -> None:
        """Raises TargetRefused. Waits no longer than to `until`, by the loop's clock."""
        host, port = target_of(url)
        if self._allow_private:
            return
        _check_port(port, allow_private=False)
        now = asyncio.get_running_loop().time()
        known = self._known.get((host, port))
        if known is None or known[0] < now:
            if now >= until:
                return
            lookup = self._lookups.begin(host, port)
            if lookup is None:
                return
            refusal = await self._refusal(lookup, host, min(until, now + LOOK_SECONDS))
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            known = self._known[host, port] = (now + _REMEMBERED_SECONDS, refusal)
        if known[1] is not None:
            raise TargetRefused(known[1])

    async def _refusal(self, lookup: asyncio.Future[list[str]], host: str, until: float) -> str | None:
        try:
            async with asyncio.timeout_at(until):
                _allowed(host, await lookup, allow_private=False)
        except TargetRefused as error:
            return str(error)
        except (OSError, UnicodeError):  # a timeout is one, too
            return None
        return None


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
        body = await _bounded(response.aiter_raw(), request.max_bytes, cut=request.cut)
        if not request.cut:
            body = _unfolded(body, response.headers.get("content-encoding", ""), request.max_bytes)
        return Answer(
            status=response.status_code,
            headers=[(name.lower(), value) for name, value in response.headers.multi_items()],
            body=body,
            charset=response.charset_encoding or "utf-8",
        )


async def _bounded(chunks: AsyncIterator[bytes], max_bytes: int, *, cut: bool) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            if cut:
                del body[max_bytes:]
                break
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
