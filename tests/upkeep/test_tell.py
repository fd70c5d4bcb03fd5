"""Each process tells what its counters grew by; whoever asks reads the whole cluster's minutes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from jobserver.errors import StreamUnavailable
from jobserver.job.activity import BUCKET_SECONDS, REST, Bucket, Moves, Recent
from jobserver.job.model import Status
from jobserver.pipeline import activity as reading
from jobserver.pipeline.activity import Activity
from jobserver.server import Server
from jobserver.stream import activity as stored
from jobserver.stream.activity import ActivityStream
from jobserver.stream.client import StreamClient
from jobserver.stream.keys import Keys
from jobserver.telemetry.growth import Growth
from jobserver.telemetry.metrics import BoundedLabel, Metrics
from jobserver.upkeep.tell import Tell
from tests.conftest import Pair
from tests.engines import RedisServer, eventually
from tests.jobs import job_in
from tests.parts import consuming, ended, parts, submitted
from tests.upkeep.gates import Gate

START = 1_700_000_000


class Clock:
    """Seconds since 1970 that a test moves on."""

    def __init__(self) -> None:
        self.seconds = START + 0.02

    def __call__(self) -> int:
        return int(self.seconds * 1e6)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def every_look(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was seen is as good as new, and nobody goes without what is there."""
    monkeypatch.setattr(reading, "FRESH_SECONDS", 0.0)


@pytest.fixture
async def stream(own_redis: RedisServer) -> AsyncIterator[ActivityStream]:
    client = StreamClient(own_redis.url)
    yield ActivityStream(client, "t")
    await client.close()


def telling(stream: ActivityStream, clock: Clock, worker_id: str = "w") -> tuple[Tell, Metrics]:
    metrics = Metrics("1")
    return Tell(stream, metrics, worker_id, clock), metrics


async def seen(activity: Activity) -> list[Bucket]:
    buckets, whole = await activity.buckets(60)
    assert whole
    return buckets


# Growth.


def test_growth_is_what_was_counted_since_the_last_look() -> None:
    metrics = Metrics("1")
    growth = Growth(metrics)
    assert growth.take() == ({}, [], [])
    metrics.created.of("t", "q").value += 3
    metrics.created.of("u", "q").value += 1
    metrics.completed.of("t", "q").value += 2
    metrics.failed.of("t", "r").value += 1
    metrics.retried.of("t", "r").value += 4
    metrics.canceled.of("t", "r").value += 5
    metrics.wait_seconds.of("q").observe(0.0005)
    metrics.wait_seconds.of("q").observe(10_000.0)
    metrics.end_to_end_seconds.of("t").observe(0.002)
    assert growth.take() == ({"q": Moves(4, 2, 0, 0, 0, 2), "r": Moves(0, 0, 1, 4, 5, 0)}, [(1, 1)], [(0, 1), (18, 1)])
    assert growth.take() == ({}, [], [])
    metrics.wait_seconds.of("q").observe(0.0005)
    assert growth.take() == ({"q": Moves(started=1)}, [], [(0, 1)])


def test_queues_without_a_name_of_their_own_are_told_apart_from_one_called_other() -> None:
    metrics = Metrics("1")
    growth = Growth(metrics)
    metrics.created.of("t", "other").value += 1
    assert growth.take()[0] == {"other": Moves(submitted=1)}
    for number in range(200):
        metrics.created.of("t", f"q{number}")
    metrics.created.of("t", "other").value += 1
    assert growth.take()[0] == {REST: Moves(submitted=1)}


def test_a_process_that_only_runs_jobs_of_very_many_queues_does_not_say_that_other_is_one() -> None:
    metrics = Metrics("1")
    growth = Growth(metrics)
    # What a telemetry does with the names of queues.
    label = BoundedLabel()
    for number in range(250):
        metrics.completed.of("t", label(f"q{number}")).value += 1
        metrics.wait_seconds.of(label(f"q{number}")).observe(0.0005)
    moves = growth.take()[0]
    assert moves[REST] == Moves(completed=50, started=50)
    assert "other" not in moves


