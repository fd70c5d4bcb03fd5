"""Jobs: submit, look, wait, cancel, retry."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from jobserver.errors import Invalid, KeyReused, NotFound
from jobserver.http.admitted import while_admitted
from jobserver.http.audit import noted
from jobserver.http.body import Nothing
from jobserver.http.headers import KEY_PATH, submit_headers
from jobserver.http.operations import Answer, Call, Header, operation
from jobserver.http.problems import key_reused
from jobserver.http.query import PATH
from jobserver.http.reply import JSON, Reply, answer
from jobserver.http.shown import shown, shown_attempts, shown_page
from jobserver.job.model import TERMINAL, Status
from jobserver.job.query import PERMITTED, JobFilter, Order
from jobserver.job.wire import (
    MAX_WAIT_SECONDS,
    ActionBody,
    ActionView,
    AttemptList,
    BatchBody,
    BatchItem,
    BatchView,
    FilterBody,
    Fingerprint,
    JobPage,
    JobView,
    Name,
    Part,
    SubmitBody,
    Tag,
    Timestamp,
    WhyView,
    action_view,
    attempt_list,
    encode_job,
    in_utc,
    job_page,
    why_view,
)

TAG: Final = "Jobs"

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
    q: Annotated[
        Part | None,
        Meta(description="A part of the payload's text, literally. Looked for during 2 s, then the page is `partial`."),
    ] = None
    error: Annotated[Part | None, Meta(description="The same in the type or the message of the last error.")] = None
    fingerprint: Annotated[Fingerprint | None, Meta(description="Failed jobs that failed alike.")] = None
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
    submits=True,
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
    accepted = await call.api.submitter.submit(body, scope=call.caller.scope, trace_context=headers.trace_context)
    location = (b"location", b"/jobs/%s" % str(accepted.job.id).encode())
    if accepted.created:
        return Reply(201, encode_job(shown(accepted.job, call.caller)), (*JSON, location))
    return Reply(200, encode_job(shown(accepted.job, call.caller)), (*_REPLAYED, location))


@operation(
    "POST",
    "/jobs/batch",
    Answer(status=201, description="The jobs are stored, those of known keys were.", kind=BatchView),
    tag=TAG,
    access="submit",
    submits=True,
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
            call.body.jobs, scope=call.caller.scope, trace_context=headers.trace_context
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
    return await list_page(call, call.query, statuses=frozenset(call.query.status))


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
        job = await while_admitted(call.api.commands.wait(job_id, call.query.wait), call.api.access, call.scope, "read")
    return Reply(200, encode_job(shown(job, call.caller)))


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
    return answer(attempt_list(shown_attempts(records, call.caller)))


@operation(
    "GET",
    "/jobs/{job_id}/why",
    Answer(status=200, description="The reasons, the most important first.", kind=WhyView),
    tag=TAG,
    access="read",
    problems=(404, 503),
)
async def explain_job(call: Call[Nothing, Nothing]) -> Reply:
    """Explain a job.

    Why it is not running yet, what it is doing, or why it ended as it did: codes for programs, sentences for people,
    the figures behind them, and what to do. At least one reason, whatever the job is.
    """
    job_id = job_id_of(call.path)
    found = await call.api.why.of(job_id)
    if found is None:
        raise unknown_job(job_id)
    return answer(why_view(*found))


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
    return Reply(202 if done.was_running else 200, encode_job(shown(done.job, call.caller)))


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
    job_id = job_id_of(call.path)
    async with noted(call, "retry", job_id=str(job_id)) as action:
        job = await call.api.commands.replay(job_id, failed_only=False)
        action.changed = 1
    return Reply(200, encode_job(job))


@operation(
    "POST",
    "/jobs/actions",
    Answer(status=200, description="What was changed, or would be.", kind=ActionView),
    tag=TAG,
    access="admin",
    problems=(503,),
)
async def act_on_jobs(call: Call[Nothing, ActionBody]) -> Reply:
    """Cancel, queue again or delete many jobs.

    Needs either a filter that says something, or ids. What has changed since it was chosen, so that the action does
    not permit it or the filter's `status` does not mean it any more, is left alone.
    """
    order = _order_of(call.body)
    if order.dry_run:
        return answer(action_view(await call.api.commands.carry_out(order)))
    async with noted(call, order.verb, **_said_of(call.body)) as action:
        done = await call.api.commands.carry_out(order)
        action.changed = done.changed
    return answer(action_view(done))


def _order_of(body: ActionBody) -> Order:
    """Raises Invalid for an action that does not say for which jobs it is, or says it twice."""
    if (body.filter is None) == (body.ids is None):
        raise Invalid("$", "Expected either `filter` or `ids`")
    if body.filter is None:
        if body.cursor is not None:
            raise Invalid("$.cursor", "Expected it together with a `filter`")
        return Order(verb=body.action, ids=tuple(dict.fromkeys(body.ids or ())), limit=body.limit, dry_run=body.dry_run)
    if body.filter == FilterBody():
        raise Invalid("$.filter", "Expected a filter that says something")
    wanted = filter_of(body.filter, frozenset(body.filter.status), "$.filter")
    order = Order(verb=body.action, wanted=wanted, limit=body.limit, cursor=body.cursor, dry_run=body.dry_run)
    if not order.statuses:
        permitted = ", ".join(sorted(PERMITTED[body.action]))
        raise Invalid("$.filter.status", f"Expected some of what `{body.action}` is for: {permitted}")
    return order


def _said_of(body: ActionBody) -> dict[str, Any]:
    """An action as the audit log shows it."""
    said: dict[str, Any] = msgspec.to_builtins(body)
    return {name: value for name, value in said.items() if name in ("filter", "ids")}


OPERATIONS: Final = (
    submit_job,
    submit_batch,
    list_jobs,
    show_job,
    list_attempts,
    explain_job,
    cancel_job,
    retry_job,
    act_on_jobs,
)


def job_id_of(path: dict[str, str]) -> UUID:
    """The id in the path. Raises NotFound for what is none: no job can have it."""
    text = path["job_id"]
    if _UUID.fullmatch(text) is None:
        raise NotFound("There is no such job: its id would be a UUID.")
    return UUID(text)


def unknown_job(job_id: UUID) -> NotFound:
    return NotFound(f"There is no job {job_id}.")


def filter_of(
    asked: PageQuery | FilterBody, statuses: frozenset[Status], path: str, *, dead_first: bool = False
) -> JobFilter:
    """What is asked for, its times in UTC. Raises Invalid."""
    return JobFilter(
        statuses=statuses,
        type=asked.type,
        queue=asked.queue,
        tag=asked.tag,
        created_after=in_utc(asked.created_after, f"{path}.created_after"),
        created_before=in_utc(asked.created_before, f"{path}.created_before"),
        q=asked.q,
        error=asked.error,
        fingerprint=asked.fingerprint,
        dead_first=dead_first,
    )


async def list_page(
    call: Call[Any, Nothing], query: PageQuery, *, statuses: frozenset[Status], dead_first: bool = False
) -> Reply:
    if query.cursor is not None and query.offset:
        raise Invalid(f"{PATH}.offset", "Expected either `offset` or `cursor`, got both")
    if query.offset and (query.q is not None or query.error is not None):
        raise Invalid(f"{PATH}.offset", "Expected `cursor` instead: what is searched is not counted")
    wanted = filter_of(query, statuses, PATH, dead_first=dead_first)
    page = await call.api.views.jobs(wanted, limit=query.limit, offset=query.offset, cursor=query.cursor)
    return answer(job_page(shown_page(page, call.caller), limit=query.limit, offset=query.offset))
