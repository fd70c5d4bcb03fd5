"""The policy as a table: outcome, cancel requested, retries left -> what a running job becomes."""

from __future__ import annotations

import itertools
import uuid
from datetime import UTC, datetime
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobserver.job.lifecycle import CANCELED, TRANSITIONS, Policy, Transition, decide
from jobserver.job.model import (
    TERMINAL,
    WAITING,
    Canceled,
    Claimed,
    Ended,
    HandedBack,
    JobError,
    LeaseLost,
    Outcome,
    Priority,
    Raised,
    Returned,
    Snoozed,
    Status,
)

POLICY: Final = Policy(backoff_base=2.0, backoff_cap=60.0, max_crashes=3)
ERROR: Final = JobError("ValueError", "no", "Traceback ...")
FINAL: Final = JobError("NotRetryable", "never", retryable=False)
LOST: Final = JobError("LeaseLost", "gone")

OUTCOMES: Final[dict[str, Outcome]] = {
    "returned": Returned(b"1"),
    "raised": Raised(ERROR),
    "raised, after": Raised(ERROR, after_seconds=7.0),
    "raised, not retryable": Raised(FINAL),
    "snoozed": Snoozed(30.0),
    "canceled": Canceled("not needed"),
    "handed back": HandedBack(),
    "handed back, later": HandedBack(4.0),
    "lease lost": LeaseLost(LOST),
}


def running(*, retry_count: int = 0, max_retries: int = 3, crashes: int = 0, cancel_requested: bool = False) -> Claimed:
    now = datetime(2026, 3, 7, tzinfo=UTC)
    return Claimed(
        id=uuid.UUID(int=1),
        type="t",
        queue="default",
        priority=Priority.NORMAL,
        payload=b"null",
        tags=(),
        fence=1,
        attempt=retry_count + 1,
        retry_count=retry_count,
        max_retries=max_retries,
        crashes=crashes,
        timeout_seconds=60.0,
        created_at=now,
        due_at=now,
        started_at=now,
        trace_context=None,
        cancel_requested=cancel_requested,
    )


def row(
    status: Status,
    ended: Ended,
    error: JobError | None = None,
    *,
    delay: float = 0.0,
    attempt: int = 0,
    retry: int = 0,
    crash: int = 0,
    result: bytes | None = None,
) -> Transition:
    return Transition(
        status=status,
        ended=ended,
        delay_seconds=delay,
        attempt_delta=attempt,
        retry_delta=retry,
        crash_delta=crash,
        result=result,
        error=error,
    )


S, E = Status, Ended
CANCELED_BY_HANDLER: Final = JobError("Canceled", "not needed", retryable=False)

# (outcome, cancel requested, retries left) -> transition, at jitter 0: half of the full backoff.
TABLE: Final[dict[tuple[str, bool, bool], Transition]] = {
    ("returned", False, True): row(S.COMPLETED, E.COMPLETED, result=b"1"),
    ("returned", False, False): row(S.COMPLETED, E.COMPLETED, result=b"1"),
    ("returned", True, True): row(S.COMPLETED, E.COMPLETED, result=b"1"),
    ("returned", True, False): row(S.COMPLETED, E.COMPLETED, result=b"1"),
    ("raised", False, True): row(S.RETRYING, E.RETRYING, ERROR, delay=1.0, retry=1),
    ("raised", False, False): row(S.FAILED, E.FAILED, ERROR),
    ("raised", True, True): row(S.CANCELED, E.CANCELED, ERROR),
    ("raised", True, False): row(S.CANCELED, E.CANCELED, ERROR),
    ("raised, after", False, True): row(S.RETRYING, E.RETRYING, ERROR, delay=7.0, retry=1),
    ("raised, after", False, False): row(S.FAILED, E.FAILED, ERROR),
    ("raised, after", True, True): row(S.CANCELED, E.CANCELED, ERROR),
    ("raised, after", True, False): row(S.CANCELED, E.CANCELED, ERROR),
    ("raised, not retryable", False, True): row(S.FAILED, E.FAILED, FINAL),
    ("raised, not retryable", False, False): row(S.FAILED, E.FAILED, FINAL),
    ("raised, not retryable", True, True): row(S.CANCELED, E.CANCELED, FINAL),
    ("raised, not retryable", True, False): row(S.CANCELED, E.CANCELED, FINAL),
    ("snoozed", False, True): row(S.SCHEDULED, E.SNOOZED, delay=30.0, attempt=-1),
    ("snoozed", False, False): row(S.SCHEDULED, E.SNOOZED, delay=30.0, attempt=-1),
    ("snoozed", True, True): row(S.CANCELED, E.CANCELED, CANCELED, attempt=-1),
    ("snoozed", True, False): row(S.CANCELED, E.CANCELED, CANCELED, attempt=-1),
    ("canceled", False, True): row(S.CANCELED, E.CANCELED, CANCELED_BY_HANDLER),
    ("canceled", False, False): row(S.CANCELED, E.CANCELED, CANCELED_BY_HANDLER),
    ("canceled", True, True): row(S.CANCELED, E.CANCELED, CANCELED_BY_HANDLER),
    ("canceled", True, False): row(S.CANCELED, E.CANCELED, CANCELED_BY_HANDLER),
    ("handed back", False, True): row(S.QUEUED, E.HANDED_BACK, attempt=-1),
    ("handed back", False, False): row(S.QUEUED, E.HANDED_BACK, attempt=-1),
    ("handed back", True, True): row(S.CANCELED, E.CANCELED, CANCELED, attempt=-1),
    ("handed back", True, False): row(S.CANCELED, E.CANCELED, CANCELED, attempt=-1),
    ("handed back, later", False, True): row(S.QUEUED, E.HANDED_BACK, delay=4.0, attempt=-1),
    ("handed back, later", False, False): row(S.QUEUED, E.HANDED_BACK, delay=4.0, attempt=-1),
    ("handed back, later", True, True): row(S.CANCELED, E.CANCELED, CANCELED, attempt=-1),
    ("handed back, later", True, False): row(S.CANCELED, E.CANCELED, CANCELED, attempt=-1),
    # A crash is not a failure: it neither uses nor needs a retry.
    ("lease lost", False, True): row(S.RETRYING, E.LEASE_LOST, LOST, crash=1),
    ("lease lost", False, False): row(S.RETRYING, E.LEASE_LOST, LOST, crash=1),
    ("lease lost", True, True): row(S.CANCELED, E.CANCELED, LOST, crash=1),
    ("lease lost", True, False): row(S.CANCELED, E.CANCELED, LOST, crash=1),
}


