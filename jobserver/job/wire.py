"""The JSON that HTTP writes and clients read: bodies, views, problems. Field order is the contract's.

Payloads and results pass through as raw JSON, undecoded. Bounds are in the types, so that decoding checks
them and the OpenAPI document states them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from jobserver.access import ActionPage, ScopeName
from jobserver.errors import Invalid
from jobserver.job.activity import BUCKET_SECONDS, Bucket, Rates, Recent
from jobserver.job.model import (
    AttemptRecord,
    Job,
    JobError,
    Priority,
    Progress,
    QueueInfo,
    Status,
    TypeInfo,
    WorkerInfo,
)
from jobserver.job.query import Done, FailedGroups, Page, Stats
from jobserver.job.reasons import Reason

# Patterns end in \Z because Python's $ accepts a trailing newline; the OpenAPI document writes $ instead.
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z"
KEY_PATTERN: Final = r"^[ -~]{1,255}\Z"
# Printable ASCII: what else an address holds is written as punycode or percent-encoded.
CALLBACK_URL_PATTERN: Final = r"^https?://[!-~]+\Z"
FINGERPRINT_PATTERN: Final = r"^[0-9a-f]{16}\Z"
WITHOUT_NUL_PATTERN: Final = r"^[^\x00]*\Z"

MAX_TAGS: Final = 20
MAX_BATCH: Final = 1_000
MAX_REPLAY: Final = 10_000
MAX_DEPTH: Final = 64
MAX_WAIT_SECONDS: Final = 60.0

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Key = Annotated[str, Meta(pattern=KEY_PATTERN)]
Tag = Annotated[str, Meta(min_length=1, max_length=64, pattern=WITHOUT_NUL_PATTERN)]
CallbackUrl = Annotated[str, Meta(pattern=CALLBACK_URL_PATTERN, max_length=2_048)]
Timestamp = Annotated[datetime, Meta(tz=True)]
# 16 hexadecimal digits: the same for failures that differ in numbers, ids and quoted text alone.
Fingerprint = Annotated[str, Meta(pattern=FINGERPRINT_PATTERN)]
# What is searched for.
Part = Annotated[str, Meta(min_length=1, max_length=200, pattern=WITHOUT_NUL_PATTERN)]
PriorityName = Literal["high", "normal", "low"]

PRIORITIES: Final[Mapping[str, Priority]] = {priority.label: priority for priority in Priority}
_PRIORITY_NAMES: Final[Mapping[Priority, PriorityName]] = {
    Priority.HIGH: "high",
    Priority.NORMAL: "normal",
    Priority.LOW: "low",
}

_NULL: Final = Raw(b"null")


# What clients send.


class SubmitBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A job to be done. What is left out (or null) comes from the defaults of its type."""

    type: Annotated[Name, Meta(description="Names the handler that runs the job.")]
    payload: Annotated[Raw, Meta(description="The handler's arguments: any JSON.")] = msgspec.field(
        default_factory=partial(Raw, b"null")
    )
    queue: Name | None = None
    priority: PriorityName | None = None
    delay: Annotated[
        Annotated[float, Meta(ge=0, le=31_536_000)] | None,
        Meta(description="Seconds to wait before the first run. Not together with run_at."),
    ] = None
    run_at: Annotated[
        Timestamp | None, Meta(description="Not before this time; a time in the past is now. Needs a zone.")
    ] = None
    max_retries: Annotated[int, Meta(ge=0, le=100)] | None = None
    timeout: Annotated[
        Annotated[float, Meta(gt=0, le=86_400)] | None, Meta(description="Seconds that one attempt may take.")
    ] = None
    expires_at: Annotated[
        Timestamp | None, Meta(description="A job not started by then fails. In the future, with a zone.")
    ] = None
    idempotency_key: Annotated[
        Key | None,
        Meta(description="A repeated submit with the same key and body answers with the first job."),
    ] = None
    tags: Annotated[tuple[Tag, ...], Meta(max_length=MAX_TAGS)] = ()
    callback_url: Annotated[
        CallbackUrl | None,
        Meta(description="Told by a signed POST when the job is completed, failed or canceled. Public addresses only."),
    ] = None


class BatchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs that are stored together or not at all."""

    jobs: Annotated[list[SubmitBody], Meta(min_length=1, max_length=MAX_BATCH)]


class ReplayBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which failed jobs to queue again: a filter, ids, or all of them."""

    type: Name | None = None
    queue: Name | None = None
    fingerprint: Fingerprint | None = None
    ids: Annotated[tuple[UUID, ...], Meta(min_length=1, max_length=MAX_REPLAY)] | None = None
    all: bool = False
    limit: Annotated[
        int, Meta(ge=1, le=MAX_REPLAY, description="How many at most. With ids it says nothing: all of them are meant.")
    ] = 1_000
    dry_run: bool = False


class FilterBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which jobs an action is for: those to which all of this applies, and at least something is said."""

    status: tuple[Status, ...] = ()
    type: Name | None = None
    queue: Name | None = None
    tag: Tag | None = None
    created_after: Timestamp | None = None
    created_before: Timestamp | None = None
    q: Annotated[Part | None, Meta(description="A part of the payload's text.")] = None
    error: Annotated[Part | None, Meta(description="A part of the type or the message of the last error.")] = None
    fingerprint: Fingerprint | None = None


class ActionBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to do to which jobs: those of a filter, newest first, or those of ids."""

    action: Annotated[
        Literal["cancel", "retry", "delete"],
        Meta(description="cancel: jobs that wait or run. retry: failed and canceled ones. delete: those that ended."),
    ]
    filter: FilterBody | None = None
    ids: Annotated[tuple[UUID, ...], Meta(min_length=1, max_length=MAX_REPLAY)] | None = None
    limit: Annotated[
        int, Meta(ge=1, le=MAX_REPLAY, description="How many at most. With ids it says nothing: all of them are meant.")
    ] = 1_000
    cursor: Annotated[
        Annotated[str, Meta(min_length=1, max_length=512)] | None,
        Meta(description="The `next_cursor` of the answer before. Together with the same filter."),
    ] = None
    dry_run: Annotated[bool, Meta(description="Change nothing; answer which jobs it would be about.")] = False


def normalized(body: SubmitBody, at: str = "$") -> SubmitBody:
    """`body` with its times in UTC. `at` is the path of the body within the request.

    Raises Invalid for delay together with run_at, and for a time that UTC cannot express.
    """
    if body.delay is not None and body.run_at is not None:
        raise Invalid(f"{at}.delay", "Expected either `delay` or `run_at`, got both")
    if body.run_at is None and body.expires_at is None:
        return body
    return msgspec.structs.replace(
        body,
        run_at=in_utc(body.run_at, f"{at}.run_at"),
        expires_at=in_utc(body.expires_at, f"{at}.expires_at"),
    )


def in_utc(value: datetime | None, path: str) -> datetime | None:
    """`value` in UTC. Raises Invalid where that leaves the years 1 to 9999."""
    if value is None:
        return None
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise Invalid(path, "Expected a time within the years 0001 to 9999 in UTC") from None


def fingerprint(body: SubmitBody) -> bytes:
    """The digest of a normalized body without its idempotency key: equal for bodies that mean the same.

    Fields that are left out are not in it, so that a field added by a later release changes no stored digest.
    """
    meaning: dict[str, Any] = {
        name: value
        for name in body.__struct_fields__
        if name != "idempotency_key" and (value := getattr(body, name)) is not None and value != ()
    }
    meaning["payload"] = _decode(body.payload)
    return hashlib.sha256(_SORTED.encode(meaning)).digest()


_decode: Final = msgspec.json.Decoder().decode
_SORTED: Final = msgspec.json.Encoder(order="sorted")


