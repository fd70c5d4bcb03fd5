"""The watchdog: new connections when work waits here and nothing is read, and silence whenever that is well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest

from jobserver.errors import StreamUnavailable
from jobserver.job.model import Status
from jobserver.server import Server
from jobserver.stream import client as stream_client
from jobserver.stream.client import StreamClient
from jobserver.upkeep import watchdog
from tests.clocks import judged_by_the_clock
from tests.conftest import Pair
from tests.engines import RedisServer, eventually
from tests.gates import Gate
from tests.jobs import inserted
from tests.parts import ended, executing, parts, submitted, writing
from tests.relay import Relay
from tests.servers import running


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "INTERVAL_SECONDS", 0.3)
    monkeypatch.setattr(watchdog, "WAITS_SECONDS", 0.0)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def server(pair: Pair, gate: Gate) -> AsyncIterator[Server]:
    """Two consumers that are free, and no fetcher: nothing is read until a test starts one."""
    async with parts(pair, gate.handlers, workers=2) as server, writing(server):
        yield server


def rebuilt(server: Server) -> int:
    page = server.telemetry.metrics.render("text/plain")[0].decode()
    [line] = [line for line in page.splitlines() if line.startswith("jobserver_connections_rebuilt_total ")]
    return int(float(line.split()[1]))


async def looked(server: Server, times: int = 3) -> int:
    """How often it has rebuilt after so many looks."""
    for _ in range(times):
        await server.watchdog.step()
    return rebuilt(server)


# What it is for.


@judged_by_the_clock
async def test_a_reader_that_hangs_is_given_up_and_what_waits_runs(
    sqlite_url: str, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A connection whose silence nothing else bounds: with its time limit the read ends by itself.
    monkeypatch.setattr(stream_client, "READ_SECONDS", 3_600.0)
    observer = StreamClient(own_redis.url)
    async with Relay(own_redis.port) as relay:
        pair = Pair("sqlite", sqlite_url, f"redis://127.0.0.1:{relay.port}/0", "t")
        async with running(pair) as server:
            await ended(server, (await submitted(server)).id)

            async def blocked() -> bool:
                return any(each["cmd"] == "xreadgroup" for each in await observer.commands.client_list())

            await eventually(blocked)
            relay.strand()
            job = await submitted(server)
            assert (await ended(server, job.id)).status is Status.COMPLETED
            assert rebuilt(server) >= 1
            # And it is well again: another one does not wait for a look.
            started = time.monotonic()
            await ended(server, (await submitted(server)).id)
            assert time.monotonic() - started < 2
    await observer.close()


async def test_a_stop_does_not_wait_for_a_reader_that_hangs(
    sqlite_url: str, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_client, "READ_SECONDS", 3_600.0)
    monkeypatch.setattr("jobserver.pipeline.consume._LAST_READ_SECONDS", 0.5)
    observer = StreamClient(own_redis.url)
    async with Relay(own_redis.port) as relay, asyncio.timeout(20):
        pair = Pair("sqlite", sqlite_url, f"redis://127.0.0.1:{relay.port}/0", "t")
        async with running(pair):

            async def blocked() -> bool:
                return any(each["cmd"] == "xreadgroup" for each in await observer.commands.client_list())

            await eventually(blocked)
            relay.strand()
    await observer.close()


async def test_without_the_watchdog_a_silent_connection_ends_by_its_own_limit(
    sqlite_url: str, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The everyday case: a read has its block and 2 s."""
    monkeypatch.setattr(watchdog, "INTERVAL_SECONDS", 3_600.0)
    async with Relay(own_redis.port) as relay:
        pair = Pair("sqlite", sqlite_url, f"redis://127.0.0.1:{relay.port}/0", "t")
        async with running(pair) as server:
            await ended(server, (await submitted(server)).id)
            relay.strand()
            started = time.monotonic()
            assert (await ended(server, (await submitted(server)).id)).status is Status.COMPLETED
            assert time.monotonic() - started < 10
            assert rebuilt(server) == 0


# When it looks.


async def test_the_second_look_at_work_that_nobody_reads_rebuilds(server: Server, gate: Gate) -> None:
    await inserted(server.store, type="gate")
    assert [await looked(server, 1) for _ in range(4)] == [0, 1, 1, 2]


