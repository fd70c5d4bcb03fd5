"""Properties of the backoff."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobserver.job.backoff import backoff_seconds

failures = st.integers(1, 10**9)
bases = st.floats(1, 100)
caps = st.just(0.0) | st.floats(0.001, 86_400)
jitters = st.floats(0, 1, exclude_max=True)


@given(failures, bases, caps, jitters)
def test_it_lies_in_the_upper_half_of_the_full_delay(count: int, base: float, cap: float, jitter: float) -> None:
    full = cap if base > 1 and count > 10_000 else min(cap, base ** min(count, 150))
    delay = backoff_seconds(count, base=base, cap=cap, jitter=jitter)
    assert 0.0 <= delay <= cap
    if count <= 150:
        assert full / 2 <= delay <= full


@given(st.integers(1, 1_000), st.integers(1, 1_000), bases, caps, jitters)
def test_more_failures_never_wait_less(one: int, other: int, base: float, cap: float, jitter: float) -> None:
    few, many = sorted((one, other))
    assert backoff_seconds(few, base=base, cap=cap, jitter=jitter) <= backoff_seconds(
        many, base=base, cap=cap, jitter=jitter
    )


@given(failures, st.floats(2, 100), caps)
def test_jitter_only_adds(count: int, base: float, cap: float) -> None:
    none = backoff_seconds(count, base=base, cap=cap, jitter=0.0)
    assert none <= backoff_seconds(count, base=base, cap=cap, jitter=0.5) <= none * 2


@pytest.mark.parametrize("count", [10**3, 10**6, 10**300])
def test_numbers_beyond_a_float_are_the_cap(count: int) -> None:
    assert backoff_seconds(count, base=100.0, cap=60.0, jitter=0.0) == 30.0


@pytest.mark.parametrize("count", [0, -1])
def test_failures_count_from_one(count: int) -> None:
    with pytest.raises(ValueError, match="counts from 1"):
        backoff_seconds(count, base=2.0, cap=60.0, jitter=0.0)
