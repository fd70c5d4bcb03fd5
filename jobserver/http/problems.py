"""Errors as RFC 9457 problems: ours, the framework's, and those that nobody expected. None shows a traceback."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from msgspec import UNSET

from jobserver.errors import (
    BacklogFull,
    Conflict,
    DatabaseUnavailable,
    Forbidden,
    Foreign,
    Invalid,
    KeyReused,
    NotFound,
    Overloaded,
    RateLimited,
    Unauthorized,
    Unavailable,
)
from jobserver.http.reply import PROBLEM, Headers, Reply, encode
from jobserver.job.wire import OVERLOADED, Problem, ProblemError

KEY_REUSED: Final = "/problems/idempotency-key-reused"
QUOTA_EXCEEDED: Final = "/problems/quota-exceeded"
DATABASE_UNAVAILABLE: Final = "/problems/database-unavailable"

# Parts of the request come back in messages: bounded, like everything that a client can make large.
MAX_MESSAGE: Final = 500

_log = structlog.get_logger(__name__)


class RequestRefused(Exception):
    """A request that HTTP itself refuses: its bytes, its headers, its size."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class NotJson(RequestRefused):
    """The body is not a JSON document."""

    def __init__(self, detail: str) -> None:
        super().__init__(HTTPStatus.BAD_REQUEST, detail)


class TooLarge(RequestRefused):
    """The body, or the payload in it, is over its limit."""

    def __init__(self, detail: str) -> None:
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def problem(
    status: int,
    detail: str,
    *,
    kind: str = "about:blank",
    errors: list[ProblemError] | None = None,
    headers: Headers = (),
) -> Reply:
    """A problem answer. The title is the status's own phrase."""
    body = Problem(
        type=kind,
        title=_title(status),
        status=status,
        detail=_bounded(detail),
        errors=UNSET if errors is None else errors,
    )
    return Reply(status, encode(body), (*PROBLEM, *headers))


def reply_to(error: Exception, *, method: str, path: str) -> Reply:
    """The answer to whatever left an operation. What nobody expected is logged, and told in general words."""
    match error:
        case RequestRefused():
            return problem(error.status, error.detail)
        case Invalid():
            return invalid(error.path, error.message)
        case KeyReused():
            return key_reused("$.idempotency_key", str(error))
        case Unauthorized():
            return unauthorized(error)
        case Forbidden():
            challenge = f'Bearer realm="jobserver", error="insufficient_scope", scope="{error.needed}"'
            return problem(403, str(error), headers=((b"www-authenticate", challenge.encode()),))
        case Foreign():
            return problem(403, str(error))
        case RateLimited():
            return rate_limited(error)
        case NotFound():
            return problem(404, str(error) or "There is no such thing.")
        case Conflict():
            return problem(409, str(error))
        case Unavailable():
            return _unavailable(error)
        case HTTPException():
            return _of_the_framework(error)
        case _:
            # Built by hand: an exception in the logger's own formatting of locals must not hide the answer.
            _log.error("request_failed", method=method, path=path, exc_info=error)
            return problem(500, "The server failed to answer; its log says why.")


def unauthorized(error: Unauthorized) -> Reply:
    """RFC 6750, section 3: who sent no key is not told of an error."""
    challenge = b'Bearer realm="jobserver"' + (b', error="invalid_token"' if error.presented else b"")
    return problem(401, str(error), headers=((b"www-authenticate", challenge),))


def rate_limited(error: RateLimited) -> Reply:
    retry_after = (b"retry-after", b"%d" % error.retry_after_seconds)
    return problem(
        429, f"{error} There is more in {error.retry_after_seconds} s.", kind=QUOTA_EXCEEDED, headers=(retry_after,)
    )


def invalid(path: str, message: str) -> Reply:
    error = ProblemError(path=_bounded(path), message=_bounded(message))
    return problem(422, f"{path}: {message}", errors=[error])


def key_reused(path: str, message: str) -> Reply:
    """`path` names the key, in a single submit or in a batch."""
    error = ProblemError(path=path, message=_bounded(message))
    return problem(422, message, kind=KEY_REUSED, errors=[error])


def on_exception(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler: what is raised outside of operations, by its router above all."""
    reply = reply_to(error, method=request.method, path=request.url.path)
    headers = {name.decode(): value.decode("latin-1") for name, value in reply.headers}
    media_type = headers.pop("content-type")
    return Response(reply.body, status_code=reply.status, headers=headers, media_type=media_type)


_FRAMEWORK: Final[Mapping[int, str]] = {
    404: "There is nothing at this path.",
    405: "This path does not know the method; Allow says which it knows.",
}


def _of_the_framework(error: HTTPException) -> Reply:
    if error.status_code >= 500:
        return problem(500, "The server failed to answer.")
    headers: Headers = ()
    for name, value in (error.headers or {}).items():
        if name.lower() == "allow":
            headers = ((b"allow", _allowed(value).encode()),)
    return problem(error.status_code, _FRAMEWORK.get(error.status_code, error.detail), headers=headers)


def _allowed(methods: str) -> str:
    return ", ".join(sorted({method.strip() for method in methods.split(",")}))


def _unavailable(error: Unavailable) -> Reply:
    # Not the message of the error: that of a driver can name hosts and users.
    kind, detail = "about:blank", "A part of the server does not answer."
    if isinstance(error, DatabaseUnavailable):
        kind, detail = DATABASE_UNAVAILABLE, "The database does not answer."
    elif isinstance(error, Overloaded):
        kind, detail = OVERLOADED, "The server has more to do than it can hold."
        if isinstance(error, BacklogFull):
            detail = "More jobs wait than this server permits."
    retry_after = b"%d" % max(1, error.retry_after_seconds)
    return problem(
        503,
        f"{detail} Not acknowledged: repeat the request, a submit with the same idempotency key.",
        kind=kind,
        headers=((b"retry-after", retry_after),),
    )


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 4]} ..."
