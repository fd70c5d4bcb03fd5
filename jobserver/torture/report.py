"""What a torture tells: progress while it runs, and its figures in the end, for people and as JSON."""

from __future__ import annotations

import itertools
import os
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from jobserver import __version__
from jobserver.torture.check import story
from jobserver.torture.history import LEASE_LOST, History, Run, Violation, Window

MAX_SHOWN: Final = 10
MAX_LINES: Final = 200
# Invariants whose violation is a write that a newer fence should have refused, and one that is a job done twice.
_STALE: Final = ("no stale write", "one transition a fence", "terminal stays")
_DUPLICATES: Final = ("explained", "one run a fence", "one key, one job")


class Progress:
    """Lines for people; on a terminal also one that changes."""

    def __init__(self, *, live: bool) -> None:
        self._live: Final = live
        self._width = 0

    def say(self, line: str) -> None:
        self._clear()
        click.echo(line, err=True)

    def tick(self, line: str) -> None:
        if self._live:
            self._clear()
            click.echo(f"\r{line}", nl=False, err=True)
            self._width = len(line)

    def _clear(self) -> None:
        if self._width:
            click.echo(f"\r{' ' * self._width}\r", nl=False, err=True)
            self._width = 0


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind of fault did. Seconds between ends of handlers, and until a lost job ran again."""

    injected: int
    longest_pause_seconds: float
    lost_leases: int
    median_until_run_again_seconds: float | None
    longest_until_run_again_seconds: float | None


class Fullest(msgspec.Struct, frozen=True):
    """The most that was seen in an in-memory queue of any process, and its bound."""

    items: int
    bound: int


class Restarts(msgspec.Struct, frozen=True, kw_only=True):
    """Graceful stops, each followed by a start. `rolling`: how often all processes went through one."""

    rolling: int
    processes: int
    longest_stop_seconds: float | None
    handed_back: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one torture.

    `attempts_burned` are those that ended with a lost lease; what is handed back costs none. `client_errors` are
    what was left after repeating what was refused, reset or answered 503.
    """

    version: str
    machine: str
    versions: dict[str, str]
    seed: int
    minutes: float
    processes: int
    pair: str
    rate: float
    lease_seconds: float
    faults: dict[str, int]
    not_injected: dict[str, int]
    accepted: int
    never_accepted: int
    client_errors: int
    lost: int
    stale_writes_accepted: int
    stale_writes_rejected: int
    unexplained_duplicates: int
    attempts_burned: int
    restarts: Restarts
    jobs_by_status: dict[str, int]
    attempts_by_outcome: dict[str, int]
    runs: int
    lost_runs: int
    overlapping_runs: int
    deaths: int
    client: dict[str, int]
    effects: dict[str, Effect]
    fullest_buffers: dict[str, Fullest]
    buffer_samples: int
    redis_grown_bytes: int
    logged_tracebacks: int
    quiesced_seconds: float
    settled_seconds: float
    violations: list[Violation]

    @property
    def holds(self) -> bool:
        return not self.violations

    def write(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How the torture was asked for."""

    seed: int
    minutes: float
    processes: int
    pair: str
    rate: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What the history does not tell. `client` counts answers and repeats, `samples` looks at the metrics."""

    client: dict[str, int]
    not_injected: dict[str, int]
    versions: dict[str, str]
    tracebacks: int
    quiesced_seconds: float
    settled_seconds: float
    stop_seconds: tuple[float, ...]
    samples: int
    stale_writes_rejected: int


def report(setup: Setup, history: History, violations: Sequence[Violation], measured: Measured) -> Report:
    """The figures of a history."""
    by_job: dict[str, list[Run]] = {}
    for run in sorted(history.runs, key=lambda each: each.started):
        by_job.setdefault(run.job_id, []).append(run)
    overlapping = sum(
        before.ended is not None and after.started < before.ended
        for runs in by_job.values()
        for before, after in itertools.pairwise(runs)
    )
    after_lost = {(each.job_id, each.fence) for each in history.attempts if each.outcome == "lease_lost"}
    lost = sum((run.job_id, run.fence) in after_lost for run in history.runs)
    faults = Counter(window.fault for window in history.windows)
    outcomes = Counter(attempt.outcome for attempt in history.attempts)
    violated = Counter(violation.invariant for violation in violations)
    never_accepted = sum(not submit.acknowledged for submit in history.submits)
    return Report(
        version=__version__,
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        seed=setup.seed,
        minutes=setup.minutes,
        processes=setup.processes,
        pair=setup.pair,
        rate=setup.rate,
        lease_seconds=history.lease_seconds,
        versions=measured.versions,
        faults=_sorted(faults),
        not_injected=_sorted(measured.not_injected),
        accepted=sum(submit.acknowledged for submit in history.submits),
        never_accepted=never_accepted,
        client_errors=never_accepted + len(history.odd_answers),
        lost=violated["lost"] + violated["not terminal"],
        stale_writes_accepted=sum(violated[name] for name in _STALE),
        stale_writes_rejected=measured.stale_writes_rejected,
        unexplained_duplicates=sum(violated[name] for name in _DUPLICATES),
        attempts_burned=outcomes["lease_lost"],
        restarts=Restarts(
            rolling=faults["rolling"],
            processes=len(measured.stop_seconds),
            longest_stop_seconds=round(max(measured.stop_seconds), 3) if measured.stop_seconds else None,
            handed_back=outcomes["handed_back"],
        ),
        jobs_by_status=_sorted(Counter(job.status for job in history.jobs)),
        attempts_by_outcome=_sorted(outcomes),
        runs=len(history.runs),
        lost_runs=lost,
        overlapping_runs=overlapping,
        deaths=len(history.deaths),
        client=_sorted(measured.client),
        effects={name: _effect(history, name) for name in sorted(faults)},
        fullest_buffers=_fullest(history),
        buffer_samples=measured.samples,
        redis_grown_bytes=history.remains.grown_bytes,
        logged_tracebacks=measured.tracebacks,
        quiesced_seconds=round(measured.quiesced_seconds, 3),
        settled_seconds=round(measured.settled_seconds, 3),
        violations=list(violations),
    )


def _fullest(history: History) -> dict[str, Fullest]:
    found: dict[str, Fullest] = {}
    for buffer in history.buffers:
        most = max(buffer.most, found[buffer.name].items if buffer.name in found else 0)
        found[buffer.name] = Fullest(most, buffer.bound)
    return found


def _effect(history: History, name: str) -> Effect:
    windows = [window for window in history.windows if window.fault == name]
    ends = sorted(run.ended for run in history.runs if run.ended is not None)
    waits = _until_run_again(history, windows)
    return Effect(
        injected=len(windows),
        longest_pause_seconds=round(max(_longest_pause(ends, window) for window in windows), 3),
        lost_leases=len(waits),
        median_until_run_again_seconds=round(statistics.median(waits), 3) if waits else None,
        longest_until_run_again_seconds=round(max(waits), 3) if waits else None,
    )


def _longest_pause(ends: Sequence[float], window: Window) -> float:
    """The longest time without an end of a handler that has a part in the fault."""
    return max(
        (
            after - before
            for before, after in itertools.pairwise(ends)
            if before <= window.end and after >= window.start
        ),
        default=0.0,
    )


def _until_run_again(history: History, windows: Sequence[Window]) -> list[float]:
    """Seconds from the begin of a fault to the next run of each job whose lease it took."""
    starts: dict[str, list[float]] = {}
    for run in history.runs:
        starts.setdefault(run.job_id, []).append(run.started)
    found = []
    for attempt in history.attempts:
        if attempt.outcome != "lease_lost":
            continue
        for window in (each for each in windows if LEASE_LOST in each.explains):
            hit = window.pids is None or attempt.pid in window.pids
            if hit and attempt.started <= window.end and attempt.ended >= window.start:
                later = [at for at in starts.get(attempt.job_id, []) if at > attempt.ended - 0.05]
                if later:
                    found.append(min(later) - window.start)
                break
    return found


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def show(said: Report, history: History, say: Callable[[str], None]) -> None:
    """The figures for people; for each violation the whole history of its job."""
    say("")
    say(f"accepted    {said.accepted:>9,}  jobs" + (f", {said.never_accepted} never" if said.never_accepted else ""))
    say(f"ended       {' · '.join(f'{count:,} {status}' for status, count in said.jobs_by_status.items())}")
    say(f"attempts    {' · '.join(f'{count:,} {outcome}' for outcome, count in said.attempts_by_outcome.items())}")
    say(f"runs        {said.runs:>9,}, {said.lost_runs} lost with their lease, {said.overlapping_runs} overlapped")
    say(f"processes   {said.deaths:>9,}  ended and started again")
    if said.restarts.processes:
        say(
            f"restarts    {said.restarts.processes:>9,}  graceful ones in {said.restarts.rolling} rounds, "
            f"longest stop {said.restarts.longest_stop_seconds} s, {said.restarts.handed_back} attempts handed back"
        )
    say(f"burned      {said.attempts_burned:>9,}  attempts, {said.stale_writes_rejected} stale writes rejected")
    say(f"clients     {said.client_errors:>9,}  errors after {said.client.get('repeats', 0):,} repeats")
    fullest = " · ".join(f"{name} {each.items:,} of {each.bound:,}" for name, each in said.fullest_buffers.items())
    say(f"buffers     {said.buffer_samples:>9,}  looks, fullest: {fullest}")
    say(
        f"quiesced    {said.quiesced_seconds:>9.1f}  s, settled {said.settled_seconds:.1f} s, "
        f"Redis memory {said.redis_grown_bytes / 1024:+,.0f} KiB"
    )
    if said.logged_tracebacks:
        say(f"tracebacks  {said.logged_tracebacks:>9,}  in the servers' logs")
    if said.effects:
        say("")
        say(f"{'fault':<20}{'injected':>9}{'longest pause':>15}{'leases lost':>13}{'again after':>13}{'longest':>9}")
        for name, effect in said.effects.items():
            again, longest = effect.median_until_run_again_seconds, effect.longest_until_run_again_seconds
            say(
                f"{name:<20}{effect.injected:>9}{effect.longest_pause_seconds:>13.1f} s{effect.lost_leases:>13}"
                f"{'' if again is None else f'{again:.1f} s':>13}{'' if longest is None else f'{longest:.1f} s':>9}"
            )
    say("")
    if said.holds:
        say(f"every invariant holds (seed {said.seed})")
        return
    for invariant, count in Counter(violation.invariant for violation in said.violations).items():
        say(f"VIOLATED: {invariant}, {count} times")
    told: set[str | None] = {None}
    for violation in said.violations[:MAX_SHOWN]:
        say("")
        say(f"{violation.invariant}: {violation.detail}" + (f" (job {violation.job_id})" if violation.job_id else ""))
        if violation.job_id not in told:
            told.add(violation.job_id)
            for line in story(history, violation.job_id or "")[:MAX_LINES]:
                say(f"    {line}")
    say("")
    say(f"seed {said.seed}")
