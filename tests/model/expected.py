"""What every job should be: its life restated in a few pure functions, to be compared with the rows.

Deliberately not built on `job/lifecycle.py` or the SQL: what is wrong there must not be wrong here in the same way.
Times are integer microseconds of the model's clock.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec

from jobserver.job.model import (
    TERMINAL,
    WAITING,
    Canceled,
    HandedBack,
    LeaseLost,
    Outcome,
    Priority,
    Raised,
    Returned,
    Snoozed,
    Status,
)

SECOND: Final = 1_000_000
LEASE_SECONDS: Final = 10
IDEMPOTENCY_SECONDS: Final = 40
BACKOFF_CAP_SECONDS: Final = 60
MAX_CRASHES: Final = 3
# What a delay may lose on its way through a float.
_ROUNDING_US: Final = 2


class Past(msgspec.Struct, frozen=True):
    """An attempt that ended: the row of its history."""

    fence: int
    number: int
    outcome: str
    worker_id: str | None


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """A job as its row and its history should be. Jitter makes its due time later by up to `jitter_us`."""

    id: UUID
    queue: str
    priority: Priority
    status: Status
    max_retries: int
    due_us: int
    jitter_us: int = 0
    expires_us: int | None = None
    fence: int = 0
    attempt: int = 0
    retry_count: int = 0
    crashes: int = 0
    cancel_requested: bool = False
    lease_us: int | None = None
    worker_id: str | None = None
    percent: float | None = None
    result: str | None = None
    error: str | None = None
    finished: bool = False
    history: tuple[Past, ...] = ()

    @property
    def waits(self) -> bool:
        return self.status in WAITING

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    def held_under(self, fence: int) -> bool:
        """Whether whoever claimed it under this fence still holds it."""
        return self.status is Status.RUNNING and self.fence == fence

    def claimable(self, fence: int, now_us: int, paused: frozenset[str]) -> bool:
        """Whether a message that names this fence may claim it."""
        return (
            self.waits
            and self.fence == fence
            and self.due_us <= now_us
            and (self.expires_us is None or self.expires_us > now_us)
            and self.queue not in paused
        )

    def lost(self, now_us: int) -> bool:
        """Whether nobody has kept its lease."""
        return self.status is Status.RUNNING and self.lease_us is not None and self.lease_us < now_us

    def overdue(self, now_us: int) -> bool:
        """Whether it should fail for not having been started in time."""
        return self.waits and self.expires_us is not None and self.expires_us <= now_us


_change = msgspec.structs.replace


def submitted(
    job_id: UUID,
    *,
    queue: str,
    priority: Priority,
    max_retries: int,
    now_us: int,
    delay_us: int = 0,
    expires_us: int | None = None,
) -> Expected:
    return Expected(
        id=job_id,
        queue=queue,
        priority=priority,
        status=Status.SCHEDULED if delay_us else Status.QUEUED,
        max_retries=max_retries,
        due_us=now_us + delay_us,
        expires_us=expires_us,
    )


def claimed(job: Expected, worker_id: str, now_us: int) -> Expected:
    return _change(
        job,
        status=Status.RUNNING,
        fence=job.fence + 1,
        attempt=job.attempt + 1,
        lease_us=now_us + LEASE_SECONDS * SECOND,
        worker_id=worker_id,
    )


def extended(job: Expected, now_us: int) -> Expected:
    return _change(job, lease_us=now_us + LEASE_SECONDS * SECOND)


def settled(job: Expected, outcome: Outcome, now_us: int, percent: float | None = None) -> Expected:
    """The running job after its attempt ended so; `percent` is the last that its handler said of itself."""
    free = isinstance(outcome, Snoozed | HandedBack)
    ended = _change(
        job,
        fence=job.fence + 1,
        attempt=job.attempt - (1 if free else 0),
        crashes=job.crashes + (1 if isinstance(outcome, LeaseLost) else 0),
        lease_us=None,
        percent=job.percent if percent is None else percent,
    )
    if isinstance(outcome, Returned):
        after, how = _change(ended, status=Status.COMPLETED, result=outcome.result.decode()), "completed"
    elif isinstance(outcome, Canceled):
        after, how = _change(ended, status=Status.CANCELED, error="Canceled"), "canceled"
    elif job.cancel_requested:
        # Whoever ended it may have known of the request, or not.
        error = outcome.error.type if isinstance(outcome, Raised | LeaseLost) else job.error
        after, how = _change(ended, status=Status.CANCELED, error=error), "canceled"
    elif isinstance(outcome, Snoozed):
        after, how = _waiting(ended, Status.SCHEDULED, now_us, outcome.seconds), "snoozed"
    elif isinstance(outcome, HandedBack):
        after, how = _waiting(ended, Status.QUEUED, now_us, outcome.delay_seconds), "handed_back"
    elif isinstance(outcome, LeaseLost):
        ended = _change(ended, error=outcome.error.type)
        how = "lease_lost"
        if ended.crashes >= MAX_CRASHES:
            after = _change(ended, status=Status.FAILED)
        else:
            most = min(10, 2**ended.crashes)
            after = _waiting(ended, Status.RETRYING, now_us, (most / 2 - 1) / 2, (most - 1) / 2)
    else:
        ended = _change(ended, error=outcome.error.type)
        if not outcome.error.retryable or job.retry_count >= job.max_retries:
            after, how = _change(ended, status=Status.FAILED), "failed"
        else:
            most = min(BACKOFF_CAP_SECONDS, 2 ** (job.retry_count + 1))
            least, most = (most / 2, most) if outcome.after_seconds is None else (outcome.after_seconds,) * 2
            after = _waiting(ended, Status.RETRYING, now_us, least, most)
            after, how = _change(after, retry_count=job.retry_count + 1), "retrying"
    past = Past(job.fence, job.attempt, how, job.worker_id)
    return _change(after, finished=after.ended, history=(*job.history, past))


def _waiting(job: Expected, status: Status, now_us: int, least: float, most: float | None = None) -> Expected:
    jitter = 0.0 if most is None else most - least
    due_us = now_us + int(max(0.0, least) * SECOND) - (_ROUNDING_US if jitter else 0)
    return _change(
        job,
        status=status,
        due_us=due_us,
        jitter_us=int(jitter * SECOND) + 2 * _ROUNDING_US if jitter else 0,
    )


def canceled(job: Expected) -> Expected:
    """After a user's cancel: at once while it waits, a request while it runs."""
    if not job.waits:
        return _change(job, cancel_requested=True)
    return _change(job, status=Status.CANCELED, fence=job.fence + 1, cancel_requested=True, finished=True)


def expired(job: Expected) -> Expected:
    return _change(job, status=Status.FAILED, fence=job.fence + 1, error="Expired", finished=True)


def replayed(job: Expected, now_us: int) -> Expected:
    """Everything begins anew, but not the fence, nor the history."""
    return Expected(
        id=job.id,
        queue=job.queue,
        priority=job.priority,
        status=Status.QUEUED,
        max_retries=job.max_retries,
        due_us=now_us,
        fence=job.fence + 1,
        history=job.history,
    )