def test_many_types_do_not_take_the_name_of_a_queue() -> None:
    metrics = Metrics("1")
    growth = Growth(metrics)
    for number in range(200):
        metrics.created.of(f"t{number}", "other").value += 1
    assert growth.take()[0] == {"other": Moves(submitted=200)}


# Telling.


async def test_what_was_counted_is_told_of_the_bucket_that_has_ended(stream: ActivityStream, clock: Clock) -> None:
    tell, metrics = telling(stream, clock)
    metrics.created.of("t", "q").value += 5
    await tell.step()
    clock.seconds += 1.0
    [bucket] = await seen(Activity(stream, clock))
    assert (bucket.at, bucket.submitted) == (START - BUCKET_SECONDS, 5)


async def test_several_processes_are_one_history(stream: ActivityStream, clock: Clock) -> None:
    processes = [telling(stream, clock, f"w{number}") for number in range(3)]
    activity = Activity(stream, clock)
    for round_ in range(3):
        for tell, metrics in processes:
            metrics.completed.of("t", "q").value += round_
            await tell.step()
        clock.seconds += BUCKET_SECONDS
    assert [bucket.completed for bucket in await seen(activity)] == [0, 3, 6]
    recent = await activity.recent()
    assert {recent.of_worker(f"w{number}") for number in range(3)} == {0.2}
    rates = recent.of_queue("q")
    assert rates is not None
    assert rates.completed_per_second == 0.6


async def test_while_redis_is_away_a_process_remembers_and_tells_later(
    own_redis: RedisServer, stream: ActivityStream, clock: Clock
) -> None:
    tell, metrics = telling(stream, clock)
    activity = Activity(stream, clock)
    await tell.step()
    clock.seconds += BUCKET_SECONDS
    assert len(await seen(activity)) == 1
    await asyncio.to_thread(own_redis.kill)
    for n in (1, 2, 3):
        metrics.created.of("t", "q").value += n
        with pytest.raises(StreamUnavailable):
            await tell.step()
        clock.seconds += BUCKET_SECONDS
    # What was seen is shown, and it is said that there may be more.
    buckets, whole = await activity.buckets(60)
    assert (len(buckets), whole) == (1, False)
    await asyncio.to_thread(own_redis.restart)
    metrics.created.of("t", "q").value += 4
    await tell.step()
    clock.seconds += 1.0
    assert [bucket.submitted for bucket in await seen(activity)] == [0, 1, 2, 3, 4]


async def test_while_redis_is_away_each_bucket_has_its_look(
    own_redis: RedisServer, stream: ActivityStream, clock: Clock
) -> None:
    tell, _ = telling(stream, clock)
    await asyncio.to_thread(own_redis.kill)
    # As if each bucket were about to end.
    clock.seconds = START + BUCKET_SECONDS - 0.01
    tell.loop.start()
    await eventually(lambda: len(tell._untold) >= 3, within=4.0)
    await tell.loop.close()


async def test_a_process_that_cannot_tell_remembers_an_hour_and_not_more(
    own_redis: RedisServer, stream: ActivityStream, clock: Clock
) -> None:
    tell, _ = telling(stream, clock)
    await asyncio.to_thread(own_redis.kill)
    for _ in range(1_000):
        tell._look(clock.seconds)
        clock.seconds += BUCKET_SECONDS
    assert len(tell._untold) == 720
    await asyncio.to_thread(own_redis.restart)
    await tell.step()
    assert len(tell._untold) == 0
    clock.seconds += 1.0
    assert len(await seen(Activity(stream, clock))) == 719


async def test_what_is_told_twice_counts_once(stream: ActivityStream, clock: Clock) -> None:
    tell, metrics = telling(stream, clock)
    metrics.created.of("t", "q").value += 5
    tell._look(clock.seconds - BUCKET_SECONDS)
    await stream.tell(list(tell._untold))
    await tell.step()
    clock.seconds += 1.0
    assert sum(bucket.submitted for bucket in await seen(Activity(stream, clock))) == 5


