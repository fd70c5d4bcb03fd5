"""The checker finds nothing in a history where all went well, and each violation that is planted in one."""

from __future__ import annotations

import msgspec
import pytest

from jobserver.torture.check import check, story
from jobserver.torture.history import (
    DEATH,
    HANDED_BACK,
    LEASE_LOST,
    STOPPED,
    Attempt,
    Buffer,
    Command,
    Death,
    History,
    Remains,
    Run,
    Sighting,
    StoredJob,
    Submit,
    Window,
)

COMPLETED = frozenset({"completed"})
FAILED = frozenset({"failed"})
SIGKILL = Window(
    fault="sigkill", start=100.5, end=102.0, pids=frozenset({11}), explains=frozenset({LEASE_LOST, DEATH, HANDED_BACK})
)


def attempt(job_id: str, fence: int, number: int, outcome: str, **fields: object) -> Attempt:
    started = 100.0 + fence
    row = Attempt(
        job_id=job_id,
        fence=fence,
        number=number,
        outcome=outcome,
        started=started,
        ended=started + 0.5,
        error_type=None,
        pid=11,
    )
    return msgspec.structs.replace(row, **fields)


def run(job_id: str, fence: int, how: str = "returned", **fields: object) -> Run:
    started = 100.0 + fence
    told = Run(job_id=job_id, fence=fence, type="torture.work", pid=11, started=started, ended=started + 0.4, how=how)
    return msgspec.structs.replace(told, **fields)


def stored(job_id: str, status: str, fence: int, **fields: object) -> StoredJob:
    row = StoredJob(
        id=job_id,
        key=f"key-{job_id}",
        type="torture.work",
        status=status,
        fence=fence,
        attempt=1,
        retry_count=0,
        max_retries=3,
        crashes=0,
        error_type=None,
        error_message=None,
        result_fence=fence - 1 if status == "completed" else None,
    )
    return msgspec.structs.replace(row, **fields)


def submit(job_id: str, expected: frozenset[str] = COMPLETED, **fields: object) -> Submit:
    sent = Submit(
        key=f"key-{job_id}",
        type="torture.work",
        expected=expected,
        job_ids=frozenset({job_id}),
        acknowledged=True,
        created=1,
    )
    return msgspec.structs.replace(sent, **fields)


def good() -> History:
    """One job that ran once, one that lost a lease and was handed back, one that failed and was replayed."""
    return History(
        lease_seconds=2.0,
        max_crashes=3,
        submits=(submit("plain"), submit("crashed"), submit("replayed", FAILED)),
        commands=(Command("replay", "replayed", "moved"),),
        sightings=(Sighting("plain", "completed", 2), Sighting("replayed", "failed", 2)),
        runs=(
            run("plain", 1),
            run("crashed", 1, how="", ended=None),
            run("crashed", 5, pid=12),
            run("replayed", 1, how="raised"),
            run("replayed", 4, how="raised"),
        ),
        attempts=(
            attempt("plain", 1, 1, "completed"),
            attempt("crashed", 1, 1, "lease_lost", error_type="LeaseLost"),
            attempt("crashed", 3, 2, "handed_back"),
            attempt("crashed", 5, 2, "completed", pid=12),
            attempt("replayed", 1, 1, "failed", error_type="NotRetryable"),
            attempt("replayed", 4, 1, "failed", error_type="NotRetryable"),
        ),
        jobs=(
            stored("plain", "completed", 2),
            stored("crashed", "completed", 6, attempt=2, crashes=1),
            stored("replayed", "failed", 5, error_type="NotRetryable"),
        ),
        windows=(SIGKILL,),
        deaths=(Death(11, 90.0, 100.6, -9),),
        remains=Remains(entries={"jobs": 0}, pending={"jobs": 0}, delayed={"delayed": 0}, grown_bytes=1_000_000),
    )


def poisoned() -> History:
    """A job that took its process with it, and then two children."""
    died = {"error_type": "ProcessDied", "pid": 12}
    return History(
        lease_seconds=2.0,
        max_crashes=3,
        submits=(submit("poison", FAILED, type="torture.poison"),),
        runs=tuple(run("poison", fence, how="", ended=None, pid=pid) for fence, pid in ((1, 11), (3, 21), (5, 22))),
        attempts=(
            attempt("poison", 1, 1, "lease_lost", error_type="LeaseLost"),
            attempt("poison", 3, 2, "lease_lost", **died),
            attempt("poison", 5, 3, "lease_lost", **died),
        ),
        jobs=(
            stored(
                *("poison", "failed", 6),
                type="torture.poison",
                attempt=3,
                crashes=3,
                error_type="ProcessDied",
                error_message="the child process was killed by SIGKILL",
            ),
        ),
        windows=(
            Window(
                fault="poison", start=101.0, end=101.0, pids=frozenset({11}), explains=frozenset({LEASE_LOST, DEATH})
            ),
        ),
        deaths=(Death(11, 90.0, 101.1, -9),),
    )


