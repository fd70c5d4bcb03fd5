"""The same seed makes the same faults and the same jobs."""

from __future__ import annotations

import itertools

from jobserver.torture.faults import FAULTS, LEASE_SECONDS, MAX_LOOP_BLOCK_SECONDS, explained_by, faults_of
from jobserver.torture.history import LEASE_LOST
from jobserver.torture.schedule import QUIET_SECONDS, fault_events, planned_job

DURATIONS = {name: fault.seconds for name, fault in FAULTS.items()}


def test_the_same_seed_makes_the_same_faults() -> None:
    first = fault_events(7, "others", DURATIONS, seconds=600, processes=3)
    assert first == fault_events(7, "others", DURATIONS, seconds=600, processes=3)
    assert first != fault_events(8, "others", DURATIONS, seconds=600, processes=3)
    assert first != fault_events(7, "redis", DURATIONS, seconds=600, processes=3)


def test_every_fault_comes_before_any_comes_again() -> None:
    events = fault_events(7, "others", DURATIONS, seconds=600, processes=3)
    names = [event.fault for event in events]
    assert set(names[: len(DURATIONS)]) == set(DURATIONS)
    assert len(names) > len(DURATIONS)


def test_faults_follow_one_another_within_the_time() -> None:
    events = fault_events(7, "others", DURATIONS, seconds=60, processes=3)
    for before, after in itertools.pairwise(events):
        assert before.at + before.seconds < after.at
    assert events[-1].at + events[-1].seconds <= 60
    assert {event.slot for event in events} <= {0, 1, 2}
    low_high = [DURATIONS[event.fault] for event in events]
    assert all(
        low - 0.001 <= event.seconds <= high + 0.001 for event, (low, high) in zip(events, low_high, strict=True)
    )


def test_no_faults_make_an_empty_schedule() -> None:
    assert fault_events(7, "others", {}, seconds=60, processes=3) == []


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


def test_the_embedded_pair_has_no_faults_of_postgresql_or_of_the_network_or_of_its_own_clock() -> None:
    left_out = set(FAULTS) - set(faults_of("embedded"))
    assert left_out == {name for name in FAULTS if name.startswith(("pg_", "proxy_", "clock_"))}
    assert set(faults_of("postgresql")) == set(FAULTS)


def test_every_fault_is_in_one_of_the_lanes() -> None:
    assert {fault.lane for fault in FAULTS.values()} == set(QUIET_SECONDS)


def test_trouble_with_redis_explains_no_lost_lease() -> None:
    events = fault_events(7, "others", DURATIONS, seconds=3600, processes=3)
    proxied = {event.engine: explained_by(event) for event in events if event.fault == "proxy_drop"}
    assert proxied == {"sql": {LEASE_LOST}, "redis": set()}
    assert not any(fault.explains for fault in FAULTS.values() if fault.lane == "redis")


def test_what_blocks_the_loop_for_a_while_is_longer_than_a_lease_and_explains_nothing() -> None:
    block, hang = FAULTS["loop_block"], FAULTS["loop_hang"]
    assert LEASE_SECONDS < block.seconds[0] < block.seconds[1] < MAX_LOOP_BLOCK_SECONDS
    assert block.explains == frozenset()
    assert hang.seconds[0] > MAX_LOOP_BLOCK_SECONDS + LEASE_SECONDS
