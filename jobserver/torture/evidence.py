"""What SQL and Redis hold in the end, read beside the servers and not through them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from jobserver.store.engine import Database, check_reachable
from jobserver.store.rows import job_of
from jobserver.store.tables import attempts, jobs
from jobserver.stream.keys import GROUP
from jobserver.torture.check import MAX_GROWN_BYTES
from jobserver.torture.engines import Engines
from jobserver.torture.faults import fields
from jobserver.torture.history import TERMINAL, Attempt, Remains, StoredJob
from jobserver.torture.resp import RedisError

PAGE: Final = 2_000


@asynccontextmanager
async def opened(engines: Engines) -> AsyncIterator[Database]:
    database = Database(engines.database_url, pool_size=2)
    try:
        yield database
    finally:
        await database.close()


async def unfinished(database: Database) -> int:
    """How many jobs are not terminal. Raises DatabaseUnavailable."""
    query = jobs.select().with_only_columns(jobs.c.id).where(jobs.c.status.not_in(sorted(TERMINAL))).limit(100_000)
    return len(await database.select(query))


async def stored_jobs(database: Database) -> tuple[StoredJob, ...]:
    found: list[StoredJob] = []
    query = jobs.select().order_by(jobs.c.id).limit(PAGE)
    last: Any = None
    while True:
        rows = await database.select(query if last is None else query.where(jobs.c.id > last))
        found += [_stored(database, row) for row in rows]
        if len(rows) < PAGE:
            return tuple(found)
        last = rows[-1]["id"]


async def stored_attempts(database: Database) -> tuple[Attempt, ...]:
    found: list[Attempt] = []
    query = attempts.select().order_by(attempts.c.job_id, attempts.c.fence).limit(PAGE)
    last: Any = None
    while True:
        page = query
        if last is not None:
            job_id, fence = last
            later = (attempts.c.job_id > job_id) | ((attempts.c.job_id == job_id) & (attempts.c.fence > fence))
            page = query.where(later)
        rows = await database.select(page)
        found += [_attempt(database, row) for row in rows]
        if len(rows) < PAGE:
            return tuple(found)
        last = rows[-1]["job_id"], rows[-1]["fence"]


async def remains(engines: Engines, *, live: Set[int], before_bytes: int) -> Remains:
    """What is left in Redis, `live` being the server processes that there are. Raises RedisError."""
    entries: dict[str, int] = {}
    pending: dict[str, int] = {}
    delayed: dict[str, int] = {}
    consumers: set[str] = set()
    for key in await _keys(engines):
        if ":delayed:" in key:
            [delayed[key]] = await engines.redis(("ZCARD", key))
        elif ":jobs:" in key:
            [entries[key]] = await engines.redis(("XLEN", key))
            try:
                [[pending[key], *_], rows] = await engines.redis(
                    ("XPENDING", key, GROUP), ("XINFO", "CONSUMERS", key, GROUP)
                )
            except RedisError as error:
                if "NOGROUP" not in str(error):
                    raise
                continue
            consumers.update(fields(row)["name"] for row in rows)
    return Remains(
        entries=entries,
        pending=pending,
        delayed=delayed,
        dead_consumers=tuple(sorted(name for name in consumers if pid_of(name) not in live)),
        grown_bytes=await used_bytes(engines) - before_bytes,
    )


async def used_bytes(engines: Engines) -> int:
    """The memory of Redis without its capped feed. Raises RedisError."""
    [info] = await engines.redis(("INFO", "memory"))
    used = next(int(line.partition(":")[2]) for line in info.splitlines() if line.startswith("used_memory:"))
    for key in await _keys(engines):
        if key.endswith(":dlq"):
            [size] = await engines.redis(("MEMORY", "USAGE", key, "SAMPLES", 0))
            used -= size or 0
    return used


def is_empty(left: Remains) -> bool:
    """Whether no message waits any more."""
    return not any((*left.entries.values(), *left.pending.values(), *left.delayed.values()))


def is_settled(left: Remains) -> bool:
    """Whether nothing is left of what happened."""
    return is_empty(left) and not left.dead_consumers and left.grown_bytes <= MAX_GROWN_BYTES


async def versions(engines: Engines) -> dict[str, str]:
    """Of the engines. Raises RedisError and ConfigurationError."""
    [info] = await engines.redis(("INFO", "server"))
    told = dict(line.partition(":")[::2] for line in info.splitlines())
    name = next(name for name in ("valkey_version", "redis_version") if name in told)
    return {"sql": await check_reachable(engines.database_url), "redis": f"{name.partition('_')[0]} {told[name]}"}


def pid_of(worker_id: str) -> int:
    """The process in `host-pid-random`."""
    return int(worker_id.rsplit("-", 2)[1])


async def _keys(engines: Engines) -> list[str]:
    cursor, found = "0", set[str]()
    while True:
        [[cursor, keys]] = await engines.redis(("SCAN", cursor, "COUNT", 1000))
        found.update(keys)
        if cursor == "0":
            return sorted(found)


def _stored(database: Database, row: Any) -> StoredJob:
    job = job_of(database, row)
    result = None if job.result is None else msgspec.json.decode(job.result)
    return StoredJob(
        id=str(job.id),
        key=job.idempotency_key,
        type=job.type,
        status=job.status.value,
        fence=job.fence,
        attempt=job.attempt,
        retry_count=job.retry_count,
        max_retries=job.max_retries,
        crashes=job.crashes,
        error_type=None if job.error is None else job.error.type,
        error_message=None if job.error is None else job.error.message,
        result_fence=result if isinstance(result, int) else None,
    )


def _attempt(database: Database, row: Any) -> Attempt:
    error = None if row["error"] is None else msgspec.json.decode(row["error"])
    return Attempt(
        job_id=str(database.uuid(row["job_id"])),
        fence=row["fence"],
        number=row["number"],
        outcome=row["outcome"],
        started=database.moment(row["started_at"]).timestamp(),
        ended=database.moment(row["ended_at"]).timestamp(),
        error_type=None if error is None else error["type"],
        pid=pid_of(row["worker_id"] or "--0-"),
    )