def without(history: History, field: str, number: int) -> History:
    rows = list(getattr(history, field))
    del rows[number]
    return msgspec.structs.replace(history, **{field: tuple(rows)})


def changed(history: History, field: str, index: int, /, **values: object) -> History:
    rows = list(getattr(history, field))
    rows[index] = msgspec.structs.replace(rows[index], **values)
    return msgspec.structs.replace(history, **{field: tuple(rows)})


def added(history: History, field: str, *rows: object) -> History:
    return msgspec.structs.replace(history, **{field: (*getattr(history, field), *rows)})


@pytest.mark.parametrize("history", [good(), poisoned()], ids=["good", "poisoned"])
def test_a_history_in_which_all_went_well_has_no_violation(history: History) -> None:
    assert check(history) == []


PLANTED = {
    "an accepted job is gone": ("lost", without(good(), "jobs", 0)),
    "a job that was seen is gone": ("lost", added(good(), "sightings", Sighting("other", "completed", 2))),
    "a job never ends": ("not terminal", changed(good(), "jobs", 0, status="running")),
    "a job that nobody sent": ("never sent", added(good(), "jobs", stored("other", "completed", 0))),
    "a job of another type than was sent": ("never sent", changed(good(), "jobs", 0, type="torture.fail")),
    "a key was answered with two jobs": (
        "one key, one job",
        changed(good(), "submits", 0, job_ids=frozenset({"plain", "crashed"})),
    ),
    "a key was created twice": ("one key, one job", changed(good(), "submits", 0, created=2)),
    "a key is stored twice": ("one key, one job", changed(good(), "jobs", 1, key="key-plain")),
    "a fence has two attempts": (
        "one transition a fence",
        added(good(), "attempts", attempt("plain", 1, 1, "completed")),
    ),
    "a claim took the fence of an end": ("one transition a fence", changed(good(), "attempts", 2, fence=2)),
    "an end did not count": ("one transition a fence", changed(good(), "jobs", 0, fence=1)),
    "a transition too many": ("one transition a fence", changed(good(), "jobs", 0, fence=3)),
    "a replay that did nothing": (
        "one transition a fence",
        added(good(), "commands", Command("replay", "plain", "moved")),
    ),
    "being handed back cost an attempt": ("attempts count right", changed(good(), "attempts", 3, number=3)),
    "a crash was not counted": ("attempts count right", changed(good(), "jobs", 1, crashes=0)),
    "the attempts were miscounted": ("attempts count right", changed(good(), "jobs", 1, attempt=3)),
    "a retry was counted twice": ("attempts count right", changed(good(), "jobs", 0, retry_count=1)),
    "a completed job ran again": (
        "terminal stays",
        added(changed(good(), "jobs", 0, fence=4), "attempts", attempt("plain", 3, 2, "completed")),
    ),
    "a failed job ran again without a replay": ("terminal stays", without(good(), "commands", 0)),
    "a terminal state changed": ("terminal stays", changed(good(), "sightings", 0, status="failed")),
    "a job that should complete failed": (
        "expected end",
        changed(changed(good(), "jobs", 0, status="failed"), "attempts", 0, outcome="failed"),
    ),
    "a job failed of crashes before the cap": (
        "expected end",
        changed(good(), "jobs", 1, status="failed", error_type="LeaseLost"),
    ),
    "a fence ran twice": ("one run a fence", added(good(), "runs", run("plain", 1, pid=12))),
    "a run without an attempt": ("one run a fence", added(good(), "runs", run("plain", 7))),
    "an attempt completed that never ran": ("no stale write", without(good(), "runs", 0)),
    "an attempt completed whose handler raised": ("no stale write", changed(good(), "runs", 0, how="raised")),
    "the result is that of another run": ("no stale write", changed(good(), "jobs", 1, result_fence=1)),
    "the last attempt did not complete": ("no stale write", without(good(), "attempts", 3)),
    "a lease was lost without a fault": ("explained", without(good(), "windows", 0)),
    "a lease was lost on a process that was spared": ("explained", changed(good(), "attempts", 1, pid=12)),
    "a lease was lost long after the fault": ("explained", changed(good(), "windows", 0, start=10.0, end=20.0)),
    "handed back without a fault": (
        "explained",
        changed(added(good(), "runs", run("crashed", 3, how="cancelled")), "windows", 0, explains={LEASE_LOST, DEATH}),
    ),
    "a child died without a fault": ("explained", changed(good(), "attempts", 4, error_type="ProcessDied")),
    "two runs at once without a fault": (
        "explained",
        changed(changed(good(), "runs", 3, ended=110.0, pid=12), "attempts", 4, pid=12),
    ),
    "two runs at once, one in a child of a process without a fault": (
        "explained",
        changed(changed(good(), "runs", 3, ended=110.0, pid=11), "attempts", 4, pid=12),
    ),
    "a process died by itself": ("explained", changed(good(), "deaths", 0, pid=12)),
    "a process ended with a code of its own": ("explained", added(good(), "deaths", Death(12, 110.0, 120.0, 2))),
    "a graceful stop had to be ended by a kill": (
        "explained",
        added(
            added(good(), "deaths", Death(12, 90.0, 101.0, -9)),
            "windows",
            Window(fault="rolling", start=100.0, end=110.0, pids=frozenset({12}), explains=frozenset({STOPPED})),
        ),
    ),
    "a job was retried whose handler returned": (
        "no stale write",
        changed(good(), "attempts", 0, outcome="retrying", error_type="Timeout"),
    ),
    "a job was failed whose handler was not heard": (
        "no stale write",
        changed(good(), "runs", 3, how="cancelled"),
    ),
    "poison was given up too early": (
        "poison",
        changed(poisoned(), "jobs", 0, crashes=2),
    ),
    "poison does not tell what killed it": (
        "poison",
        changed(poisoned(), "jobs", 0, error_message="the child process stopped answering"),
    ),
    "a child of another job died": (
        "explained",
        changed(changed(poisoned(), "jobs", 0, type="torture.work"), "submits", 0, type="torture.work"),
    ),
    "an in-memory queue was too full": (
        "buffers are bounded",
        added(good(), "buffers", Buffer(pid=11, name="deliveries", most=50_001, bound=50_000)),
    ),
    "poison killed twice": (
        "poison",
        added(
            added(
                changed(changed(good(), "jobs", 2, type="torture.poison"), "submits", 2, type="torture.poison"),
                "deaths",
                Death(12, 90.0, 101.0, -9),
            ),
            "runs",
            run("replayed", 6, pid=12),
        ),
    ),
    "a message is left": (
        "redis is empty",
        msgspec.structs.replace(good(), remains=Remains(entries={"jobs": 1})),
    ),
    "a pending message is left": (
        "redis is empty",
        msgspec.structs.replace(good(), remains=Remains(pending={"jobs": 1})),
    ),
    "a delayed job is left": (
        "redis is empty",
        msgspec.structs.replace(good(), remains=Remains(delayed={"delayed": 1})),
    ),
    "a dead consumer is left": (
        "redis is empty",
        msgspec.structs.replace(good(), remains=Remains(dead_consumers=("host-11-abc",))),
    ),
    "Redis has grown": (
        "redis is empty",
        msgspec.structs.replace(good(), remains=Remains(grown_bytes=6 * 1_048_576)),
    ),
    "a request was answered 500": (
        "answers",
        msgspec.structs.replace(good(), odd_answers=("POST /jobs: 500",)),
    ),
}


