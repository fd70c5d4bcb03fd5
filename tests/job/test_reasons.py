"""Why a job is what it is: which facts lead to which reasons, in which order, with which figures."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest

from jobserver.job.lifecycle import CANCELED, EXPIRED
from jobserver.job.model import CALLBACK, CALLBACK_QUEUE, Job, JobError, Priority, Progress, Status, WorkerInfo
from jobserver.job.reasons import MAX_MESSAGE, Code, Facts, Reason, reasons_of

NOW = datetime(2026, 3, 7, 10, 0, 0, tzinfo=UTC)
ID = UUID("019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11")


def job(status: Status = Status.QUEUED, **fields: Any) -> Job:
    """Of the type "t" in the queue "q", submitted a minute ago."""
    ago = NOW - timedelta(seconds=60)
    defaults: dict[str, Any] = {
        "id": ID,
        "type": "t",
        "queue": "q",
        "priority": Priority.NORMAL,
        "status": status,
        "payload": b"null",
        "result": None,
        "error": None,
        "attempt": 0,
        "retry_count": 0,
        "max_retries": 3,
        "crashes": 0,
        "fence": 0,
        "timeout_seconds": 30.0,
        "idempotency_key": None,
        "tags": (),
        "progress": None,
        "callback_url": None,
        "created_at": ago,
        "updated_at": ago,
        "run_at": ago,
        "due_at": ago,
        "started_at": None,
        "finished_at": None,
        "expires_at": None,
        "worker_id": None,
        "lease_expires_at": None,
        "cancel_requested": False,
        "trace_context": None,
    }
    return Job(**(defaults | fields))


def running(**fields: Any) -> Job:
    """On "w" for ten seconds."""
    started = NOW - timedelta(seconds=10)
    lease = NOW + timedelta(seconds=12)
    defaults = {"attempt": 1, "started_at": started, "worker_id": "w", "lease_expires_at": lease}
    return job(Status.RUNNING, **(defaults | fields))


def over(status: Status, **fields: Any) -> Job:
    return job(status, **({"attempt": 1, "started_at": NOW - timedelta(seconds=2), "finished_at": NOW} | fields))


def worker(worker_id: str = "w", **fields: Any) -> WorkerInfo:
    """Alive, for every queue, with the type "t" and places left."""
    defaults: dict[str, Any] = {
        "id": worker_id,
        "host": "h",
        "pid": 1,
        "version": "1",
        "started_at": NOW,
        "heartbeat_at": NOW,
        "alive": True,
        "draining": False,
        "concurrency": 4,
        "running": 0,
        "loop_lag_seconds": 0.0,
        "queues": None,
        "types": ("t", "u"),
    }
    return WorkerInfo(**(defaults | fields))


def facts(job_: Job, *workers: WorkerInfo, **fields: Any) -> Facts:
    return Facts(job=job_, now=NOW, **({"workers": workers or (worker(),)} | fields))


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


ERROR = JobError("ValueError", "no luck", "Traceback ...")
BUSY = worker(running=4)

# What is so, and the codes that it leads to.
CASES: dict[str, tuple[Facts, list[str]]] = {
    "ready": (facts(job()), ["ready"]),
    "due just now": (facts(job(due_at=NOW)), ["ready"]),
    "scheduled": (facts(job(Status.SCHEDULED, due_at=later(90))), ["scheduled"]),
    "scheduled and due": (facts(job(Status.SCHEDULED)), ["ready"]),
    "snoozed": (facts(job(Status.SCHEDULED, due_at=later(5), started_at=NOW)), ["snoozed"]),
    "a retry later": (facts(job(Status.RETRYING, due_at=later(5), retry_count=2, error=ERROR)), ["waiting_for_retry"]),
    "a retry that is due": (facts(job(Status.RETRYING, retry_count=2, error=ERROR)), ["ready"]),
    "handed back": (facts(job(due_at=later(5), started_at=NOW)), ["handed_back"]),
    "submitted just now, by a clock that is behind": (facts(job(due_at=later(0.005))), ["ready"]),
    "a paused queue": (facts(job(), paused=True), ["queue_paused"]),
    "no Redis": (facts(job(), redis=False), ["redis_down"]),
    "nobody alive": (facts(job(), worker(alive=False)), ["no_live_worker"]),
    "nobody at all": (Facts(job=job(), now=NOW), ["no_live_worker"]),
    "only an API": (facts(job(), worker(concurrency=0, types=())), ["no_live_worker"]),
    "all drain": (facts(job(), worker(draining=True)), ["no_live_worker"]),
    "other queues": (facts(job(), worker(queues=("r",))), ["no_worker_for_queue"]),
    "its queue among others": (facts(job(), worker(queues=("r", "q"))), ["ready"]),
    "other types": (facts(job(), worker(types=("u",))), ["no_worker_for_type"]),
    "its type in another queue": (
        facts(job(), worker(queues=("r",)), worker("x", types=("u",))),
        ["no_worker_for_type"],
    ),
    "a dead one would do": (
        facts(job(), worker(alive=False), worker("x", types=("u",))),
        ["no_worker_for_type"],
    ),
    "one of two does": (facts(job(), worker(types=()), worker("x")), ["ready"]),
    "all busy": (facts(job(), BUSY), ["consumers_busy"]),
    "more claimed than places": (facts(job(), worker(running=16)), ["consumers_busy"]),
    "one place left": (facts(job(), BUSY, worker("x", running=3)), ["ready"]),
    "others have places": (
        facts(job(), BUSY, worker("x", types=("u",)), worker("y", queues=("r",))),
        ["consumers_busy"],
    ),
    "the free one drains": (facts(job(), BUSY, worker("x", draining=True)), ["consumers_busy"]),
    "jobs ahead": (facts(job(), ahead=3, started_per_second=1.5), ["jobs_ahead"]),
    "jobs ahead, all busy": (facts(job(), BUSY, ahead=3), ["consumers_busy", "jobs_ahead"]),
    "jobs ahead, paused": (facts(job(), BUSY, ahead=3, paused=True), ["queue_paused", "jobs_ahead"]),
    "everything": (
        facts(job(), worker(alive=False), paused=True, redis=False, ahead=3),
        ["queue_paused", "no_live_worker", "redis_down", "jobs_ahead"],
    ),
    "scheduled, paused": (facts(job(Status.SCHEDULED, due_at=later(9)), paused=True), ["scheduled", "queue_paused"]),
    "scheduled, all busy": (facts(job(Status.SCHEDULED, due_at=later(9)), BUSY), ["scheduled"]),
    "handed back, no handler": (
        facts(job(due_at=later(5), started_at=NOW), worker(types=())),
        ["handed_back", "no_worker_for_type"],
    ),
    "expires": (facts(job(expires_at=later(30))), ["ready", "expires"]),
    "expires before it is due": (
        facts(job(Status.SCHEDULED, due_at=later(60), expires_at=later(30))),
        ["expires", "scheduled"],
    ),
    "expires before its turn": (
        facts(job(expires_at=later(30)), ahead=100, started_per_second=1.0),
        ["expires", "jobs_ahead"],
    ),
    "its turn before it expires": (
        facts(job(expires_at=later(30)), ahead=10, started_per_second=1.0),
        ["jobs_ahead", "expires"],
    ),
    "is about to expire": (facts(job(expires_at=later(-1))), ["expires", "ready"]),
    "a callback": (facts(job(type=CALLBACK, queue=CALLBACK_QUEUE), worker(queues=("q",), types=())), ["ready"]),
    "running": (facts(running()), ["running", "lease"]),
    "running, with progress": (facts(running(progress=Progress(25.0, "a quarter"))), ["running", "lease"]),
    "running, cancel requested": (facts(running(cancel_requested=True)), ["cancel_requested", "running", "lease"]),
    "running, its process dead": (facts(running(), worker(alive=False)), ["lease", "running"]),
    "running, its process forgotten": (facts(running(), worker("x")), ["lease", "running"]),
    "running, its lease over": (facts(running(lease_expires_at=later(-1)), worker("x")), ["lease", "running"]),
    "running, beyond its time": (facts(running(started_at=later(-31))), ["running", "lease"]),
    "completed": (facts(over(Status.COMPLETED)), ["completed"]),
    "failed": (facts(over(Status.FAILED, attempt=4, retry_count=3, error=ERROR)), ["failed"]),
    "failed, not retryable": (
        facts(over(Status.FAILED, error=JobError("NotRetryable", "no", retryable=False))),
        ["failed"],
    ),
    "failed, of a handler's Expired": (
        facts(over(Status.FAILED, error=JobError("Expired", "the token", retryable=False))),
        ["failed"],
    ),
    "failed, no error known": (facts(over(Status.FAILED)), ["failed"]),
    "crashed": (facts(over(Status.FAILED, crashes=3, error=JobError("LeaseLost", "died"))), ["failed"]),
    "expired": (
        facts(over(Status.FAILED, attempt=0, started_at=None, expires_at=NOW, error=EXPIRED)),
        ["expired"],
    ),
    "expired between retries": (facts(over(Status.FAILED, attempt=2, expires_at=NOW, error=EXPIRED)), ["expired"]),
    "expired while it was put off": (facts(over(Status.FAILED, attempt=0, expires_at=NOW, error=EXPIRED)), ["expired"]),
    "canceled while it waited": (facts(over(Status.CANCELED, started_at=None)), ["canceled"]),
    "canceled while it ran": (facts(over(Status.CANCELED, error=CANCELED, cancel_requested=True)), ["canceled"]),
    "canceled before a retry": (facts(over(Status.CANCELED, error=ERROR)), ["canceled"]),
}


def all_reasons() -> Iterator[Reason]:
    for found, _ in CASES.values():
        yield from reasons_of(found)


@pytest.mark.parametrize("name", CASES)
def test_facts_lead_to_reasons(name: str) -> None:
    found, codes = CASES[name]
    assert [reason.code for reason in reasons_of(found)] == codes


def test_every_code_is_led_to() -> None:
    assert {reason.code for reason in all_reasons()} == set(get_args(Code))


@pytest.mark.parametrize("status", Status)
def test_there_is_always_a_reason(status: Status) -> None:
    """Whatever else a row may lack."""
    assert reasons_of(Facts(job=job(status), now=NOW))


def test_reasons_are_sentences_with_a_hint_and_plain_figures() -> None:
    for reason in all_reasons():
        for text in (reason.message, reason.hint):
            assert text == text.strip()
            assert "None" not in text, text
            assert text[0].isupper(), text
            assert "  " not in text, text
        assert "Traceback" not in msgspec.json.encode(reason).decode()


def only(found: Facts, code: str) -> Reason:
    (reason,) = (each for each in reasons_of(found) if each.code == code)
    return reason


@pytest.mark.parametrize(
    ("name", "code", "message", "figures"),
    [
        (
            "scheduled",
            "scheduled",
            "It is scheduled, and due in 1 min 30 s.",
            {"run_at": "2026-03-07T10:01:30Z", "seconds": 90.0},
        ),
        (
            "a retry later",
            "waiting_for_retry",
            "It runs again in 5.0 s (retry 2 of 3): ValueError: no luck",
            {"retry": 2, "max_retries": 3, "crashes": 0, "error_type": "ValueError", "seconds": 5.0},
        ),
        ("a paused queue", "queue_paused", "The queue q is paused: none of its jobs starts.", {"queue": "q"}),
        ("all drain", "no_live_worker", "No process with consumers is alive.", {"processes": 1, "draining": 1}),
        ("nobody alive", "no_live_worker", "No process with consumers is alive.", {"processes": 0, "draining": 0}),
        ("other queues", "no_worker_for_queue", "No live process takes jobs of the queue q.", {"workers": 1}),
        (
            "its type in another queue",
            "no_worker_for_type",
            "No live process that takes jobs of the queue q handles the type t.",
            {"type": "t", "queue": "q", "workers": 1},
        ),
        (
            "others have places",
            "consumers_busy",
            "All 4 consumers that could run it have a job.",
            {"running": 4, "concurrency": 4, "workers": 1},
        ),
        ("more claimed than places", "consumers_busy", "All 4 consumers that could run it have a job.", {"running": 4}),
        (
            "jobs ahead",
            "jobs_ahead",
            "It is behind 3 jobs of the queue q; at the present 1.5 a second it starts in about 2.0 s.",
            {"ahead": 3, "capped": False, "rate_per_second": 1.5, "seconds": 2.0},
        ),
        (
            "jobs ahead, paused",
            "jobs_ahead",
            "It is behind 3 jobs of the queue q.",
            {"ahead": 3, "capped": False, "rate_per_second": None, "seconds": None},
        ),
        (
            "expires before it is due",
            "expires",
            "It expires in 30 s if it has not started by then.",
            {"expires_at": "2026-03-07T10:00:30Z", "seconds": 30.0},
        ),
        ("is about to expire", "expires", "It has expired, and is about to fail.", {"seconds": 0.0}),
        (
            "running, with progress",
            "running",
            "It has been running for 10 s on w, 25 % done; it times out in 20 s.",
            {"worker_id": "w", "attempt": 1, "seconds": 10.0, "timeout_seconds": 30.0, "percent": 25.0},
        ),
        (
            "running, beyond its time",
            "running",
            "It has been running for 31 s on w; its time is used up, and it was asked to end.",
            {"seconds": 31.0},
        ),
        (
            "running",
            "lease",
            "Its process keeps it: the lease ends in 12 s, and is extended while the process lives.",
            {"expires_in_seconds": 12.0, "worker_id": "w", "worker_alive": True},
        ),
        (
            "running, its process dead",
            "lease",
            "The process w is not heard of; the job is taken back at the latest in 12 s, when its lease ends.",
            {"worker_alive": False},
        ),
        (
            "running, its lease over",
            "lease",
            "The process w is not heard of; the job is taken back now, as its lease is over.",
            {"expires_in_seconds": 0.0},
        ),
        (
            "completed",
            "completed",
            "It completed 1 min after it was submitted; its last run took 2.0 s.",
            {"attempts": 1, "seconds": 2.0, "total_seconds": 60.0},
        ),
        (
            "failed",
            "failed",
            "It failed after 4 attempts, and all 3 retries were used: ValueError: no luck",
            {
                "error_type": "ValueError",
                "retryable": True,
                "attempts": 4,
                "retry_count": 3,
                "max_retries": 3,
                "crashes": 0,
            },
        ),
        (
            "failed, not retryable",
            "failed",
            "It failed after 1 attempt, and the error says that a retry does not help: NotRetryable: no",
            {"retryable": False},
        ),
        (
            "crashed",
            "failed",
            "It failed after 1 attempt, and its process was lost 3 times: LeaseLost: died",
            {"crashes": 3},
        ),
        (
            "expired",
            "expired",
            "It expired: nobody had started it 1 min after it was submitted.",
            {"expires_at": "2026-03-07T10:00:00Z", "waited_seconds": 60.0, "attempts": 0},
        ),
        (
            "expired between retries",
            "expired",
            "It expired 1 min after it was submitted: after 2 attempts it waited again.",
            {"attempts": 2},
        ),
        (
            "expired while it was put off",
            "expired",
            "It expired 1 min after it was submitted: it was put off or handed back, and waited again.",
            {"attempts": 0},
        ),
        (
            "canceled while it ran",
            "canceled",
            "It was canceled: cancel requested",
            {"attempts": 1, "requested": True, "error_type": "Canceled"},
        ),
        (
            "canceled before a retry",
            "canceled",
            "It was canceled; its last error was ValueError: no luck",
            {"error_type": "ValueError"},
        ),
    ],
)
def test_a_reason_says_what_is_so_with_its_figures(name: str, code: str, message: str, figures: dict[str, Any]) -> None:
    reason = only(CASES[name][0], code)
    assert reason.message == message
    assert figures.items() <= reason.figures.items()


def test_an_estimate_of_a_capped_count_is_a_least_one() -> None:
    found = facts(job(), ahead=10_000, ahead_capped=True, queued=900_000, started_per_second=2_000.0)
    reason = only(found, "jobs_ahead")
    assert reason.message == (
        "It is behind at least 10,000 jobs of the queue q; at the present 2,000.0 a second it starts in at least 5.0 s."
    )
    assert (reason.figures["capped"], reason.figures["queued"]) == (True, 900_000)


@pytest.mark.parametrize("rate", [None, 0.0])
def test_without_a_rate_there_is_no_estimate(rate: float | None) -> None:
    reason = only(facts(job(), ahead=1, started_per_second=rate), "jobs_ahead")
    assert reason.message == "It is behind 1 job of the queue q."
    assert (reason.figures["rate_per_second"], reason.figures["seconds"]) == (rate, None)


def test_a_hint_names_where_the_type_is_handled() -> None:
    reason = only(CASES["its type in another queue"][0], "no_worker_for_type")
    assert "take other queues (r): start one for q" in reason.hint


def test_a_retry_after_a_crash_says_so() -> None:
    crashed = job(Status.RETRYING, due_at=later(2), crashes=1, error=JobError("LeaseLost", "the process died"))
    assert "(after crash 1): LeaseLost: the process died" in only(facts(crashed), "waiting_for_retry").message


def test_long_messages_of_errors_are_cut_to_a_line() -> None:
    error = JobError("E", "line\n" * 1_000)
    reason = only(facts(over(Status.FAILED, error=error)), "failed")
    assert "\n" not in reason.message
    assert len(reason.message) < MAX_MESSAGE + 100
    assert reason.message.endswith("…")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0123, "12 ms"),
        (1.25, "1.2 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (3_720, "1 h 2 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_spans_of_time_are_told_by_their_two_largest_units(seconds: float, said: str) -> None:
    reason = only(facts(job(Status.SCHEDULED, due_at=later(seconds))), "scheduled")
    assert reason.message == f"It is scheduled, and due in {said}."
