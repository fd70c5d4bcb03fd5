"""Activity: what the last minutes came to, merged from what the counters of each process grew by.

Pure. Growths arrive late, twice, or not at all; a bucket of which nobody told is left out, and is no zero.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

BUCKET_SECONDS: Final = 5
# As far as anybody may look back.
MAX_MINUTES: Final = 60
# Every process has told of a bucket so long after its end.
SETTLED_SECONDS: Final = 1.0
# The present rate is that of so many buckets.
RATE_BUCKETS: Final = 6
# The queues that have no name of their own in the counters of a process, together: no queue's name is empty.
REST: Final = ""

_MAX_BUCKETS: Final = MAX_MINUTES * 60 // BUCKET_SECONDS + 2
# Processes that are told apart: more than live at once, and no more than that.
_MAX_WORKERS: Final = 5_000


class Moves(msgspec.Struct, frozen=True, array_like=True):
    """How often something happened to the jobs of a queue."""

    submitted: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
    canceled: int = 0
    started: int = 0


class Grown(msgspec.Struct, frozen=True, array_like=True):
    """What the counters of a process grew by in one bucket.

    `number` goes up by one with each: one that comes again is known. `at` is the start of the bucket in seconds
    since 1970. Durations are (place in the histogram, count), from submit to end and from due to claimed.
    """

    worker_id: str
    number: int
    at: int
    queues: dict[str, Moves]
    latency: list[tuple[int, int]]
    wait: list[tuple[int, int]]


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """The present rates of a queue, of the last half minute."""

    submitted_per_second: float
    completed_per_second: float
    failed_per_second: float


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """What five seconds came to, of all processes. Quantiles in seconds, None where nothing was measured."""

    at: int
    submitted: int
    completed: int
    failed: int
    retried: int
    canceled: int
    latency_p50: float | None
    latency_p95: float | None
    wait_p50: float | None
    wait_p95: float | None


class Recent(msgspec.Struct, frozen=True, kw_only=True):
    """The present rates by queue and by process. `rest`: some queues have no name here, and so no rate."""

    known: bool = False
    queues: Mapping[str, Rates] = {}
    started: Mapping[str, float] = {}
    workers: Mapping[str, float] = {}
    rest: bool = False

    def of_queue(self, name: str) -> Rates | None:
        """None: not known."""
        found = self.queues.get(name)
        if found is not None or not self.known or self.rest:
            return found
        return Rates(submitted_per_second=0.0, completed_per_second=0.0, failed_per_second=0.0)

    def started_per_second(self, queue: str) -> float | None:
        """How many jobs of a queue are begun; None: not known."""
        found = self.started.get(queue)
        if found is not None or not self.known or self.rest:
            return found
        return 0.0

    def of_worker(self, worker_id: str) -> float | None:
        """How many jobs a process completes a second; None: not known."""
        return self.workers.get(worker_id)


class _Sums:
    """One bucket while growths are added to it."""

    __slots__ = ("latency", "queues", "total", "wait", "workers")

    def __init__(self, places: int) -> None:
        self.total = [0] * len(Moves.__struct_fields__)
        self.latency = [0] * places
        self.wait = [0] * places
        self.queues: dict[str, list[int]] = {}
        self.workers: dict[str, int] = {}


class Minutes:
    """The last hour, in buckets; names of queues and processes only for as long as rates are made of them."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the upper ones of the histograms' places, in seconds."""
        self._bounds = bounds
        self._buckets: dict[int, _Sums] = {}
        self._order: deque[int] = deque()
        self._numbers: dict[str, int] = {}

    def add(self, grown: Grown, now: float) -> None:
        """Add what a process told, at `now` in seconds since 1970; what was added before is not added again."""
        if grown.number <= self._numbers.get(grown.worker_id, -1):
            return
        # The latest to tell stand last, so that those that are gone are forgotten first.
        self._numbers.pop(grown.worker_id, None)
        self._numbers[grown.worker_id] = grown.number
        while len(self._numbers) > _MAX_WORKERS:
            del self._numbers[next(iter(self._numbers))]
        at = grown.at - grown.at % BUCKET_SECONDS
        if not now - MAX_MINUTES * 60 - BUCKET_SECONDS <= at <= now + BUCKET_SECONDS:
            return
        sums = self._buckets.get(at)
        if sums is None:
            sums = self._buckets[at] = _Sums(len(self._bounds) + 1)
            while len(self._buckets) > _MAX_BUCKETS:
                del self._buckets[min(self._buckets)]
        completed = 0
        for queue, moves in grown.queues.items():
            kept = sums.queues.setdefault(queue, [0] * len(sums.total))
            for place, n in enumerate(msgspec.structs.astuple(moves)):
                sums.total[place] += n
                kept[place] += n
            completed += moves.completed
        sums.workers[grown.worker_id] = sums.workers.get(grown.worker_id, 0) + completed
        for total, told in ((sums.latency, grown.latency), (sums.wait, grown.wait)):
            for place, n in told:
                if 0 <= place < len(total):
                    total[place] += n

    def buckets(self, now: float, minutes: int) -> list[Bucket]:
        """The buckets that have ended within these minutes, oldest first; at most `MAX_MINUTES`."""
        last = _last_settled(now)
        first = last - minutes * 60 + BUCKET_SECONDS
        return [self._shown(at, self._buckets[at]) for at in sorted(self._buckets) if first <= at <= last]

    def recent(self, now: float) -> Recent:
        """The rates of the last half minute, or of what is known of it."""
        last = _last_settled(now)
        window = range(last - (RATE_BUCKETS - 1) * BUCKET_SECONDS, last + 1, BUCKET_SECONDS)
        known = [self._buckets[at] for at in window if at in self._buckets]
        self._forget_names(window[0])
        if not known:
            return Recent()
        seconds = len(known) * BUCKET_SECONDS
        queues: dict[str, list[int]] = {}
        completed: dict[str, int] = {}
        told: dict[str, int] = {}
        for sums in known:
            for name, moves in sums.queues.items():
                total = queues.setdefault(name, [0] * len(moves))
                queues[name] = [a + b for a, b in zip(total, moves, strict=True)]
            for worker_id, n in sums.workers.items():
                completed[worker_id] = completed.get(worker_id, 0) + n
                told[worker_id] = told.get(worker_id, 0) + BUCKET_SECONDS
        rest = queues.pop(REST, None)
        by_name = {name: Moves(*total) for name, total in queues.items()}
        return Recent(
            known=True,
            queues={name: _rates(moves, seconds) for name, moves in by_name.items()},
            started={name: round(moves.started / seconds, 3) for name, moves in by_name.items()},
            workers={worker_id: round(n / told[worker_id], 3) for worker_id, n in completed.items()},
            rest=rest is not None,
        )

    def _forget_names(self, before: int) -> None:
        for at, sums in self._buckets.items():
            if at < before - BUCKET_SECONDS and sums.workers:
                sums.queues, sums.workers = {}, {}

    def _shown(self, at: int, sums: _Sums) -> Bucket:
        moves = Moves(*sums.total)
        return Bucket(
            at=at,
            submitted=moves.submitted,
            completed=moves.completed,
            failed=moves.failed,
            retried=moves.retried,
            canceled=moves.canceled,
            latency_p50=quantile(self._bounds, sums.latency, 0.5),
            latency_p95=quantile(self._bounds, sums.latency, 0.95),
            wait_p50=quantile(self._bounds, sums.wait, 0.5),
            wait_p95=quantile(self._bounds, sums.wait, 0.95),
        )


def bucket_of(seconds: float) -> int:
    """The start of the bucket that a moment is in."""
    return int(seconds) // BUCKET_SECONDS * BUCKET_SECONDS


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """The value below which this share of the values is, as a histogram knows it: even within a place."""
    total = sum(counts)
    if not total:
        return None
    rank = share * total
    below = 0
    for place, n in enumerate(counts):
        if below + n >= rank and n:
            if place == len(bounds):
                # Beyond the last bound nothing is known but that.
                return float(bounds[-1])
            lower = bounds[place - 1] if place else 0.0
            return round(lower + (bounds[place] - lower) * (rank - below) / n, 6)
        below += n
    return float(bounds[-1])


def _last_settled(now: float) -> int:
    """The start of the last bucket of which every process has told."""
    return bucket_of(now - SETTLED_SECONDS) - BUCKET_SECONDS


def _rates(moves: Moves, seconds: int) -> Rates:
    return Rates(
        submitted_per_second=round(moves.submitted / seconds, 3),
        completed_per_second=round(moves.completed / seconds, 3),
        failed_per_second=round(moves.failed / seconds, 3),
    )
