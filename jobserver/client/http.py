"""From the calls' requests to httpx and back, for both clients. The API key goes into one header and nowhere else."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from jobserver.client.errors import JobFailed, NotFinished
from jobserver.client.exchange import Lost, Request, Response
from jobserver.client.views import Job
from jobserver.client.watching import SILENCE_SECONDS
from jobserver.errors import ConfigurationError
from jobserver.job.model import Status

DEFAULT_URL: Final = "http://127.0.0.1:8000"
PAGE: Final = 100
CONNECT_SECONDS: Final = 5.0
# uvicorn closes an idle connection after 5 s: ours must be gone before, or a request meets the closing.
KEEPALIVE_SECONDS: Final = 2.0


class Options(msgspec.Struct, frozen=True):
    """What httpx is made with."""

    base_url: str
    shown_url: str
    on_loopback: bool
    verify: bool
    authorize: Callable[[httpx.Request], httpx.Request] | None


def options_of(url: str, api_key: str | None) -> Options:
    try:
        urlsplit(url)  # sees through brackets that httpx takes for a host
        parsed = httpx.URL(url)
        # As the resolver does it, whose error would come with the first request.
        parsed.raw_host.decode("ascii").encode("idna")
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigurationError(f"The server's URL {url!a} is not readable: {error}.") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError(f"The server's URL {url!a} should look like {DEFAULT_URL}.")
    return Options(
        base_url=url,
        shown_url=str(parsed.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/"),
        on_loopback=_is_loopback(parsed.host),
        # Reading the certificates takes 30 ms, and http needs none.
        verify=parsed.scheme == "https",
        authorize=None if api_key is None else _authorizing(api_key),
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def proxies_checked() -> Iterator[None]:
    """Around what makes a client of httpx, which reads the proxies of the environment. Raises ConfigurationError."""
    try:
        yield
    except (ImportError, ValueError, httpx.InvalidURL):
        # Not the value: it may hold a password.
        raise ConfigurationError(
            "A proxy of the environment (ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, NO_PROXY) cannot be used: "
            "it would be the URL of an HTTP proxy; one of SOCKS needs the package httpx[socks]."
        ) from None


def _authorizing(api_key: str) -> Callable[[httpx.Request], httpx.Request]:
    """What gives a request the key. Raises ConfigurationError, without showing it, for what cannot be a key."""
    if _KEY.fullmatch(api_key) is None:
        raise ConfigurationError("The API key is none: it would be printable ASCII without spaces.")
    value = f"Bearer {api_key}"

    def authorize(request: httpx.Request) -> httpx.Request:
        request.headers["authorization"] = value
        return request

    return authorize


LIMITS: Final = httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS)
_UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_KEY: Final = re.compile(r"[!-~]{1,512}", re.ASCII)


def arguments_of(request: Request) -> dict[str, Any]:
    """What httpx is called with."""
    return {
        "method": request.method,
        "url": request.path,
        "params": request.query or None,
        "content": request.body,
        "headers": _headers(request),
        "timeout": httpx.Timeout(request.seconds, connect=min(request.seconds, CONNECT_SECONDS)),
    }


def _headers(request: Request) -> dict[str, str]:
    headers = dict(request.headers)
    if request.body is not None:
        headers["content-type"] = "application/json"
    # Who traces has loaded it; who does not, need not.
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)
    return headers


def response_of(response: httpx.Response) -> Response:
    headers = response.headers
    return Response(response.status_code, response.content, headers.get("retry-after"), headers.get("date"))


def lost(error: httpx.RequestError, request: Request) -> Lost:
    if isinstance(error, httpx.TimeoutException):
        return late(request, sent=not isinstance(error, _UNSENT))
    return Lost((str(error) or type(error).__name__).rstrip("."), not isinstance(error, _UNSENT))


def late(request: Request, *, sent: bool = True) -> Lost:
    return Lost(f"none within {request.seconds:g} s", sent)


def in_time(job: Job, within_seconds: float | None) -> Job:
    if not job.ended:
        raise NotFinished(job, within_seconds or 0.0)
    return job


def result_of(job: Job) -> Any:
    if job.status is not Status.COMPLETED:
        raise JobFailed(job)
    return job.result


def stream_arguments_of(request: Request) -> dict[str, Any]:
    """What a stream is opened with: it may last, as long as it is not silent."""
    return arguments_of(request) | {"timeout": httpx.Timeout(CONNECT_SECONDS, read=SILENCE_SECONDS)}
