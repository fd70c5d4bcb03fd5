"""Dead letters: the failed jobs, to look at, replay and delete."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from jobserver.errors import Invalid
from jobserver.http.body import Nothing
from jobserver.http.jobs import PageQuery, job_id_of, list_page
from jobserver.http.operations import NO_CONTENT, Answer, Call, operation
from jobserver.http.query import PATH
from jobserver.http.reply import Reply, answer
from jobserver.job.model import Status
from jobserver.job.query import Selection
from jobserver.job.wire import (
    DeletedView,
    JobPage,
    JobView,
    Name,
    ReplayBody,
    ReplayedView,
    encode_job,
)

TAG: Final = "Dead letters"


class DeleteQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which failed jobs to delete."""

    type: Name | None = None
    queue: Name | None = None
    all: Annotated[bool, Meta(description="Says that no filter is meant.")] = False
    dry_run: Annotated[bool, Meta(description="Change nothing; answer what would be.")] = False


@operation(
    "GET",
    "/dlq",
    Answer(status=200, description="A page of failed jobs.", kind=JobPage),
    tag=TAG,
    access="read",
    problems=(503,),
)
async def list_dead_letters(call: Call[PageQuery, Nothing]) -> Reply:
    """List failed jobs, most recently failed first."""
    return await list_page(call.api, call.query, statuses=frozenset({Status.FAILED}), dead_first=True)


@operation(
    "POST",
    "/dlq/{job_id}/replay",
    Answer(status=200, description="It is queued again.", kind=JobView),
    tag=TAG,
    access="admin",
    problems=(404, 409, 503),
)
async def replay_dead_letter(call: Call[Nothing, Nothing]) -> Reply:
    """Queue a failed job again.

    A job that is not failed is 409.
    """
    return Reply(200, encode_job(await call.api.commands.replay(job_id_of(call.path), failed_only=True)))


@operation(
    "POST",
    "/dlq/replay",
    Answer(status=200, description="What was queued again, or would be.", kind=ReplayedView),
    tag=TAG,
    access="admin",
    problems=(503,),
)
async def replay_dead_letters(call: Call[Nothing, ReplayBody]) -> Reply:
    """Queue many failed jobs again.

    Needs a filter, ids, or `"all": true`.
    """
    body = call.body
    selection = Selection(type=body.type, queue=body.queue, ids=tuple(dict.fromkeys(body.ids or ())), all=body.all)
    _check_meant(selection, "$")
    ids = await call.api.commands.replay_many(selection, limit=body.limit, dry_run=body.dry_run)
    return answer(ReplayedView(len(ids), ids))


@operation("DELETE", "/dlq/{job_id}", NO_CONTENT, tag=TAG, access="admin", problems=(404, 409, 503))
async def delete_dead_letter(call: Call[Nothing, Nothing]) -> Reply:
    """Delete a failed job and its history.

    A job that is not failed is 409.
    """
    await call.api.commands.delete(job_id_of(call.path))
    return Reply(204)


@operation(
    "DELETE",
    "/dlq",
    Answer(status=200, description="How many were deleted, or would be.", kind=DeletedView),
    tag=TAG,
    access="admin",
    problems=(503,),
)
async def delete_dead_letters(call: Call[DeleteQuery, Nothing]) -> Reply:
    """Delete many failed jobs and their history.

    Needs a filter, or `all=true`.
    """
    query = call.query
    selection = Selection(type=query.type, queue=query.queue, all=query.all)
    _check_meant(selection, PATH)
    deleted = await call.api.commands.delete_many(selection, dry_run=query.dry_run)
    return answer(DeletedView(deleted))


OPERATIONS: Final = (
    list_dead_letters,
    replay_dead_letter,
    replay_dead_letters,
    delete_dead_letter,
    delete_dead_letters,
)


def _check_meant(selection: Selection, path: str) -> None:
    """Raises Invalid for a selection of everything that does not say so."""
    if selection.type is None and selection.queue is None and not selection.ids and not selection.all:
        raise Invalid(path, "Expected a filter, or `all` to select every failed job")
