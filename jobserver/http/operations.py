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

from jobserver.http.api import Api, Requests
from jobserver.http.body import ClientGone, Nothing, check_content_type, decoder, limit_of, read
from jobserver.http.headers import trace_context_of
from jobserver.http.problems import reply_to
from jobserver.http.query import QueryParser
from jobserver.http.reply import COMMON, Reply

Q = TypeVar("Q", bound=msgspec.Struct)
B = TypeVar("B", bound=msgspec.Struct)

# Asked every few seconds, by machines.
UNTRACED: Final = frozenset({"/health", "/health/ready", "/metrics"})

Method = Literal["GET", "POST", "DELETE"]
Access = Literal["open", "read", "submit", "admin"]


class Call(msgspec.Struct, Generic[Q, B], frozen=True):
    """A request that has been read: its query string and its body as structs, its path by name."""

    api: Api
    scope: HTTPScope
    path: dict[str, str]
    query: Q
    body: B


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
    run: Callable[[Call[Any, Any]], Awaitable[Reply]]


def operation(
    method: Method,
    path: str,
    *answers: Answer,
    tag: str,
    access: Access,
    problems: tuple[int, ...] = (),
    headers: tuple[Header, ...] = (),
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
            problems=tuple(sorted({*problems, *_implied(method, body)})),
            run=run,
        )

    return declare


def _implied(method: Method, body: type[msgspec.Struct]) -> set[int]:
    """403 by the guard, 422 by the query string, and what reading a body can lead to."""
    return {403, 422} if method == "GET" else {400, 403, 408, 413, 415, 422}


Perform = Callable[[HTTPScope, Receive, dict[str, str]], Awaitable[Reply]]


def performer(declared: Operation, api: Api, max_payload_bytes: int) -> Perform:
    """What reads a request of this operation, checks it, and says the answer: `(scope, receive, path parameters)`."""
    parse_query = QueryParser(declared.query).parse
    limit = limit_of(declared.body, max_payload_bytes)
    decode = decoder(declared.body, max_payload_bytes)
    run, takes_body, takes_nothing = declared.run, declared.method != "GET", declared.body is Nothing
    nothing = Nothing()

    async def perform(scope: HTTPScope, receive: Receive, path: dict[str, str]) -> Reply:
        try:
            query = parse_query(scope["query_string"])
            body: msgspec.Struct = nothing
            if takes_body:
                if not takes_nothing:
                    check_content_type(scope)
                data = await read(scope, receive, limit)
                if data or not takes_nothing:
                    if takes_nothing:
                        check_content_type(scope)
                    body = await decode(data)
            return await run(Call(api, scope, path, query, body))
        except ClientGone:
            # Nobody is left to read this; the server needs some answer to end the exchange.
            return Reply(400)
        except Exception as error:
            return reply_to(error, method=declared.method, path=declared.path)

    if api.tracing is None or declared.path in UNTRACED:
        return perform
    return _traced(perform, declared, api.tracing)


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
        return Reply(204, headers=(*COMMON, allow))

    return HTTPRouteHandler(_template(path), http_method=["OPTIONS"], status_code=200)(handle)


def methods(declared: Operation) -> list[Method | Literal["HEAD"]]:
    # HEAD is GET without the body, which Reply leaves out.
    return ["GET", "HEAD"] if declared.method == "GET" else [declared.method]


def _template(path: str) -> str:
    return path.replace("}", ":str}")


NO_CONTENT: Final = Answer(status=204, description="Done; there is nothing to show.", media_types=())
