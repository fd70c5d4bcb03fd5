"""What people do to jobs and queues, on whichever process it arrives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from jobserver.errors import Conflict, NotFound, StreamUnavailable
from jobserver.job.handlers import Handlers
from jobserver.job.model import Status
from jobserver.job.query import JobFilter, Order, Selection
from jobserver.server import Server
from tests.clocks import Hurried, judged_by_the_clock
from tests.conftest import Pair
from tests.engines import eventually
from tests.jobs import job_in
from tests.parts import ended, job_of, outcomes, parts, status_of, submitted, writing
from tests.servers import running
from tests.stream.messages import ME, NORMAL, ids


class Endless:
    """A handler that runs until it is cancelled."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.handlers = Handlers()
        self.handlers.handler("endless")(self.run)

    async def run(self) -> None:
        self.started += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.fixture
async def server(pair: Pair) -> AsyncIterator[Server]:
    async with parts(pair) as server, writing(server):
        yield server


# Cancel.


@pytest.mark.parametrize("status", [Status.QUEUED, Status.SCHEDULED, Status.RETRYING])
async def test_a_waiting_job_is_canceled_at_once(server: Server, status: Status) -> None:
    job_id = await job_in(server.store, status)
    fence = (await job_of(server, job_id)).fence
    waiting = asyncio.create_task(server.commands.wait(job_id, 10))
    done = await server.commands.cancel(job_id)
    assert not done.was_running
    job = done.job
    assert (job.status, job.fence) == (Status.CANCELED, fence + 1)
    assert job.finished_at is not None
    assert (await waiting).status is Status.CANCELED


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELED])
async def test_a_terminal_job_is_not_canceled(server: Server, status: Status) -> None:
    job_id = await job_in(server.store, status)
    with pytest.raises(Conflict, match=status.value):
        await server.commands.cancel(job_id)
    assert await status_of(server, job_id) is status


async def test_commands_on_no_job_find_nothing(server: Server) -> None:
    nobody = uuid4()
    for command in (
        server.commands.cancel(nobody),
        server.commands.replay(nobody, failed_only=False),
        server.commands.delete(nobody),
        server.commands.wait(nobody, 5),
    ):
        with pytest.raises(NotFound):
            await command


@judged_by_the_clock
async def test_a_running_job_is_canceled_where_it_runs(pair: Pair) -> None:
    endless = Endless()
    async with running(pair, endless.handlers) as server:
        job = await submitted(server, "endless")
        await eventually(lambda: endless.started)
        started = time.monotonic()
        assert (await server.commands.cancel(job.id)).was_running
        done = await ended(server, job.id)
        assert time.monotonic() - started < 1
        assert (done.status, endless.cancelled) == (Status.CANCELED, 1)
        assert await outcomes(server, job.id) == ["canceled"]


@judged_by_the_clock
@pytest.mark.parametrize(("through_redis", "within_seconds"), [(True, 1.0), (False, 2.2)])
async def test_a_job_that_runs_on_another_process_is_canceled(
    postgresql_url: str,
    redis_url: str,
    redis_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    through_redis: bool,
    within_seconds: float,
) -> None:
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    endless = Endless()
    async with running(pair, endless.handlers) as worker, running(pair, workers=0) as api:
        if not through_redis:

            async def away(ids: list[UUID]) -> None:
                raise StreamUnavailable("away")

            monkeypatch.setattr(api.stream, "wake", away)
        job = await submitted(worker, "endless")
        await eventually(lambda: endless.started)
        started = time.monotonic()
        await api.commands.cancel(job.id)
        await eventually(lambda: endless.cancelled, within=within_seconds)
        done = await ended(worker, job.id)
        assert time.monotonic() - started < within_seconds
        assert (done.status, done.worker_id) == (Status.CANCELED, worker.worker_id)


async def test_a_second_cancel_of_a_running_job_is_no_conflict(server: Server) -> None:
    job_id = await job_in(server.store, Status.RUNNING)
    for _ in range(2):
        assert (await server.commands.cancel(job_id)).was_running


# Replay and delete.


