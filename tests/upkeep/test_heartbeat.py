"""The heartbeat goes on while the event loop is blocked, but not for ever, and proves by a lock that we live."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from jobserver.errors import DatabaseUnavailable
from jobserver.job.attempt import Attempt
from jobserver.job.handlers import Handlers
from jobserver.job.model import LeaseLost, Status, bounded_error
from jobserver.pipeline.running import Running
from jobserver.server import Server
from jobserver.store.engine import Database
from jobserver.store.jobs import JobStore
from jobserver.store.workers import WorkerStore
from tests.clocks import judged_by_the_clock
from tests.conftest import Pair
from tests.engines import eventually
from tests.jobs import beat_of, claimed, inserted, settled
from tests.parts import ended, job_of, parts, submitted
from tests.servers import running
from tests.upkeep.gates import Gate, running_job

blocking = Handlers()


@blocking.handler("blocks")
async def blocks(seconds: float) -> str:
    time.sleep(seconds)
    return "free again"


async def test_a_heartbeat_shows_the_process_and_its_end(consumer: Server, gate: Gate) -> None:
    await running_job(consumer, gate)
    await consumer.heartbeat.start()
    [worker] = await consumer.views.workers()
    assert (worker.id, worker.alive, worker.draining, worker.concurrency, worker.running) == (
        consumer.worker_id,
        True,
        False,
        2,
        1,
    )
    assert "gate" in worker.types
    assert worker.queues is None
    consumer.heartbeat.drain()

    async def draining() -> bool:
        return (await consumer.views.workers())[0].draining

    await eventually(draining)
    await consumer.heartbeat.close()
    [worker] = await consumer.views.workers()
    assert not worker.alive
    gate.open.set()


async def test_a_database_that_is_away_is_said_at_the_start(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*args: Any, **options: Any) -> Any:
        raise DatabaseUnavailable("away")

    async with parts(pair) as server:
        monkeypatch.setattr(WorkerStore, "beat", away)
        with pytest.raises(DatabaseUnavailable):
            await server.heartbeat.start()
        await server.heartbeat.close()


@judged_by_the_clock
async def test_a_handler_that_blocks_the_loop_loses_nothing_and_is_named(pair: Pair) -> None:
    with capture_logs() as logs:
        async with running(pair, blocking, lease_seconds=1.0, workers=2) as server:
            await eventually(lambda: server.heartbeat.pulse.beats > 1)
            job = await submitted(server, "blocks", {"seconds": 3.0})
            done = await ended(server, job.id)
            # Three leases long, nobody extended them on the loop, and it is still the first attempt.
            assert (done.status, done.attempt, done.crashes, done.fence) == (Status.COMPLETED, 1, 0, 2)
            page = server.telemetry.metrics.render("text/plain")[0].decode()
            assert 'jobserver_event_loop_blocked_total{type="blocks"} 1.0' in page
            await eventually(lambda: any(log["event"] == "event_loop_free" for log in logs))
    said = {log["event"]: log for log in logs if log["event"].startswith("event_loop")}
    blocked, free = said["event_loop_blocked"], said["event_loop_free"]
    assert (blocked["type"], blocked["job_id"]) == (free["type"], free["job_id"]) == ("blocks", str(job.id))
    assert str(blocked["at"]).startswith("test_heartbeat.py:")
    assert 1.0 <= blocked["seconds"] < 2.5 < free["seconds"] < 3.5


@judged_by_the_clock
async def test_a_loop_that_is_blocked_for_too_long_stops_the_heart(pair: Pair) -> None:
    """A process that hangs is not immortal: what it holds may be run by others."""
    with capture_logs() as logs:
        async with running(pair, blocking, lease_seconds=1.0, max_loop_block=1.5, workers=2) as server:
            await eventually(lambda: server.heartbeat.pulse.beats > 1)
            began = server.heartbeat.pulse.beats
            job = await submitted(server, "blocks", {"seconds": 4.0})
            # Nobody else is there to take it, so its end is written in time.
            assert (await ended(server, job.id)).status is Status.COMPLETED
            beats = server.heartbeat.pulse.beats
            # It beat for a second and a half, and then no more.
            assert beats <= began + 3
            await eventually(lambda: server.heartbeat.pulse.beats > beats)
    [hung] = [log for log in logs if log["event"] == "event_loop_hung"]
    assert 1.5 < hung["seconds"] < 3.0
    assert str(hung["at"]).startswith("test_heartbeat.py:")


async def test_after_a_hang_nothing_begins_whose_lease_another_has_taken(
    postgresql_url: str, redis_url: str, redis_prefix: str
) -> None:
    """The loop hung between the claim and the first step of the handler. SQLite has no other process."""
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    ran: list[int] = []
    handlers = Handlers()

    @handlers.handler("noted")
    async def noted(attempt: Attempt) -> None:
        ran.append(attempt.fence)

    async with running(pair, handlers, lease_seconds=1.0, max_loop_block=1.0, workers=2) as server:
        await eventually(lambda: server.heartbeat.pulse.beats > 1)
        started = server.executor.start
        taken = threading.Thread(target=lambda: asyncio.run(take_away(pair, server)))

        def hung(one: Running, end: Any) -> Any:
            task = started(one, end)
            if taken.ident is None:
                # Before the task takes its first step: the loop stands still, and another process reclaims.
                taken.start()
                taken.join()
            return task

        server.executor.start = hung  # type: ignore[method-assign, assignment]
        job = await submitted(server, "noted")
        # Not under the fence that it had lost.
        await eventually(lambda: ran == [3], within=20)
        done = await ended(server, job.id)
    assert (done.status, done.crashes, done.attempt) == (Status.COMPLETED, 1, 2)
    assert ran == [3]


async def take_away(pair: Pair, server: Server) -> None:
    """What another process does when a lease is over, which it is once the heart stands still."""
    database = Database(pair.database_url)
    database.clock = server.store.database.clock
    store = JobStore(database)

    async def took() -> bool:
        found = await store.find_lost(limit=10)
        for lost in found:
            await settled(store, lost.job, LeaseLost(bounded_error("LeaseLost", "gone")), lease_over=True)
        return bool(found)

    try:
        await eventually(took, within=15)
    finally:
        await database.close()


async def test_while_the_heart_stands_still_nothing_is_sent(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts(pair, max_loop_block=5.0) as server:
        heartbeat, now = server.heartbeat, 100.0
        heartbeat._ask(now)
        heartbeat._ticked = now + 0.1
        heartbeat.look(now + 0.5)
        assert heartbeat.loop_lag_seconds == pytest.approx(0.1)
        # Asked again at 100.5, and no answer from then on.
        heartbeat.look(now + 5.0)
        sent = heartbeat.pulse.beats
        assert await heartbeat._beat_step(server.worker_store) is not None
        assert heartbeat.pulse.beats == sent + 1
        heartbeat.look(now + 6.0)
        assert heartbeat.loop_lag_seconds == pytest.approx(5.5)
        assert await heartbeat._beat_step(server.worker_store) is None
        assert heartbeat.pulse.beats == sent + 1
        heartbeat._ticked = now + 6.1
        heartbeat.look(now + 6.5)
        assert await heartbeat._beat_step(server.worker_store) is not None
        assert heartbeat.pulse.beats == sent + 2


async def test_while_the_heart_stands_still_no_lease_is_extended(
    consumer: Server, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await running_job(consumer, gate)
    monkeypatch.setattr(consumer.heartbeat, "_hung", True)
    assert await consumer.heartbeat._lease_step(consumer.store) is None
    assert (await job_of(consumer, job.id)).lease_expires_at == job.lease_expires_at
    monkeypatch.setattr(consumer.heartbeat, "_hung", False)
    await consumer.heartbeat._lease_step(consumer.store)
    assert (await job_of(consumer, job.id)).lease_expires_at != job.lease_expires_at
    gate.open.set()
    await ended(consumer, job.id)


# The lock.


@asynccontextmanager
async def process(url: str) -> AsyncIterator[tuple[WorkerStore, Database]]:
    """The connections of one process."""
    database = Database(url)
    presence = database.sibling(keepalive_seconds=5)
    try:
        yield WorkerStore(presence), presence
    finally:
        await presence.close()
        await database.close()


async def test_the_lock_lasts_as_long_as_the_connection(postgresql_url: str) -> None:
    async with process(postgresql_url) as (one, presence):
        assert (await one.beat(beat_of("one"))).locked
        assert (await one.beat(beat_of("one"))).locked
        # A second claim to the same name, such as a session that is left behind, does not get it.
        async with process(postgresql_url) as (other, _):
            assert not (await other.beat(beat_of("one"))).locked
            assert (await other.beat(beat_of("two"))).locked
            await presence.close()

            async def free() -> bool:
                return (await other.beat(beat_of("one"))).locked

            await eventually(free)
        assert not (await one.beat(beat_of("one", stopped=True))).locked


async def test_processes_on_sqlite_have_no_lock(sqlite_url: str) -> None:
    async with process(sqlite_url) as (workers, _):
        assert not (await workers.beat(beat_of("one"))).locked
        assert await workers.silent(seconds=0.0) == []


async def test_a_dead_process_loses_its_jobs_long_before_their_leases_end(
    postgresql_url: str, redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    gate = Gate()
    monkeypatch.setattr("jobserver.upkeep.reclaim.SILENT_SECONDS", 0.5)
    async with parts(pair, gate.handlers, lease_seconds=600.0) as judge, process(postgresql_url) as (dead, presence):
        await dead.beat(beat_of("dead"))
        job = await submitted_to(judge, "dead")
        # Silent, but its lock is held: it may be slow.
        await eventually(lambda: silent(judge))
        assert await judge.reclaim.from_dead() == 0
        await presence.close()

        async def taken() -> int:
            return await judge.reclaim.from_dead()

        assert await eventually(taken) == 1
        after = await job_of(judge, job)
        assert (after.status, after.crashes, after.attempt) == (Status.RETRYING, 1, 1)
        assert after.error is not None
        assert after.error.message == "the process dead died"
        assert await judge.reclaim.from_dead() == 0


async def test_a_process_that_has_just_come_back_is_not_dead(
    postgresql_url: str, redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock was free for a moment: the heartbeat decides, read again under the lock."""
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    monkeypatch.setattr("jobserver.upkeep.reclaim.SILENT_SECONDS", 0.5)
    async with parts(pair) as judge, process(postgresql_url) as (back, presence):
        await back.beat(beat_of("back"))
        job = await submitted_to(judge, "back")
        await eventually(lambda: silent(judge))
        await presence.close()
        # Between the question who is silent and the judgement, it beats; somebody else's lock keeps it from its own.
        async with process(postgresql_url) as (again, _):
            find = judge.worker_store.silent

            async def found_and_back(*, seconds: float) -> list[str]:
                names = await find(seconds=seconds)
                await again.beat(beat_of("back", stopped=True))
                return names

            monkeypatch.setattr(judge.worker_store, "silent", found_and_back)
            assert await judge.reclaim.from_dead() == 0
        assert (await job_of(judge, job)).status is Status.RUNNING


