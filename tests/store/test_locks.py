"""On PostgreSQL batches lock rows in one order and cannot wait for each other; a command that does is repeated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest
import sqlalchemy as sa

from jobserver.errors import DatabaseUnavailable
from jobserver.job.model import Status
from jobserver.store.engine import MIGRATION_SECONDS, Database
from jobserver.store.jobs import JobStore
from jobserver.store.views import Views
from tests.clocks import judged_by_the_clock
from tests.engines import eventually
from tests.jobs import claimed, ids, inserted, submission

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
        columns |= {name: [None] * count for name in ("result", "error", "fingerprint", "progress")}
        columns["lease_over"] = [False] * count
        scalars = {"callback_retries": 1} if statement == "settle_calling" else {}
    return columns, scalars


@pytest.mark.parametrize("statement", ["claim", "complete", "settle", "settle_calling", "save_progress"])
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


async def test_a_lost_job_that_somebody_holds_is_passed_over(database: Database, other: asyncpg.Connection) -> None:
    """The end of the others need not wait for it."""
    store = JobStore(database)
    lost = [(await inserted(store)).job.id for _ in range(3)]
    for job_id in lost:
        await claimed(store, job_id, lease_seconds=-1.0)
    async with other.transaction():
        await other.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", lost[1])
        assert [each.job.id for each in await store.find_lost(limit=10)] == [lost[0], lost[2]]
    assert len(await store.find_lost(limit=10)) == 3


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


async def test_a_process_that_hangs_in_a_transaction_loses_it_and_holds_up_nobody(
    database: Database, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loop is blocked, it is stopped, or its machine is gone: in any case it says nothing more."""
    with monkeypatch.context() as patched:
        patched.setattr("jobserver.store.engine.IDLE_SECONDS", 0.2)
        hanging = Database(postgresql_url)
    job, same, unkeyed = (submission(idempotency_key=key, fingerprint=b"f") for key in ("k", "k", None))

    async def hangs() -> None:
        async with hanging.write() as session:
            columns = {"scope": [""], "key": ["k"], "job_id": [job.id], "fingerprint": [b"f".hex()]}
            await session.fetch("take_keys", columns, ttl_seconds=60.0)
            answers = await JobStore(database).insert([[same], [unkeyed]])
            assert ids(answers) == [same.id, unkeyed.id]
            await session.fetch(*JobStore(hanging)._insert_statement([job]))

    async with asyncio.timeout(5):
        with pytest.raises(DatabaseUnavailable):
            await hangs()
    assert await Views(database).job(job.id) is None
    # It goes on as after any failure of its database: the repeat finds whose the key is.
    [[known]] = await JobStore(hanging).insert([[job]])  # type: ignore[misc]
    assert (known.job.id, known.created) == (same.id, False)
    await hanging.close()


async def test_a_commit_that_comes_after_the_end_of_its_transaction_is_unavailability(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler blocked the loop: what the server said meanwhile is read as the answer."""
    monkeypatch.setattr("jobserver.store.engine.IDLE_SECONDS", 0.05)
    hanging = Database(postgresql_url)

    async def blocks() -> None:
        async with hanging.write() as session:
            await session.fetch("now")
            time.sleep(0.3)

    with pytest.raises(DatabaseUnavailable):
        await blocks()
    assert await hanging.fetch("now")
    await hanging.close()


async def test_a_migration_may_pause_in_its_transaction(postgresql_url: str) -> None:
    database = Database(postgresql_url, statement_seconds=MIGRATION_SECONDS)
    async with database._connection(database._writer) as connection:
        shown = await connection.execute(sa.text("SHOW idle_in_transaction_session_timeout"))
        assert shown.scalar() == "10min"
    await database.close()


@judged_by_the_clock
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
