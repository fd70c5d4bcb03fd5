"""Ends are written once, whatever the database does in between, and Redis hears what follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jobserver.errors import DatabaseUnavailable
from jobserver.job.model import Canceled, HandedBack, LeaseLost, Outcome, Returned, Snoozed, Status, bounded_error
from jobserver.pipeline.held import Held
from jobserver.server import Server
from tests.conftest import Pair
from tests.engines import PostgresServer, eventually
from tests.jobs import claimed, raised, settled
from tests.parts import finished, job_of, outcomes, parts, submitted, writing
from tests.stream.messages import ME, NORMAL


@pytest.fixture
async def server(pair: Pair) -> AsyncIterator[Server]:
    async with parts(pair) as server, writing(server):
        yield server


@pytest.fixture
async def away(own_postgres: PostgresServer, redis_url: str, redis_prefix: str) -> AsyncIterator[Server]:
    """Parts on a database that may be killed and paused."""
    url = own_postgres.create_database()
    async with parts(Pair("postgresql", url, redis_url, redis_prefix)) as server, writing(server):
        yield server


async def held(server: Server, **fields: Any) -> Held:
    """A job that was submitted, fetched and claimed."""
    job = await submitted(server, **fields)

    async def fetched() -> list[Any]:
        found = (await server.stream.fetch([NORMAL], ME, 10)).deliveries
        return [each for each in found if each.job_id == job.id]

    [delivery] = await eventually(fetched)
    return Held(await claimed(server.store, job.id, worker_id=server.worker_id), delivery)


@pytest.mark.parametrize(
    ("outcome", "status", "delayed", "added", "dead"),
    [
        (Returned(b'{"a":1}'), Status.COMPLETED, 0, 0, 0),
        (raised(), Status.RETRYING, 1, 0, 0),
        (raised(after=0.0), Status.RETRYING, 0, 1, 0),
        (raised(retryable=False), Status.FAILED, 0, 0, 1),
        (Snoozed(30.0), Status.SCHEDULED, 1, 0, 0),
        # Beyond the near horizon: in SQL alone.
        (Snoozed(3_600.0), Status.SCHEDULED, 0, 0, 0),
        (HandedBack(), Status.QUEUED, 0, 1, 0),
        (Canceled("asked"), Status.CANCELED, 0, 0, 0),
    ],
)
async def test_each_end_is_written_and_told(
    server: Server, outcome: Outcome, status: Status, delayed: int, added: int, dead: int
) -> None:
    one = await held(server)
    moved = await finished(server, one, outcome)
    assert moved is not None
    assert (moved.status, moved.fence) == (status, 2)
    job = await job_of(server, one.job.id)
    assert (job.status, job.fence) == (status, 2)
    assert len(await outcomes(server, job.id)) == 1

    async def told() -> bool:
        sizes = await server.stream.sizes([NORMAL])
        assert (sizes.entries, sizes.pending, sizes.delayed) == (added, 0, delayed)
        assert len(await server.stream.dead_letters()) == dead
        return True

    await eventually(told)
    if added:
        [again] = (await server.stream.fetch([NORMAL], ME, 10)).deliveries
        assert (again.job_id, again.fence) == (job.id, 2)


async def test_a_zombie_writes_nothing_and_takes_its_message_with_it(server: Server) -> None:
    zombie = await held(server)
    lost = LeaseLost(bounded_error("LeaseLost", "gone"))
    await settled(server.store, zombie.job, lost)
    assert await finished(server, zombie, raised(retryable=False)) is None
    job = await job_of(server, zombie.job.id)
    assert (job.status, job.fence) == (Status.RETRYING, 2)
    assert await outcomes(server, job.id) == ["lease_lost"]

    async def told() -> bool:
        sizes = await server.stream.sizes([NORMAL])
        return (sizes.entries, sizes.pending, sizes.delayed) == (0, 0, 0)

    await eventually(told)
    assert await server.stream.dead_letters() == []


async def test_ends_that_arrive_together_share_a_commit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [await held(server) for _ in range(30)]
    sizes: list[int] = []
    settle = server.store.settle

    async def counted(settlements: Any, **options: Any) -> Any:
        sizes.append(len(settlements))
        return await settle(settlements, **options)

    monkeypatch.setattr(server.store, "settle", counted)
    moves = await asyncio.gather(*(finished(server, each, Returned(b"1")) for each in jobs))
    assert all(moved is not None and moved.status is Status.COMPLETED for moved in moves)
    assert sum(sizes) == 30
    assert len(sizes) <= 4


async def test_an_end_that_sql_refuses_fails_its_own_job_only(server: Server) -> None:
    good = [await held(server) for _ in range(4)]
    bad = await held(server)
    moves = await asyncio.gather(
        *(finished(server, each, Returned(b"1")) for each in good[:2]),
        finished(server, bad, Returned(b"\xff")),
        *(finished(server, each, Returned(b"1")) for each in good[2:]),
    )
    statuses = [moved.status if moved is not None else None for moved in moves]
    assert statuses == [Status.COMPLETED] * 2 + [Status.FAILED] + [Status.COMPLETED] * 2
    job = await job_of(server, bad.job.id)
    assert job.error is not None
    assert job.error.type == "NotStorable"


async def test_an_end_whose_commit_was_not_confirmed_is_written_and_counted_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = server.store.settle
    calls: list[bool] = []

    async def unconfirmed(settlements: Any, *, repeated: bool) -> Any:
        answer = await settle(settlements, repeated=repeated)
        calls.append(repeated)
        if len(calls) < 3:
            raise DatabaseUnavailable("the connection was lost after the commit")
        return answer

    monkeypatch.setattr(server.store, "settle", unconfirmed)
    one = await held(server)
    moved = await finished(server, one, raised(retryable=False))
    assert moved is not None
    assert (moved.status, moved.fence, calls) == (Status.FAILED, 2, [False, True, True])
    assert await outcomes(server, one.job.id) == ["failed"]
    page = server.telemetry.metrics.render("text/plain")[0].decode()
    assert 'jobserver_jobs_failed_total{queue="default",type="echo"} 1.0' in page
    assert 'jobserver_stale_writes_rejected_total{step="finish"} 0.0' in page


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_a_database_that_goes_away_in_between_gets_the_end_once(
    away: Server, own_postgres: PostgresServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.store.engine.STATEMENT_SECONDS", 0.3)
    jobs = [await held(away) for _ in range(5)]
    settle = away.store.settle
    failed = asyncio.Event()

    async def noticed(*args: Any, **options: Any) -> Any:
        try:
            return await settle(*args, **options)
        except DatabaseUnavailable:
            failed.set()
            raise

    monkeypatch.setattr(away.store, "settle", noticed)
    if how == "killed":
        own_postgres.kill()
    else:
        own_postgres.pause()
    ends = [asyncio.create_task(finished(away, each, Returned(b"1"))) for each in jobs]
    async with asyncio.timeout(20):
        await failed.wait()
    assert not any(end.done() for end in ends)
    if how == "killed":
        own_postgres.restart()
    else:
        # What was asked meanwhile is carried out now, and again by the repeat.
        own_postgres.resume()
    async with asyncio.timeout(30):
        moves = await asyncio.gather(*ends)
    assert [(moved.status, moved.fence) for moved in moves if moved is not None] == [(Status.COMPLETED, 2)] * 5
    for each in jobs:
        assert (await job_of(away, each.job.id)).fence == 2
        assert await outcomes(away, each.job.id) == ["completed"]
