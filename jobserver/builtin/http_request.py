"""http.request: calls an endpoint. Failures that pass are retried, and Retry-After is honoured."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Final, Literal

import httpx
import msgspec
from msgspec import UNSET, Meta

from jobserver.egress import Answer, Exchange, ResponseTooLarge, TargetRefused, exchange
from jobserver.errors import NotRetryable, Retry
from jobserver.job.attempt import Attempt
from jobserver.job.handlers import Handlers
from jobserver.settings import DAY_SECONDS, MEBIBYTE

MAX_RESPONSE_BYTES: Final = MEBIBYTE
_MAX_HEADERS: Final = 64
_MAX_HEADER_LENGTH: Final = 1_024
_SHOWN: Final = 500
_PASSING: Final = frozenset({408, 425, 429})
# Set by the connection. Another Host would reach a virtual host that the guard has not looked at.
_OWN_HEADERS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te"})

Url = Annotated[str, Meta(pattern=r"^https?://[^\s]+\Z", max_length=8_192)]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
HeaderName = Annotated[str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")]
HeaderValue = Annotated[str, Meta(pattern=r"^[\t\x20-\x7e\x80-\xff]*\Z", max_length=8_192)]
Headers = Annotated[dict[HeaderName, HeaderValue], Meta(max_length=_MAX_HEADERS)]
Seconds = Annotated[float, Meta(gt=0, le=3_600)]
Statuses = Annotated[list[Annotated[int, Meta(ge=100, le=599)]], Meta(min_length=1, max_length=100)]


class HttpResult(msgspec.Struct, frozen=True):
    """What the job comes to. `body` is JSON when the response says so, else text."""

    status: int
    headers: dict[str, str]
    body: Any


class _Call(msgspec.Struct, frozen=True):
    """One call, as a job asks for it."""

    method: Method
    url: str
    headers: dict[str, str]
    content: bytes | None
    timeout_seconds: float
    expect: list[int] | None


def add_http_request(handlers: Handlers, *, allow_private_targets: bool) -> None:
    """Declare the type. `timeout` is the limit of the call; that of the attempt holds beside it."""

    @handlers.handler("http.request")
    async def http_request(
        attempt: Attempt,
        url: Url,
        method: Method = "GET",
        headers: Headers | None = None,
        json: Any = UNSET,
        timeout: Seconds = 30.0,
        expect: Statuses | None = None,
    ) -> HttpResult:
        sent = with_trace(dict(headers or {}), attempt.trace_context)
        content: bytes | None = None
        if json is not UNSET:
            content = msgspec.json.encode(json)
            if not any(name.lower() == "content-type" for name in sent):
                sent["Content-Type"] = "application/json"
        call = _Call(method, url, sent, content, timeout, expect)
        return _judged(call, await _answered(call, allow_private_targets))


def with_trace(headers: dict[str, str], context: str | None) -> dict[str, str]:
    """The endpoint continues the job's trace, unless the job itself says which one."""
    if context is None or any(name.lower() == "traceparent" for name in headers):
        return headers
    parent, _, state = context.partition("\n")
    return {**headers, "traceparent": parent, **({"tracestate": state} if state else {})}


async def _answered(call: _Call, allow_private_targets: bool) -> Answer:
    own = sorted(name for name in call.headers if name.lower() in _OWN_HEADERS)
    if own:
        raise NotRetryable(f"the header {own[0]} cannot be set")
    request = Exchange(
        method=call.method,
        url=call.url,
        headers=call.headers,
        content=call.content,
        timeout_seconds=call.timeout_seconds,
        max_bytes=MAX_RESPONSE_BYTES,
        allow_private=allow_private_targets,
    )
    try:
        return await exchange(request)
    except (TargetRefused, ResponseTooLarge) as error:
        raise NotRetryable(str(error)) from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError) as error:
        raise NotRetryable(f"the request cannot be sent: {error}") from None
    except TimeoutError:
        raise Retry(f"no answer within {call.timeout_seconds:g} s") from None
    except httpx.TransportError as error:
        raise Retry(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from None


def _judged(call: _Call, answer: Answer) -> HttpResult:
    wanted = 200 <= answer.status < 300 if call.expect is None else answer.status in call.expect
    if wanted:
        return HttpResult(answer.status, _bounded_headers(answer), _body(answer))
    message = f"answered {answer.status}"
    if 300 <= answer.status < 400:
        raise NotRetryable(f"{message}; redirects are not followed")
    text = answer.body[:_SHOWN].decode("utf-8", "replace").strip()
    if text:
        message = f"{message}: {text}"
    if answer.status in _PASSING or answer.status >= 500:
        # Beside the backoff, not instead of it: a server that asks for no time at all would use the retries up at once.
        raise Retry(message, at_least=retry_after(answer, datetime.now(UTC)))
    raise NotRetryable(message)


def _body(answer: Answer) -> Any:
    content_type = dict(answer.headers).get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json" or content_type.endswith("+json"):
        try:
            return msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # it says JSON and is not: then it is text
    try:
        return answer.body.decode(answer.charset, "replace")
    except (LookupError, UnicodeError):
        return answer.body.decode("utf-8", "replace")


def _bounded_headers(answer: Answer) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in answer.headers:
        joined = f"{headers[name]}, {value}" if name in headers else value
        if name in headers or len(headers) < _MAX_HEADERS:
            headers[name] = joined[:_MAX_HEADER_LENGTH]
    return headers


def retry_after(answer: Answer, now: datetime) -> float:
    """Seconds that the server asks for, as a number or as a date; at most a day. 0 when it does not say."""
    value = dict(answer.headers).get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), DAY_SECONDS)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return min(max(0.0, (until - now).total_seconds()), DAY_SECONDS)
