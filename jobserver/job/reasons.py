"""Reasons: why a job waits, runs or has ended as it has, from facts that somebody has gathered.

Pure. The most important reason comes first: what keeps the job from running before what will come after it. Each says
what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final, Literal

import msgspec

from jobserver.job.lifecycle import CANCELED, EXPIRED
from jobserver.job.model import CALLBACK, CALLBACK_QUEUE, TERMINAL, Job, JobError, Status, WorkerInfo

Code = Literal[
    # Of a job that waits.
    "queue_paused",
    "no_live_worker",
    "no_worker_for_queue",
    "no_worker_for_type",
    "redis_down",
    "scheduled",
    "snoozed",
    "waiting_for_retry",
    "handed_back",
    "consumers_busy",
    "jobs_ahead",
    "ready",
    "expires",
    # Of one that runs.
    "cancel_requested",
    "running",
    "lease",
    # Of one that has ended.
    "completed",
    "failed",
    "expired",
    "canceled",
]

Figure = str | int | float | bool | None

# What an error's message may take in a sentence.
MAX_MESSAGE: Final = 200
# The types of errors that the server itself makes of an attempt, and what to do about them.
_HINTS: Final[dict[str, str]] = {
    "Timeout": "Let it do less, or submit it with a longer `timeout`, or give its type one.",
    "LeaseLost": "Its process died or hung: see `worker_died` and `event_loop_blocked` in the logs of that time.",
    "ProcessDied": "It ended its own process: memory, or native code. See the logs of that time.",
    "InvalidPayload": "The handler's arguments have changed since it was submitted: submit it anew.",
    "InvalidResult": "What the handler returned is no JSON, or too large: mend the handler.",
    "HandlerNotFound": "A process without the code of its handler ran it: deploy it everywhere.",
    "NotStorable": "SQL refused what the attempt ended with: see the logs of that time.",
}


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One reason: a code for programs, a sentence for people, what to do about it, and the figures behind it."""

    code: Code
    message: str
    hint: str
    figures: dict[str, Figure]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known at one moment of a job and of what it depends on. `now` is the database's.

    Of a waiting job: `ahead` due jobs go before it (at least so many, if `ahead_capped`); its queue has so many that
    are `queued`, and begins `started_per_second`. `workers` are processes, dead ones too.
    """

    job: Job
    now: datetime
    paused: bool = False
    redis: bool = True
    ahead: int = 0
    ahead_capped: bool = False
    queued: int | None = None
    started_per_second: float | None = None
    workers: tuple[WorkerInfo, ...] = ()

    @property
    def due_in_seconds(self) -> float:
        seconds = (self.job.due_at - self.now).total_seconds()
        # Of a job that was queued at once only the measure of the database's clock can be behind.
        return min(seconds, 0.0) if self.job.status is Status.QUEUED and self.job.started_at is None else seconds


def reasons_of(facts: Facts) -> list[Reason]:
    """The reasons for what a job is, the most important first; never none."""
    status = facts.job.status
    if status in TERMINAL:
        return [_end(facts)]
    return _of_running(facts) if status is Status.RUNNING else _of_waiting(facts)


# Jobs that wait.


def _of_waiting(facts: Facts) -> list[Reason]:
    blocks = list(_blocks(facts))
    if facts.due_in_seconds > 0:
        found = [_not_due(facts), *blocks]
        wait: float | None = facts.due_in_seconds
    else:
        found = list(blocks)
        if not blocks and (busy := _busy(facts)) is not None:
            found.append(busy)
        wait = None
        if facts.ahead:
            wait = None if blocks or not facts.started_per_second else facts.ahead / facts.started_per_second
            found.append(_ahead(facts, wait))
        if not found:
            found.append(_ready(facts))
    expires = _expires(facts)
    if expires is not None:
        late = (facts.job.expires_at or facts.now) <= facts.now or (
            wait is not None and wait > _seconds_to(facts.job.expires_at, facts.now)
        )
        found.insert(0 if late else len(found), expires)
    return found


def _blocks(facts: Facts) -> Iterator[Reason]:
    """What keeps it from running, once it is due, until somebody does something."""
    job = facts.job
    if facts.paused:
        yield Reason(
            code="queue_paused",
            message=f"The queue {job.queue} is paused: none of its jobs starts.",
            hint=f"Resume it: POST /queues/{job.queue}/resume, or `jobserver queues resume {job.queue}`.",
            figures={"queue": job.queue},
        )
    lacking = _lacking(facts)
    if lacking is not None:
        yield lacking
    if not facts.redis:
        yield Reason(
            code="redis_down",
            message="Redis does not answer: the job is safe in SQL, and is delivered when Redis returns.",
            hint="Start Redis, or look at the network between it and the server. Nothing needs to be submitted again.",
            figures={},
        )


def _lacking(facts: Facts) -> Reason | None:
    """The process that nobody started."""
    job = facts.job
    alive = [worker for worker in facts.workers if worker.alive]
    consuming = _consuming(facts.workers)
    if not consuming:
        return Reason(
            code="no_live_worker",
            message="No process with consumers is alive.",
            hint="Start one: `jobserver serve`, with `--workers` above 0. The logs of those that ended say why.",
            figures={"processes": len(alive), "draining": sum(worker.draining for worker in alive)},
        )
    serving = _serving(facts, consuming)
    if not serving:
        return Reason(
            code="no_worker_for_queue",
            message=f"No live process takes jobs of the queue {job.queue}.",
            hint=f"Start one without `--queues`, or with {job.queue} among them.",
            figures={"queue": job.queue, "workers": len(consuming)},
        )
    if not _handling(facts, serving):
        elsewhere = sorted({name for worker in _handling(facts, consuming) for name in worker.queues or ()})
        return Reason(
            code="no_worker_for_type",
            message=f"No live process that takes jobs of the queue {job.queue} handles the type {job.type}.",
            hint=(
                f"Processes that handle it take other queues ({', '.join(elsewhere[:5])}): start one for {job.queue}."
                if elsewhere
                else f"Start one whose handlers have the type {job.type}: `jobserver serve MODULE:HANDLERS`."
            ),
            figures={"type": job.type, "queue": job.queue, "workers": len(serving)},
        )
    return None


def _consuming(workers: Iterable[WorkerInfo]) -> list[WorkerInfo]:
    return [each for each in workers if each.alive and each.concurrency > 0 and not each.draining]


def _serving(facts: Facts, workers: Iterable[WorkerInfo]) -> list[WorkerInfo]:
    queue = facts.job.queue
    # Whatever a process was started for, it tells of what has ended.
    return [each for each in workers if each.queues is None or queue in each.queues or queue == CALLBACK_QUEUE]


def _handling(facts: Facts, workers: Iterable[WorkerInfo]) -> list[WorkerInfo]:
    kind = facts.job.type
    return [each for each in workers if kind in each.types or kind == CALLBACK]


def _not_due(facts: Facts) -> Reason:
    job = facts.job
    seconds = facts.due_in_seconds
    when: dict[str, Figure] = {"run_at": _moment(job.due_at), "seconds": round(seconds, 3)}
    if job.status is Status.RETRYING:
        error = job.error
        retries = f"retry {job.retry_count} of {job.max_retries}"
        after = "its process was lost" if error is None else _said(error)
        again = retries if job.retry_count else f"after crash {job.crashes}"
        return Reason(
            code="waiting_for_retry",
            message=f"It runs again in {_time(seconds)} ({again}): {after}",
            hint="Nothing to do, unless the error will come again: then cancel it and mend the cause.",
            figures={
                "retry": job.retry_count,
                "max_retries": job.max_retries,
                "crashes": job.crashes,
                "error_type": None if error is None else error.type,
                **when,
            },
        )
    if job.status is Status.QUEUED:
        return Reason(
            code="handed_back",
            message=f"A process took it and handed it back; it is delivered again in {_time(seconds)}.",
            hint="Nothing to do: that process stops, or does not handle its type. It cost no attempt.",
            figures=when,
        )
    if job.started_at is not None:
        return Reason(
            code="snoozed",
            message=f"Its handler put it off; it runs again in {_time(seconds)}.",
            hint="Nothing to do: it waits for what its handler waits for. It cost no attempt.",
            figures=when,
        )
    return Reason(
        code="scheduled",
        message=f"It is scheduled, and due in {_time(seconds)}.",
        hint="Nothing to do. To have it sooner, cancel it and submit it without a delay.",
        figures=when,
    )


def _busy(facts: Facts) -> Reason | None:
    """Every consumer that could run it has a job."""
    able = _handling(
        facts,
        _serving(facts, [each for each in facts.workers if each.alive and each.concurrency and not each.draining]),
    )
    concurrency = sum(worker.concurrency for worker in able)
    # What was claimed ahead of its turn counts as running to a heartbeat, and needs a consumer too.
    running = sum(min(worker.running, worker.concurrency) for worker in able)
    if running < concurrency:
        return None
    return Reason(
        code="consumers_busy",
        message=f"All {concurrency:,} consumers that could run it have a job.",
        hint="It starts when one is free. Raise `--workers`, or start another process, if that takes too long.",
        figures={"running": running, "concurrency": concurrency, "workers": len(able)},
    )


def _ahead(facts: Facts, wait: float | None) -> Reason:
    ahead, queue = facts.ahead, facts.job.queue
    rate = facts.started_per_second
    jobs = "1 job" if ahead == 1 else f"{ahead:,} jobs"
    least, about = ("at least ", "at least") if facts.ahead_capped else ("", "about")
    pace = "" if wait is None else f"; at the present {rate:,.1f} a second it starts in {about} {_time(wait)}"
    figures: dict[str, Figure] = {
        "ahead": ahead,
        "capped": facts.ahead_capped,
        "rate_per_second": rate,
        "seconds": None if wait is None else round(wait, 1),
    }
    if facts.queued is not None:
        figures["queued"] = facts.queued
    return Reason(
        code="jobs_ahead",
        message=f"It is behind {least}{jobs} of the queue {queue}{pace}.",
        hint=(
            "Older ones, and those with a higher priority, go first. To run more at once raise `--workers`, or start"
            " another process; what is urgent gets priority high, or a queue of its own."
        ),
        figures=figures,
    )


def _ready(facts: Facts) -> Reason:
    seconds = max(0.0, -facts.due_in_seconds)
    return Reason(
        code="ready",
        message="Nothing keeps it: it is due, and should start within moments.",
        hint=(
            "If it does not within half a minute, its message may be lost, and is published again by itself; see"
            " `jobs_reconciled` and `fetch_failed` in the logs."
        ),
        figures={"due_seconds": round(seconds, 3)},
    )


def _expires(facts: Facts) -> Reason | None:
    expires_at = facts.job.expires_at
    if expires_at is None:
        return None
    seconds = _seconds_to(expires_at, facts.now)
    return Reason(
        code="expires",
        message=(
            f"It expires in {_time(seconds)} if it has not started by then."
            if seconds
            else "It has expired, and is about to fail."
        ),
        hint="A job that expired has failed; a retry runs it without that limit.",
        figures={"expires_at": _moment(expires_at), "seconds": round(seconds, 3)},
    )


# Jobs that run.


def _of_running(facts: Facts) -> list[Reason]:
    job = facts.job
    worker = next((each for each in facts.workers if each.id == job.worker_id), None)
    lease = _lease(facts, worker)
    found = [_run(facts)]
    if job.cancel_requested:
        found.insert(0, _cancel_requested(job))
    # A process that is gone is what there is to know of its jobs.
    found.insert(len(found) if worker is not None and worker.alive else 0, lease)
    return found


def _run(facts: Facts) -> Reason:
    job = facts.job
    seconds = _seconds_since(job.started_at, facts.now)
    left = job.timeout_seconds - seconds
    progress = "" if job.progress is None else f", {job.progress.percent:g} % done"
    until = f"it times out in {_time(left)}" if left > 0 else "its time is used up, and it was asked to end"
    return Reason(
        code="running",
        message=f"It has been running for {_time(seconds)} on {job.worker_id}{progress}; {until}.",
        hint=f"To end it: POST /jobs/{job.id}/cancel, or `jobserver cancel {job.id}`.",
        figures={
            "worker_id": job.worker_id,
            "attempt": job.attempt,
            "seconds": round(seconds, 3),
            "timeout_seconds": job.timeout_seconds,
            "percent": None if job.progress is None else job.progress.percent,
        },
    )


def _lease(facts: Facts, worker: WorkerInfo | None) -> Reason:
    job = facts.job
    seconds = _seconds_to(job.lease_expires_at, facts.now)
    alive = worker is not None and worker.alive
    if alive:
        message = f"Its process keeps it: the lease ends in {_time(seconds)}, and is extended while the process lives."
        hint = "Nothing to do. Should the process die, the job is taken back, and run again."
    else:
        end = f"at the latest in {_time(seconds)}, when its lease ends" if seconds else "now, as its lease is over"
        message = f"The process {job.worker_id} is not heard of; the job is taken back {end}."
        hint = "Nothing to do, if another process is alive: it counts as a crash, and runs again."
    return Reason(
        code="lease",
        message=message,
        hint=hint,
        figures={"expires_in_seconds": round(seconds, 3), "worker_id": job.worker_id, "worker_alive": alive},
    )


def _cancel_requested(job: Job) -> Reason:
    return Reason(
        code="cancel_requested",
        message="Cancel was requested: its handler is asked to end, and has not ended yet.",
        hint=(
            "A plain function ends when it looks at `attempt.cancel_requested`; one that does not is given up after"
            " `--thread-grace`."
        ),
        figures={"worker_id": job.worker_id},
    )


# Jobs that have ended.


def _end(facts: Facts) -> Reason:
    job = facts.job
    if job.status is Status.COMPLETED:
        return _completed(job)
    if job.status is Status.CANCELED:
        return _canceled(job)
    return _expired(job) if job.error == EXPIRED else _failed(job)


def _completed(job: Job) -> Reason:
    ran = _seconds_since(job.started_at, job.finished_at)
    total = _seconds_since(job.created_at, job.finished_at)
    return Reason(
        code="completed",
        message=f"It completed {_time(total)} after it was submitted; its last run took {_time(ran)}.",
        hint=f"Its result is that of GET /jobs/{job.id}. To do it again, submit it again.",
        figures={"attempts": job.attempt, "seconds": round(ran, 6), "total_seconds": round(total, 6)},
    )


def _failed(job: Job) -> Reason:
    error = job.error or JobError("Unknown", "nothing is known of it")
    if error.type in {"LeaseLost", "ProcessDied"}:
        why = f"its process was lost {_times(job.crashes)}"
    elif not error.retryable:
        why = "the error says that a retry does not help"
    elif job.max_retries == 0:
        why = "it may not be retried"
    else:
        why = f"all {job.max_retries} retries were used"
    mend = _HINTS.get(error.type, "Mend what caused it.")
    return Reason(
        code="failed",
        message=f"It failed after {_attempts(job.attempt)}, and {why}: {_said(error)}",
        hint=f"{mend} Then retry it: {_retry(job)}.",
        figures={
            "error_type": error.type,
            "retryable": error.retryable,
            "attempts": job.attempt,
            "retry_count": job.retry_count,
            "max_retries": job.max_retries,
            "crashes": job.crashes,
        },
    )


def _expired(job: Job) -> Reason:
    waited = _seconds_since(job.created_at, job.finished_at)
    if job.attempt:
        message = f"It expired {_time(waited)} after it was submitted: after {_attempts(job.attempt)} it waited again."
    elif job.started_at is not None:
        message = f"It expired {_time(waited)} after it was submitted: it was put off or handed back, and waited again."
    else:
        message = f"It expired: nobody had started it {_time(waited)} after it was submitted."
    return Reason(
        code="expired",
        message=message,
        hint=(
            "More consumers, a higher priority or a later `expires_at` would have helped. If it is still wanted,"
            f" retry it: {_retry(job)}. It does not expire again."
        ),
        figures={
            "expires_at": _moment(job.expires_at),
            "waited_seconds": round(waited, 3),
            "attempts": job.attempt,
        },
    )


def _canceled(job: Job) -> Reason:
    error = job.error
    message = "It was canceled."
    if error is not None:
        # An older error, where the job waited for a retry.
        message = (
            f"It was canceled: {_short(error.message)}"
            if error.type == CANCELED.type
            else f"It was canceled; its last error was {_said(error)}"
        )
    return Reason(
        code="canceled",
        message=message,
        hint=f"To have it all the same, retry it: {_retry(job)}.",
        figures={
            "attempts": job.attempt,
            "requested": job.cancel_requested,
            "error_type": None if error is None else error.type,
        },
    )


# Words.


def _retry(job: Job) -> str:
    return f"POST /jobs/{job.id}/retry, or `jobserver retry {job.id}`"


def _said(error: JobError) -> str:
    short = _short(error.message)
    return f"{error.type}: {short}" if short else error.type


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE - 1]}…"


def _attempts(n: int) -> str:
    return "1 attempt" if n == 1 else f"{n} attempts"


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def _seconds_to(moment: datetime | None, now: datetime) -> float:
    return 0.0 if moment is None else max(0.0, (moment - now).total_seconds())


def _seconds_since(moment: datetime | None, now: datetime | None) -> float:
    return 0.0 if moment is None or now is None else max(0.0, (now - moment).total_seconds())


def _time(seconds: float) -> str:
    """A span of time, to its two largest units."""
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    for unit, size, lower, lower_size in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if left >= size:
            rest = left % size // lower_size
            return f"{left // size} {unit} {rest} {lower}" if rest else f"{left // size} {unit}"
    return f"{left} s"
