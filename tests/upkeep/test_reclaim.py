"""Jobs whose process died run again, up to a number of crashes; nothing is taken from the living."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from jobserver.job.model import Priority, Status
from jobserver.pipeline.held import Held
from jobserver.server import Server, recover
from jobserver.stream.jobs import Batch, Message
from jobserver.stream.keys import GROUP
from tests.conftest import Pair
from tests.engines import eventually
from tests.jobs import beat_of, claimed, delivery, inserted
from tests.parts import executing, job_of, outcomes, status_of, submitted
from tests.servers import settings_for
from tests.stream.messages import NORMAL, consumers, message


async def crashed(server: Server, *, lease_seconds: float = -1.0, worker_id: str = "dead-1") -> Any:
    """A job that a process claimed before it died."""
    job = await submitted(server)
    return await claimed(server.store, job.id, worker_id=worker_id, lease_seconds=lease_seconds)


@pytest.fixture(autouse=True)
def steady(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.reclaim, "_may_reclaim", lambda: True)


async def test_a_job_whose_lease_is_over_is_taken_back(server: Server) -> None:
    job = await crashed(server)
    alive = await crashed(server, lease_seconds=60.0)
    assert await server.reclaim.lost_jobs() == 1
    after = await job_of(server, job.id)
    assert (after.status, after.fence, after.crashes, after.retry_count) == (Status.RETRYING, 2, 1, 0)
    assert after.error is not None
    assert "dead-1" in after.error.message
    assert 0.0 <= (after.due_at - after.updated_at).total_seconds() <= 1.0
    assert await outcomes(server, job.id) == ["lease_lost"]
    assert await status_of(server, alive.id) is Status.RUNNING
    assert await server.reclaim.lost_jobs() == 0

    async def told() -> bool:
        await server.promote.step()
        sizes = await server.stream.sizes([NORMAL])
        # Two messages of the submits, and the one of the reclaim.
        return sizes.entries == 3

    await eventually(told)


async def test_recovery_beside_living_servers_takes_nothing_from_them(server: Server, pair: Pair) -> None:
    """The database is back, and nobody could extend a lease meanwhile."""
    if pair.name == "sqlite":
        pytest.skip("on a SQLite file nobody is beside it")
    for worker_id in ("alive-1", "dead-1"):
        await server.worker_store.beat(beat_of(worker_id, stopped=worker_id == "dead-1"))
    alive, dead = [await crashed(server, worker_id=worker_id) for worker_id in ("alive-1", "dead-1")]
    assert (await recover(settings_for(pair))).reclaimed == 1
    assert await status_of(server, alive.id) is Status.RUNNING
    assert await status_of(server, dead.id) is Status.RETRYING


async def test_crashes_end_in_the_dead_letters(server: Server) -> None:
    job = await crashed(server)
    waiting = server.commands.wait(job.id, 10)
    for crash in range(1, 4):
        assert await server.reclaim.lost_jobs() == 1
        after = await job_of(server, job.id)
        assert after.crashes == crash
        if crash < 3:
            assert after.status is Status.RETRYING

            async def claim_again(fence: int = after.fence) -> bool:
                await claimed(server.store, job.id, fence, worker_id="dead-2", lease_seconds=-1.0)
                return True

            await eventually(claim_again)
    assert (await waiting).status is Status.FAILED
    assert await outcomes(server, job.id) == ["lease_lost"] * 3

    async def buried() -> list[Any]:
        return await server.stream.dead_letters()

    assert await eventually(buried) == [(job.id, 6)]
    page = server.telemetry.metrics.render("text/plain")[0].decode()
    assert 'jobserver_jobs_crashed_total{queue="default",type="echo"} 1.0' in page
    assert 'jobserver_jobs_reclaimed_total{queue="default",type="echo"} 3.0' in page


async def test_a_cancel_request_outlives_the_crash(server: Server) -> None:
    job = await crashed(server)
    await server.store.cancel([job.id])
    assert await server.reclaim.lost_jobs() == 1
    assert await status_of(server, job.id) is Status.CANCELED


async def test_leases_are_judged_only_after_own_steady_beats(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await crashed(server)
    monkeypatch.setattr(server.reclaim, "_may_reclaim", lambda: False)
    assert await server.reclaim._jobs_step() is None
    assert await status_of(server, job.id) is Status.RUNNING
    # The database hung while it was asked: what it answers says nothing of who lives.
    answers = iter([True, False])
    monkeypatch.setattr(server.reclaim, "_may_reclaim", lambda: next(answers))
    assert await server.reclaim._jobs_step() is None
    assert await status_of(server, job.id) is Status.RUNNING
    monkeypatch.setattr(server.reclaim, "_may_reclaim", lambda: True)
    await server.reclaim._jobs_step()
    assert await status_of(server, job.id) is Status.RETRYING


async def test_a_clock_that_jumped_says_nothing_of_leases(server: Server) -> None:
    """The database's went on by an hour, and no beat has noticed yet."""
    job = await crashed(server)
    clock = server.store.database.clock
    base_us, mark_ns = clock._base
    clock._base = (base_us - 3_600_000_000, mark_ns)
    assert await server.reclaim._jobs_step() is None
    assert await status_of(server, job.id) is Status.RUNNING
    clock._base = (base_us, mark_ns)
    await server.reclaim._jobs_step()
    assert await status_of(server, job.id) is Status.RETRYING