@pytest.mark.parametrize(("invariant", "history"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_violation_is_found(invariant: str, history: History) -> None:
    assert invariant in {violation.invariant for violation in check(history)}


ALLOWED = {
    "a cancel of which nobody knows whether it was done": History(
        lease_seconds=2.0,
        max_crashes=3,
        submits=(submit("plain"),),
        commands=(Command("cancel", "plain", "unknown"),),
        jobs=(stored("plain", "canceled", 1, attempt=0, error_type="Canceled"),),
    ),
    "a job that lost as many leases as it may": History(
        lease_seconds=2.0,
        max_crashes=1,
        submits=(submit("plain"),),
        attempts=(attempt("plain", 1, 1, "lease_lost", error_type="LeaseLost"),),
        jobs=(stored("plain", "failed", 2, crashes=1, error_type="LeaseLost"),),
        windows=(SIGKILL,),
    ),
    "a server that does not start without its engines": added(good(), "deaths", Death(12, 101.0, 101.5, 2)),
    "a graceful stop": added(
        added(good(), "deaths", Death(12, 90.0, 101.0, 0)),
        "windows",
        Window(fault="rolling", start=100.0, end=110.0, pids=frozenset({12}), explains=frozenset({STOPPED})),
    ),
    "an in-memory queue that is full": added(
        good(), "buffers", Buffer(pid=11, name="deliveries", most=50_000, bound=50_000)
    ),
    "a hand-back before the handler began": changed(good(), "windows", 0, explains={LEASE_LOST, DEATH}),
    "two runs at once after a fault": changed(good(), "runs", 1, ended=106.0, how="returned"),
}


@pytest.mark.parametrize("history", ALLOWED.values(), ids=ALLOWED.keys())
def test_what_a_fault_explains_is_no_violation(history: History) -> None:
    assert check(history) == []


def test_the_story_of_a_job_has_everything_in_order() -> None:
    told = story(good(), "crashed")
    order = [
        "fault   sigkill begins",
        "attempt 1 under fence 1 on process 11 began",
        "attempt 1 under fence 1 on process 11 ended: lease_lost",
        "attempt 2 under fence 3 on process 11 ended: handed_back",
        "handler under fence 5 in process 12 ended: returned",
    ]
    found = [next(number for number, line in enumerate(told) if part in line) for part in order]
    assert found == sorted(found)
    assert any("key='key-crashed'" in line for line in told)
