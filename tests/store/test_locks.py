"""On PostgreSQL batches lock rows in one order and cannot wait for each other; a command that does is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from jobserver.job.model import Status
from jobserver.store.engine import Database
from jobserver.store.jobs import JobStore
from jobserver.store.views import Views
from tests.engines import eventually
from tests.jobs import claimed, inserted, submission

COUNT: Final = 8


@pytest.fixture
async def database(postgresql_url: str) -> AsyncIterator[Database]:
    database = Database(postgresql_url)
    yield database
    await database.close()


@pytest.fixture
async def other(postgresql_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody who holds a lock."""
    async with connected(postgresql_url) as connection:
        yield connection


@pytest.fixture
async def watcher(postgresql_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody who sees who waits."""
    async with connected(postgresql_url) as connection:
        yield connection


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    yield connection
    await connection.close()


def waits_for_a_row(watcher: asyncpg.Connection) -> Callable[[], Awaitable[bool]]:
    async def waits() -> bool:
        found = await watcher.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(found)

    return waits


async def last_first(store: JobStore, *, running: bool) -> list[UUID]:
    """Jobs that were stored, and claimed, in the opposite of the order of their ids."""
    ids = sorted((submission().id for _ in range(COUNT)), reverse=True)
    for job_id in ids:
        await inserted(store, id=job_id)
    for job_id in ids if running else ():
        await claimed(store, job_id)
    return ids


def columns_of(statement: str, ids: list[UUID]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    count = len(ids)
    columns: dict[str, list[Any]] = {"id": list(ids), "fence": [int(statement != "claim")] * count}
    scalars: dict[str, Any] = {}
    if statement == "claim":
        scalars = {"worker_id": "w", "token": uuid4(), "lease_seconds": 15.0}
    elif statement == "complete":
        columns["result"] = ["1"] * count
    elif statement == "save_progress":
        columns["progress"] = ["{}"] * count
    else:
        columns |= {"status": ["completed"] * count, "ended": ["completed"] * count, "delay_seconds": [0.0] * count}
        columns |= {name: [0] * count for name in ("attempt_delta", "retry_delta", "crash_delta")}
        columns |= {name: [None] * count for name in ("result", "error", "progress")}
        columns["lease_over"] = [False] * count
    return columns, scalars


@pytest.mark.parametrize("statement", ["claim", "complete", "settle", "save_progress"])
async def test_a_batch_waits_for_its_first_row_and_holds_no_other(
    database: Database, other: asyncpg.Connection, watcher: asyncpg.Connection, statement: str
) -> None:
    """In whatever order it names them, and they lie."""
    ids = await last_first(JobStore(database), running=statement != "claim")
    columns, scalars = columns_of(statement, ids)
    async with other.transaction():
        await other.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", min(ids))
        batch = asyncio.create_task(database.fetch(statement, columns, **scalars))
        await eventually(waits_for_a_row(watcher))
        free = await watcher.fetch("SELECT id FROM jobs WHERE id = ANY($1) FOR UPDATE SKIP LOCKED", ids)
        assert {row["id"] for row in free} == set(ids) - {min(ids)}
    await batch


async def test_an_extension_waits_for_nobody_and_takes_nobody_for_lost(
    database: Database, views: Views, other: asyncpg.Connection
) -> None:
    """One of the rows is locked, perhaps by a loop that a handler blocks: the others keep their leases."""
    store = JobStore(database)
    ids = await last_first(store, running=True)
    async with other.transaction():
        await other.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", min(ids))
        ours = await store.extend_leases([(job_id, 1) for job_id in ids], lease_seconds=600.0)
        assert ours == frozenset(ids)
    for job_id in ids:
        job = await views.job(job_id)
        assert job is not None
        assert job.lease_expires_at is not None
        left = (job.lease_expires_at - database.clock.now()).total_seconds()
        assert (left > 300.0) is (job_id != min(ids))


async def test_keys_are_taken_in_their_order(
    database: Database, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    keys = [f"key-{number}" for number in range(COUNT)]
    await JobStore(database).insert([[submission(idempotency_key=key, fingerprint=b"f")] for key in reversed(keys)])
    taken: dict[str, list[Any]] = {
        "scope": [""] * COUNT,
        "key": keys[::-1],
        "job_id": [uuid4() for _ in keys],
        "fingerprint": [b"f".hex()] * COUNT,
    }
    async with other.transaction():
        await other.execute("SELECT FROM idempotency_keys WHERE key = $1 FOR UPDATE", keys[0])
        batch = asyncio.create_task(database.fetch("take_keys", taken, ttl_seconds=60.0))
        await eventually(waits_for_a_row(watcher))
        free = await watcher.fetch("SELECT key FROM idempotency_keys WHERE key = ANY($1) FOR UPDATE SKIP LOCKED", keys)
        assert {row["key"] for row in free} == set(keys[1:])
    await batch


async def test_a_command_that_is_the_victim_of_a_deadlock_is_repeated(
    database: Database, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    store = JobStore(database)
    first, second = [(await inserted(store)).job.id for _ in range(2)]
    async with other.transaction():
        await other.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", second)
        canceling = asyncio.create_task(store.cancel([first, second]))
        await eventually(waits_for_a_row(watcher))
        # It has waited for longer, so it is the one that finds out, and gives way.
        await other.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", first)
    async with asyncio.timeout(10):
        assert {each.job_id for each in await canceling} == {first, second}
    job = await Views(database).job(first)
    assert job is not None
    assert (job.status, job.fence) == (Status.CANCELED, 1)


async def test_two_who_look_for_lost_messages_do_not_find_the_same(
    database: Database, other: asyncpg.Connection
) -> None:
    """What one has found and not committed the other passes over, and does not wait for."""
    store = JobStore(database)
    ids = [(await inserted(store)).job.id for _ in range(COUNT)]
    mark = [("default", submission().priority, database.clock.now())]
    async with other.transaction():
        await other.execute("SELECT FROM jobs WHERE id = ANY($1) FOR UPDATE", ids[:3])
        async with asyncio.timeout(5):
            found = await store.bump_overtaken(mark, limit=100)
    assert {each.job_id for each in found} == set(ids[3:])
