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

from jobserver.errors import Invalid
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
from jobserver.job.query import Page, Stats

# Patterns end in \Z because Python's $ accepts a trailing newline; the OpenAPI document writes $ instead.
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z"
KEY_PATTERN: Final = r"^[ -~]{1,255}\Z"
WITHOUT_NUL_PATTERN: Final = r"^[^\x00]*\Z"

MAX_TAGS: Final = 20
MAX_BATCH: Final = 1_000
MAX_REPLAY: Final = 10_000
MAX_DEPTH: Final = 64
MAX_WAIT_SECONDS: Final = 60.0

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Key = Annotated[str, Meta(pattern=KEY_PATTERN)]
Tag = Annotated[str, Meta(min_length=1, max_length=64, pattern=WITHOUT_NUL_PATTERN)]
Timestamp = Annotated[datetime, Meta(tz=True)]
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


class BatchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs that are stored together or not at all."""

    jobs: Annotated[list[SubmitBody], Meta(min_length=1, max_length=MAX_BATCH)]


class ReplayBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which failed jobs to queue again: a filter, ids, or all of them."""

    type: Name | None = None
    queue: Name | None = None
    ids: Annotated[tuple[UUID, ...], Meta(min_length=1, max_length=MAX_REPLAY)] | None = None
    all: bool = False
    limit: Annotated[int, Meta(ge=1, le=MAX_REPLAY)] = 1_000
    dry_run: bool = False


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
    """A part of a list of jobs. `total` is exact unless `total_capped`; the last has no `next_cursor`."""

    items: list[JobView]
    total: int
    total_capped: bool
    limit: int
    offset: int
    next_cursor: str | None


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
    """A queue and its jobs by status."""

    name: str
    paused: bool
    counts: Counts
    oldest_waiting_seconds: float | None


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


class ReplayedView(msgspec.Struct, frozen=True):
    """The jobs that were queued again, or would be."""

    replayed: int
    ids: list[UUID]


class DeletedView(msgspec.Struct, frozen=True):
    """How many jobs were deleted, or would be."""

    deleted: int


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
    )


def attempt_list(records: list[AttemptRecord]) -> AttemptList:
    return AttemptList(items=msgspec.convert(records, list[AttemptView], from_attributes=True))


def worker_list(workers: list[WorkerInfo]) -> WorkerList:
    return WorkerList(items=msgspec.convert(workers, list[WorkerView], from_attributes=True))


def queue_view(queue: QueueInfo) -> QueueView:
    return QueueView(
        name=queue.name,
        paused=queue.paused,
        counts=counts(queue.counts),
        oldest_waiting_seconds=queue.oldest_waiting_seconds,
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


def stats_view(stats: Stats) -> StatsView:
    return StatsView(
        total=stats.total,
        by_status=counts(stats.by_status),
        dlq=stats.dlq,
        workers=stats.workers,
        queues=[queue_view(queue) for queue in stats.queues],
        oldest_waiting_seconds=stats.oldest_waiting_seconds,
    )
