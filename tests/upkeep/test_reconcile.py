"""Lost messages are found, each once; a backlog triggers nothing, a wiped Redis everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from jobserver.job.model import Job, Status
from jobserver.server import Server
from jobserver.stream.jobs import Batch
from tests.conftest import Pair
from tests.engines import RedisServer, eventually
from tests.jobs import inserted, job_in
from tests.parts import ended, executing, parts, submitted, writing
from tests.servers import running
from tests.stream.messages import ME, NORMAL, ids

GRACE = timedelta(seconds=0.3)


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.upkeep.reconcile.GRACE", GRACE)


@pytest.fixture
async def alone(pair: Pair, own_redis: RedisServer) -> AsyncIterator[Server]:
    """A server on a Redis that may be flushed; it has seen what is there."""
    async with parts(msgspec.structs.replace(pair, redis_url=own_redis.url)) as server, writing(server):
        await server.reconcile.step()
        yield server


async def entries(server: Server) -> int:
    await eventually(lambda: server.deliveries.waiting == 0)
    # On a busy machine the idea of the database's clock may lag behind: then some were due a moment later.
    await server.promote.step()
    return (await server.stream.sizes([NORMAL])).entries


async def eventually_entries(server: Server, count: int) -> None:
    async def equal() -> bool:
        assert await entries(server) == count
        return True

    await eventually(equal)


async def read(server: Server, count: int = 10_000) -> list[UUID]:
    """Deliver messages, and let them be done with."""
    found = (await server.stream.fetch([NORMAL], ME, count)).deliveries
    await server.stream.apply(Batch(acks=found))
    return ids(found)


async def lost(server: Server) -> Job:
    """A job that was committed, and whose message was not published."""
    return (await inserted(server.store)).job


async def test_one_lost_message_among_many_is_found_after_the_grace(server: Server) -> None:
    await server.reconcile.step()
    before = [await submitted(server) for _ in range(5)]
    missing = await lost(server)
    after = [await submitted(server) for _ in range(5)]
    await eventually_entries(server, 10)
    # Nothing younger was delivered yet: it may be under way.
    await asyncio.sleep(GRACE.total_seconds() * 1.5)
    assert await server.reconcile.overtaken(GRACE) == 0
    assert await read(server) == [job.id for job in [*before, *after]]

    async def found() -> bool:
        return await server.reconcile.overtaken(GRACE) > 0

    # Once the mark has left the grace behind, the jobs whose messages are acknowledged and not claimed come too.
    await eventually(found)
    again = []

    async def published() -> bool:
        again.extend(await read(server))
        return missing.id in again

    await eventually(published)
    assert sorted(again) == sorted(set(again))


async def test_a_fresh_job_is_left_alone_within_the_grace(server: Server) -> None:
    await server.reconcile.step()
    await lost(server)
    assert await server.reconcile.overtaken(timedelta(seconds=60)) == 0


async def test_what_is_submitted_while_the_streams_are_asked_is_not_judged(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message is younger than the answer, which says that nothing waits."""
    await server.reconcile.step()
    ask = server.stream.watermarks

    async def asked_and_submitted(streams: Any) -> Any:
        oldest = await ask(streams)
        await submitted(server)
        return oldest

    monkeypatch.setattr(server.stream, "watermarks", asked_and_submitted)
    assert await server.reconcile.overtaken(timedelta(0)) == 0


async def test_a_backlog_triggers_nothing(server: Server) -> None:
    await server.reconcile.step()
    for _ in range(3):
        await asyncio.gather(*(submitted(server, payload=number) for number in range(500)))
    await eventually_entries(server, 1_500)
    await asyncio.sleep(GRACE.total_seconds() * 2)
    for _ in range(3):
        assert await server.reconcile.step() is None
    await eventually_entries(server, 1_500)


async def test_a_lost_job_is_published_once_by_many_processes(server: Server) -> None:
    await server.reconcile.step()
    jobs = [await lost(server) for _ in range(50)]
    await asyncio.sleep(GRACE.total_seconds() * 1.5)
    counts = await asyncio.gather(*(server.reconcile.overtaken(GRACE) for _ in range(4)))
    assert sum(counts) == 50
    await eventually_entries(server, 50)
    assert await read(server) == [job.id for job in jobs]


async def test_a_wipe_publishes_everything_once_and_without_grace(alone: Server) -> None:
    jobs = [await submitted(alone) for _ in range(30)]
    await job_in(alone.store, Status.COMPLETED)
    await eventually_entries(alone, 30)
    await alone._client.commands.flushall()
    await alone.reconcile.step()
    await eventually_entries(alone, 30)
    for _ in range(3):
        await alone.reconcile.step()
    assert await read(alone) == [job.id for job in jobs]


