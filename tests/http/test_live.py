"""Live events over HTTP: what readers get, when they come back, when Redis is away, and when they are slow."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from jobserver import Attempt, Handlers
from jobserver.job.events import Change
from jobserver.job.model import Priority, Status
from jobserver.pipeline import feed as feeds
from jobserver.pipeline import waiting
from jobserver.pipeline.announce import Row
from jobserver.server import Server
from jobserver.stream.events import EventStream, Told
from jobserver.stream.jobs import Batch
from tests.clocks import judged_by_the_clock
from tests.conftest import Pair
from tests.engines import RedisServer, eventually
from tests.servers import running
from tests.sse import Event, Follower, events_of, following

_SECOND = timedelta(seconds=1)


def port_of(server: Server) -> int:
    return urlsplit(server.url).port or 0


@contextlib.asynccontextmanager
async def served(pair: Pair, handlers: Handlers | None = None, **options: Any) -> AsyncIterator[tuple[Server, Any]]:
    async with (
        running(pair, handlers, **options) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        yield server, client


async def submit(client: Any, type_: str = "echo", payload: object = None, **fields: Any) -> str:
    answer = await client.post("/jobs", json={"type": type_, "payload": payload, **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def submit_many(client: Any, count: int, type_: str = "echo", payload: object = None) -> list[str]:
    jobs = [{"type": type_, "payload": payload} for _ in range(count)]
    return [each["id"] for each in (await client.post("/jobs/batch", json={"jobs": jobs})).json()["jobs"]]


async def all_of(server: Server, path: str, last_event_id: str | None = None) -> list[Event]:
    """The events of a stream that ends."""
    async with asyncio.timeout(20):
        return [each async for each in events_of(port_of(server), path, last_event_id) if each.kind]


def statuses(events: list[Event]) -> list[tuple[object, object]]:
    return [(each.data["fence"], each.data["status"]) for each in events if each.kind == "job"]


@contextlib.asynccontextmanager
async def follower(server: Server, path: str = "/events", last_event_id: str | None = None) -> AsyncIterator[Follower]:
    found = Follower(lambda: port_of(server), path, 1)
    found.last_event_id = last_event_id
    async with following([found]):
        yield found


async def test_every_transition_of_every_kind_is_told(pair: Pair) -> None:
    async with served(pair, backoff_base=1.0) as (server, client), follower(server) as reader:
        completed = await submit(client)
        retried = await submit(client, "fail", {"times": 1})
        failed = await submit(client, "fail", {"times": 9}, max_retries=0)
        canceled = await submit(client, delay=60)
        expired = await submit(client, delay=60, expires_at=(server.store.database.clock.now() + _SECOND).isoformat())
        await client.post(f"/jobs/{canceled}/cancel")
        await eventually(lambda: reader.seen.get(failed, [])[-1:] == [(2, "failed")])
        replayed = await submit(client, "fail", {"times": 9}, max_retries=0)
        await eventually(lambda: reader.seen.get(replayed, [])[-1:] == [(2, "failed")])
        assert (await client.post(f"/dlq/{replayed}/replay")).status_code == 200
        assert (await client.delete(f"/dlq/{failed}")).status_code == 204
        expected = {
            completed: ["queued", "running", "completed"],
            retried: ["queued", "running", "retrying", "running", "completed"],
            failed: ["queued", "running", "failed", "deleted"],
            canceled: ["scheduled", "canceled"],
            expired: ["scheduled", "failed"],
            replayed: ["queued", "running", "failed", "queued", "running", "failed"],
        }
        wanted = {job_id: list(enumerate(states)) for job_id, states in expected.items()}
        await eventually(lambda: _same(reader.seen, wanted), within=20)
    assert reader.resets == []


def _same(seen: object, wanted: object) -> bool:
    assert seen == wanted
    return True


async def test_an_event_says_what_the_job_is(pair: Pair) -> None:
    async with served(pair) as (server, client):
        stream = events_of(port_of(server), "/events")
        assert (await anext(stream)).kind == ""
        job_id = await submit(client, queue="q1")
        async with asyncio.timeout(10):
            first = await anext(stream)
            rest = [await anext(stream) for _ in range(2)]
        job = (await client.get(f"/jobs/{job_id}")).json()
        await stream.aclose()
    assert first.data == {
        "id": job_id,
        "type": "echo",
        "queue": "q1",
        "status": "queued",
        "attempt": 0,
        "fence": 0,
        "at": job["created_at"],
    }
    assert list(first.data) == ["id", "type", "queue", "status", "attempt", "fence", "at"]
    assert rest[0].data["at"] == job["started_at"]
    assert [each.data["attempt"] for each in rest] == [1, 1]


async def test_filters_choose_by_type_queue_and_status(pair: Pair) -> None:
    async with served(pair) as (server, client):
        paths = ["/events?type=sleep", "/events?queue=q2", "/events?status=failed&status=completed", "/events"]
        readers = [Follower(lambda: port_of(server), path, 1) for path in paths]
        async with following(readers):
            echo = await submit(client)
            other = await submit(client, queue="q2")
            slept = await submit(client, "sleep", {"seconds": 0.01})
            await eventually(lambda: readers[3].count == 9)
            await eventually(lambda: [each.count for each in readers] == [3, 3, 3, 9])
    assert set(readers[0].seen) == {slept}
    assert set(readers[1].seen) == {other}
    assert readers[2].seen == {job_id: [(2, "completed")] for job_id in (echo, other, slept)}


async def test_a_reader_that_comes_back_goes_on_without_gap_or_repeat(pair: Pair) -> None:
    """At each place, also in the middle of an entry, after a restart and in another process."""
    async with served(pair) as (server, client):
        async with follower(server) as reader:
            jobs = await submit_many(client, 20)
            await eventually(lambda: reader.count == 60)
        stream = events_of(port_of(server), "/events", f"{reader.last_event_id}")
        await stream.aclose()
        first = Follower(lambda: port_of(server), "/events", 1)
        # Everything, from the place before the first event on.
        feed, _, _ = str(reader.last_event_id).partition("-")
        first.last_event_id = f"{feed}-0-0"
        async with following([first]):
            await eventually(lambda: first.count == 60)
        assert first.resets == []
        every = [event async for event in _upto(server, f"{feed}-0-0", 60)]
    assert {str(each.data["id"]) for each in every} == set(jobs)
    async with served(pair) as (server, client):
        for number in (0, 7, 31, 59):
            after = [event async for event in _upto(server, every[number].id, 59 - number)]
            assert after == every[number + 1 :]


async def _upto(server: Server, last_event_id: str, count: int) -> AsyncIterator[Event]:
    async with asyncio.timeout(10), contextlib.aclosing(events_of(port_of(server), "/events", last_event_id)) as events:
        async for event in events:
            assert event.kind != "reset"
            if event.kind:
                yield event
                count -= 1
            if count <= 0:
                return


async def test_readers_that_reconnect_see_each_event_once_and_in_order(pair: Pair) -> None:
    async with served(pair, workers=32, backoff_base=1.0) as (server, client):
        readers = [Follower(lambda: port_of(server), "/events", seed) for seed in range(8)]
        async with following(readers, hang_up_after=0.2):
            jobs = []
            for _ in range(4):
                jobs += await submit_many(client, 100)
                jobs += await submit_many(client, 10, "fail", {"times": 1})
            wanted = 4 * (100 * 3 + 10 * 5)
            await eventually(lambda: all(each.count >= wanted for each in readers), within=60)
    for reader in readers:
        assert (reader.disordered, reader.resets, reader.count) == ([], [], wanted)
        assert set(reader.seen) == set(jobs)
        assert all([fence for fence, _ in each] == list(range(len(each))) for each in reader.seen.values())
    assert sum(each.connections for each in readers) > len(readers)


async def test_a_place_that_was_trimmed_is_told_by_a_reset(pair: Pair) -> None:
    async with served(pair, events_max=30) as (server, client):
        async with follower(server) as reader:
            await submit(client)
            await eventually(lambda: reader.count == 3)
        early = reader.last_event_id
        async with follower(server) as reader:
            for _ in range(30):
                await submit(client)
            await eventually(lambda: reader.count == 90)
        late = reader.last_event_id
        async with follower(server, last_event_id=early) as reader:
            await eventually(lambda: reader.resets == ["missed"])
            await submit(client)
            await eventually(lambda: reader.count == 3)
        async with follower(server, last_event_id=late) as reader:
            await eventually(lambda: reader.count == 3)
        assert reader.resets == []
        kept = await server._client.commands.xlen(server.stream.keys.events)
        assert kept < 50


async def test_what_is_no_place_is_told_by_a_reset(pair: Pair) -> None:
    async with served(pair) as (server, _):
        async with follower(server) as reader:
            feed = (await eventually(lambda: reader.last_event_id)).partition("-")[0]
        too_large = [f"{feed}-{'9' * 20}-0", f"{feed}-0-{2**64}-1"]
        for strange in ("x", "0", "00000000-1-1-1", "-", "9" * 300, *too_large):
            async with follower(server, last_event_id=strange) as reader:
                await eventually(lambda reader=reader: reader.resets == ["missed"])


async def test_a_stream_of_one_job_begins_with_its_state_and_ends_with_it(pair: Pair) -> None:
    gate = asyncio.Event()
    handlers = Handlers()

    @handlers.handler("gated")
    async def gated(attempt: Attempt) -> None:
        await gate.wait()

    async with served(pair, handlers) as (server, client):
        job_id = await submit(client, "gated", {})
        other = await submit(client)
        path = f"/jobs/{job_id}/events"
        await eventually(lambda: len(server.holdings) == 1)
        stream = asyncio.create_task(all_of(server, path))
        await eventually(lambda: server.feed.readers == 1)
        await asyncio.sleep(0.1)
        gate.set()
        events = await stream
        assert statuses(events) == [(1, "running"), (2, "completed")]
        assert statuses(await all_of(server, path)) == [(2, "completed")]
        assert statuses(await all_of(server, path, events[0].id)) == [(2, "completed")]
        # It has seen the end: a browser is told not to come back.
        assert (await client.get(path, headers={"last-event-id": events[1].id})).status_code == 204
        assert statuses(await all_of(server, f"/jobs/{other}/events")) == [(2, "completed")]
        assert (await client.get("/jobs/019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11/events")).status_code == 404
    assert server.feed.readers == 0


async def test_a_stream_of_one_job_that_comes_back_misses_and_repeats_nothing(pair: Pair) -> None:
    async with served(pair, backoff_base=1.0) as (server, client):
        job_id = await submit(client, "fail", {"times": 2}, delay=0.5)
        path = f"/jobs/{job_id}/events"
        stream = events_of(port_of(server), path)
        async with asyncio.timeout(10):
            first = await anext(stream)
        await stream.aclose()
        assert statuses([first]) == [(0, "scheduled")]
        job = (await client.get(f"/jobs/{job_id}?wait=20")).json()
        events = await all_of(server, path, first.id)
    states = ["running", "retrying", "running", "retrying", "running", "completed"]
    assert statuses(events) == list(enumerate(states, 1))
    assert job["fence"] == 6


async def test_progress_is_told_at_most_once_a_second(pair: Pair) -> None:
    handlers = Handlers()

    @handlers.handler("steps")
    async def steps(attempt: Attempt) -> None:
        for percent in range(100):
            await attempt.progress(percent, "working")
            await asyncio.sleep(0.025)

    async with served(pair, handlers) as (server, client):
        events = await all_of(server, f"/jobs/{await submit(client, 'steps', {})}/events")
    said = [each for each in events if each.kind == "progress"]
    assert 1 <= len(said) <= 4
    for each in said:
        assert set(each.data) == {"id", "progress", "at"}
        assert msgspec.convert(each.data["progress"], dict)["message"] == "working"
        assert each.id == ""
    assert statuses(events)[-1] == (2, "completed")


async def test_a_job_is_followed_to_its_end_without_redis(
    pair: Pair, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "READY_SECONDS", 0.2)
    pair = msgspec.structs.replace(pair, redis_url=own_redis.url)
    gate = asyncio.Event()
    handlers = Handlers()

    @handlers.handler("gated")
    async def gated(attempt: Attempt) -> None:
        await gate.wait()

    async with served(pair, handlers) as (server, client):
        job_id = await submit(client, "gated", {})
        await eventually(lambda: len(server.holdings) == 1)
        streams = [asyncio.create_task(all_of(server, f"/jobs/{job_id}/events"))]
        await eventually(lambda: server.feed.readers == 1)
        await asyncio.to_thread(own_redis.kill)
        streams.append(asyncio.create_task(all_of(server, f"/jobs/{job_id}/events")))
        waiter = asyncio.create_task(client.get(f"/jobs/{job_id}?wait=20"))
        await eventually(lambda: server.feed.readers == 2)
        gate.set()
        for stream in streams:
            assert statuses(await stream)[-1] == (2, "completed")
        assert (await waiter).json()["status"] == "completed"
        await asyncio.to_thread(own_redis.start)


async def test_a_redis_that_was_away_for_a_while_leaves_no_gap(pair: Pair, own_redis: RedisServer) -> None:
    pair = msgspec.structs.replace(pair, redis_url=own_redis.url)
    async with served(pair) as (server, client), follower(server) as reader:
        await submit(client)
        await eventually(lambda: reader.count == 3)
        await asyncio.to_thread(own_redis.pause)
        canceled = [await submit(client, delay=60) for _ in range(5)]
        for job_id in canceled:
            await client.post(f"/jobs/{job_id}/cancel")
        await asyncio.to_thread(own_redis.resume)
        await eventually(lambda: reader.count == 13, within=20)
    assert (reader.resets, reader.disordered) == ([], [])
    assert all(reader.seen[job_id] == [(0, "scheduled"), (1, "canceled")] for job_id in canceled)


async def test_a_wiped_redis_is_told_by_a_reset(pair: Pair, own_redis: RedisServer) -> None:
    pair = msgspec.structs.replace(pair, redis_url=own_redis.url)
    async with served(pair) as (server, client), follower(server) as reader:
        await submit(client)
        await eventually(lambda: reader.count == 3)
        scheduled = await submit(client, delay=3)
        watch = asyncio.create_task(all_of(server, f"/jobs/{scheduled}/events"))
        await eventually(lambda: server.feed.readers == 2)
        await server._client.commands.flushall()
        await eventually(lambda: reader.resets == ["wiped"])
        events = await watch
        assert statuses(events) == [(0, "scheduled"), (1, "running"), (2, "completed")]
        await submit(client)
        await eventually(lambda: reader.count == 9)
    assert reader.resets == ["wiped"]
    assert "reset" in {each.kind for each in events}


async def test_a_job_that_is_due_much_later_is_told_at_once(pair: Pair) -> None:
    # Its message stays in SQL, so its event has nothing to go with.
    async with served(pair) as (server, client), follower(server) as reader:
        job_id = await submit(client, delay=3_600)
        await eventually(lambda: reader.seen.get(job_id) == [(0, "scheduled")], within=5)


async def test_events_that_find_no_place_are_told_by_a_reset(
    pair: Pair, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.pipeline.announce.MAX_WAITING", 4)
    pair = msgspec.structs.replace(pair, redis_url=own_redis.url)
    async with served(pair) as (server, client), follower(server) as reader:
        await asyncio.to_thread(own_redis.pause)
        for _ in range(12):
            await submit(client, delay=60)
        await asyncio.to_thread(own_redis.resume)
        await eventually(lambda: "overflow" in reader.resets, within=20)
        page = (await client.get("/metrics")).text
    assert reader.count < 12
    assert 'jobserver_events_lost_total{reason="overflow"} 0.0' not in page


async def test_events_that_redis_refuses_are_counted_and_told_by_a_reset(pair: Pair, own_redis: RedisServer) -> None:
    """Its memory is full while a job is stored; nothing of that is a loss of the job."""
    pair = msgspec.structs.replace(pair, redis_url=own_redis.url)
    async with served(pair) as (server, client), follower(server) as reader:
        commands = server._client.commands
        await commands.config_set("maxmemory", 1)
        job_id = await submit(client, delay=3_600)

        async def counted() -> bool:
            page = (await client.get("/metrics")).text
            return 'jobserver_events_lost_total{reason="refused"} 0.0' not in page

        await eventually(counted, within=10)
        await commands.config_set("maxmemory", 0)
        await eventually(lambda: "refused" in reader.resets, within=10)
        await client.post(f"/jobs/{job_id}/cancel")
        await eventually(lambda: reader.seen.get(job_id) == [(1, "canceled")], within=5)


async def test_messages_that_redis_refuses_are_no_loss_of_events(
    pair: Pair, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    pair = msgspec.structs.replace(pair, redis_url=own_redis.url)
    async with served(pair) as (server, client), follower(server) as reader:
        await server._client.commands.set(server.stream.keys.delayed("q", Priority.NORMAL), "no set")
        job_id = await submit(client, delay=60, queue="q")
        await eventually(lambda: reader.seen.get(job_id) == [(0, "scheduled")], within=5)
        await eventually(lambda: any(each.getMessage() == "stream_refused" for each in caplog.records), within=5)
        page = (await client.get("/metrics")).text
        assert 'jobserver_events_lost_total{reason="refused"} 0.0' in page
    assert reader.resets == []


async def test_a_reader_that_takes_nothing_is_cut_off(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_BEHIND_BYTES", 20_000)
    async with served(pair, workers=32) as (server, client):
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow.connect(("127.0.0.1", port_of(server)))
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(lambda: server.feed.readers == 1)
        async with follower(server) as quick:
            for _ in range(60):
                await submit_many(client, 500, "sleep", {"seconds": 0})
                if server.feed.readers == 1:
                    break
            await eventually(lambda: server.feed.readers == 1, within=30)
            page = (await client.get("/metrics")).text
        slow.close()
    assert "jobserver_event_readers_cut_off_total 0.0" not in page
    assert (quick.disordered, quick.resets) == ([], [])


async def test_keepalives_say_where_the_feed_is(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "KEEPALIVE_SECONDS", 0.5)
    async with served(pair) as (server, client):
        comments: list[str] = []
        places: list[str] = []
        stream = events_of(port_of(server), "/events?type=nothing.else", comments=comments)

        async def read() -> None:
            async for event in stream:
                assert event.kind == ""
                places.append(event.id)

        reading = asyncio.create_task(read())
        await submit(client)
        await eventually(lambda: len(comments) >= 2)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await stream.aclose()
    assert comments[0] == ": keepalive"
    assert len(set(places)) > 1


async def test_streams_end_when_the_server_drains(pair: Pair) -> None:
    async with served(pair) as (server, client):
        job_id = await submit(client, delay=60)
        # The submit may reach the feed after its readers: one of them wants nothing of it.
        paths = ("/events?status=completed", f"/jobs/{job_id}/events")
        streams = [asyncio.create_task(all_of(server, path)) for path in paths]
        await eventually(lambda: server.feed.readers == 2)
    async with asyncio.timeout(5):
        assert [len(await each) for each in streams] == [0, 1]


async def test_events_can_be_off(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.2)
    async with served(pair, events_max=0) as (server, client):
        assert (await client.get("/events")).status_code == 404
        job_id = await submit(client, "sleep", {"seconds": 0.3})
        assert statuses(await all_of(server, f"/jobs/{job_id}/events"))[-1] == (2, "completed")
        assert not await server._client.commands.exists(server.stream.keys.events)
        assert server.announcer is None


async def test_the_task_that_reads_ends_with_its_readers(pair: Pair) -> None:
    async with served(pair) as (server, client):
        assert server.feed._task is None
        async with follower(server):
            assert not server.feed._task.done()
        await eventually(server.feed._task.done)
        job_id = await submit(client, delay=60)
        assert (await client.get(f"/jobs/{job_id}?wait=0.1")).json()["status"] == Status.SCHEDULED
        await eventually(server.feed._task.done)


@judged_by_the_clock
async def test_waiting_elsewhere_is_woken_by_events(postgresql_url: str, redis_url: str, redis_prefix: str) -> None:
    """The job runs in another process: a look at SQL would take up to two seconds."""
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    async with served(pair, workers=0) as (_, client), running(pair):
        await asyncio.sleep(0.2)
        for _ in range(3):
            job_id = await submit(client, "sleep", {"seconds": 0.2})
            began = asyncio.get_running_loop().time()
            job = (await client.get(f"/jobs/{job_id}?wait=10")).json()
            assert job["status"] == "completed"
            assert asyncio.get_running_loop().time() - began < 1.5


async def test_readers_are_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_READERS", 1)
    async with served(pair) as (server, client), follower(server):
        answer = await client.get("/events")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_head_does_not_follow(pair: Pair) -> None:
    async with served(pair) as (_, client):
        answer = await client.head("/events")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")


async def _tell(server: Server, number: int, rows: list[Row]) -> None:
    """What another process would append."""
    told = Told(sender="other", number=number, most=1_000, count=len(rows), payload=msgspec.json.encode([(1, rows)]))
    await server.stream.apply(Batch(told=told))


def row(job_id: UUID, status: str, fence: int) -> Row:
    return (job_id, "echo", "default", status, 1, fence)


async def test_an_event_that_was_overtaken_or_repeated_is_left_out(pair: Pair) -> None:
    job_id, last = uuid4(), uuid4()
    async with served(pair) as (server, _), follower(server) as reader:
        await _tell(server, 1, [row(job_id, "running", 1)])
        await _tell(server, 2, [row(job_id, "queued", 0), row(job_id, "running", 1)])
        await _tell(server, 3, [row(job_id, "completed", 2), row(last, "queued", 0)])
        await eventually(lambda: str(last) in reader.seen)
        assert reader.seen[str(job_id)] == [(1, "running"), (2, "completed")]
        # Nor does one who comes back in between get it.
        entries = await EventStream(server._client, server.settings.redis_prefix).page("-")
        feed = str(reader.last_event_id).partition("-")[0]
        async with follower(server, last_event_id=f"{feed}-{entries[0].id}-1") as late:
            await eventually(lambda: str(last) in late.seen)
        assert late.seen[str(job_id)] == [(2, "completed")]


async def test_an_entry_that_is_missing_is_told_by_a_reset(pair: Pair) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    async with served(pair) as (server, _), follower(server) as reader:
        await _tell(server, 1, [row(first, "queued", 0)])
        await eventually(lambda: str(first) in reader.seen)
        await server._client.commands.hincrby(server.stream.keys.feed, "count", 1)
        await _tell(server, 2, [row(second, "queued", 0)])
        await eventually(lambda: str(second) in reader.seen)
        assert reader.resets == ["missed"]
        await server._client.commands.xadd(server.stream.keys.events, {"stray": "entry"})
        await _tell(server, 3, [row(third, "queued", 0)])
        await eventually(lambda: str(third) in reader.seen)
    assert reader.resets == ["missed"]


async def test_what_a_look_finds_is_not_told_twice(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(waiting, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "EVENT_SECONDS", 0.0)
    async with served(pair) as (server, client):
        job_id = await submit(client, "sleep", {"seconds": 0.5})
        # What its events would say comes late, after SQL was looked at.
        events = asyncio.create_task(all_of(server, f"/jobs/{job_id}/events"))
        await eventually(lambda: server.feed.readers == 1)
        await asyncio.sleep(0.2)
        for number in range(3):
            await _tell(server, 10 + number, [row(UUID(job_id), "running", 1)])
        fences = [fence for fence, _ in statuses(await events)]
    assert fences == sorted(set(fences))
    assert fences[-1] == 2


async def test_a_look_and_its_event_are_told_once_whichever_comes_first() -> None:
    job_id = uuid4()

    def change(fence: int) -> Change:
        return Change(str(job_id), "echo", "default", "running", 1, fence)

    reader = feeds.JobReader(job_id)
    # While it catches up, what comes is held; its state is of a look that came after some of it.
    for fence in (0, 1):
        reader.hear("p", change(fence), "t")
    reader.release(first=("p", change(1), "t"))
    for fence in (1, 2, 2, 1, 3):
        reader.hear("p", change(fence), "t")
    told = (await reader.next()).decode()
    assert [int(each) for each in re.findall(r'"fence":(\d+)', told)] == [1, 2, 3]


async def test_after_a_reset_a_stream_of_one_job_repeats_nothing(pair: Pair) -> None:
    async with served(pair) as (server, client):
        job_id = await submit(client, delay=60)
        path = f"/jobs/{job_id}/events"
        stream = events_of(port_of(server), path, "00000000-1-0-1.0")
        async with asyncio.timeout(10):
            reset = await anext(stream)
        await stream.aclose()
        assert reset.kind == "reset"
        again = asyncio.create_task(all_of(server, path, reset.id))
        await eventually(lambda: server.feed.readers == 1)
        assert (await client.post(f"/jobs/{job_id}/cancel")).status_code == 200
        assert statuses(await again) == [(1, "canceled")]


async def test_two_processes_tell_the_same(postgresql_url: str, redis_url: str, redis_prefix: str) -> None:
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    async with served(pair, backoff_base=1.0) as (one, client), running(pair, backoff_base=1.0) as other:
        ports = [port_of(one), port_of(other)]
        choose = random.Random(3).choice
        readers = [Follower(lambda: choose(ports), "/events", seed) for seed in range(6)]
        async with following(readers, hang_up_after=0.2):
            for _ in range(3):
                await submit_many(client, 60)
                await submit_many(client, 5, "fail", {"times": 1})
            wanted = 3 * (60 * 3 + 5 * 5)
            await eventually(lambda: all(each.count >= wanted for each in readers), within=60)
    assert [(each.disordered, each.resets, each.count) for each in readers] == [([], [], wanted)] * len(readers)