# What the server answers.


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job, as every answer shows it."""

    id: UUID
    type: str
    queue: str
    priority: PriorityName
    status: Status
    payload: Raw
    result: Raw
    error: JobError | None
    attempt: int
    retry_count: int
    max_retries: int
    crashes: int
    fence: int
    timeout: float
    idempotency_key: str | None
    tags: tuple[str, ...]
    progress: Progress | None
    callback_url: str | None
    created_at: Timestamp
    updated_at: Timestamp
    run_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    expires_at: Timestamp | None
    worker_id: str | None
    lease_expires_at: Timestamp | None
    cancel_requested: bool
    trace_id: str | None


class BatchItem(msgspec.Struct, frozen=True):
    """One job of a batch. `created` is false where its idempotency key was known already."""

    id: UUID
    status: Status
    created: bool


class BatchView(msgspec.Struct, frozen=True):
    """The jobs of a batch, in the order in which they were sent."""

    jobs: list[BatchItem]


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a list of jobs. `total` is exact unless `total_capped`; the last has no `next_cursor`.

    `partial`: there was no time to find as many as asked for, and the list goes on at `next_cursor`.
    """

    items: list[JobView]
    total: int
    total_capped: bool
    limit: int
    offset: int
    next_cursor: str | None
    partial: bool


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a job's handler."""

    number: int
    fence: int
    started_at: Timestamp
    ended_at: Timestamp | None
    outcome: Literal[
        "running",
        "completed",
        "retrying",
        "failed",
        "snoozed",
        "handed_back",
        "lease_lost",
        "canceled",
    ]
    error: JobError | None
    worker_id: str | None


class AttemptList(msgspec.Struct, frozen=True):
    """The attempts of a job, oldest first."""

    items: list[AttemptView]