async def test_a_wipe_is_mended_once_whoever_notices_it(
    postgresql_url: str, own_redis: RedisServer, redis_prefix: str
) -> None:
    pair = Pair("postgresql", postgresql_url, own_redis.url, redis_prefix)
    async with parts(pair) as one, parts(pair) as two, writing(one), writing(two):
        for server in (one, two):
            await server.reconcile.step()
        jobs = [await submitted(one) for _ in range(200)]
        await eventually_entries(one, 200)
        await one._client.commands.flushall()
        await asyncio.gather(one.reconcile.step(), two.reconcile.step())
        await eventually(lambda: two.deliveries.waiting == 0)
        await eventually_entries(one, 200)
        for server in (one, two, one, two):
            await server.reconcile.step()
        await eventually_entries(one, 200)
        assert sorted(await read(one)) == sorted(job.id for job in jobs)


async def test_more_than_one_look_takes_are_all_published(alone: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.upkeep.reconcile.LIMIT", 7)
    jobs = [await submitted(alone) for _ in range(40)]
    await eventually_entries(alone, 40)
    await alone._client.commands.flushall()
    await alone.reconcile.step()
    await eventually_entries(alone, 40)
    assert await read(alone) == [job.id for job in jobs]


async def test_a_restarted_process_publishes_nothing_again(pair: Pair) -> None:
    async with parts(pair) as first, writing(first):
        await first.reconcile.step()
        for _ in range(20):
            await submitted(first)
        await eventually_entries(first, 20)
    async with parts(pair) as second, writing(second):
        await second.reconcile.step()
        await eventually_entries(second, 20)


async def test_jobs_of_a_wiped_redis_run_without_delay(pair: Pair, own_redis: RedisServer) -> None:
    async with running(msgspec.structs.replace(pair, redis_url=own_redis.url)) as server:
        await ended(server, (await submitted(server)).id)
        await server.commands.pause("default")
        jobs = [await submitted(server) for _ in range(50)]
        delayed = [await submitted(server, delay=0.5) for _ in range(5)]
        await server._client.commands.flushall()
        await server.commands.resume("default")
        for job in [*jobs, *delayed]:
            done = await ended(server, job.id)
            assert (done.status, done.attempt) == (Status.COMPLETED, 1)


async def test_a_paused_queue_is_left_alone_until_it_is_resumed(alone: Server) -> None:
    await alone.commands.pause("default")
    jobs = [await lost(alone) for _ in range(5)]
    await asyncio.sleep(GRACE.total_seconds() * 1.5)
    await alone._client.commands.flushall()
    for _ in range(3):
        await alone.reconcile.step()
    assert await entries(alone) == 0
    await alone.commands.resume("default")
    await alone.reconcile.step()
    await eventually_entries(alone, 5)
    assert await read(alone) == [job.id for job in jobs]


async def test_a_resume_publishes_what_was_refused_meanwhile_at_once(server: Server) -> None:
    await server.reconcile.step()
    await server.store.set_paused("default", True)
    async with executing(server):
        jobs = [await submitted(server) for _ in range(5)]
        # The consumers have not heard of the pause: they read the messages, and the claims are refused.
        await eventually_entries(server, 0)
        await server.commands.resume("default")
        await server.reconcile.step()
        for job in jobs:
            assert (await ended(server, job.id)).status is Status.COMPLETED


async def test_the_feed_of_dead_letters_is_topped_up(alone: Server) -> None:
    failed = [await job_in(alone.store, Status.FAILED) for _ in range(5)]
    await job_in(alone.store, Status.CANCELED)
    assert await alone.reconcile.feed_dead_letters() == 5

    async def fed() -> list[tuple[UUID, int]]:
        return await alone.stream.dead_letters()

    # The newest failure first, as it would have been.
    assert [job_id for job_id, _ in await eventually(fed)] == failed[::-1]
    await eventually(lambda: alone.deliveries.waiting == 0)
    assert await alone.reconcile.feed_dead_letters() == 0
    await alone._client.commands.delete(alone.stream.keys.dlq)
    await alone.commands.replay(failed[0], failed_only=True)
    assert await alone.reconcile.feed_dead_letters() == 4


async def test_a_pass_by_hand_finds_what_the_loop_would(alone: Server) -> None:
    for _ in range(5):
        await submitted(alone)
    await eventually_entries(alone, 5)
    await alone._client.commands.flushall()
    assert await alone.reconcile.pass_over() == 5
    assert await alone.reconcile.pass_over() == 0


async def test_a_redis_that_returns_with_its_data_gets_nothing_again(alone: Server, own_redis: RedisServer) -> None:
    for _ in range(10):
        await submitted(alone)
    await eventually_entries(alone, 10)
    await alone._client.commands.execute_command("WAITAOF", 1, 0, 5_000)
    own_redis.kill()
    own_redis.restart()
    for _ in range(3):
        await alone.reconcile.step()
    assert await entries(alone) == 10
