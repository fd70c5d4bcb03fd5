"""Delayed jobs run when they are due, however far away that was and whatever Redis forgot."""

from __future__ import annotations

import msgspec
import pytest

from jobserver.job.model import Status
from jobserver.job.times import instant_us
from jobserver.pipeline.deliver import NEAR_HORIZON_SECONDS
from jobserver.server import Server
from tests.clocks import judged_by_the_clock
from tests.conftest import Pair
from tests.engines import RedisServer, eventually
from tests.jobs import job_in, submission
from tests.parts import ended, parts, submitted, writing
from tests.servers import running
from tests.stream.messages import ME, NORMAL, ids


async def delayed(server: Server) -> int:
    await eventually(lambda: server.deliveries.waiting == 0)
    return (await server.stream.sizes([NORMAL])).delayed


async def eventually_delayed(server: Server, count: int) -> None:
    async def equal() -> bool:
        assert (await server.stream.sizes([NORMAL])).delayed == count
        return True

    await eventually(equal)


class Time:
    """The clock of a server's promotion, moved by hand."""

    def __init__(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.start_us = server.store.database.clock.now_us()
        self.passed = 0.0
        self._server = server
        monkeypatch.setattr(server.promote, "_now_us", self.now_us)

    def now_us(self) -> int:
        return self.start_us + int(self.passed * 1e6)

    async def passes(self, seconds: float) -> None:
        """Then the sets are looked after again."""
        self.passed += seconds
        self._server.promote._refilled = 0.0
        await self._server.promote.step()


@pytest.fixture
def time(server: Server, monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(server, monkeypatch)


@judged_by_the_clock
async def test_a_delayed_job_runs_soon_after_it_is_due(pair: Pair) -> None:
    async with running(pair) as server:
        jobs = [await submitted(server, delay=delay) for delay in (0.5, 0.2, 0.35)]
        for job in jobs:
            assert job.status is Status.SCHEDULED
            done = await ended(server, job.id)
            assert done.started_at is not None
            assert 0.0 <= (done.started_at - job.run_at).total_seconds() < 1.0


async def test_a_job_beyond_the_horizon_is_filled_in_when_it_comes_nearer(server: Server, time: Time) -> None:
    job = await submitted(server, delay=NEAR_HORIZON_SECONDS * 3)
    await time.passes(0.0)
    assert await delayed(server) == 0
    await time.passes(NEAR_HORIZON_SECONDS * 1.5)
    assert await delayed(server) == 0
    await time.passes(NEAR_HORIZON_SECONDS)
    await eventually_delayed(server, 1)
    await time.passes(NEAR_HORIZON_SECONDS)
    assert ids((await server.stream.fetch([NORMAL], ME, 10)).deliveries) == [job.id]


@pytest.mark.parametrize("beyond_seconds", [-1.0, 1.0, 30.0, 59.0, 61.0, 119.0])
async def test_no_job_falls_between_the_submit_and_the_refill(
    server: Server, time: Time, beyond_seconds: float
) -> None:
    """Submits look as far as the horizon, at their time; refills look further, at theirs."""
    await time.passes(0.0)
    await submitted(server, delay=NEAR_HORIZON_SECONDS + beyond_seconds)
    for _ in range(6):
        await time.passes(20.0)
    await eventually_delayed(server, 1)


async def test_a_refill_takes_all_of_one_moment(server: Server, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand jobs for midnight are one microsecond, and more than one look."""
    monkeypatch.setattr("jobserver.upkeep.promote.LIMIT", 10)
    run_at = server.store.database.clock.now().replace(year=2100)
    at_once = [submission(run_at=run_at) for _ in range(95)]
    await server.store.insert([at_once])
    monkeypatch.setattr(time, "start_us", instant_us(run_at) - 60_000_000)
    await time.passes(0.0)
    await eventually_delayed(server, 95)


async def test_a_refill_adds_nothing_twice(server: Server, time: Time) -> None:
    for _ in range(3):
        await submitted(server, delay=60.0)
    for _ in range(4):
        await time.passes(0.0)
    server.promote.refill_all()
    await time.passes(0.0)
    await eventually_delayed(server, 3)


async def test_a_wiped_redis_is_filled_again(pair: Pair, own_redis: RedisServer) -> None:
    async with parts(msgspec.structs.replace(pair, redis_url=own_redis.url)) as server, writing(server):
        await server.reconcile.step()
        for delay in (30.0, 300.0, 3_000.0):
            await submitted(server, delay=delay)
        await server.promote.step()
        await eventually_delayed(server, 2)
        await server._client.commands.flushall()
        await server.promote.step()
        assert await delayed(server) == 0
        # Reconcile notices, and says so.
        await server.reconcile.step()
        await server.promote.step()
        await eventually_delayed(server, 2)


async def test_canceled_jobs_are_promoted_and_refused_by_their_fence(server: Server, time: Time) -> None:
    job = await submitted(server, delay=30.0)
    await eventually_delayed(server, 1)
    await server.commands.cancel(job.id)
    await time.passes(31.0)
    [delivery] = (await server.stream.fetch([NORMAL], ME, 10)).deliveries
    [refusal] = await server.store.claim([delivery], worker_id=ME, token=job.id, lease_seconds=5.0)
    assert getattr(refusal, "verdict", None) == "stale"


async def test_the_next_step_is_when_the_next_job_is_due(server: Server) -> None:
    assert await server.promote.step() == 0.5
    await job_in(server.store, Status.SCHEDULED)
    await submitted(server, delay=0.25)
    await eventually_delayed(server, 1)
    delay = await server.promote.step()
    assert delay is not None
    assert 0.0 < delay <= 0.25


async def test_a_due_time_before_the_next_step_wakes_the_loop(server: Server) -> None:
    await server.promote.step()
    server.promote.hear(server.store.database.clock.now_us() + 3_600_000_000)
    assert not server.promote.loop._woken.is_set()
    server.promote.hear(server.store.database.clock.now_us() + 1_000)
    assert server.promote.loop._woken.is_set()