class WhyView(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job waits, runs or has ended as it has. `summary` is the first reason, the most important one."""

    id: UUID
    status: Status
    summary: str
    reasons: list[Reason]


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs by status."""

    scheduled: int
    queued: int
    retrying: int
    running: int
    completed: int
    failed: int
    canceled: int


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """A queue, its jobs by status and its rates."""

    name: str
    paused: bool
    counts: Counts
    oldest_waiting_seconds: float | None
    rates: Annotated[Rates | None, Meta(description="Of the last half minute; null while they are not known.")]


class QueueList(msgspec.Struct, frozen=True):
    """The queues, by name."""

    items: list[QueueView]


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """A process of the server, as its heartbeats describe it."""

    id: str
    host: str
    pid: int
    version: str
    started_at: Timestamp
    heartbeat_at: Timestamp
    alive: bool
    draining: bool
    concurrency: int
    running: int
    loop_lag_seconds: float
    queues: tuple[str, ...] | None
    types: tuple[str, ...]
    completed_per_second: Annotated[
        float | None, Meta(description="Of the last half minute; null while it is not known.")
    ]


class WorkerList(msgspec.Struct, frozen=True):
    """The server's processes; those that died are listed for 24 hours."""

    items: list[WorkerView]


class TypeView(msgspec.Struct, frozen=True, kw_only=True):
    """A job type: the defaults of its jobs and the JSON Schema of its payload."""

    type: str
    queue: str
    priority: PriorityName
    max_retries: int
    timeout: float
    schema: dict[str, Any]


class TypeList(msgspec.Struct, frozen=True):
    """The types that are known, by name."""

    items: list[TypeView]


class StatsView(msgspec.Struct, frozen=True, kw_only=True):
    """The whole server in numbers. `dlq` are the failed jobs, `workers` the processes that are alive."""

    total: int
    by_status: Counts
    dlq: int
    workers: int
    queues: list[QueueView]
    oldest_waiting_seconds: float | None


class ActivityBucket(msgspec.Struct, frozen=True, kw_only=True):
    """Five seconds of all processes. Latency is from submit to end, wait from due to started, in seconds.

    Both as histograms know them; null where nothing ended, or started.
    """

    at: Timestamp
    submitted: int
    completed: int
    failed: int
    retried: int
    canceled: int
    latency_p50: float | None
    latency_p95: float | None
    wait_p50: float | None
    wait_p95: float | None


class ActivityView(msgspec.Struct, frozen=True, kw_only=True):
    """The last minutes of all processes, oldest first, and the present rates of the queues where anything happens.

    A bucket of which no process told is left out. `partial`: Redis does not answer, later ones may be missing.
    """

    bucket_seconds: int
    items: list[ActivityBucket]
    queues: dict[str, Rates]
    partial: bool


class ReplayedView(msgspec.Struct, frozen=True):
    """The jobs that were queued again, or would be."""

    replayed: int
    ids: list[UUID]


class DeletedView(msgspec.Struct, frozen=True):
    """How many jobs were deleted, or would be."""

    deleted: int


class ActionView(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs an action was about, how many it changed, and which (in a dry run: which it would).

    `partial`: not all were looked at, for want of time or by the limit. The same with `next_cursor` goes on.
    """

    matched: int
    changed: int
    ids: list[UUID]
    partial: bool
    next_cursor: str | None


class FailedGroupView(msgspec.Struct, frozen=True, kw_only=True):
    """Failed jobs of one type that failed alike. `error_type` and `message` are those of the last of them."""

    type: str
    fingerprint: Fingerprint
    error_type: str
    message: str
    count: int
    first_failed_at: Timestamp
    last_failed_at: Timestamp
    queues: tuple[str, ...]
    last_id: UUID


class FailedGroupList(msgspec.Struct, frozen=True):
    """Groups of failed jobs, the most recently failed first. `partial`: there was no time to count all jobs."""

    items: list[FailedGroupView]
    partial: bool


class AuditView(msgspec.Struct, frozen=True, kw_only=True):
    """Something that needs the scope admin: who did it, to what, and how many it changed.

    `key_id` and `key_name` are null while there are no API keys. `changed` is null where nobody came to say it.
    """

    id: UUID
    at: datetime
    key_id: UUID | None
    key_name: str | None
    address: str | None
    action: str
    target: dict[str, Any]
    changed: int | None


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the audit log."""

    items: list[AuditView]
    limit: int
    next_cursor: str | None


class SessionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Signs in."""

    key: Annotated[str, Meta(min_length=1, max_length=512, description="An API key.")]


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes the request, and what a page needs to know of the server.

    `open`: there are no API keys, and everybody is admin. `name` and `scope` are those of the key; null where none
    came along, or one that is not valid; `version` and `trace_url_template` are null then, too. The template leads to
    a trace, with its id for `{trace_id}`.
    """

    open: bool
    name: str | None
    scope: ScopeName | None
    signed_in: bool
    version: str | None
    trace_url_template: str | None
    max_payload_bytes: int


class HealthView(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether to send requests here. Redis being down is degraded: jobs are accepted, and delivered later."""

    status: Literal["ok", "degraded", "unavailable"]
    database: Literal["ok", "down"]
    redis: Literal["ok", "down"]
    draining: bool


class ProblemError(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request.

    `path` starts at the body: `$.delay`, `$.jobs[3].type`. Elsewhere it says where: `$.query.limit`,
    `$.headers.idempotency-key`, `$.path.name`. What is missing or unknown is reported at its parent.
    """

    path: str
    message: str


# The type of the problem of what was turned away before anything was done.
OVERLOADED: Final = "/problems/overloaded"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error, after RFC 9457. `errors` is there where the request was well-formed and invalid."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[ProblemError] | UnsetType = UNSET


def encode_job(job: Job) -> bytes:
    """A job as JSON."""
    return _encode(job_view(job))


_encode: Final = msgspec.json.Encoder().encode


def job_view(job: Job) -> JobView:
    return JobView(
        id=job.id,
        type=job.type,
        queue=job.queue,
        priority=_PRIORITY_NAMES[job.priority],
        status=job.status,
        payload=Raw(job.payload),
        result=_NULL if job.result is None else Raw(job.result),
        error=job.error,
        attempt=job.attempt,
        retry_count=job.retry_count,
        max_retries=job.max_retries,
        crashes=job.crashes,
        fence=job.fence,
        timeout=job.timeout_seconds,
        idempotency_key=job.idempotency_key,
        tags=job.tags,
        progress=job.progress,
        callback_url=job.callback_url,
        created_at=job.created_at,
        updated_at=job.updated_at,
        run_at=job.run_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        expires_at=job.expires_at,
        worker_id=job.worker_id,
        lease_expires_at=job.lease_expires_at,
        cancel_requested=job.cancel_requested,
        trace_id=trace_id(job.trace_context),
    )


def trace_id(trace_context: str | None) -> str | None:
    """The trace id of a stored W3C traceparent, `00-<32 hex>-<16 hex>-<2 hex>`."""
    if trace_context is None or len(trace_context) < 55:
        return None
    return trace_context[3:35]


def job_page(page: Page, *, limit: int, offset: int) -> JobPage:
    return JobPage(
        items=[job_view(job) for job in page.items],
        total=page.total,
        total_capped=page.total_capped,
        limit=limit,
        offset=offset,
        next_cursor=page.next_cursor,
        partial=page.partial,
    )


def action_view(done: Done) -> ActionView:
    return ActionView(
        matched=done.matched,
        changed=done.changed,
        ids=done.ids,
        partial=done.next_cursor is not None,
        next_cursor=done.next_cursor,
    )


def group_list(groups: FailedGroups) -> FailedGroupList:
    items = msgspec.convert(groups.items, list[FailedGroupView], from_attributes=True)
    return FailedGroupList(items, groups.partial)


def attempt_list(records: list[AttemptRecord]) -> AttemptList:
    return AttemptList(items=msgspec.convert(records, list[AttemptView], from_attributes=True))


def why_view(job: Job, reasons: list[Reason]) -> WhyView:
    return WhyView(id=job.id, status=job.status, summary=reasons[0].message, reasons=reasons)


def worker_list(workers: list[WorkerInfo], recent: Recent) -> WorkerList:
    return WorkerList(
        items=[
            WorkerView(**msgspec.structs.asdict(worker), completed_per_second=recent.of_worker(worker.id))
            for worker in workers
        ]
    )


def activity_view(buckets: list[Bucket], recent: Recent, *, partial: bool) -> ActivityView:
    return ActivityView(
        bucket_seconds=BUCKET_SECONDS,
        items=[
            ActivityBucket(**{**msgspec.structs.asdict(each), "at": datetime.fromtimestamp(each.at, UTC)})
            for each in buckets
        ],
        queues=dict(sorted(recent.queues.items())),
        partial=partial,
    )


def audit_page(page: ActionPage, *, limit: int) -> AuditPage:
    items = msgspec.convert(page.items, list[AuditView], from_attributes=True)
    return AuditPage(items=items, limit=limit, next_cursor=page.next_cursor)


def queue_view(queue: QueueInfo, recent: Recent) -> QueueView:
    return QueueView(
        name=queue.name,
        paused=queue.paused,
        counts=counts(queue.counts),
        oldest_waiting_seconds=queue.oldest_waiting_seconds,
        rates=recent.of_queue(queue.name),
    )


def counts(by_status: Mapping[Status, int]) -> Counts:
    """All seven statuses; those not mentioned are 0."""
    return Counts(**{status.value: by_status.get(status, 0) for status in Status})


def type_view(info: TypeInfo) -> TypeView:
    return TypeView(
        type=info.type,
        queue=info.queue,
        priority=_PRIORITY_NAMES[info.priority],
        max_retries=info.max_retries,
        timeout=info.timeout_seconds,
        schema=info.schema,
    )


def stats_view(stats: Stats, recent: Recent) -> StatsView:
    return StatsView(
        total=stats.total,
        by_status=counts(stats.by_status),
        dlq=stats.dlq,
        workers=stats.workers,
        queues=[queue_view(queue, recent) for queue in stats.queues],
        oldest_waiting_seconds=stats.oldest_waiting_seconds,
    )
