"""Live events: server-sent events of all jobs, or of one. An answer that goes on until its reader leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final

import msgspec
from litestar.types import HTTPScope, Receive, Scope, Send
from msgspec import Meta

from jobserver.errors import NotFound
from jobserver.http.admitted import loss_of_key
from jobserver.http.api import Access
from jobserver.http.body import Nothing
from jobserver.http.jobs import job_id_of, unknown_job
from jobserver.http.operations import Answer, Call, Header, operation
from jobserver.http.problems import reply_to
from jobserver.http.reply import DATA, Headers, Reply
from jobserver.job.events import Place, place_and_fence_of, place_of
from jobserver.job.model import TERMINAL, Status
from jobserver.job.wire import Name
from jobserver.pipeline.feed import JobReader, Reader, Wanted

TAG: Final = "Events"

# The last is for proxies that would hold events back: nginx.
_STREAM: Final[Headers] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    *DATA,
    (b"x-accel-buffering", b"no"),
)
# A place that no feed has: whoever says that it comes back gets a reset.
_NOWHERE: Final = Place("", 0, 0)

LAST_EVENT_ID: Final = Header("Last-Event-ID", "The `id` of the last event that was seen: what came after it follows.")
EVENTS: Final = ("text/event-stream",)


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to send."""

    type: Name | None = None
    queue: Name | None = None
    status: Annotated[tuple[Status, ...], Meta(description="Repeat it for more than one.")] = ()


@operation(
    "GET",
    "/events",
    Answer(status=200, description="Server-sent events, until the connection is closed.", media_types=EVENTS),
    tag=TAG,
    access="read",
    problems=(404, 503),
    headers=(LAST_EVENT_ID,),
)
async def follow_events(call: Call[EventsQuery, Nothing]) -> Reply:
    """Follow what happens to jobs.

    `event: job` is a transition, `event: progress` what a handler says of itself, `event: deleted` the end of a failed
    job by command. `event: reset` tells of a gap: what was learned before may be out of date.
    """
    feed = call.api.feed
    if feed is None or not feed.is_on:
        raise NotFound("Live events are off on this server.")
    query = call.query
    wanted = Wanted(query.type, query.queue, frozenset(status.value for status in query.status))
    seen = last_event_id(call.scope)
    reader = Reader()
    after = None if seen is None else place_of(seen) or _NOWHERE
    return EventReply(reader, feed.follow(reader, wanted, after), "/events", call.api.access)


@operation(
    "GET",
    "/jobs/{job_id}/events",
    Answer(status=200, description="Server-sent events, up to the job's end.", media_types=EVENTS),
    Answer(status=204, description="The job has ended, and its reader has seen that.", media_types=()),
    tag=TAG,
    access="read",
    problems=(404, 503),
    headers=(LAST_EVENT_ID,),
)
async def follow_job(call: Call[Nothing, Nothing]) -> Reply:
    """Follow one job.

    Starts with its present state, and ends after its terminal one.
    """
    job_id = job_id_of(call.path)
    feed = call.api.feed
    job = await call.api.views.job(job_id)
    if job is None or feed is None:
        raise unknown_job(job_id)
    seen = last_event_id(call.scope)
    after = None if seen is None else place_and_fence_of(seen)
    if after is not None and job.status in TERMINAL and after[1] == job.fence:
        # It is how a browser's EventSource is told not to come back.
        return Reply(204, headers=DATA)
    reader = JobReader(job_id) if after is None else JobReader(job_id, after[1])
    return EventReply(reader, feed.follow_job(reader, after), "/jobs/{job_id}/events", call.api.access)


OPERATIONS: Final = (follow_events, follow_job)


def last_event_id(scope: HTTPScope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"last-event-id":
            return value.decode("latin-1").strip()
    return None


class EventReply(Reply):
    """A stream of server-sent events."""

    __slots__ = ("_access", "_chunks", "_path", "_reader")

    def __init__(self, reader: Reader, chunks: AsyncGenerator[bytes, None], path: str, access: Access) -> None:
        super().__init__(200, headers=_STREAM)
        self._access = access
        self._reader = reader
        self._chunks = chunks
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._chunks) as chunks:
            if scope.get("method") == "HEAD":
                await super().__call__(scope, receive, send)
                return
            try:
                first = await anext(chunks)
            except Exception as error:
                await reply_to(error, method="GET", path=self._path)(scope, receive, send)
                return
            self._reader.on_cut = lambda: _abort(receive)
            await send({"type": "http.response.start", "status": 200, "headers": list(self.headers)})
            gone = asyncio.create_task(_end_with(receive, self._reader), name="event reader")
            keyless = asyncio.create_task(
                _end_without_key(self._access, scope, self._reader), name="event reader's key"
            )
            try:
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            finally:
                gone.cancel()
                keyless.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _end_without_key(access: Access, scope: Scope, reader: Reader) -> None:
    """End the stream when its key is revoked or expires."""
    await loss_of_key(access, scope, "read")
    reader.end()


async def _end_with(receive: Receive, reader: Reader) -> None:
    """End the stream when its reader hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.end()


def _abort(receive: Receive) -> None:
    """Drop the connection with what it has not taken: it may never take it, and closing would wait for that."""
    # ASGI has no word for this; the receiver is a method of uvicorn's cycle, which knows its transport.
    transport: Any = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()
