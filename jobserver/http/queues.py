"""Queues, workers, types and the numbers of the whole."""

from __future__ import annotations

import re
from typing import Final

from jobserver.errors import Invalid
from jobserver.http.body import Nothing
from jobserver.http.operations import Answer, Call, operation
from jobserver.http.reply import Reply, answer
from jobserver.job.wire import (
    NAME_PATTERN,
    QueueList,
    QueueView,
    StatsView,
    TypeList,
    WorkerList,
    queue_view,
    stats_view,
    type_view,
    worker_list,
)

TAG: Final = "Queues and workers"

_NAME: Final = re.compile(NAME_PATTERN)


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
    return answer(QueueList([queue_view(queue) for queue in await call.api.views.queues()]))


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
    return answer(queue_view(await call.api.commands.pause(_queue_name(call.path))))


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
    return answer(queue_view(await call.api.commands.resume(_queue_name(call.path))))


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
    return answer(worker_list(await call.api.views.workers()))


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
    return answer(stats_view(await call.api.views.stats()))


OPERATIONS: Final = (list_queues, pause_queue, resume_queue, list_workers, list_types, show_stats)


def _queue_name(path: dict[str, str]) -> str:
    name = path["name"]
    if _NAME.fullmatch(name) is None:
        raise Invalid("$.path.name", f"Expected a name matching {NAME_PATTERN[:-2]}$")
    return name