@pytest.mark.parametrize(
    ("status", "failed_only", "replayed"),
    [
        (Status.FAILED, True, True),
        (Status.FAILED, False, True),
        (Status.CANCELED, False, True),
        (Status.CANCELED, True, False),
        (Status.COMPLETED, False, False),
        (Status.RUNNING, False, False),
        (Status.QUEUED, False, False),
        (Status.SCHEDULED, False, False),
        (Status.RETRYING, False, False),
    ],
)
async def test_a_replay_queues_what_failed_or_was_canceled(
    server: Server, status: Status, failed_only: bool, replayed: bool
) -> None:
    job_id = await job_in(server.store, status)
    before = await job_of(server, job_id)
    if not replayed:
        with pytest.raises(Conflict, match=status.value):
            await server.commands.replay(job_id, failed_only=failed_only)
        assert await job_of(server, job_id) == before
        return
    job = await server.commands.replay(job_id, failed_only=failed_only)
    assert (job.status, job.fence, job.attempt, job.error) == (Status.QUEUED, before.fence + 1, 0, None)

    async def published() -> list[Any]:
        return (await server.stream.fetch([NORMAL], ME, 10)).deliveries

    [delivery] = await eventually(published)
    assert (delivery.job_id, delivery.fence) == (job_id, job.fence)


async def failed_jobs(server: Server) -> dict[str, list[UUID]]:
    """Failed jobs of two types and two queues, oldest first, and some that did not fail."""
    jobs: dict[str, list[UUID]] = {"a": [], "b": [], "elsewhere": []}
    for _ in range(3):
        jobs["a"].append(await job_in(server.store, Status.FAILED, type="a"))
        jobs["b"].append(await job_in(server.store, Status.FAILED, type="b"))
        jobs["elsewhere"].append(await job_in(server.store, Status.FAILED, type="a", queue="other"))
    await job_in(server.store, Status.COMPLETED, type="a")
    await job_in(server.store, Status.CANCELED, type="a")
    return jobs


async def failed_now(server: Server) -> set[UUID]:
    found = await server.views.oldest_failed(JobFilter(statuses=frozenset({Status.FAILED})), limit=1_000)
    return {each.job_id for each in found.jobs}


async def test_replays_follow_their_filter_and_limit_and_a_dry_run_changes_nothing(server: Server) -> None:
    jobs = await failed_jobs(server)
    every = {job_id for ids in jobs.values() for job_id in ids}
    replay = server.commands.replay_many
    both = sorted([*jobs["a"], *jobs["elsewhere"]])
    assert await replay(Selection(type="a"), limit=1_000, dry_run=True) == both
    assert await replay(Selection(type="a", queue="default"), limit=2, dry_run=True) == jobs["a"][:2]
    assert await failed_now(server) == every
    assert await replay(Selection(type="a", queue="default"), limit=2, dry_run=False) == jobs["a"][:2]
    assert await failed_now(server) == every - set(jobs["a"][:2])
    # Those that are not failed any more are left alone.
    assert await replay(Selection(ids=(*jobs["a"], uuid4())), limit=1_000, dry_run=False) == jobs["a"][2:]
    assert await replay(Selection(queue="other"), limit=1_000, dry_run=False) == jobs["elsewhere"]
    assert await replay(Selection(all=True), limit=1_000, dry_run=False) == jobs["b"]
    assert await failed_now(server) == set()

    async def published() -> bool:
        streams = [NORMAL, ("other", NORMAL[1])]
        found.extend(ids((await server.stream.fetch(streams, ME, 100)).deliveries))
        return set(found) == every

    found: list[UUID] = []
    await eventually(published)
    assert len(found) == len(every)


async def test_only_failed_jobs_are_deleted(server: Server) -> None:
    for status in Status:
        job_id = await job_in(server.store, status)
        if status is Status.FAILED:
            await server.commands.delete(job_id)
            with pytest.raises(NotFound):
                await server.commands.delete(job_id)
        else:
            with pytest.raises(Conflict, match="not failed"):
                await server.commands.delete(job_id)
            assert await status_of(server, job_id) is status


