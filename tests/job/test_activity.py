"""What the last minutes came to: growths are merged by bucket, whoever tells, however late or often."""

from __future__ import annotations

from typing import Any

import pytest

from jobserver.job.activity import (
    BUCKET_SECONDS,
    MAX_MINUTES,
    RATE_BUCKETS,
    REST,
    Bucket,
    Grown,
    Minutes,
    Moves,
    Rates,
    Recent,
    bucket_of,
    quantile,
)

BOUNDS = (0.1, 1.0, 10.0)
# A moment on the border of two buckets.
T = 1_700_000_000
NOW = T + 2.0


def grown(worker: str, number: int, at: int, **queues: Moves) -> Grown:
    return Grown(worker, number, at, dict(queues), [(0, 1)], [(1, 2)])


def minutes_of(*growths: Grown, now: float = NOW) -> Minutes:
    minutes = Minutes(BOUNDS)
    for each in growths:
        minutes.add(each, now)
    return minutes


def test_the_moment_of_the_tests_is_the_border_of_a_bucket() -> None:
    assert bucket_of(T) == T
    assert bucket_of(T - 0.001) == T - BUCKET_SECONDS


def test_processes_are_added_up_by_bucket() -> None:
    minutes = minutes_of(
        grown("a", 0, T - 10, q=Moves(submitted=3, completed=2)),
        grown("b", 0, T - 10, q=Moves(completed=1, failed=4), r=Moves(retried=5, canceled=6)),
        grown("a", 1, T - 5, q=Moves(submitted=1)),
    )
    first, second = minutes.buckets(NOW, 1)
    assert first == Bucket(
        at=T - 10,
        submitted=3,
        completed=3,
        failed=4,
        retried=5,
        canceled=6,
        latency_p50=0.05,
        latency_p95=0.095,
        wait_p50=0.55,
        wait_p95=0.955,
    )
    assert (second.at, second.submitted, second.completed) == (T - 5, 1, 0)


def test_what_comes_again_is_not_added_again() -> None:
    once = grown("a", 7, T - 5, q=Moves(submitted=3))
    minutes = minutes_of(once, once, grown("a", 6, T - 5, q=Moves(submitted=100)))
    assert [bucket.submitted for bucket in minutes.buckets(NOW, 1)] == [3]


def test_two_growths_of_a_process_may_be_of_one_bucket() -> None:
    minutes = minutes_of(
        grown("a", 0, T - 5, q=Moves(submitted=1)), grown("a", 1, T - 5, q=Moves(submitted=2, completed=5))
    )
    assert [bucket.submitted for bucket in minutes.buckets(NOW, 1)] == [3]
    assert minutes.recent(NOW).of_worker("a") == 1.0


def test_a_bucket_is_shown_once_everybody_had_the_time_to_tell_of_it() -> None:
    minutes = minutes_of(grown("a", 0, T - 5, q=Moves(submitted=1)))
    assert minutes.buckets(T + 0.9, 1) == []
    assert len(minutes.buckets(T + 1.0, 1)) == 1


def test_a_bucket_of_which_nobody_told_is_left_out() -> None:
    minutes = minutes_of(grown("a", 0, T - 30), grown("a", 1, T - 5))
    assert [bucket.at for bucket in minutes.buckets(NOW, 5)] == [T - 30, T - 5]


@pytest.mark.parametrize(("ago", "minutes", "shown"), [(60, 1, True), (65, 1, False), (65, 2, True), (3_600, 60, True)])
def test_minutes_are_as_long_as_asked_for(ago: int, minutes: int, shown: bool) -> None:
    assert len(minutes_of(grown("a", 0, T - ago)).buckets(NOW, minutes)) == shown


def test_what_is_told_late_is_found_where_it_belongs() -> None:
    minutes = minutes_of(
        grown("a", 0, T - 5, q=Moves(submitted=1)),
        grown("b", 0, T - 600, q=Moves(submitted=2)),
        grown("b", 1, T - 300, q=Moves(submitted=3)),
    )
    assert [(bucket.at, bucket.submitted) for bucket in minutes.buckets(NOW, 15)] == [
        (T - 600, 2),
        (T - 300, 3),
        (T - 5, 1),
    ]


