"""From a number of failures to seconds of waiting."""

from __future__ import annotations


def backoff_seconds(failures: int, *, base: float, cap: float, jitter: float) -> float:
    """Seconds before the next try after the `failures`-th failure (1, 2, ...).

    Exponential, `base ** failures`, at most `cap`; `jitter` in [0, 1) spreads it over the upper half, so that
    jobs which failed together do not return together and none returns at once.
    """
    if failures < 1:
        raise ValueError("failures counts from 1")
    # base ** failures overflows a float long before `failures` gets to its bound.
    exponent = min(failures, 1_000)
    try:
        full = min(cap, base**exponent)
    except OverflowError:
        full = cap
    return full * (0.5 + jitter / 2)
