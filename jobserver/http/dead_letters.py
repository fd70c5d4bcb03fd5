"""Dead letters: the failed jobs, to look at, replay and delete."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from jobserver.errors import Invalid
from jobserver.http.audit import noted
from jobserver.http.body import Nothing
from jobserver.http.jobs import PageQuery, job_id_of, list_page
from jobserver.http.operations import NO_CONTENT, Answer, Call, operation
from jobserver.http.query import PATH
from jobserver.http.reply import Reply, answer
from jobserver.job.model import Status
from jobserver.job.query import Selection
from jobserver.job.wire import (
    DeletedView,
    FailedGroupList,
    Fingerprint,
    JobPage,
    JobView,
    Name,
    ReplayBody,
    ReplayedView,
    encode_job,
    group_list,
)

TAG: Final = "Dead letters"


class GroupsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which failed jobs to group, and how many groups to show."""

    type: Name | None = None
    queue: Name | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class DeleteQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which failed jobs to delete."""

    type: Name | None = None
    queue: Name | None = None
    fingerprint: Fingerprint | None = None
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
    return await list_page(call, call.query, statuses=frozenset({Status.FAILED}), dead_first=True)


@operation(
    "GET",
    "/dlq/groups",
    Answer(status=200, description="The groups.", kind=FailedGroupList),
    tag=TAG,
    access="read",
    problems=(503,),
)
async def group_dead_letters(call: Call[GroupsQuery, Nothing]) -> Reply:
    """Group failed jobs by type and by what their errors have in common, the most recently failed first.

    The `fingerprint` of a group is that of the error's type and of its message without its numbers, ids and quoted
    text. It chooses the group in `/jobs`, `/dlq`, a replay and a delete.
    """
    query = call.query
    return answer(group_list(await call.api.views.failed_groups(type=query.type, queue=query.queue, limit=query.limit)))


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
    job_id = job_id_of(call.path)
    async with noted(call, "replay", job_id=str(job_id)) as action:
        job = await call.api.commands.replay(job_id, failed_only=True)
        action.changed = 1
    return Reply(200, encode_job(job))


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
    selection = Selection(
        type=body.type,
        queue=body.queue,
        fingerprint=body.fingerprint,
        ids=tuple(dict.fromkeys(body.ids or ())),
        all=body.all,
    )
    _check_meant(selection, "$")
    if body.dry_run:
        ids = await call.api.commands.replay_many(selection, limit=body.limit, dry_run=True)
        return answer(ReplayedView(len(ids), ids))
    async with noted(
        call,
        "replay",
        type=selection.type,
        queue=selection.queue,
        fingerprint=selection.fingerprint,
        ids=[str(job_id) for job_id in selection.ids],
        all=selection.all,
    ) as action:
        ids = await call.api.commands.replay_many(selection, limit=body.limit, dry_run=False)
        action.changed = len(ids)
    return answer(ReplayedView(len(ids), ids))


@operation("DELETE", "/dlq/{job_id}", NO_CONTENT, tag=TAG, access="admin", problems=(404, 409, 503))
async def delete_dead_letter(call: Call[Nothing, Nothing]) -> Reply:
    """Delete a failed job and its history.

    A job that is not failed is 409.
    """
    job_id = job_id_of(call.path)
    async with noted(call, "delete", job_id=str(job_id)) as action:
        await call.api.commands.delete(job_id)
        action.changed = 1
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
    selection = Selection(type=query.type, queue=query.queue, fingerprint=query.fingerprint, all=query.all)
    _check_meant(selection, PATH)
    if query.dry_run:
        return answer(DeletedView(await call.api.commands.delete_many(selection, dry_run=True)))
    async with noted(
        call,
        "delete",
        type=selection.type,
        queue=selection.queue,
        fingerprint=selection.fingerprint,
        all=selection.all,
    ) as action:
        action.changed = deleted = await call.api.commands.delete_many(selection, dry_run=False)
    return answer(DeletedView(deleted))


OPERATIONS: Final = (
    list_dead_letters,
    group_dead_letters,
    replay_dead_letter,
    replay_dead_letters,
    delete_dead_letter,
    delete_dead_letters,
)


def _check_meant(selection: Selection, path: str) -> None:
    """Raises Invalid for a selection of everything that does not say so."""
    if selection == Selection():
        raise Invalid(path, "Expected a filter, or `all` to select every failed job")
