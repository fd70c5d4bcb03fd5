"""Heartbeats keep what is ours, let go of what is not, and say when leases may be judged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from jobserver.errors import DatabaseUnavailable
from jobserver.job.attempt import Attempt
from jobserver.job.handlers import Handlers
from jobserver.job.model import Job, LeaseLost, Progress, Status, bounded_error
from jobserver.server import Server
from tests.conftest import Pair
from tests.engines import PostgresServer, eventually
from tests.jobs import settled
from tests.parts import consuming, ended, job_of, outcomes, parts, status_of, submitted
from tests.servers import running
from tests.stream.messages import NORMAL

LOST = LeaseLost(bounded_error("LeaseLost", "gone"))


class Gate:
    """A handler that waits for its gate, and hears when it is cancelled."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.started = 0
        self.cancelled = asyncio.Event()
        self.handlers = Handlers()
        self.handlers.handler("gate")(self.run)

    async def run(self, attempt: Attempt) -> str:
        self.started += 1
        attempt.progress(50, "waiting")
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            # A result that comes too late, on purpose.
            return "late"
        return "through"


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def server(pair: Pair, gate: Gate) -> AsyncIterator[Server]:
    async with parts(pair, gate.handlers, workers=2) as server, consuming(server):
        yield server


async def running_job(server: Server, gate: Gate) -> Job:
    before = gate.started
    job = await submitted(server, "gate")
    await eventually(lambda: gate.started > before)
    return await job_of(server, job.id)


async def test_a_lease_is_extended_while_the_job_runs(server: Server, gate: Gate) -> None:
    job = await running_job(server, gate)
    await server.heartbeat._extend()
    extended = (await job_of(server, job.id)).lease_expires_at
    assert job.lease_expires_at is not None
    assert extended is not None
    assert extended > job.lease_expires_at
    gate.open.set()
    assert (await ended(server, job.id)).status is Status.COMPLETED


async def test_a_refused_lease_cancels_the_handler_and_discards_its_result(server: Server, gate: Gate) -> None:
    job = await running_job(server, gate)
    other = await running_job(server, gate)
    held = server.holdings.get(job.id)
    assert held is not None
    # Another process decided that this one is dead.
    assert await settled(server.store, held.job, LOST) is not None
    await server.heartbeat._extend()
    async with asyncio.timeout(5):
        await gate.cancelled.wait()
    await eventually(lambda: server.holdings.get(job.id) is None)
    after = await job_of(server, job.id)
    assert (after.status, after.fence, after.result) == (Status.RETRYING, 2, None)
    assert await outcomes(server, job.id) == ["lease_lost"]
    # Its neighbour runs on.
    assert server.holdings.get(other.id) is not None

    async def acknowledged() -> bool:
        return (await server.stream.sizes([NORMAL])).pending == 1

    await eventually(acknowledged)
    page = server.telemetry.metrics.render("text/plain")[0].decode()
    assert 'jobserver_stale_writes_rejected_total{step="heartbeat"} 1.0' in page
    gate.open.set()
    assert (await ended(server, other.id)).status is Status.COMPLETED


async def test_a_silent_database_cancels_nothing(server: Server, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*args: Any, **options: Any) -> Any:
        raise DatabaseUnavailable("away")

    job = await running_job(server, gate)
    extend = server.store.extend_leases
    monkeypatch.setattr(server.store, "extend_leases", away)
    for _ in range(3):
        # Not after the usual third of a lease: at once again.
        assert (await server.heartbeat._extend() or 99) <= 0.5
    monkeypatch.setattr(server.store, "extend_leases", extend)
    assert not gate.cancelled.is_set()
    gate.open.set()
    assert (await ended(server, job.id)).result == b'"through"'


async def test_a_beat_brings_cancel_requests_and_stores_progress(server: Server, gate: Gate) -> None:
    job, other = await running_job(server, gate), await running_job(server, gate)
    await server.heartbeat._beat()
    assert (await job_of(server, job.id)).progress == Progress(50.0, "waiting")
    await server.store.cancel([job.id])
    await server.heartbeat._beat()
    async with asyncio.timeout(5):
        await gate.cancelled.wait()
    assert server.holdings.get(other.id) is not None
    gate.open.set()
    assert (await ended(server, other.id)).status is Status.COMPLETED