async def test_what_this_process_runs_is_never_lost_to_it(server: Server) -> None:
    """Its lease is only late: nobody could extend it, and whoever runs it is here."""
    job = await crashed(server, worker_id=server.worker_id)
    held = Held(job, delivery(job.id, job.fence - 1))
    server.holdings.add(held)
    assert await server.reclaim.lost_jobs() == 0
    assert await status_of(server, job.id) is Status.RUNNING
    # One that it does not hold is lost, whoever claimed it.
    server.holdings.remove(held)
    assert await server.reclaim.lost_jobs() == 1


async def test_the_orphans_of_a_dead_predecessor_need_not_wait(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.upkeep.reclaim.LIMIT", 2)
    orphans = [await crashed(server, lease_seconds=3_600.0) for _ in range(5)]
    own = await crashed(server, lease_seconds=3_600.0, worker_id=server.worker_id)
    assert await server.reclaim.orphans() == 5
    for job in orphans:
        assert (await job_of(server, job.id)).crashes == 1
    assert await status_of(server, own.id) is Status.RUNNING


async def published(server: Server) -> UUID:
    """A job that is committed, and whose message is in the stream."""
    job = (await inserted(server.store)).job
    await server.stream.apply(Batch(adds=[Message(job.id, 0, "default", Priority.NORMAL, 1_000)]))
    return job.id


async def test_messages_of_a_dead_process_are_taken_over(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [await published(server) for _ in range(5)]
    # Read by a process that died before its claim.
    assert len((await server.stream.fetch([NORMAL], "dead-1", 10)).deliveries) == 5
    async with executing(server):
        await server.reclaim._messages_step()
        assert {await status_of(server, job_id) for job_id in jobs} == {Status.QUEUED}
        monkeypatch.setattr(server.reclaim, "_lease_seconds", 0.05)

        async def all_ended() -> bool:
            await server.reclaim._messages_step()
            return {await status_of(server, job_id) for job_id in jobs} == {Status.COMPLETED}

        await eventually(all_ended)


async def test_a_message_that_was_read_a_moment_ago_is_left_to_its_reader(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs elsewhere within its lease is pending, and not lost."""
    taken: list[Any] = []
    monkeypatch.setattr(server.consumers, "take", taken.extend)
    job_id = await published(server)
    await server.stream.fetch([NORMAL], "alive-1", 1)
    await server.reclaim._messages_step()
    assert taken == []
    monkeypatch.setattr(server.reclaim, "_lease_seconds", 0.0)
    await server.reclaim._messages_step()
    assert [each.job_id for each in taken] == [job_id]


async def test_an_old_message_behind_many_fresh_ones_is_found_by_the_next_looks(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look of XAUTOCLAIM ends after ten times as many entries as it may take, so each begins where the last ended."""
    taken: list[Any] = []
    monkeypatch.setattr(server.consumers, "take", taken.extend)
    monkeypatch.setattr(server.reclaim, "_lease_seconds", 600.0)
    await server.stream.apply(Batch(adds=[message() for _ in range(20 * server.consumers.free)]))
    [*_, old] = (await server.stream.fetch([NORMAL], "dead-1", 1_000)).deliveries
    key = server.stream.keys.jobs(*NORMAL)
    await server._client.commands.execute_command("XCLAIM", key, GROUP, "dead-1", 0, old.entry_id, "IDLE", 3_600_000)
    for _ in range(3):
        await server.reclaim._messages_step()
    assert [each.job_id for each in taken] == [old.job_id]


async def test_no_more_messages_are_taken_over_than_there_are_free_consumers(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.reclaim, "_lease_seconds", 0.0)
    for _ in range(20):
        await published(server)
    await server.stream.fetch([NORMAL], "dead-1", 100)
    taken: list[Any] = []
    monkeypatch.setattr(server.consumers, "take", taken.extend)
    await server.reclaim._messages_step()
    assert len(taken) == 8
    monkeypatch.setattr(server.consumers, "free", 0)
    await server.reclaim._messages_step()
    assert len(taken) == 8
    # The cursor goes on where it was.
    monkeypatch.setattr(server.consumers, "free", 100)
    await server.reclaim._messages_step()
    assert len({each.job_id for each in taken}) == 20


async def test_consumers_of_dead_processes_are_forgotten(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.reclaim, "_lease_seconds", 0.0)
    await server.heartbeat.pulse.beat(server.worker_store)
    await published(server)
    for name in (server.worker_id, "dead-busy", "dead-idle"):
        await server.stream.fetch([NORMAL], name, 0 if name != "dead-busy" else 1)
    await server.stream.fetch([NORMAL], "dead-idle", 1)
    await server.stream.fetch([NORMAL], server.worker_id, 1)
    before = await consumers(server._client, server.stream)
    assert before == {server.worker_id, "dead-busy", "dead-idle"}

    async def forgotten() -> bool:
        await server.reclaim.forget_dead_consumers()
        return "dead-idle" not in await consumers(server._client, server.stream)

    await eventually(forgotten)
    assert await consumers(server._client, server.stream) == {server.worker_id, "dead-busy"}