def test_the_table_names_every_case() -> None:
    assert set(TABLE) == set(itertools.product(OUTCOMES, (False, True), (False, True)))


@pytest.mark.parametrize(("outcome", "cancel_requested", "retries_left"), list(TABLE))
def test_each_outcome_leads_where_the_table_says(outcome: str, cancel_requested: bool, retries_left: bool) -> None:
    job = running(retry_count=0 if retries_left else 3, cancel_requested=cancel_requested)
    if outcome == "raised" and not retries_left:
        assert job.retry_count == job.max_retries
    assert decide(job, OUTCOMES[outcome], POLICY, jitter=0.0) == TABLE[outcome, cancel_requested, retries_left]


def test_max_retries_of_three_is_four_tries() -> None:
    job, tries = running(max_retries=3), 1
    while decide(job, Raised(ERROR), POLICY, jitter=0.0).status is Status.RETRYING:
        job = msgspec.structs.replace(job, retry_count=job.retry_count + 1)
        tries += 1
    assert tries == 4


def test_the_backoff_of_retries_grows_to_its_cap() -> None:
    delays = [
        decide(running(retry_count=count, max_retries=100), Raised(ERROR), POLICY, jitter=0.999999).delay_seconds
        for count in range(8)
    ]
    assert [round(delay) for delay in delays] == [2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(
    ("at_least", "delays"), [(0.0, [2, 4, 8]), (1.0, [2, 4, 8]), (5.0, [5, 5, 8]), (3_600.0, [3_600] * 3)]
)
def test_what_is_asked_for_is_a_floor_beside_the_backoff(at_least: float, delays: list[int]) -> None:
    outcome = Raised(ERROR, at_least_seconds=at_least)
    found = [decide(running(retry_count=n), outcome, POLICY, jitter=0.999999).delay_seconds for n in range(3)]
    assert [round(delay) for delay in found] == delays


@pytest.mark.parametrize(("crashes", "status"), [(0, S.RETRYING), (1, S.RETRYING), (2, S.FAILED), (9, S.FAILED)])
def test_crashes_have_a_cap_of_their_own(crashes: int, status: Status) -> None:
    transition = decide(running(crashes=crashes, retry_count=3), OUTCOMES["lease lost"], POLICY, jitter=0.5)
    assert (transition.status, transition.crash_delta, transition.retry_delta) == (status, 1, 0)


def test_crashed_jobs_come_back_soon_and_spread_out() -> None:
    delays = {decide(running(), OUTCOMES["lease lost"], POLICY, jitter=j / 10).delay_seconds for j in range(10)}
    assert len(delays) == 10
    assert min(delays) >= 0.0
    assert max(delays) < 1.0


CAUSES: Final = {
    Ended.COMPLETED: "returned",
    Ended.RETRYING: "raised",
    Ended.FAILED: "raised",
    Ended.SNOOZED: "snoozed",
    Ended.HANDED_BACK: "handed back",
    Ended.LEASE_LOST: "lease lost",
    Ended.CANCELED: "canceled",
}


@given(
    outcome=st.sampled_from(list(OUTCOMES.values())),
    retry_count=st.integers(0, 101),
    max_retries=st.integers(0, 100),
    crashes=st.integers(0, 101),
    cancel_requested=st.booleans(),
    max_crashes=st.integers(1, 100),
    base=st.floats(1, 100),
    cap=st.floats(0, 86_400),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_every_decision_is_an_arrow_that_is_drawn(
    outcome: Outcome,
    retry_count: int,
    max_retries: int,
    crashes: int,
    cancel_requested: bool,
    max_crashes: int,
    base: float,
    cap: float,
    jitter: float,
) -> None:
    policy = Policy(backoff_base=base, backoff_cap=cap, max_crashes=max_crashes)
    job = running(retry_count=retry_count, max_retries=max_retries, crashes=crashes, cancel_requested=cancel_requested)
    transition = decide(job, outcome, policy, jitter)
    assert CAUSES[transition.ended] in TRANSITIONS[Status.RUNNING, transition.status]
    assert 0.0 <= transition.delay_seconds <= max(cap, 30.0)
    assert transition.delay_seconds == 0.0 or transition.status in WAITING
    assert (transition.result is not None) == (transition.status is Status.COMPLETED)
    # Only a run that was no fault of the job's costs no attempt.
    assert (transition.attempt_delta == -1) == isinstance(outcome, Snoozed | HandedBack)
    if cancel_requested and not isinstance(outcome, Returned):
        assert transition.status is Status.CANCELED


def test_the_drawn_states_leave_terminal_ones_only_by_a_replay() -> None:
    for (before, _), causes in TRANSITIONS.items():
        if before in TERMINAL:
            assert causes == {"replay"}
    assert not any(before is Status.COMPLETED for before, _ in TRANSITIONS)
