"""Whoever waits for a job hears of its end, wherever it was written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from statistics import median
from uuid import UUID, uuid4

import pytest

from jobserver.errors import DatabaseUnavailable, NotFound, Overloaded
from jobserver.job.events import Change
from jobserver.job.model import Status
from jobserver.pipeline.waiting import Waiters
from jobserver.store.engine import Database
from jobserver.store.jobs import JobStore
from jobserver.store.views import Views
from tests.conftest import Pair
from tests.engines import eventually
from tests.jobs import claimed, job_in, raised, settled


@pytest.fixture
async def store(pair: Pair) -> AsyncIterator[JobStore]:
    database = Database(pair.database_url)
    yield JobStore(database)
    await database.close()


@pytest.fixture
async def waiters(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Waiters]:
    monkeypatch.setattr("jobserver.pipeline.waiting.LOOK_SECONDS", 0.05)
    waiters = Waiters(Views(store.database))
    yield waiters
    await waiters.close()
    assert not waiters._waiting


async def test_a_terminal_job_is_answered_at_once(store: JobStore, waiters: Waiters) -> None:
    for status in (Status.COMPLETED, Status.FAILED, Status.CANCELED):
        job = await waiters.wait(await job_in(store, status), 60)
        assert job.status is status


async def test_after_its_time_the_job_is_answered_as_it_is(store: JobStore, waiters: Waiters) -> None:
    started = time.monotonic()
    job = await waiters.wait(await job_in(store, Status.QUEUED), 0.3)
    assert job.status is Status.QUEUED
    assert 0.25 < time.monotonic() - started < 5


async def test_an_end_of_this_process_is_heard_at_once(store: JobStore, waiters: Waiters) -> None:
    job_id = await job_in(store, Status.QUEUED)
    waiting = [asyncio.create_task(waiters.wait(job_id, 60)) for _ in range(3)]
    await eventually(lambda: len(waiters._waiting.get(job_id, ())) == 3)
    await store.cancel([job_id])
    waiters.wake(job_id)
    waiters.wake(uuid4())
    async with asyncio.timeout(5):
        assert [(await each).status for each in waiting] == [Status.CANCELED] * 3


async def test_an_end_of_another_process_is_seen_by_looking(store: JobStore, waiters: Waiters) -> None:
    jobs = [await job_in(store, Status.QUEUED) for _ in range(3)]
    waiting = [asyncio.create_task(waiters.wait(job_id, 60)) for job_id in jobs]
    await eventually(lambda: len(waiters._waiting) == 3)
    await store.cancel(jobs[:2])
    async with asyncio.timeout(10):
        assert [(await each).status for each in waiting[:2]] == [Status.CANCELED] * 2
    assert not waiting[2].done()
    await settled(store, await claimed(store, jobs[2]), raised(retryable=False))
    async with asyncio.timeout(10):
        assert (await waiting[2]).status is Status.FAILED


async def test_a_job_that_is_deleted_meanwhile_is_not_found(
    store: JobStore, waiters: Waiters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.pipeline.waiting.LOOK_SECONDS", 3.0)
    job_id = await job_in(store, Status.QUEUED)
    waiting = asyncio.create_task(waiters.wait(job_id, 60))
    # Neither its own first look nor the one for all may come between the end and the deletion.
    await eventually(lambda: waiters._looker is not None)
    await settled(store, await claimed(store, job_id), raised(retryable=False))
    await store.delete([job_id])
    with pytest.raises(NotFound):
        async with asyncio.timeout(10):
            await waiting


async def test_one_look_serves_all_and_ends_with_the_last(
    store: JobStore, waiters: Waiters, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    statuses = Views.statuses

    async def counted(self: Views, ids: list[UUID]) -> object:
        looks.append(len(ids))
        return await statuses(self, ids)

    monkeypatch.setattr(Views, "statuses", counted)
    jobs = [await job_in(store, Status.QUEUED) for _ in range(10)]
    waiting = [asyncio.create_task(waiters.wait(job_id, 60)) for job_id in jobs]
    await eventually(lambda: 10 in looks)
    await store.cancel(jobs)
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
    assert waiters._looker is not None
    async with asyncio.timeout(10):
        await waiters._looker
    assert max(looks) == 10


async def test_a_look_that_fails_is_repeated(
    store: JobStore, waiters: Waiters, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = Views.statuses
    failures = 3

    async def failing(self: Views, ids: list[UUID]) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise DatabaseUnavailable("away")
        return await statuses(self, ids)

    monkeypatch.setattr(Views, "statuses", failing)
    job_id = await job_in(store, Status.QUEUED)
    waiting = asyncio.create_task(waiters.wait(job_id, 60))
    await eventually(lambda: failures == 0)
    await store.cancel([job_id])
    async with asyncio.timeout(10):
        assert (await waiting).status is Status.CANCELED


async def test_a_caller_that_goes_away_is_forgotten(store: JobStore, waiters: Waiters) -> None:
    job_id = await job_in(store, Status.QUEUED)
    waiting = asyncio.create_task(waiters.wait(job_id, 60))
    await eventually(lambda: job_id in waiters._waiting)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (waiters._count, dict(waiters._waiting)) == (0, {})


async def test_waiters_are_bounded(store: JobStore, waiters: Waiters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.pipeline.waiting.MAX_WAITERS", 2)
    job_id = await job_in(store, Status.QUEUED)
    waiting = [asyncio.create_task(waiters.wait(job_id, 60)) for _ in range(2)]
    await eventually(lambda: waiters._count == 2)
    with pytest.raises(Overloaded):
        await waiters.wait(job_id, 60)
    await waiters.close()
    async with asyncio.timeout(10):
        assert [(await each).status for each in waiting] == [Status.QUEUED] * 2
    assert waiters._count == 0


async def test_who_asks_while_the_server_stops_is_not_made_to_wait(store: JobStore, waiters: Waiters) -> None:
    # On a connection that was open before: HTTP ends only after those who waited have been told.
    job_id = await job_in(store, Status.QUEUED)
    await waiters.close()
    async with asyncio.timeout(5):
        assert (await waiters.wait(job_id, 60)).status is Status.QUEUED


class Watched:
    """A stream of one job that has heard nothing yet."""

    fence = -1

    def __init__(self, job_id: UUID) -> None:
        self.job_id = job_id
        self.heard: list[int] = []

    def hear(self, place: str, change: Change, at: str) -> None:
        self.heard.append(change.fence)

    def end(self) -> None:
        raise AssertionError


async def test_who_waits_is_not_held_up_by_what_others_watch(
    store: JobStore, waiters: Waiters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What watchers have missed is on its way as an event: that it is waited for is no reason not to look again."""
    monkeypatch.setattr("jobserver.pipeline.waiting.EVENT_SECONDS", 20.0)
    waiters.live = lambda: True
    watched = Watched(await job_in(store, Status.QUEUED))
    job_id = await job_in(store, Status.QUEUED)
    with waiters.watching(watched):
        waiting = asyncio.create_task(waiters.wait(job_id, 60))
        await asyncio.sleep(0.3)
        await store.cancel([job_id])
        async with asyncio.timeout(3):
            assert (await waiting).status is Status.CANCELED
        assert watched.heard == []
        waiters.live = lambda: False
        await eventually(lambda: watched.heard != [])