async def test_a_process_cannot_come_back_while_it_is_judged(postgresql_url: str) -> None:
    """Its beat waits for the judgement: before it has beaten it claims nothing that could be taken."""
    async with process(postgresql_url) as (back, _), process(postgresql_url) as (_, judge):
        await back.beat(beat_of("back"))
        watcher = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))

        async def waits() -> bool:
            return bool(await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")) or beat.done()

        async with judge.write() as session:
            assert await session.fetch("still_silent", worker_id="back", silent_seconds=0.0)
            beat = asyncio.create_task(back.beat(beat_of("back")))
            await eventually(waits)
            assert not beat.done()
        assert (await beat).locked
        await watcher.close()


async def test_a_process_that_never_had_its_lock_is_judged_by_its_leases_alone(
    postgresql_url: str, redis_url: str, redis_prefix: str
) -> None:
    """Behind a proxy that pools transactions, say: that the lock is free proves nothing."""
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    async with parts(pair) as judge, process(postgresql_url) as (other, presence), process(postgresql_url) as (own, _):
        assert (await own.beat(beat_of("locked"))).locked
        assert (await other.beat(beat_of("proxied"))).locked
        assert not (await own.beat(beat_of("proxied"))).locked
        await presence.close()
        for name in ("locked", "proxied"):
            await submitted_to(judge, name)
        assert await judge.worker_store.silent(seconds=0.0) == ["locked"]


async def test_the_dead_are_judged_only_after_own_steady_beats(
    postgresql_url: str, redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    monkeypatch.setattr("jobserver.upkeep.reclaim.SILENT_SECONDS", 0.0)
    async with parts(pair) as judge, process(postgresql_url) as (dead, presence):
        await dead.beat(beat_of("dead"))
        job = await submitted_to(judge, "dead")
        await presence.close()
        # The judge has just come back itself: after an outage everybody was silent.
        await judge.heartbeat.pulse.beat(judge.worker_store)
        await judge.reclaim._deaths_step()
        assert (await job_of(judge, job)).status is Status.RUNNING
        monkeypatch.setattr("jobserver.upkeep.pulse.JUDGE_SECONDS", 0.0)

        async def taken() -> bool:
            await judge.reclaim._deaths_step()
            return (await job_of(judge, job)).status is Status.RETRYING

        await eventually(taken)


async def test_a_process_does_not_judge_itself(
    postgresql_url: str, redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own connection was lost and its lock is free; whoever asks lives."""
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    monkeypatch.setattr("jobserver.upkeep.reclaim.SILENT_SECONDS", 0.0)
    async with parts(pair) as judge, process(postgresql_url) as (own, presence):
        for name in (judge.worker_id, "dead"):
            await own.beat(beat_of(name))
        await presence.close()
        job = await submitted_to(judge, judge.worker_id)
        await submitted_to(judge, "dead")

        async def taken() -> int:
            return await judge.reclaim.from_dead()

        assert await eventually(taken) == 1
        assert (await job_of(judge, job)).status is Status.RUNNING


async def submitted_to(server: Server, worker_id: str) -> Any:
    """A job that the process `worker_id` has claimed."""
    job = (await inserted(server.store)).job
    await claimed(server.store, job.id, worker_id=worker_id, lease_seconds=600.0)
    return job.id


async def silent(server: Server) -> bool:
    return bool(await server.worker_store.silent(seconds=0.5))
