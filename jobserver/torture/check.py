"""The checker: a history in, the violations of every invariant out. Pure.

A claim and its end add one to the fence each, and so do a cancel of a waiting job, an expiry and a replay: from
the fences alone follows how many transitions there were, and that none was made twice or by a stale writer.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from jobserver.torture.history import (
    CHILD_DEATH,
    DEATH,
    HANDED_BACK,
    LEASE_LOST,
    STOPPED,
    TERMINAL,
    Attempt,
    Command,
    History,
    Run,
    StoredJob,
    Violation,
    Window,
)

MAX_GROWN_BYTES: Final = 5 * 1_048_576
# How long after the end of a fault its last effect may show: the lease that it broke, and a busy machine.
LATE_SECONDS: Final = 4.0
# Clocks of processes are read at different moments of the same event.
SKEW_SECONDS: Final = 0.05
POISON: Final = "torture.poison"
USAGE: Final = 2
_COUNTED: Final = frozenset({"completed", "failed", "lease_lost"})
# Errors of the server's own about a handler that was not heard to its end.
_CRASHES: Final[Mapping[str, str]] = {"LeaseLost": LEASE_LOST, "ProcessDied": CHILD_DEATH}
_FREE: Final = frozenset({"snoozed", "handed_back"})
_HANDLERS_OWN: Final = frozenset({"retrying", "failed", "snoozed"})
# What a poisonous job sends to its process.
_SIGNAL: Final = "SIGKILL"


class Evidence:
    """A history, sorted by job."""

    def __init__(self, history: History) -> None:
        self.history: Final = history
        self.jobs: Final[dict[str, StoredJob]] = {job.id: job for job in history.jobs}
        self.attempts: Final[dict[str, list[Attempt]]] = defaultdict(list)
        for attempt in sorted(history.attempts, key=lambda each: each.fence):
            self.attempts[attempt.job_id].append(attempt)
        self.runs: Final[dict[str, list[Run]]] = defaultdict(list)
        for run in sorted(history.runs, key=lambda each: each.started):
            self.runs[run.job_id].append(run)
        self.commands: Final[dict[str, list[Command]]] = defaultdict(list)
        for command in history.commands:
            self.commands[command.job_id].append(command)

    def attempts_of(self, job_id: str) -> Sequence[Attempt]:
        return self.attempts.get(job_id, ())

    def runs_of(self, job_id: str) -> Sequence[Run]:
        return self.runs.get(job_id, ())

    def count(self, job_id: str, kind: str, *answers: str) -> int:
        return sum(each.kind == kind and each.answer in answers for each in self.commands.get(job_id, ()))

    def explained(self, cause: str, pid: int, start: float, end: float) -> bool:
        """Whether a fault of that process (or of all) may be the cause of what happened between two times."""
        return any(self._explains(window, cause, pid, start, end) for window in self.history.windows)

    def _explains(self, window: Window, cause: str, pid: int, start: float, end: float) -> bool:
        late = self.history.lease_seconds + LATE_SECONDS
        return (
            cause in window.explains
            and (window.pids is None or pid in window.pids)
            and start <= window.end + late
            and end >= window.start - SKEW_SECONDS
        )


def check(history: History) -> list[Violation]:
    """Every violation, those of a job together."""
    evidence = Evidence(history)
    found = [violation for invariant in INVARIANTS for violation in invariant(evidence)]
    return sorted(found, key=lambda each: (each.job_id or "", each.invariant))


def accepted_jobs_are_stored_and_terminal(evidence: Evidence) -> Iterator[Violation]:
    for submit in evidence.history.submits:
        for job_id in sorted(submit.job_ids):
            job = evidence.jobs.get(job_id)
            if job is None:
                yield Violation("lost", f"the submit with key {submit.key} was accepted: there is no such job", job_id)
            elif job.status not in TERMINAL:
                yield Violation("not terminal", f"still {job.status} under fence {job.fence} at the end", job_id)


def nothing_unsent_exists(evidence: Evidence) -> Iterator[Violation]:
    sent = {submit.key: submit for submit in evidence.history.submits}
    for job in evidence.history.jobs:
        submit = sent.get(job.key or "")
        if submit is None or submit.type != job.type:
            yield Violation("never sent", f"nobody sent a {job.type} with the key {job.key}", job.id)


def one_key_is_one_job(evidence: Evidence) -> Iterator[Violation]:
    stored = Counter(job.key for job in evidence.history.jobs)
    for submit in evidence.history.submits:
        if len(submit.job_ids) > 1 or stored[submit.key] > 1 or submit.created > 1:
            yield Violation(
                "one key, one job",
                f"key {submit.key}: answered with {sorted(submit.job_ids)}, {submit.created} times as created, "
                f"stored {stored[submit.key]} times",
                min(submit.job_ids, default=None),
            )


def fences_add_up(evidence: Evidence) -> Iterator[Violation]:
    """Each fence permits one transition: two for each attempt, and one for each command that moved the job."""
    for job in evidence.history.jobs:
        attempts = evidence.attempts_of(job.id)
        for fence, rows in Counter(attempt.fence for attempt in attempts).items():
            if rows > 1:
                yield Violation("one transition a fence", f"{rows} attempts under fence {fence}", job.id)
        for before, after in itertools.pairwise(attempts):
            if after.fence < before.fence + 2:
                yield Violation(
                    "one transition a fence", f"an attempt under {after.fence} follows one under {before.fence}", job.id
                )
        if attempts and job.fence < attempts[-1].fence + 1:
            yield Violation(
                "one transition a fence", f"at {job.fence}, below its last attempt's {attempts[-1].fence}", job.id
            )
        least = evidence.count(job.id, "replay", "moved")
        # A running job that ended while its cancel was answered looks like one that waited.
        unsure = evidence.count(job.id, "replay", "unknown") + evidence.count(job.id, "cancel", "moved", "unknown")
        expired = int(job.error_type == "Expired")
        beside = job.fence - 2 * len(attempts)
        # An expiry before a replay is not seen in the row any more.
        if not least + expired <= beside <= least + unsure + max(expired, _replays(evidence, job.id)):
            yield Violation(
                "one transition a fence",
                f"{beside} transitions beside those of {len(attempts)} attempts; {least} commands moved it, "
                f"{unsure} may have",
                job.id,
            )


def attempts_count_right(evidence: Evidence) -> Iterator[Violation]:
    """Numbers go up by one, but for what was snoozed or handed back: that costs no attempt."""
    for job in evidence.history.jobs:
        expected, retries, crashes, last = 1, 0, 0, -2
        ended = ""
        for attempt in evidence.attempts_of(job.id):
            if last >= 0 and attempt.fence > last + 2:
                # Something other than an attempt moved it to a terminal state or out of one: a replay.
                expected, retries, crashes = 1, 0, 0
                if not _replays(evidence, job.id):
                    yield Violation("terminal stays", f"run again under {attempt.fence} without a replay", job.id)
            elif ended in TERMINAL:
                yield Violation("terminal stays", f"{ended} under {last}, and run again at once", job.id)
            if attempt.number != expected:
                yield Violation(
                    "attempts count right",
                    f"attempt {attempt.number} under fence {attempt.fence} should have been {expected}",
                    job.id,
                )
                expected = attempt.number
            expected += attempt.outcome not in _FREE
            retries += attempt.outcome == "retrying"
            crashes += attempt.outcome == "lease_lost"
            last, ended = attempt.fence, attempt.outcome
        if last >= 0 and job.fence > last + 1 and job.status not in {"queued", "scheduled", "retrying"}:
            # Moved by a command after its last attempt.
            continue
        # A canceled attempt may have been one that was handed back, which costs nothing: its row does not tell.
        if ended in _COUNTED and (job.attempt, job.retry_count, job.crashes) != (expected - 1, retries, crashes):
            yield Violation(
                "attempts count right",
                f"{job.attempt} attempts, {job.retry_count} retries and {job.crashes} crashes were counted, "
                f"{expected - 1}, {retries} and {crashes} are in the history",
                job.id,
            )


def terminal_stays(evidence: Evidence) -> Iterator[Violation]:
    for seen in evidence.history.sightings:
        job = evidence.jobs.get(seen.job_id)
        if job is None:
            yield Violation("lost", f"was seen {seen.status}, and is gone", seen.job_id)
        elif (job.status, job.fence) != (seen.status, seen.fence) and not _replays(evidence, seen.job_id):
            yield Violation(
                "terminal stays",
                f"was seen {seen.status} under {seen.fence}, ended {job.status} under {job.fence} without a replay",
                seen.job_id,
            )


def ends_are_the_expected_ones(evidence: Evidence) -> Iterator[Violation]:
    for submit in evidence.history.submits:
        for job_id in submit.job_ids:
            job = evidence.jobs.get(job_id)
            if job is None or job.status not in TERMINAL or job.status in submit.expected:
                continue
            if job.status == "canceled" and evidence.count(job_id, "cancel", "moved", "requested", "unknown"):
                continue
            # Each of the leases lost has to be explained by itself.
            if job.status == "failed" and job.error_type in _CRASHES and job.crashes >= evidence.history.max_crashes:
                continue
            yield Violation(
                "expected end",
                f"a {submit.type} ended {job.status} ({job.error_type}), expected {sorted(submit.expected)}",
                job_id,
            )


def runs_and_rows_agree(evidence: Evidence) -> Iterator[Violation]:
    """What the handlers logged and what SQL says of it: a run has its attempt, an end its run."""
    for job_id in evidence.runs.keys() | evidence.attempts.keys():
        rows = {attempt.fence: attempt for attempt in evidence.attempts_of(job_id)}
        runs = evidence.runs_of(job_id)
        for fence, times in Counter(run.fence for run in runs).items():
            if times > 1:
                yield Violation("one run a fence", f"started {times} times under fence {fence}", job_id)
        job = evidence.jobs.get(job_id)
        if job is None:
            yield Violation("never sent", "it ran, and there is no such job", job_id)
            continue
        ended = {run.fence: run for run in runs if run.how}
        for run in runs:
            if run.fence not in rows and not (job.status == "running" and run.fence == job.fence):
                yield Violation("one run a fence", f"ran under fence {run.fence}, which has no attempt", job_id)
        for fence, attempt in rows.items():
            how = ended[fence].how if fence in ended else "not ended"
            if attempt.outcome == "completed" and how != "returned":
                yield Violation("no stale write", f"completed under {fence}, where no handler returned", job_id)
            if attempt.outcome in _HANDLERS_OWN and attempt.error_type not in _CRASHES and how != "raised":
                yield Violation(
                    "no stale write", f"{attempt.outcome} under {fence}, where the handler has {how}", job_id
                )
        if job.status == "completed":
            last = max(rows, default=-1)
            if last < 0 or rows[last].outcome != "completed" or job.fence != last + 1:
                yield Violation("no stale write", f"completed under {job.fence}, its last attempt did not", job_id)
            elif job.result_fence != last:
                yield Violation(
                    "no stale write", f"the result is that of fence {job.result_fence}, completed was {last}", job_id
                )


def lost_leases_are_explained(evidence: Evidence) -> Iterator[Violation]:
    for attempt in evidence.history.attempts:
        cause = _CRASHES.get(attempt.error_type or "")
        if cause is None:
            cause = {"lease_lost": LEASE_LOST, "handed_back": HANDED_BACK}.get(attempt.outcome)
        if cause is None or (cause == CHILD_DEATH and _is_poison(evidence, attempt.job_id)):
            continue
        if cause == HANDED_BACK and attempt.fence not in {run.fence for run in evidence.runs_of(attempt.job_id)}:
            # Claimed ahead of its turn, which did not come as soon as was thought.
            continue
        if not evidence.explained(cause, attempt.pid, attempt.started, attempt.ended):
            yield Violation(
                "explained",
                f"the attempt under {attempt.fence} on process {attempt.pid} was {cause}, and no fault explains it",
                attempt.job_id,
            )


def overlaps_are_explained(evidence: Evidence) -> Iterator[Violation]:
    for job_id, runs in evidence.runs.items():
        rows = {attempt.fence: attempt for attempt in evidence.attempts_of(job_id)}
        for before, after in itertools.pairwise(runs):
            if before.ended is None or after.started >= before.ended - SKEW_SECONDS or after.fence == before.fence:
                continue
            row = rows.get(before.fence)
            cause = HANDED_BACK if row is not None and row.outcome == "handed_back" else LEASE_LOST
            # The process that held the lease, where a child of it ran the handler.
            pid = before.pid if row is None else row.pid
            if not evidence.explained(cause, pid, before.started, before.ended):
                yield Violation(
                    "explained", f"ran under {before.fence} and {after.fence} at once, and no fault explains it", job_id
                )


def deaths_are_explained(evidence: Evidence) -> Iterator[Violation]:
    for death in evidence.history.deaths:
        # Without its engines a server does not start: it says so, and is started again.
        refused = death.code == USAGE and any(
            window.start <= death.at and window.end >= death.started for window in evidence.history.windows
        )
        stopped = death.code == 0 and evidence.explained(STOPPED, death.pid, death.at, death.at)
        if not refused and not stopped and not evidence.explained(DEATH, death.pid, death.at, death.at):
            yield Violation("explained", f"the process {death.pid} ended by itself with code {death.code}")


def poison_harms_only_itself(evidence: Evidence) -> Iterator[Violation]:
    """It may take a server with it once; from then on it dies alone, and ends as a dead letter that tells why."""
    servers = {death.pid for death in evidence.history.deaths}
    for job in evidence.history.jobs:
        if job.type != POISON:
            continue
        killed = [run.pid for run in evidence.runs_of(job.id) if run.pid in servers]
        if len(killed) > 1:
            yield Violation("poison", f"took the server processes {killed} with it", job.id)
        if job.status == "failed" and job.crashes != evidence.history.max_crashes:
            yield Violation("poison", f"failed after {job.crashes} crashes", job.id)
        # The last of them may have been one of its server.
        if job.status == "failed" and job.error_type != "LeaseLost" and _SIGNAL not in (job.error_message or ""):
            yield Violation("poison", f"its error does not name {_SIGNAL}: {job.error_message}", job.id)


def redis_is_empty(evidence: Evidence) -> Iterator[Violation]:
    remains = evidence.history.remains
    for what, left in (("entries", remains.entries), ("pending", remains.pending), ("delayed", remains.delayed)):
        for key, count in left.items():
            if count:
                yield Violation("redis is empty", f"{count} {what} left in {key}")
    for consumer in remains.dead_consumers:
        yield Violation("redis is empty", f"the consumer {consumer} of a dead process is still there")
    if remains.grown_bytes > MAX_GROWN_BYTES:
        yield Violation("redis is empty", f"its memory has grown by {remains.grown_bytes:,} bytes")


def buffers_are_bounded(evidence: Evidence) -> Iterator[Violation]:
    for buffer in evidence.history.buffers:
        if buffer.most > buffer.bound:
            yield Violation(
                "buffers are bounded",
                f"{buffer.name} of process {buffer.pid} held {buffer.most:,}, its bound is {buffer.bound:,}",
            )


def answers_are_sane(evidence: Evidence) -> Iterator[Violation]:
    for answer in evidence.history.odd_answers:
        yield Violation("answers", answer)


INVARIANTS: Final[tuple[Callable[[Evidence], Iterator[Violation]], ...]] = (
    accepted_jobs_are_stored_and_terminal,
    nothing_unsent_exists,
    one_key_is_one_job,
    fences_add_up,
    attempts_count_right,
    terminal_stays,
    ends_are_the_expected_ones,
    runs_and_rows_agree,
    lost_leases_are_explained,
    overlaps_are_explained,
    deaths_are_explained,
    poison_harms_only_itself,
    redis_is_empty,
    buffers_are_bounded,
    answers_are_sane,
)


def story(history: History, job_id: str) -> list[str]:
    """Everything that is known of one job, in the order in which it happened where that is known."""
    timed: list[tuple[float, str]] = []
    for attempt in history.attempts:
        if attempt.job_id == job_id:
            text = f"SQL     attempt {attempt.number} under fence {attempt.fence} on process {attempt.pid}"
            error = f" ({attempt.error_type})" if attempt.error_type else ""
            timed.append((attempt.started, f"{text} began"))
            timed.append((attempt.ended, f"{text} ended: {attempt.outcome}{error}"))
    for run in history.runs:
        if run.job_id == job_id:
            text = f"handler under fence {run.fence} in process {run.pid}"
            timed.append((run.started, f"{text} began"))
            if run.ended is not None:
                timed.append((run.ended, f"{text} ended: {run.how}"))
    if timed:
        first, last = min(timed)[0], max(timed)[0]
        reach = history.lease_seconds + LATE_SECONDS
        for window in history.windows:
            if window.start <= last and window.end + reach >= first:
                pids = "all" if window.pids is None else sorted(window.pids)
                timed.append((window.start, f"fault   {window.fault} begins, processes: {pids}"))
                timed.append((window.end, f"fault   {window.fault} is over"))
    lines = [f"{at:.6f}  {what}" for at, what in sorted(timed)]
    untimed: list[msgspec.Struct] = [submit for submit in history.submits if job_id in submit.job_ids]
    untimed += [command for command in history.commands if command.job_id == job_id]
    untimed += [seen for seen in history.sightings if seen.job_id == job_id]
    untimed += [job for job in history.jobs if job.id == job_id]
    return [*(f"{' ' * 19}{each}" for each in untimed), *lines]


def _replays(evidence: Evidence, job_id: str) -> int:
    return evidence.count(job_id, "replay", "moved", "unknown")


def _is_poison(evidence: Evidence, job_id: str) -> bool:
    job = evidence.jobs.get(job_id)
    return job is not None and job.type == POISON
