"""Ids are UUIDv7 by a clock that is given, in order even when the clock is not."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from jobserver.job.times import from_us
from jobserver.pipeline.ids import Ids


@given(st.lists(st.integers(0, 2**47 * 1_000), min_size=1, max_size=200))
def test_ids_are_strictly_increasing_whatever_the_clock_does(moments: list[int]) -> None:
    readings = iter(moments)
    ids = Ids(lambda: next(readings))
    made = [ids.next() for _ in moments]
    assert made == sorted(set(made))
    assert all(each.version == 7 and each.variant == uuid.RFC_4122 for each in made)


@given(st.integers(0, 2**47 * 1_000))
def test_an_id_begins_with_the_milliseconds_of_the_clock(moment: int) -> None:
    assert Ids(lambda: moment).next().int >> 80 == moment // 1_000


@given(st.lists(st.tuples(st.integers(0, 2**47 * 1_000), st.integers(1, 50)), min_size=1, max_size=20))
def test_ids_made_together_follow_those_before(readings: list[tuple[int, int]]) -> None:
    moments = iter(moment for moment, _ in readings)
    ids = Ids(lambda: next(moments))
    made = [each for _, count in readings for each in ids.many(count)]
    assert len(made) == sum(count for _, count in readings)
    assert made == sorted(set(made))
    assert all(each.version == 7 and each.variant == uuid.RFC_4122 for each in made)


def test_many_ids_of_one_microsecond_stay_close_to_it() -> None:
    ids = Ids(lambda: 1_772_877_600_123_456)
    made = [ids.next() for _ in range(100_000)]
    assert made == sorted(set(made))
    ahead = (made[-1].int >> 80) - 1_772_877_600_123
    assert ahead < 30, from_us((made[-1].int >> 80) * 1_000)


def test_two_processes_with_the_same_clock_make_different_ids() -> None:
    one, other = Ids(lambda: 5_000), Ids(lambda: 5_000)
    assert not {one.next() for _ in range(1_000)} & {other.next() for _ in range(1_000)}