async def test_deletes_follow_their_filter_and_a_dry_run_counts(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.pipeline.commands._CHUNK", 2)
    jobs = await failed_jobs(server)
    delete = server.commands.delete_many
    assert await delete(Selection(type="a"), dry_run=True) == 6
    assert len(await failed_now(server)) == 9
    assert await delete(Selection(type="a", queue="default"), dry_run=False) == 3
    assert await failed_now(server) == {*jobs["b"], *jobs["elsewhere"]}
    assert await delete(Selection(all=True), dry_run=False) == 6
    assert (await server.views.stats()).total == 2


async def test_commands_on_dead_letters_get_past_many_that_they_are_not_about(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little time there is for one look: each goes on where the one before ended."""
    for _ in range(30):
        await job_in(server.store, Status.FAILED, type="common")
    rare = [await job_in(server.store, Status.FAILED, type="rare") for _ in range(3)]
    monkeypatch.setattr("jobserver.store.search.time", Hurried(1.0))
    monkeypatch.setattr("jobserver.store.search.FIRST_WINDOW", 1)
    monkeypatch.setattr("jobserver.store.search.LARGEST_WINDOW", 1)
    monkeypatch.setattr("jobserver.store.search.SMALLEST_WINDOW", 1)
    selection, commands = Selection(type="rare"), server.commands
    assert await commands.delete_many(selection, dry_run=True) == 3
    assert await commands.replay_many(selection, limit=10, dry_run=True) == rare
    assert await commands.replay_many(selection, limit=1, dry_run=False) == rare[:1]
    assert await commands.delete_many(selection, dry_run=False) == 2
    assert (await server.views.by_status())[Status.FAILED] == 30


async def test_all_ids_are_meant_whatever_the_limit(server: Server) -> None:
    jobs = [await job_in(server.store, Status.FAILED) for _ in range(3)]
    assert await server.commands.replay_many(Selection(ids=tuple(jobs)), limit=1, dry_run=True) == jobs
    done = await server.commands.carry_out(Order(verb="retry", ids=tuple(jobs), limit=2))
    assert (done.matched, done.changed, set(done.ids)) == (3, 3, set(jobs))


# Pause and resume.


async def test_a_paused_queue_starts_nothing_until_it_is_resumed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    # What nobody published is not found by its age meanwhile.
    monkeypatch.setattr("jobserver.upkeep.reconcile.GRACE", timedelta(hours=1))
    async with running(pair) as server:
        await ended(server, (await submitted(server)).id)
        for _ in range(2):
            info = await server.commands.pause("default")
            assert (info.name, info.paused) == ("default", True)
        jobs = [await submitted(server) for _ in range(20)]
        elsewhere = await submitted(server, queue="elsewhere")
        assert (await ended(server, elsewhere.id)).status is Status.COMPLETED
        assert {await status_of(server, job.id) for job in jobs} == {Status.QUEUED}
        for _ in range(2):
            assert not (await server.commands.resume("default")).paused
        started = time.monotonic()
        for job in jobs:
            assert (await ended(server, job.id)).attempt == 1
        assert time.monotonic() - started < 10


async def test_a_pause_holds_on_every_process(
    postgresql_url: str, redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.upkeep.reconcile.GRACE", timedelta(hours=1))
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    async with running(pair) as worker, running(pair, workers=0) as api:
        await ended(worker, (await submitted(worker)).id)
        await api.commands.pause("default")
        # At once: the worker has not heard of it, and SQL refuses its claims.
        jobs = [await submitted(api) for _ in range(10)]
        await eventually(lambda: worker.queues.paused["default"])
        assert {await status_of(api, job.id) for job in jobs} == {Status.QUEUED}
        await api.commands.resume("default")
        started = time.monotonic()
        for job in jobs:
            assert (await ended(api, job.id)).status is Status.COMPLETED
        assert time.monotonic() - started < 10


async def test_a_new_queue_may_be_paused_before_its_first_job(server: Server) -> None:
    info = await server.commands.pause("not-yet")
    assert info.paused
    assert sum(info.counts.values()) == 0
    job = await submitted(server, queue="not-yet")
    assert job.status is Status.QUEUED
    assert (await server.store.queues())["not-yet"]