async def test_a_beat_shows_the_process_and_brings_queues_and_types(server: Server, gate: Gate) -> None:
    await running_job(server, gate)
    await server.store.set_paused("new", True)
    await server.heartbeat._beat()
    assert server.queues.paused["new"]
    [worker] = await server.views.workers()
    assert (worker.id, worker.alive, worker.draining, worker.concurrency, worker.running) == (
        server.worker_id,
        True,
        False,
        2,
        1,
    )
    assert "gate" in worker.types
    assert worker.queues is None
    await server.heartbeat.close()
    [worker] = await server.views.workers()
    assert not worker.alive
    gate.open.set()


async def test_leases_may_be_judged_after_a_full_lease_of_own_beats(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with parts(pair, lease_seconds=15.0) as server:
        now = 1_000.0
        monkeypatch.setattr("jobserver.upkeep.heartbeat.time.monotonic", lambda: now)
        heartbeat = server.heartbeat
        beat = server.worker_store.beat

        async def away(*args: Any, **options: Any) -> Any:
            raise DatabaseUnavailable("away")

        async def beats(seconds: int) -> None:
            nonlocal now
            for _ in range(seconds):
                now += 1.0
                await heartbeat._beat()

        assert not heartbeat.may_reclaim()
        await heartbeat._beat()
        await beats(14)
        assert not heartbeat.may_reclaim()
        await beats(1)
        assert heartbeat.may_reclaim()
        # A beat that fails.
        monkeypatch.setattr(server.worker_store, "beat", away)
        with pytest.raises(DatabaseUnavailable):
            await heartbeat._beat()
        monkeypatch.setattr(server.worker_store, "beat", beat)
        assert not heartbeat.may_reclaim()
        await beats(15)
        assert not heartbeat.may_reclaim()
        await beats(1)
        assert heartbeat.may_reclaim()

        # A beat that took longer than others would have needed to extend their leases: the database may have hung.
        async def hangs(*args: Any, **options: Any) -> Any:
            nonlocal now
            answer = await beat(*args, **options)
            now += 9.0
            assert not heartbeat.may_reclaim()
            return answer

        monkeypatch.setattr(server.worker_store, "beat", hangs)
        await heartbeat._beat()
        monkeypatch.setattr(server.worker_store, "beat", beat)
        assert not heartbeat.may_reclaim()
        await beats(14)
        assert not heartbeat.may_reclaim()
        await beats(1)
        assert heartbeat.may_reclaim()
        # This process was stopped for a while, such as with its machine.
        now += 60.0
        assert not heartbeat.may_reclaim()
        await heartbeat._beat()
        assert not heartbeat.may_reclaim()
        await beats(16)
        assert heartbeat.may_reclaim()

        # The database's clock jumps, such as at a failover: every lease looks over, and none is.
        async def jumps(*args: Any, **options: Any) -> Any:
            return await beat(*args, **options) + timedelta(hours=1)

        monkeypatch.setattr(server.worker_store, "beat", jumps)
        await heartbeat._beat()
        assert not heartbeat.may_reclaim()


async def test_after_a_pause_of_the_database_nobody_is_taken_for_dead(redis_url: str, redis_prefix: str) -> None:
    """Every lease looks over then, and none is."""
    gate = Gate()
    with PostgresServer() as own:
        pair = Pair("postgresql", own.create_database(), redis_url, redis_prefix)
        async with (
            running(pair, gate.handlers, lease_seconds=2.0) as worker,
            running(pair, workers=0, lease_seconds=2.0) as watcher,
        ):
            job = await running_job(worker, gate)
            await eventually(watcher.heartbeat.may_reclaim)
            await eventually(worker.heartbeat.may_reclaim)
            own.pause()
            await asyncio.sleep(3.5)  # longer than the lease
            own.resume()
            lease = (await job_of(watcher, job.id)).lease_expires_at

            async def extended() -> bool:
                now = (await job_of(watcher, job.id)).lease_expires_at
                return now != lease and watcher.heartbeat.may_reclaim()

            await eventually(extended)
            after = await job_of(watcher, job.id)
            assert (after.status, after.fence, after.crashes) == (Status.RUNNING, 1, 0)
            gate.open.set()
            assert await status_of(watcher, (await ended(watcher, job.id)).id) is Status.COMPLETED


async def test_a_heartbeat_needs_no_redis(pair: Pair, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts(pair, gate.handlers) as server:
        monkeypatch.setitem(server.stream._client.reader.connection_pool.connection_kwargs, "port", 1)
        await server.heartbeat.start()
        await eventually(lambda: server.heartbeat._beats > 1)
        await server.heartbeat.close()
