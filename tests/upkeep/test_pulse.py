"""Heartbeats keep what is ours, let go of what is not, and say when others may be judged."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from jobserver.errors import DatabaseUnavailable
from jobserver.job.model import LeaseLost, Status, bounded_error
from jobserver.server import Server
from tests.conftest import Pair
from tests.engines import PostgresServer, eventually
from tests.jobs import claimed, inserted, settled
from tests.parts import ended, job_of, outcomes, parts, status_of, submitted
from tests.servers import running
from tests.stream.messages import NORMAL
from tests.upkeep.gates import Gate, running_job

LOST = LeaseLost(bounded_error("LeaseLost", "gone"))


async def test_a_lease_is_extended_while_the_job_runs(consumer: Server, gate: Gate) -> None:
    job = await running_job(consumer, gate)
    await consumer.heartbeat.pulse.extend(consumer.store)
    extended = (await job_of(consumer, job.id)).lease_expires_at
    assert job.lease_expires_at is not None
    assert extended is not None
    assert extended > job.lease_expires_at
    gate.open.set()
    assert (await ended(consumer, job.id)).status is Status.COMPLETED


async def test_a_refused_lease_cancels_the_handler_and_discards_its_result(consumer: Server, gate: Gate) -> None:
    job = await running_job(consumer, gate)
    other = await running_job(consumer, gate)
    held = consumer.holdings.get(job.id)
    assert held is not None
    # Another process decided that this one is dead.
    assert await settled(consumer.store, held.job, LOST) is not None
    await consumer.heartbeat.pulse.extend(consumer.store)
    async with asyncio.timeout(5):
        await gate.cancelled.wait()
    await eventually(lambda: consumer.holdings.get(job.id) is None)
    after = await job_of(consumer, job.id)
    assert (after.status, after.fence, after.result) == (Status.RETRYING, 2, None)
    assert await outcomes(consumer, job.id) == ["lease_lost"]
    # Its neighbour runs on.
    assert consumer.holdings.get(other.id) is not None

    async def acknowledged() -> bool:
        return (await consumer.stream.sizes([NORMAL])).pending == 1

    await eventually(acknowledged)
    page = consumer.telemetry.metrics.render("text/plain")[0].decode()
    assert 'jobserver_stale_writes_rejected_total{step="heartbeat"} 1.0' in page
    gate.open.set()
    assert (await ended(consumer, other.id)).status is Status.COMPLETED


async def test_a_silent_database_cancels_nothing(consumer: Server, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*args: Any, **options: Any) -> Any:
        raise DatabaseUnavailable("away")

    job = await running_job(consumer, gate)
    extend = consumer.store.extend_leases
    monkeypatch.setattr(consumer.store, "extend_leases", away)
    for _ in range(3):
        # Not after the usual third of a lease: at once again.
        assert (await consumer.heartbeat.pulse.extend(consumer.store) or 99) <= 0.5
    monkeypatch.setattr(consumer.store, "extend_leases", extend)
    assert not gate.cancelled.is_set()
    gate.open.set()
    assert (await ended(consumer, job.id)).result == b'"through"'


async def test_leases_may_be_judged_after_a_full_lease_of_own_beats(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with parts(pair, lease_seconds=15.0) as server:
        now = 1_000.0
        monkeypatch.setattr("jobserver.upkeep.pulse.time.monotonic", lambda: now)
        pulse = server.heartbeat.pulse
        beat = server.worker_store.beat

        async def away(*args: Any, **options: Any) -> Any:
            raise DatabaseUnavailable("away")

        async def beats(seconds: int) -> None:
            nonlocal now
            for _ in range(seconds):
                now += 1.0
                await pulse.beat(server.worker_store)

        assert not pulse.may_reclaim()
        assert not pulse.may_claim()
        await pulse.beat(server.worker_store)
        assert pulse.may_claim()
        await beats(4)
        assert not pulse.may_judge()
        await beats(1)
        # The dead are known by their locks: that needs no full lease.
        assert pulse.may_judge()
        await beats(9)
        assert not pulse.may_reclaim()
        await beats(1)
        assert pulse.may_reclaim()
        # A beat that fails.
        monkeypatch.setattr(server.worker_store, "beat", away)
        with pytest.raises(DatabaseUnavailable):
            await pulse.beat(server.worker_store)
        monkeypatch.setattr(server.worker_store, "beat", beat)
        assert not pulse.may_reclaim()
        await beats(15)
        assert not pulse.may_reclaim()
        await beats(1)
        assert pulse.may_reclaim()

        # A beat that took longer than others would have needed to extend their leases: the database may have hung.
        async def hangs(*args: Any, **options: Any) -> Any:
            nonlocal now
            answer = await beat(*args, **options)
            now += 9.0
            assert not pulse.may_reclaim()
            return answer

        monkeypatch.setattr(server.worker_store, "beat", hangs)
        await pulse.beat(server.worker_store)
        monkeypatch.setattr(server.worker_store, "beat", beat)
        assert not pulse.may_reclaim()
        await beats(14)
        assert not pulse.may_reclaim()
        await beats(1)
        assert pulse.may_reclaim()
        # This process was stopped for a while, such as with its machine.
        now += 60.0
        assert not pulse.may_reclaim()
        assert not pulse.may_judge()
        assert not pulse.may_claim()
        await pulse.beat(server.worker_store)
        assert not pulse.may_reclaim()
        await beats(16)
        assert pulse.may_reclaim()

        # The database's clock jumps, such as at a failover: every lease looks over, and none is.
        async def jumps(*args: Any, **options: Any) -> Any:
            heard = await beat(*args, **options)
            return msgspec.structs.replace(heard, now=heard.now + timedelta(hours=1))

        monkeypatch.setattr(server.worker_store, "beat", jumps)
        await pulse.beat(server.worker_store)
        assert not pulse.may_reclaim()


async def test_reclaim_asks_the_pulse_of_its_own_process(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts(pair, lease_seconds=15.0) as server:
        job = await claimed(server.store, (await inserted(server.store)).job.id, lease_seconds=-1.0)
        await server.heartbeat.pulse.beat(server.worker_store)
        await server.reclaim._jobs_step()
        assert await status_of(server, job.id) is Status.RUNNING
        monkeypatch.setattr(server.heartbeat.pulse, "_lease_seconds", 0.0)
        await server.reclaim._jobs_step()
        assert await status_of(server, job.id) is Status.RETRYING


async def test_a_process_that_others_take_for_dead_claims_nothing(
    sqlite_url: str, redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Pair("sqlite", sqlite_url, redis_url, redis_prefix)) as server:
        monkeypatch.setattr("jobserver.upkeep.pulse.SILENT_SECONDS", -1.0)
        # A read that was under way may bring the first.
        jobs = [await server.commands.wait((await submitted(server)).id, 1.0) for _ in range(2)]
        assert jobs[1].status is Status.QUEUED
        monkeypatch.setattr("jobserver.upkeep.pulse.SILENT_SECONDS", 3.0)
        for job in jobs:
            assert (await ended(server, job.id)).status is Status.COMPLETED


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
            await eventually(watcher.heartbeat.pulse.may_reclaim)
            await eventually(worker.heartbeat.pulse.may_reclaim)
            own.pause()
            await asyncio.sleep(3.5)  # longer than the lease
            own.resume()
            lease = (await job_of(watcher, job.id)).lease_expires_at

            async def extended() -> bool:
                now = (await job_of(watcher, job.id)).lease_expires_at
                return now != lease and watcher.heartbeat.pulse.may_reclaim()

            await eventually(extended)
            after = await job_of(watcher, job.id)
            assert (after.status, after.fence, after.crashes) == (Status.RUNNING, 1, 0)
            gate.open.set()
            assert await status_of(watcher, (await ended(watcher, job.id)).id) is Status.COMPLETED
