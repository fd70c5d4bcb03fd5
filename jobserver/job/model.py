"""The values that the rest of the server passes around. All frozen; a job does not save itself.

Times are aware UTC datetimes by the database's clock. Payloads, results and errors are JSON as bytes, so that
they pass through undecoded.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec


class Status(enum.StrEnum):
    """Where a job is. The three waiting ones differ only in why the job waits."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RETRYING = "retrying"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


# The type and the queue of the jobs that tell of others: made by a transition, never by a submit.
CALLBACK: Final = "callback"
CALLBACK_QUEUE: Final = "callbacks"

WAITING: Final = frozenset({Status.SCHEDULED, Status.QUEUED, Status.RETRYING})
TERMINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELED})


class Priority(enum.IntEnum):
    """Order of delivery; lower is sooner. Stored as the number, named in JSON."""

    HIGH = 0
    NORMAL = 1
    LOW = 2

    @property
    def label(self) -> str:
        return self.name.lower()


class Ended(enum.StrEnum):
    """How an attempt ended: the outcome column of its history row."""

    COMPLETED = "completed"
    RETRYING = "retrying"
    FAILED = "failed"
    SNOOZED = "snoozed"
    HANDED_BACK = "handed_back"
    LEASE_LOST = "lease_lost"
    CANCELED = "canceled"


class JobError(msgspec.Struct, frozen=True):
    """Why an attempt failed, as stored and shown. Strings are bounded by `bounded_error`."""

    type: str
    message: str
    traceback: str | None = None
    retryable: bool = True


class Progress(msgspec.Struct, frozen=True):
    """What a handler last said of itself."""

    percent: float
    message: str | None = None


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One job as accepted by validation, with every default applied; what an insert stores.

    `delay_seconds` counts from the commit; `run_at` is absolute; at most one is set. `fingerprint` is the digest
    of the decoded body without its idempotency key. `scope` is the API key's id, "" while there are none.
    """

    id: UUID
    type: str
    queue: str
    priority: Priority
    payload: bytes
    max_retries: int
    timeout_seconds: float
    delay_seconds: float = 0.0
    run_at: datetime | None = None
    expires_at: datetime | None = None
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    scope: str = ""
    tags: tuple[str, ...] = ()
    callback_url: str | None = None
    trace_context: str | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the jobs table."""

    id: UUID
    type: str
    queue: str
    priority: Priority
    status: Status
    payload: bytes
    result: bytes | None
    error: JobError | None
    attempt: int
    retry_count: int
    max_retries: int
    crashes: int
    fence: int
    timeout_seconds: float
    idempotency_key: str | None
    tags: tuple[str, ...]
    progress: Progress | None
    callback_url: str | None
    created_at: datetime
    updated_at: datetime
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    due_at: datetime
    worker_id: str | None
    lease_expires_at: datetime | None
    cancel_requested: bool
    trace_context: str | None


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A job that this process holds: running, under `fence`, until its lease ends."""

    id: UUID
    type: str
    queue: str
    priority: Priority
    payload: bytes
    tags: tuple[str, ...]
    fence: int
    attempt: int
    retry_count: int
    max_retries: int
    crashes: int
    timeout_seconds: float
    created_at: datetime
    due_at: datetime
    started_at: datetime
    trace_context: str | None
    cancel_requested: bool
    callback_url: str | None = None


class Delivery(msgspec.Struct, frozen=True):
    """What a message of a job stream says. `entry_id` and `stream` name it for the acknowledgement."""

    job_id: UUID
    fence: int
    available_at_us: int
    stream: tuple[str, Priority]
    entry_id: str


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a job's history. The running attempt has no `ended_at` and the outcome "running"."""

    number: int
    fence: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str
    error: JobError | None
    worker_id: str | None


class TypeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A job type as registered by a worker: the defaults of its jobs and the JSON schema of its payload."""

    type: str
    queue: str
    priority: Priority
    max_retries: int
    timeout_seconds: float
    schema: dict[str, Any]


class QueueInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A queue, its counts by status and the age in seconds of its oldest job that is due."""

    name: str
    paused: bool
    counts: dict[Status, int]
    oldest_waiting_seconds: float | None


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A process of the server as its heartbeats describe it."""

    id: str
    host: str
    pid: int
    version: str
    started_at: datetime
    heartbeat_at: datetime
    alive: bool
    draining: bool
    concurrency: int
    running: int
    loop_lag_seconds: float
    queues: tuple[str, ...] | None
    types: tuple[str, ...]


# Outcomes: how one run of a handler ended, before anything is decided.


class Returned(msgspec.Struct, frozen=True):
    result: bytes


class Raised(msgspec.Struct, frozen=True):
    """An exception or a timeout. `after_seconds` replaces the backoff, `at_least_seconds` is a floor beside it."""

    error: JobError
    after_seconds: float | None = None
    at_least_seconds: float = 0.0


class Snoozed(msgspec.Struct, frozen=True):
    seconds: float


class Canceled(msgspec.Struct, frozen=True):
    """The handler raised Cancel, or was cancelled on request."""

    reason: str


class HandedBack(msgspec.Struct, frozen=True):
    """Not run to its end, by no fault of the job: shutdown, or a type not handled here."""

    delay_seconds: float = 0.0


class LeaseLost(msgspec.Struct, frozen=True):
    """A crash: nobody reported before the lease ended, or the process that ran the attempt died."""

    error: JobError


Outcome = Returned | Raised | Snoozed | Canceled | HandedBack | LeaseLost

MAX_ERROR_TYPE: Final = 256
MAX_ERROR_MESSAGE: Final = 8_192
MAX_ERROR_TRACEBACK: Final = 32_768


def bounded(text: str, limit: int) -> str:
    """`text` fit for storage: no NUL, no lone surrogate, at most `limit` characters (the middle is left out)."""
    text = text.replace("\x00", "\ufffd")
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def bounded_error(kind: str, message: str, *, traceback: str | None = None, retryable: bool = True) -> JobError:
    """A JobError whose strings are fit for storage."""
    return JobError(
        type=bounded(kind, MAX_ERROR_TYPE),
        message=bounded(message, MAX_ERROR_MESSAGE),
        traceback=None if traceback is None else bounded(traceback, MAX_ERROR_TRACEBACK),
        retryable=retryable,
    )