async def test_the_stream_is_capped(
    stream: ActivityStream, clock: Clock, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MAX_ENTRIES", 500)
    tell, _ = telling(stream, clock)
    for _ in range(720):
        tell._look(clock.seconds)
        clock.seconds += BUCKET_SECONDS
    await tell.step()
    # It is trimmed by whole nodes of 100.
    assert 500 <= await stream._client.commands.xlen(Keys("t").activity) <= 600


async def test_entries_of_somebody_else_are_passed_over(stream: ActivityStream, clock: Clock) -> None:
    key = Keys("t").activity
    for fields in ({"x": "1"}, {"g": "nonsense"}, {"g": "[1,2]"}, {"g": b"\xff"}, {"a": "b", "g": "[]"}):
        await stream._client.commands.xadd(key, fields)
    tell, metrics = telling(stream, clock)
    metrics.created.of("t", "q").value += 5
    await tell.step()
    clock.seconds += 1.0
    assert [bucket.submitted for bucket in await seen(Activity(stream, clock))] == [5]


async def test_after_a_redis_whose_clock_is_behind_the_stream_is_read_anew(
    stream: ActivityStream, clock: Clock, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, metrics = telling(stream, clock)
    activity = Activity(stream, clock)
    activity._last = "99999999999999-0"
    metrics.created.of("t", "q").value += 5
    await tell.step()
    clock.seconds += 1.0
    assert await seen(activity) == []
    monkeypatch.setattr(reading, "SILENT_SECONDS", 0.0)
    assert [bucket.submitted for bucket in await seen(activity)] == [5]


async def test_of_many_who_ask_at_once_one_looks(
    stream: ActivityStream, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "FRESH_SECONDS", 60.0)
    activity = Activity(stream, clock)
    looks = 0
    after = stream.after

    async def counted(last: str) -> object:
        nonlocal looks
        looks += 1
        return await after(last)

    monkeypatch.setattr(stream, "after", counted)
    await asyncio.gather(*(activity.recent() for _ in range(50)))
    assert looks == 1


# The counters of a server that works.


async def test_what_jobs_do_is_what_the_minutes_show(pair: Pair) -> None:
    gate = Gate()
    async with parts(pair, gate.handlers, workers=2) as server, consuming(server):
        done = [await submitted(server, payload=n, queue="default") for n in range(3)]
        for job in done:
            await ended(server, job.id)
        failed = await submitted(server, "fail", {"retryable": False})
        assert (await ended(server, failed.id)).status is Status.FAILED
        later = await submitted(server, delay=60.0)
        await server.commands.cancel(later.id)
        await server.tell.step()
        server.tell._now_us = lambda: 0
        now = server.store.database.clock.now_us
        server.activity._now_us = lambda: now() + 6_000_000
        buckets = await seen(server.activity)
        assert sum(each.submitted for each in buckets) == 5
        assert sum(each.completed for each in buckets) == 3
        assert sum(each.failed for each in buckets) == 1
        assert sum(each.canceled for each in buckets) == 1
        [bucket] = [each for each in buckets if each.completed]
        assert bucket.latency_p50 is not None
        assert 0.0 < bucket.latency_p50 <= (bucket.latency_p95 or 0.0) < 20.0
        assert bucket.wait_p95 is not None
        recent = await server.activity.recent()
        rates = recent.of_queue("default")
        assert rates is not None
        assert rates.completed_per_second > 0
        assert (recent.started_per_second("default") or 0) > rates.completed_per_second
        assert recent.of_worker(server.worker_id) == rates.completed_per_second


async def test_a_process_that_stops_tells_the_rest(server: Server) -> None:
    await job_in(server.store, Status.QUEUED)
    await submitted(server)
    await server.tell.close()
    now = server.store.database.clock.now_us
    server.activity._now_us = lambda: now() + 6_000_000
    assert sum(each.submitted for each in await seen(server.activity)) == 1


async def test_nothing_told_is_nothing_known(server: Server) -> None:
    assert await server.activity.recent() == Recent()
    assert await seen(server.activity) == []