async def test_where_rebuilding_does_not_help_it_is_tried_less_and_less_often(server: Server) -> None:
    await inserted(server.store, type="gate")
    delays = [delay for _ in range(60) if (delay := await server.watchdog.step()) is not None]
    assert delays[:3] == [pytest.approx(0.3), pytest.approx(0.6), pytest.approx(1.2)]
    assert delays[-1] == watchdog.LONGEST_SECONDS


async def _paused(server: Server) -> None:
    await server.store.set_paused("default", True)
    await server.queues.refresh()


async def _not_served(server: Server) -> None:
    await server.store.add_queue("elsewhere")
    server.queues._wanted = ("elsewhere",)


async def _nothing(server: Server) -> None:
    pass


@pytest.mark.parametrize(
    ("fields", "prepare", "fires"),
    [
        ({}, _nothing, True),
        ({"type": "unhandled"}, _nothing, False),
        ({"delay_seconds": 60.0}, _nothing, False),
        ({}, _paused, False),
        ({}, _not_served, False),
    ],
    ids=["runnable", "unhandled type", "not due", "paused", "queue not served"],
)
async def test_only_work_that_could_run_here_counts(
    server: Server, fields: dict[str, object], prepare: Callable[[Server], Awaitable[None]], fires: bool
) -> None:
    await inserted(server.store, **({"type": "gate"} | fields))
    await prepare(server)
    assert (await looked(server) > 0) is fires


async def test_an_expired_job_does_not_count(server: Server) -> None:
    past = server.store.database.clock.now() - timedelta(seconds=1)
    await inserted(server.store, type="gate", expires_at=past)
    assert await looked(server) == 0


async def test_work_counts_behind_a_lot_that_nobody_here_can_do(server: Server) -> None:
    """Of the same stream the oldest hundred are looked at, and the streams one by one."""
    for _ in range(99):
        await inserted(server.store, type="unhandled")
    await inserted(server.store, type="gate")
    assert await looked(server) == 1


async def test_a_backlog_before_busy_consumers_is_no_case(server: Server, gate: Gate) -> None:
    async with executing(server):
        jobs = [await submitted(server, "gate") for _ in range(20)]
        await eventually(lambda: gate.started == 2)
        assert await looked(server, 5) == 0
        gate.open.set()
        for job in jobs:
            assert (await ended(server, job.id)).status is Status.COMPLETED
    assert rebuilt(server) == 0


async def test_consumers_that_become_free_after_a_long_job_are_no_case(server: Server, gate: Gate) -> None:
    """The first look after it finds free consumers, old work and no reading since the look before."""
    async with executing(server):
        await asyncio.gather(*(submitted(server, "gate") for _ in range(2)))
        await eventually(lambda: gate.started == 2)
        waiting = await submitted(server, "gate")
        assert await looked(server, 2) == 0
        gate.open.set()
        await eventually(lambda: server.consumers.free > 0, every=0)
        await server.watchdog.step()
        assert (await ended(server, waiting.id)).status is Status.COMPLETED
        assert await looked(server, 3) == 0


async def test_a_server_that_is_idle_or_runs_short_jobs_is_left_alone(pair: Pair) -> None:
    async with running(pair) as server:
        for _ in range(5):
            await ended(server, (await submitted(server)).id)
            assert await looked(server, 2) == 0


async def test_an_engine_that_is_gone_is_no_case(sqlite_url: str, own_redis: RedisServer, gate: Gate) -> None:
    """There is nothing to connect to: its outage is said by whoever needs it."""
    async with parts(Pair("sqlite", sqlite_url, own_redis.url, "t"), gate.handlers, workers=2) as server:
        await inserted(server.store, type="gate")
        own_redis.kill()
        assert await server.watchdog.step() is None
        with pytest.raises(StreamUnavailable):
            await server.watchdog.step()
        assert rebuilt(server) == 0
        own_redis.restart()
        assert await looked(server, 2) == 1


async def test_a_process_without_consumers_never_asks(sqlite_url: str, redis_url: str, redis_prefix: str) -> None:
    async with parts(Pair("sqlite", sqlite_url, redis_url, redis_prefix), workers=0) as server:
        await inserted(server.store, type="echo")
        assert await looked(server) == 0
