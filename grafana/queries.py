"""PromQL in the words of our metrics, so that no dashboard can add up what every process repeats.

What is counted belongs to one process: rates are summed. What is shared (the jobs in SQL, the streams) is shown alike
by every process that sees it: the max is taken, never the sum.
"""

from __future__ import annotations

# What Grafana makes of the step and the scrape interval: at least four scrapes.
WINDOW = "$__rate_interval"

SHARED = frozenset(
    f"jobserver_{name}"
    for name in (
        *("jobs", "oldest_waiting_seconds", "dead_letters", "workers_alive"),
        *("stream_entries", "stream_pending", "delayed_members"),
    )
)


def selector(metric: str, **labels: str) -> str:
    """The series of a metric; a value is a variable of a dashboard, or alternatives."""
    chosen = ", ".join(f'{name}{"=" if value[0] == "$" else "=~"}"{value}"' for name, value in labels.items())
    return f"jobserver_{metric}{{{chosen}}}" if chosen else f"jobserver_{metric}"


def by(*labels: str) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""


def rate(metric: str, *over: str, **labels: str) -> str:
    """Per second, over all processes."""
    return f"sum{by(*over)}(rate({selector(metric, **labels)}[{WINDOW}]))"


def shared(metric: str, *over: str, **labels: str) -> str:
    """A figure that every process repeats."""
    assert f"jobserver_{metric}" in SHARED, metric
    return f"max{by(*over)}({selector(metric, **labels)})"


def own(metric: str, how: str, *over: str, **labels: str) -> str:
    """A figure that each process has of itself, taken together by `how`: sum, max or min."""
    assert f"jobserver_{metric}" not in SHARED, metric
    return f"{how}{by(*over)}({selector(metric, **labels)})"


def quantile(q: float, histogram: str, *over: str, **labels: str) -> str:
    """Below this was so much of all, over all processes."""
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', 'le', *over, **labels)})"


def mean(histogram: str, *over: str, **labels: str) -> str:
    return f"{rate(f'{histogram}_sum', *over, **labels)} / {rate(f'{histogram}_count', *over, **labels)}"


def success(*over: str, **labels: str) -> str:
    """Completed, of all that completed or failed; 1 where nothing ended."""
    completed, failed = (rate(f"jobs_{name}_total", *over, **labels) for name in ("completed", "failed"))
    return f"({completed} / ({completed} + {failed} > 0)) or ({completed} + {failed}) * 0 + 1"
