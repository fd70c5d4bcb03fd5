"""Queues, workers, types and the numbers of the whole."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from jobserver.errors import Invalid
from jobserver.http.audit import noted
from jobserver.http.body import Nothing
from jobserver.http.operations import Answer, Call, operation
from jobserver.http.reply import Reply, answer
from jobserver.job.activity import MAX_MINUTES
from jobserver.job.wire import (
    NAME_PATTERN,
    ActivityView,
    QueueList,
    QueueView,
    StatsView,
    TypeList,
    WorkerList,
    activity_view,
    queue_view,
    stats_view,
    type_view,
    worker_list,
)

TAG: Final = "Queues and workers"

_NAME: Final = re.compile(NAME_PATTERN)


class ActivityQuery(msgspec.Struct, frozen=True):
    """How far to look back."""

    minutes: Annotated[int, Meta(ge=1, le=MAX_MINUTES)] = 15


@operation(
    "GET",
    "/queues",
    Answer(status=200, description="The queues, by name.", kind=QueueList),
    tag=TAG,
    access="read",
    problems=(503,),
)
async def list_queues(call: Call[Nothing, Nothing]) -> Reply:
    """List the queues."""
    queues = await call.api.views.queues()
    recent = await call.api.activity.recent()
    return answer(QueueList([queue_view(queue, recent) for queue in queues]))


@operation(
    "POST",
    "/queues/{name}/pause",
    Answer(status=200, description="The queue, paused.", kind=QueueView),
    tag=TAG,
    access="admin",
    problems=(503,),
)
async def pause_queue(call: Call[Nothing, Nothing]) -> Reply:
    """Pause a queue.

    It goes on to accept jobs, and starts none. Pausing what is paused, or a queue that nobody has used yet, is fine.
    """
    name = _queue_name(call.path)
    async with noted(call, "pause", queue=name) as action:
        queue = await call.api.commands.pause(name)
        action.changed = 1
    return answer(queue_view(queue, await call.api.activity.recent()))


@operation(
    "POST",
    "/queues/{name}/resume",
    Answer(status=200, description="The queue, resumed.", kind=QueueView),
    tag=TAG,
    access="admin",
    problems=(503,),
)
async def resume_queue(call: Call[Nothing, Nothing]) -> Reply:
    """Resume a queue."""
    name = _queue_name(call.path)
    async with noted(call, "resume", queue=name) as action:
        queue = await call.api.commands.resume(name)
        action.changed = 1
    return answer(queue_view(queue, await call.api.activity.recent()))


@operation(
    "GET",
    "/workers",
    Answer(status=200, description="The processes.", kind=WorkerList),
    tag=TAG,
    access="read",
    problems=(503,),
)
async def list_workers(call: Call[Nothing, Nothing]) -> Reply:
    """List the server's processes."""
    workers = await call.api.views.workers()
    return answer(worker_list(workers, await call.api.activity.recent()))


@operation(
    "GET",
    "/types",
    Answer(status=200, description="The types, by name.", kind=TypeList),
    tag=TAG,
    access="read",
    problems=(503,),
)
async def list_types(call: Call[Nothing, Nothing]) -> Reply:
    """List the job types."""
    return answer(TypeList([type_view(info) for info in await call.api.views.types()]))


@operation(
    "GET",
    "/admin/stats",
    Answer(status=200, description="The numbers.", kind=StatsView),
    tag=TAG,
    access="read",
    problems=(503,),
)
async def show_stats(call: Call[Nothing, Nothing]) -> Reply:
    """Show the server in numbers."""
    stats = await call.api.views.stats()
    return answer(stats_view(stats, await call.api.activity.recent()))


@operation(
    "GET",
    "/admin/activity",
    Answer(status=200, description="The last minutes, oldest first.", kind=ActivityView),
    tag=TAG,
    access="read",
)
async def show_activity(call: Call[ActivityQuery, Nothing]) -> Reply:
    """Show what happened in the last minutes.

    In buckets of five seconds, of all processes together. It is kept in Redis, an hour of it: while that is away, what
    this process knows is shown and `partial` is true.
    """
    buckets, whole = await call.api.activity.buckets(call.query.minutes)
    return answer(activity_view(buckets, await call.api.activity.recent(), partial=not whole))


OPERATIONS: Final = (list_queues, pause_queue, resume_queue, list_workers, list_types, show_stats, show_activity)


def _queue_name(path: dict[str, str]) -> str:
    name = path["name"]
    if _NAME.fullmatch(name) is None:
        raise Invalid("$.path.name", f"Expected a name matching {NAME_PATTERN[:-2]}$")
    return name