async def test_looks_begin_on_time_and_not_too_often(
    store: JobStore, waiters: Waiters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether SQL is slow, or thousands come back at once and each asks for a look."""
    monkeypatch.setattr("jobserver.pipeline.waiting.LOOK_SECONDS", 0.4)
    monkeypatch.setattr("jobserver.pipeline.waiting.PAUSE_SECONDS", 0.2)
    began: list[float] = []
    statuses = waiters._views.statuses

    async def slow(ids: Sequence[UUID]) -> dict[UUID, Status]:
        began.append(time.monotonic())
        found = await statuses(ids)
        await asyncio.sleep(0.3)
        return found

    monkeypatch.setattr(waiters._views, "statuses", slow)
    waiting = asyncio.create_task(waiters.wait(await job_in(store, Status.QUEUED), 60))
    await eventually(lambda: len(began) == 6)
    between = [after - before for before, after in pairwise(began)]
    # After each look of 0.3 s: 0.1 s, not 0.4 s more.
    assert min(between) >= 0.39
    assert median(between) < 0.6
    monkeypatch.setattr(waiters._views, "statuses", statuses)
    counted = 0

    async def counting(ids: Sequence[UUID]) -> dict[UUID, Status]:
        nonlocal counted
        counted += 1
        return await statuses(ids)

    monkeypatch.setattr(waiters._views, "statuses", counting)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        waiters.look_soon()
        await asyncio.sleep(0.001)
    assert 2 <= counted <= 6
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
