"""One declaration a route: from it come the handler that Litestar calls and the entry in the OpenAPI document."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive

from jobserver.access import ANYBODY, Caller, Quota, ScopeName, Standing
from jobserver.errors import RateLimited
from jobserver.http.admitted import while_admitted
from jobserver.http.api import Access as AccessControl
from jobserver.http.api import Api, Limit, Requests
from jobserver.http.body import Admitted, ClientGone, Nothing, check_content_type, decoder, limit_of, read
from jobserver.http.caller import address_of
from jobserver.http.headers import trace_context_of
from jobserver.http.problems import reply_to
from jobserver.http.query import QueryParser
from jobserver.http.reply import DATA, Headers, Reply

Q = TypeVar("Q", bound=msgspec.Struct)
B = TypeVar("B", bound=msgspec.Struct)

# Asked every few seconds, by machines.
UNTRACED: Final = frozenset({"/health", "/health/ready", "/metrics"})
# They show nothing of SQL, and are wanted above all while it is away: the keys that were known last let in.
WITHOUT_SQL: Final = frozenset({"/metrics", "/schema", "/schema/openapi.json"})

Method = Literal["GET", "POST", "DELETE"]
Access = Literal["open", "read", "submit", "admin"]


class Call(msgspec.Struct, Generic[Q, B], frozen=True):
    """A request that has been read: its query string and its body as structs, its path by name."""

    api: Api
    scope: HTTPScope
    path: dict[str, str]
    query: Q
    body: B
    caller: Caller


class Header(msgspec.Struct, frozen=True):
    """A header of a request or an answer, for the document."""

    name: str
    description: str
    schema: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "string"})


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which an operation answers, for the document. `kind` is the struct of its JSON body."""

    status: int
    description: str
    kind: type[msgspec.Struct] | None = None
    media_types: tuple[str, ...] = ("application/json",)
    headers: tuple[Header, ...] = ()


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A route: what it is called by, what it takes, what it answers, and the function that does it."""

    method: Method
    path: str
    tag: str
    access: Access
    name: str
    summary: str
    description: str
    query: type[msgspec.Struct]
    body: type[msgspec.Struct]
    headers: tuple[Header, ...]
    answers: tuple[Answer, ...]
    problems: tuple[int, ...]
    # It stores new jobs: the gate is before it.
    submits: bool
    run: Callable[[Call[Any, Any]], Awaitable[Reply]]


def operation(
    method: Method,
    path: str,
    *answers: Answer,
    tag: str,
    access: Access,
    problems: tuple[int, ...] = (),
    headers: tuple[Header, ...] = (),
    submits: bool = False,
) -> Callable[[Callable[[Call[Q, B]], Awaitable[Reply]]], Operation]:
    """Declares a route. Query and body are those of the function's `Call[Query, Body]`; its docstring describes it.

    `problems` are the statuses that the function itself may answer with a problem; those that follow from its
    query and its body are added.
    """

    def declare(run: Callable[[Call[Q, B]], Awaitable[Reply]]) -> Operation:
        query, body = typing.get_args(typing.get_type_hints(run)["call"])
        summary, _, description = (inspect.getdoc(run) or "").partition("\n\n")
        return Operation(
            method=method,
            path=path,
            tag=tag,
            access=access,
            name=run.__name__,
            summary=summary.rstrip("."),
            description=description,
            query=query,
            body=body,
            headers=headers,
            answers=answers,
            problems=tuple(sorted({*problems, *_implied(method, body, access, submits)})),
            submits=submits,
            run=run,
        )

    return declare


def _implied(method: Method, body: type[msgspec.Struct], access: Access, submits: bool) -> set[int]:
    """403 by the guard, 401 without a key, 503 while keys cannot be looked up, 429 by the limit, 422 by the query
    string, and what reading a body can lead to."""
    found = {403, 422} if method == "GET" else {400, 403, 408, 413, 415, 422}
    return found | (set() if access == "open" else {401, 503}) | ({429} if submits else set())


Perform = Callable[[HTTPScope, Receive, dict[str, str]], Awaitable[Reply]]


def performer(declared: Operation, api: Api, max_payload_bytes: int) -> Perform:
    """What reads a request of this operation, checks it, and says the answer: `(scope, receive, path parameters)`.

    Whoever routes to it, and by whatever spelling of a path: who may do this is asked here, before anything is read.
    """
    parse_query = QueryParser(declared.query).parse
    limit = limit_of(declared.body, max_payload_bytes)
    decode = decoder(declared.body, max_payload_bytes)
    run, takes_body, takes_nothing = declared.run, declared.method != "GET", declared.body is Nothing
    nothing = Nothing()
    access, needed, without_sql = api.access, declared.access, declared.path in WITHOUT_SQL
    changes = declared.method != "GET"
    admitted = None if needed == "open" else _admitted(access, needed)
    check = api.gate.check if declared.submits else None
    quota = api.gate.limit if declared.submits else None

    async def perform(scope: HTTPScope, receive: Receive, path: dict[str, str]) -> Reply:
        standing: Headers = ()
        try:
            caller = ANYBODY
            if needed != "open" and not access.open:
                caller = await access.admit(scope["headers"], needed, without_sql=without_sql, changes=changes)
            if check is not None:
                check()
                if quota is not None:
                    standing = await _taken(quota, scope, caller)
            query = parse_query(scope["query_string"])
            body: msgspec.Struct = nothing
            if takes_body:
                if not takes_nothing:
                    check_content_type(scope)
                data = await read(scope, receive, limit, admitted)
                if data or not takes_nothing:
                    if takes_nothing:
                        check_content_type(scope)
                    body = await decode(data)
            reply = await run(Call(api, scope, path, query, body, caller))
        except ClientGone:
            # Nobody is left to read this; the server needs some answer to end the exchange.
            return Reply(400)
        except _OutOfQuota as error:
            return error.reply
        except Exception as error:
            reply = reply_to(error, method=declared.method, path=declared.path)
        if standing:
            reply.headers = (*reply.headers, *standing)
        return reply

    if api.tracing is None or declared.path in UNTRACED:
        return perform
    return _traced(perform, declared, api.tracing)


def _admitted(access: AccessControl, needed: ScopeName) -> Admitted:
    return lambda work, scope: while_admitted(work, access, scope, needed)


class _OutOfQuota(Exception):
    """Carries the answer to a caller whose quota is used up."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