@pytest.mark.parametrize("at", [T - MAX_MINUTES * 60 - 20, T + 3_600, -1, 10**18])
def test_what_cannot_be_is_not_kept(at: int) -> None:
    minutes = minutes_of(grown("a", 0, at, q=Moves(submitted=1)))
    assert minutes.buckets(NOW, MAX_MINUTES) == []
    assert minutes.buckets(at + 3_000.0, MAX_MINUTES) == []


def test_an_hour_is_kept_and_not_more() -> None:
    minutes = Minutes(BOUNDS)
    for number in range(3 * 720):
        at = T + number * BUCKET_SECONDS
        minutes.add(grown(f"w{number}", 0, at, q=Moves(submitted=1)), at + 5.0)
        minutes.recent(at + 6.0)
    assert len(minutes._buckets) <= 723
    assert sum(len(sums.queues) for sums in minutes._buckets.values()) <= RATE_BUCKETS + 2
    assert len(minutes.buckets(T + 3 * 3_600.0 + 1, MAX_MINUTES)) == 720


def test_processes_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.job.activity._MAX_WORKERS", 10)
    minutes = minutes_of(*(grown(f"w{number}", 0, T - 5) for number in range(50)))
    assert len(minutes._numbers) == 10
    assert "w49" in minutes._numbers


# Rates.


def test_rates_are_those_of_the_last_half_minute() -> None:
    minutes = minutes_of(
        grown("a", 0, T - 35, q=Moves(submitted=1_000)),
        *(grown("a", number, T - 35 + 5 * number, q=Moves(30, 20, 10, 0, 0, 25)) for number in range(1, 7)),
        grown("a", 7, T, q=Moves(submitted=1_000)),
    )
    recent = minutes.recent(NOW)
    assert recent.of_queue("q") == Rates(submitted_per_second=6.0, completed_per_second=4.0, failed_per_second=2.0)
    assert recent.started_per_second("q") == 5.0
    assert recent.of_worker("a") == 4.0


def test_rates_of_a_new_server_are_those_of_what_is_known() -> None:
    minutes = minutes_of(grown("a", 0, T - 10, q=Moves(completed=10)), grown("b", 0, T - 5, q=Moves(completed=20)))
    recent = minutes.recent(NOW)
    assert recent.of_queue("q") == Rates(submitted_per_second=0.0, completed_per_second=3.0, failed_per_second=0.0)
    assert (recent.of_worker("a"), recent.of_worker("b"), recent.of_worker("c")) == (2.0, 4.0, None)


def test_a_queue_where_nothing_happened_has_rates_of_zero() -> None:
    recent = minutes_of(grown("a", 0, T - 5)).recent(NOW)
    assert recent.of_queue("idle") == Rates(submitted_per_second=0.0, completed_per_second=0.0, failed_per_second=0.0)
    assert recent.started_per_second("idle") == 0.0


@pytest.mark.parametrize(
    "recent",
    [
        Recent(),
        Minutes(BOUNDS).recent(NOW),
        minutes_of(grown("a", 0, T - 60, q=Moves(submitted=1))).recent(NOW),
        minutes_of(Grown("a", 0, T - 5, {REST: Moves(submitted=1)}, [], [])).recent(NOW),
    ],
)
def test_what_is_not_known_has_no_rate(recent: Recent) -> None:
    assert recent.of_queue("idle") is None
    assert recent.started_per_second("idle") is None
    assert recent.of_worker("nobody") is None
    assert REST not in recent.queues


# Quantiles.


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([10, 0, 0, 0], 0.5, 0.05),
        ([10, 0, 0, 0], 1.0, 0.1),
        ([0, 10, 0, 0], 0.5, 0.55),
        ([5, 5, 0, 0], 0.5, 0.1),
        ([5, 5, 0, 0], 0.95, 0.91),
        ([0, 0, 0, 3], 0.5, 10.0),
        ([1, 0, 0, 1], 0.95, 10.0),
        ([1, 0, 1, 0], 0.95, 9.1),
    ],
)
def test_a_quantile_is_where_the_histogram_says(counts: list[int], share: float, expected: float | None) -> None:
    assert quantile(BOUNDS, counts, share) == (pytest.approx(expected) if expected is not None else None)


@pytest.mark.parametrize("places", [[(99, 1)], [(-1, 1)], [(4, 5)]])
def test_places_of_another_release_are_left_out(places: list[Any]) -> None:
    minutes = minutes_of(Grown("a", 0, T - 5, {}, places, places))
    [bucket] = minutes.buckets(NOW, 1)
    assert (bucket.latency_p50, bucket.wait_p95) == (None, None)
