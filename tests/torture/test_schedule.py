"""The same seed makes the same faults and the same jobs."""

from __future__ import annotations

import itertools

from jobserver.torture.faults import FAULTS, faults_of
from jobserver.torture.schedule import fault_events, planned_job

DURATIONS = {name: fault.seconds for name, fault in FAULTS.items()}


def test_the_same_seed_makes_the_same_faults() -> None:
    first = fault_events(7, DURATIONS, seconds=600, processes=3)
    assert first == fault_events(7, DURATIONS, seconds=600, processes=3)
    assert first != fault_events(8, DURATIONS, seconds=600, processes=3)


def test_every_fault_comes_before_any_comes_again() -> None:
    events = fault_events(7, DURATIONS, seconds=600, processes=3)
    names = [event.fault for event in events]
    assert set(names[: len(DURATIONS)]) == set(DURATIONS)
    assert len(names) > len(DURATIONS)


def test_faults_follow_one_another_within_the_time() -> None:
    events = fault_events(7, DURATIONS, seconds=60, processes=3)
    for before, after in itertools.pairwise(events):
        assert before.at + before.seconds < after.at
    assert events[-1].at + events[-1].seconds <= 60
    assert {event.slot for event in events} <= {0, 1, 2}
    low_high = [DURATIONS[event.fault] for event in events]
    assert all(
        low - 0.001 <= event.seconds <= high + 0.001 for event, (low, high) in zip(events, low_high, strict=True)
    )


def test_no_faults_make_an_empty_schedule() -> None:
    assert fault_events(7, {}, seconds=60, processes=3) == []


def test_the_same_seed_makes_the_same_jobs_each_with_a_key_of_its_own() -> None:
    jobs = [planned_job(7, number) for number in range(500)]
    assert jobs == [planned_job(7, number) for number in range(500)]
    assert len({job.body["idempotency_key"] for job in jobs}) == 500
    assert jobs != [planned_job(8, number) for number in range(500)]


def test_the_load_is_mixed() -> None:
    jobs = [planned_job(7, number) for number in range(500)]
    assert {job.follow for job in jobs} == {"nothing", "look", "cancel", "replay"}
    assert {job.body["priority"] for job in jobs} == {"high", "normal", "low"}
    assert len({job.type for job in jobs}) >= 7
    assert any("delay" in job.body for job in jobs)
    assert any(job.twice for job in jobs)


def test_the_embedded_pair_has_no_faults_of_postgresql_or_of_the_network() -> None:
    assert not [name for name in faults_of("embedded") if name.startswith(("pg_", "proxy_"))]
    assert set(faults_of("postgresql")) == set(FAULTS)