async def _taken(limit: Limit, scope: HTTPScope, caller: Caller) -> Headers:
    """Take one of a caller's quota: the headers that say what is left. Raises _OutOfQuota."""
    standing = await limit.take(caller, address_of(scope))
    headers = limit_headers(limit.quota, standing)
    if not standing.allowed:
        error = RateLimited("The quota of submits is used up.", standing.reset_seconds)
        reply = reply_to(error, method=scope["method"], path=scope["path"])
        reply.headers = (*reply.headers, *headers)
        raise _OutOfQuota(reply)
    return headers


def limit_headers(quota: Quota, standing: Standing) -> Headers:
    """draft-ietf-httpapi-ratelimit-headers-10: one policy, and where its caller stands."""
    return (
        (b"ratelimit-policy", b'"submits";q=%d;w=%d' % (quota.amount, quota.window_seconds)),
        (b"ratelimit", b'"submits";r=%d;t=%d' % (standing.remaining, standing.reset_seconds)),
    )


def _traced(perform: Perform, declared: Operation, tracing: Requests) -> Perform:
    """The same, with a span that is named by the template of the path."""

    async def traced(scope: HTTPScope, receive: Receive, path: dict[str, str]) -> Reply:
        begun = tracing.begin_request(trace_context_of(scope))
        status = 500
        try:
            reply = await perform(scope, receive, path)
            status = reply.status
            return reply
        finally:
            tracing.end_request(begun, scope["method"], declared.path, scope["path"], status)

    return traced


def route(declared: Operation, api: Api, max_payload_bytes: int) -> HTTPRouteHandler:
    """The operation as Litestar calls it. Litestar routes; reading, checking and answering are ours."""
    perform = performer(declared, api, max_payload_bytes)

    async def handle(request: Request[Any, Any, Any]) -> ASGIApp:
        scope: HTTPScope = request.scope
        return await perform(scope, request.receive, scope["path_params"])

    return HTTPRouteHandler(
        _template(declared.path), http_method=methods(declared), name=declared.name, status_code=200
    )(handle)


def options_route(path: str, allowed: Iterable[str]) -> HTTPRouteHandler:
    """OPTIONS of a path. Litestar's own names only the methods of the first handler that it saw there."""
    allow = (b"allow", ", ".join(sorted({*allowed, "OPTIONS"})).encode())

    async def handle(request: Request[Any, Any, Any]) -> ASGIApp:
        return Reply(204, headers=(*DATA, allow))

    return HTTPRouteHandler(_template(path), http_method=["OPTIONS"], status_code=200)(handle)


def methods(declared: Operation) -> list[Method | Literal["HEAD"]]:
    # HEAD is GET without the body, which Reply leaves out.
    return ["GET", "HEAD"] if declared.method == "GET" else [declared.method]


def _template(path: str) -> str:
    return path.replace("}", ":str}")


NO_CONTENT: Final = Answer(status=204, description="Done; there is nothing to show.", media_types=())
