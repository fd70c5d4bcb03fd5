"""Growth: what the counters and histograms of a process grew by since the last look. Counting costs nothing more."""

from __future__ import annotations

from jobserver.job.activity import REST, Moves
from jobserver.telemetry.metrics import MAX_LABELS, SECONDS, Counter, Distribution, Metrics

# A place in a histogram, and by how much it grew.
Places = list[tuple[int, int]]


class Growth:
    """Remembers what every series was at the last look. Bounded, as the series are."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # In the order of the fields of Moves.
        self._counters: tuple[Counter, ...] = (
            metrics.created,
            metrics.completed,
            metrics.failed,
            metrics.retried,
            metrics.canceled,
        )
        self._counts: list[dict[tuple[str, ...], int]] = [{} for _ in self._counters]
        self._places: dict[Distribution, list[int]] = {}

    def take(self) -> tuple[dict[str, Moves], Places, Places]:
        """Since the last time: moves by queue, durations from submit to end, and from due to claimed."""
        # While there are fewer queues, one that is called "other" is itself.
        bounded = len(self._queues()) >= MAX_LABELS
        moves: dict[str, list[int]] = {}

        def of(queue: str) -> list[int]:
            name = REST if bounded and queue == "other" else queue
            return moves.setdefault(name, [0] * len(Moves.__struct_fields__))

        for place, (counter, last) in enumerate(zip(self._counters, self._counts, strict=True)):
            for labels, count in counter.rows():
                value = count.value
                grown = value - last.get(labels, 0)
                if grown:
                    last[labels] = value
                    of(labels[1])[place] += grown
        wait, latency = [0] * (len(SECONDS) + 1), [0] * (len(SECONDS) + 1)
        for labels, distribution in self._metrics.wait_seconds.rows():
            # Each claim has waited.
            if started := self._grown(distribution, wait):
                of(labels[0])[-1] += started
        for _, distribution in self._metrics.end_to_end_seconds.rows():
            self._grown(distribution, latency)
        return {name: Moves(*each) for name, each in moves.items()}, _sparse(latency), _sparse(wait)

    def _queues(self) -> set[str]:
        """The names of queues in any counter: one process takes submits, another runs the jobs."""
        names = {labels[1] for counter in self._metrics.of_jobs for labels, _ in counter.rows()}
        names.update(labels[0] for labels, _ in self._metrics.wait_seconds.rows())
        return names

    def _grown(self, distribution: Distribution, total: list[int]) -> int:
        """Add to `total` what a distribution grew by, place by place; how much that is."""
        counts = distribution.counts[:]
        last = self._places.get(distribution)
        if last == counts:
            return 0
        self._places[distribution] = counts
        grown = 0
        for place, n in enumerate(counts):
            more = n - (last[place] if last is not None else 0)
            total[place] += more
            grown += more
        return grown


def _sparse(total: list[int]) -> Places:
    return [(place, n) for place, n in enumerate(total) if n]
