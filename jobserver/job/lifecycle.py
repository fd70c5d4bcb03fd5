"""The policy of a job's life: which transitions exist, and which one an outcome leads to.

Pure. The law is the guard in the SQL of each statement; a table test proves the two equal.
"""

from __future__ import annotations

from typing import Final

import msgspec

from jobserver.job.backoff import backoff_seconds
from jobserver.job.model import (
    Canceled,
    Claimed,
    Ended,
    HandedBack,
    JobError,
    LeaseLost,
    Outcome,
    Raised,
    Returned,
    Snoozed,
    Status,
    bounded_error,
)

# Every arrow of the diagram in the README: (from, to) -> what causes it.
TRANSITIONS: Final[dict[tuple[Status, Status], frozenset[str]]] = {
    (Status.QUEUED, Status.RUNNING): frozenset({"claim"}),
    (Status.SCHEDULED, Status.RUNNING): frozenset({"claim"}),
    (Status.RETRYING, Status.RUNNING): frozenset({"claim"}),
    (Status.RUNNING, Status.COMPLETED): frozenset({"returned"}),
    (Status.RUNNING, Status.RETRYING): frozenset({"raised", "lease lost"}),
    (Status.RUNNING, Status.FAILED): frozenset({"raised", "lease lost"}),
    (Status.RUNNING, Status.SCHEDULED): frozenset({"snoozed"}),
    (Status.RUNNING, Status.QUEUED): frozenset({"handed back"}),
    (Status.RUNNING, Status.CANCELED): frozenset({"canceled"}),
    (Status.QUEUED, Status.CANCELED): frozenset({"cancel"}),
    (Status.SCHEDULED, Status.CANCELED): frozenset({"cancel"}),
    (Status.RETRYING, Status.CANCELED): frozenset({"cancel"}),
    (Status.QUEUED, Status.FAILED): frozenset({"expired"}),
    (Status.SCHEDULED, Status.FAILED): frozenset({"expired"}),
    (Status.RETRYING, Status.FAILED): frozenset({"expired"}),
    (Status.FAILED, Status.QUEUED): frozenset({"replay"}),
    (Status.CANCELED, Status.QUEUED): frozenset({"replay"}),
}

EXPIRED: Final = JobError(type="Expired", message="expired before it was started", retryable=False)
CANCELED: Final = JobError(type="Canceled", message="cancel requested", retryable=False)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The server's rules for what follows a failure. Delays in seconds."""

    backoff_base: float = 2.0
    backoff_cap: float = 60.0
    max_crashes: int = 3


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """What a running job becomes. The statement that applies it adds one to the fence.

    `delay_seconds` counts from the commit. The three `..._delta` change the counters of the job.
    """

    status: Status
    ended: Ended
    delay_seconds: float = 0.0
    attempt_delta: int = 0
    retry_delta: int = 0
    crash_delta: int = 0
    result: bytes | None = None
    error: JobError | None = None


def decide(job: Claimed, outcome: Outcome, policy: Policy, jitter: float) -> Transition:
    """The transition out of running that `outcome` leads to. `jitter` is in [0, 1).

    Returned wins over a request to cancel; every other outcome of a job whose cancel was requested ends in
    canceled. The statement applies that rule once more at the commit, for a request that arrives in between.
    """
    if isinstance(outcome, Returned):
        return Transition(status=Status.COMPLETED, ended=Ended.COMPLETED, result=outcome.result)
    if isinstance(outcome, Canceled):
        error = bounded_error("Canceled", outcome.reason, retryable=False)
        return Transition(status=Status.CANCELED, ended=Ended.CANCELED, error=error)
    if job.cancel_requested:
        return _canceled(outcome)
    if isinstance(outcome, Snoozed):
        return Transition(status=Status.SCHEDULED, ended=Ended.SNOOZED, delay_seconds=outcome.seconds, attempt_delta=-1)
    if isinstance(outcome, HandedBack):
        return Transition(
            status=Status.QUEUED, ended=Ended.HANDED_BACK, delay_seconds=outcome.delay_seconds, attempt_delta=-1
        )
    if isinstance(outcome, LeaseLost):
        return _after_crash(job, outcome, policy, jitter)
    return _after_failure(job, outcome, policy, jitter)


def _after_failure(job: Claimed, outcome: Raised, policy: Policy, jitter: float) -> Transition:
    if not outcome.error.retryable or job.retry_count >= job.max_retries:
        return Transition(status=Status.FAILED, ended=Ended.FAILED, error=outcome.error)
    delay = outcome.after_seconds
    if delay is None:
        delay = backoff_seconds(job.retry_count + 1, base=policy.backoff_base, cap=policy.backoff_cap, jitter=jitter)
        delay = max(delay, outcome.at_least_seconds)
    return Transition(
        status=Status.RETRYING, ended=Ended.RETRYING, delay_seconds=delay, retry_delta=1, error=outcome.error
    )


def _after_crash(job: Claimed, outcome: LeaseLost, policy: Policy, jitter: float) -> Transition:
    crashes = job.crashes + 1
    if crashes >= policy.max_crashes:
        return Transition(status=Status.FAILED, ended=Ended.LEASE_LOST, crash_delta=1, error=outcome.error)
    # The first crash is charged to everything that ran in the process: come back soon, but spread out.
    delay = (backoff_seconds(crashes, base=2.0, cap=min(10.0, policy.backoff_cap), jitter=jitter) - 1.0) / 2
    return Transition(
        status=Status.RETRYING,
        ended=Ended.LEASE_LOST,
        delay_seconds=max(0.0, delay),
        crash_delta=1,
        error=outcome.error,
    )


def _canceled(outcome: Outcome) -> Transition:
    """Cancel was requested and the attempt ended in any way but returned."""
    error = outcome.error if isinstance(outcome, Raised | LeaseLost) else CANCELED
    return Transition(
        status=Status.CANCELED,
        ended=Ended.CANCELED,
        attempt_delta=-1 if isinstance(outcome, Snoozed | HandedBack) else 0,
        crash_delta=1 if isinstance(outcome, LeaseLost) else 0,
        error=error,
    )
