"""Jobs: submit, look, wait, cancel, retry."""

from __future__ import annotations

import re
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from jobserver.errors import Invalid, KeyReused, NotFound
from jobserver.http.api import Api
from jobserver.http.body import Nothing
from jobserver.http.headers import KEY_PATH, submit_headers
from jobserver.http.operations import Answer, Call, Header, operation
from jobserver.http.problems import key_reused
from jobserver.http.query import PATH
from jobserver.http.reply import JSON, Reply, answer
from jobserver.job.model import TERMINAL, Status
from jobserver.job.query import JobFilter
from jobserver.job.wire import (
    MAX_WAIT_SECONDS,
    AttemptList,
    BatchBody,
    BatchItem,
    BatchView,
    JobPage,
    JobView,
    Name,
    SubmitBody,
    Tag,
    Timestamp,
    attempt_list,
    encode_job,
    in_utc,
    job_page,
)

TAG: Final = "Jobs"
# One scope for everybody while there are no API keys.
SCOPE: Final = ""

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_REPLAYED: Final = (*JSON, (b"idempotency-replayed", b"true"))

LOCATION: Final = Header("Location", "Where the job is.")
REPLAYED: Final = Header("Idempotency-Replayed", "Says `true`: the key was known.")
IDEMPOTENCY_KEY: Final = Header(
    "Idempotency-Key",
    "Names the submit, so that repeating it is safe; bare or quoted. The same as `idempotency_key` in the body.",
    {"type": "string", "pattern": '^("[ !#-\\[\\]-~]{1,255}"|[!#-~]([ -~]{0,253}[!-~])?)$'},
)
TRACEPARENT: Final = Header("traceparent", "W3C Trace Context: the job continues this trace.")
TRACESTATE: Final = Header("tracestate", "W3C Trace Context.")


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Filters and paging of a list of jobs."""

    type: Name | None = None
    queue: Name | None = None
    tag: Tag | None = None
    created_after: Timestamp | None = None
    created_before: Timestamp | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    offset: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    cursor: Annotated[
        Annotated[str, Meta(min_length=1, max_length=512)] | None,
        Meta(description="The `next_cursor` of the page before. Not together with `offset`."),
    ] = None


class JobsQuery(PageQuery, frozen=True, kw_only=True):
    """The same, and the states."""

    status: Annotated[tuple[Status, ...], Meta(description="Repeat it for more than one.")] = ()


class JobQuery(msgspec.Struct, frozen=True, kw_only=True):
    """How one job is looked at."""

    wait: Annotated[
        float,
        Meta(
            ge=0,
            le=MAX_WAIT_SECONDS,
            description="Answer as soon as the job is terminal, at the latest after this many seconds.",
        ),
    ] = 0.0


@operation(
    "POST",
    "/jobs",
    Answer(status=201, description="The job is stored.", kind=JobView, headers=(LOCATION,)),
    Answer(status=200, description="The key was known: the job of then.", kind=JobView, headers=(LOCATION, REPLAYED)),
    tag=TAG,
    access="submit",
    problems=(503,),
    headers=(IDEMPOTENCY_KEY, TRACEPARENT, TRACESTATE),
)
async def submit_job(call: Call[Nothing, SubmitBody]) -> Reply:
    """Submit a job.

    An answer of 2xx means that the job is committed. A 503 means that it is not acknowledged: repeat the request
    with the same idempotency key. A known key with another body is 422.
    """
    body = call.body
    headers = submit_headers(call.scope)
    if headers.idempotency_key is not None and headers.idempotency_key != body.idempotency_key:
        if body.idempotency_key is not None:
            raise Invalid("$.idempotency_key", "Expected the same key as in the Idempotency-Key header")
        body = msgspec.structs.replace(body, idempotency_key=headers.idempotency_key)
    accepted = await call.api.submitter.submit(body, scope=SCOPE, trace_context=headers.trace_context)
    location = (b"location", b"/jobs/%s" % str(accepted.job.id).encode())
    if accepted.created:
        return Reply(201, encode_job(accepted.job), (*JSON, location))
    return Reply(200, encode_job(accepted.job), (*_REPLAYED, location))


@operation(
    "POST",
    "/jobs/batch",
    Answer(status=201, description="The jobs are stored, those of known keys were.", kind=BatchView),
    tag=TAG,
    access="submit",
    problems=(503,),
    headers=(TRACEPARENT, TRACESTATE),
)
async def submit_batch(call: Call[Nothing, BatchBody]) -> Reply:
    """Submit up to 1,000 jobs.

    All are stored in one transaction, or none is.
    """
    headers = submit_headers(call.scope)
    if headers.idempotency_key is not None:
        raise Invalid(KEY_PATH, "Expected an `idempotency_key` in each job of a batch instead of the header")
    try:
        accepted = await call.api.submitter.submit_many(
            call.body.jobs, scope=SCOPE, trace_context=headers.trace_context
        )
    except KeyReused as error:
        return key_reused(f"$.jobs[{error.index}].idempotency_key", str(error))
    items = [BatchItem(one.job.id, one.job.status, one.created) for one in accepted]
    return answer(BatchView(items), 201)


@operation(
    "GET",
    "/jobs",
    Answer(status=200, description="A page of jobs.", kind=JobPage),
    tag=TAG,
    access="read",
    problems=(503,),
)
async def list_jobs(call: Call[JobsQuery, Nothing]) -> Reply:
    """List jobs, newest first."""
    return await list_page(call.api, call.query, statuses=frozenset(call.query.status))


@operation(
    "GET",
    "/jobs/{job_id}",
    Answer(status=200, description="The job.", kind=JobView),
    tag=TAG,
    access="read",
    problems=(404, 503),
)
async def show_job(call: Call[JobQuery, Nothing]) -> Reply:
    """Show a job, or wait for its end."""
    job_id = job_id_of(call.path)
    job = await call.api.views.job(job_id)
    if job is None:
        raise unknown_job(job_id)
    if call.query.wait > 0 and job.status not in TERMINAL:
        job = await call.api.commands.wait(job_id, call.query.wait)
    return Reply(200, encode_job(job))


@operation(
    "GET",
    "/jobs/{job_id}/attempts",
    Answer(status=200, description="Its attempts, oldest first.", kind=AttemptList),
    tag=TAG,
    access="read",
    problems=(404, 503),
)
async def list_attempts(call: Call[Nothing, Nothing]) -> Reply:
    """List the attempts of a job.

    The last 100 are kept.
    """
    job_id = job_id_of(call.path)
    records = await call.api.views.attempts(job_id)
    if records is None:
        raise unknown_job(job_id)
    return answer(attempt_list(records))


@operation(
    "POST",
    "/jobs/{job_id}/cancel",
    Answer(status=200, description="It was waiting, and is canceled.", kind=JobView),
    Answer(status=202, description="It was running; its handler is asked to end.", kind=JobView),
    tag=TAG,
    access="submit",
    problems=(404, 409, 503),
)
async def cancel_job(call: Call[Nothing, Nothing]) -> Reply:
    """Cancel a job.

    A job that has ended is 409.
    """
    done = await call.api.commands.cancel(job_id_of(call.path))
    return Reply(202 if done.was_running else 200, encode_job(done.job))


@operation(
    "POST",
    "/jobs/{job_id}/retry",
    Answer(status=200, description="It is queued again.", kind=JobView),
    tag=TAG,
    access="admin",
    problems=(404, 409, 503),
)
async def retry_job(call: Call[Nothing, Nothing]) -> Reply:
    """Queue a failed or canceled job again.

    A job in any other state is 409. Its counters start again, its history stays.
    """
    return Reply(200, encode_job(await call.api.commands.replay(job_id_of(call.path), failed_only=False)))


OPERATIONS: Final = (submit_job, submit_batch, list_jobs, show_job, list_attempts, cancel_job, retry_job)


def job_id_of(path: dict[str, str]) -> UUID:
    """The id in the path. Raises NotFound for what is none: no job can have it."""
    text = path["job_id"]
    if _UUID.fullmatch(text) is None:
        raise NotFound("There is no such job: its id would be a UUID.")
    return UUID(text)


def unknown_job(job_id: UUID) -> NotFound:
    return NotFound(f"There is no job {job_id}.")


async def list_page(api: Api, query: PageQuery, *, statuses: frozenset[Status], dead_first: bool = False) -> Reply:
    if query.cursor is not None and query.offset:
        raise Invalid(f"{PATH}.offset", "Expected either `offset` or `cursor`, got both")
    wanted = JobFilter(
        statuses=statuses,
        type=query.type,
        queue=query.queue,
        tag=query.tag,
        created_after=in_utc(query.created_after, f"{PATH}.created_after"),
        created_before=in_utc(query.created_before, f"{PATH}.created_before"),
        dead_first=dead_first,
    )
    page = await api.views.jobs(wanted, limit=query.limit, offset=query.offset, cursor=query.cursor)
    return answer(job_page(page, limit=query.limit, offset=query.offset))
