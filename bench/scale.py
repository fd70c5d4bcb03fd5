"""Whether speed depends on how much there is: jobs that wait, finished rows, bytes of a payload; and processes.

    python -m bench.scale [--quick] [--runs 3] [--only waiting_10k,...]

`empty`, `waiting_10k`, `waiting_100k`, `waiting_1m`: so many jobs wait besides the 30 k that are drained. They are put
into the table by SQL, and reconcile finds that none has a message. `finished_10m`: a table with so many finished jobs
and their attempts, and 1 M that wait besides. `payload_N`: bytes. With `--quick` each has a hundredth of that.
`processes_N`: `serve --processes N`, which takes jobs without running any, and then runs what waits.
A drain is that of a process with 100 consumers, which is stopped when it has run so many.
Everything goes into `bench/results/scale.json`, what must stay flat also as
a share of the empty table's.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from functools import partial
from typing import Any, Final

import msgspec
import psutil

from bench.record import Figures, Options, Part, interleaved, options, write
from bench.served import START_SECONDS, Engines, RealPair, Served, api_of, engines, post, post_jobs, served
from jobserver.job.model import Priority
from jobserver.server import Server
from jobserver.settings import Settings
from jobserver.store.engine import migrate
from jobserver.stream.keys import Keys
from tests.engines import eventually

STREAM: Final = Keys("jobserver").jobs("default", Priority.NORMAL)
CONNECTIONS: Final = 64
CONSUMERS: Final = 100
LOOKS: Final = 20
PROCESSES: Final = (1, 2, 4)
FLAT: Final = ("post_per_second", "batch_per_second", "drain_per_second")
# Rows a statement.
CHUNK: Final = 100_000
# A backlog of a million is published again within this time.
REBUILD_SECONDS: Final = 900.0
STATEMENT_SECONDS: Final = 600.0

# UUIDv7 of the past, a hundred a millisecond, as if the rows had been submitted one after the other.
_ROWS: Final = """
    SELECT (lpad(to_hex($3::bigint + i / 100), 12, '0') || '7' || lpad(to_hex(i % 4096), 3, '0') || '8'
            || substr(md5(i::text), 1, 15))::uuid AS id,
        to_timestamp(($3::bigint + i / 100) / 1000.0) AS at
    FROM generate_series($1::bigint, $2::bigint) AS i
"""
_WAITING: Final = f"""
    INSERT INTO jobs (
        id, type, queue, priority, status, fence, attempt, retry_count, max_retries, crashes, timeout_seconds,
        cancel_requested, created_at, updated_at, due_at, available_at, tags, payload
    )
    SELECT id, 'echo', 'default', {int(Priority.NORMAL)}, 'queued', 0, 0, 0, 3, 0, 60,
        false, at, at, at, at, '[]', $4 FROM ({_ROWS}) AS rows
"""
FINISHED: Final = f"""
    WITH new AS (
        INSERT INTO jobs (
            id, type, queue, priority, status, fence, attempt, retry_count, max_retries, crashes, timeout_seconds,
            cancel_requested, created_at, updated_at, due_at, available_at, started_at, finished_at, tags, payload,
            result
        )
        SELECT id, 'echo', 'default', {int(Priority.NORMAL)}, 'completed', 2, 1, 0, 3, 0, 60,
            false, at, at, at, at, at, at, '[]', $4, $4 FROM ({_ROWS}) AS rows
        RETURNING id, created_at
    )
    INSERT INTO attempts (job_id, fence, number, started_at, ended_at, outcome, worker_id)
    SELECT id, 1, 1, created_at, created_at, 'completed', 'generated' FROM new
"""
_PAYLOAD: Final = msgspec.json.encode({"to": "user@example.com", "text": "x" * 60}).decode()


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """`claims`: how many jobs are drained; `waiting`: how many wait besides."""

    waiting: int = 0
    finished: int = 0
    claims: int
    requests: int
    batched: int


async def filled(pair: RealPair, statement: str, rows: int, *, days_ago: float) -> float:
    """Put so many rows into the tables, the first of them so long ago; rows a second."""
    began = time.monotonic()
    first_ms = int((time.time() - days_ago * 86_400) * 1_000)
    async with pair.connection() as connection:
        for start in range(0, rows, CHUNK):
            end = min(start + CHUNK, rows) - 1
            await connection.execute(statement, start, end, first_ms, _PAYLOAD, timeout=STATEMENT_SECONDS)
    await tidied(pair)
    return rows / (time.monotonic() - began)


async def tidied(pair: RealPair) -> None:
    """All sizes begin alike, whatever was done to make them.

    What waits was updated once when it was published, which leaves a dead row each to autovacuum; and after a
    checkpoint PostgreSQL logs each page whole that is written to for the first time.
    """
    async with pair.connection() as connection:
        for statement in ("VACUUM ANALYZE jobs, attempts", "CHECKPOINT"):
            await connection.execute(statement, timeout=STATEMENT_SECONDS)


async def backlog(on: Engines, sizes: Sizes) -> dict[str, float]:
    """Submits, claims, looks and reconcile with so much in the tables."""
    found: dict[str, float] = {}
    waiting = sizes.waiting + sizes.claims
    async with on.fresh() as pair:
        await migrate(pair.database_url)
        await pair.sql("INSERT INTO queues (name, paused, created_at) VALUES ('default', false, clock_timestamp())")
        if sizes.finished:
            found["filled_per_second"] = await filled(pair, FINISHED, sizes.finished, days_ago=3)
        await filled(pair, _WAITING, waiting, days_ago=1)
        redis_bytes = await pair.redis_bytes()
        async with api_of(pair) as api:
            found["redelivered_per_second"] = waiting / await redelivered(pair, waiting)
            found["redis_bytes_a_waiting_job"] = (await pair.redis_bytes() - redis_bytes) / waiting
            await tidied(pair)
            found |= await looked_at(api)
            found |= await claimed(pair, sizes)
            found |= await submitted(api, sizes)
            found["api_rss_mib"] = _rss(api)
        found["reconcile_ms"] = await reconciled(pair)
        [[table]] = await pair.sql("SELECT pg_total_relation_size('jobs') + pg_total_relation_size('attempts')")
        found["table_mib"] = table / 2**20
    return found


async def redelivered(pair: RealPair, waiting: int) -> float:
    """Seconds until a server that has just started has published all that waits: none of it has a message."""

    async def published() -> bool:
        return bool(await pair.ask_redis("XLEN", STREAM) >= waiting)

    began = time.monotonic()
    await eventually(published, within=REBUILD_SECONDS, every=0.05)
    return time.monotonic() - began


async def looked_at(api: Served) -> dict[str, float]:
    """What clients look at, in milliseconds."""
    found = {}
    for name, path in {
        "list": "/jobs",
        "list_queued": "/jobs?status=queued",
        "list_completed": "/jobs?status=completed&type=echo",
        "queues": "/queues",
        "stats": "/admin/stats",
    }.items():
        seconds = []
        for _ in range(LOOKS):
            began = time.perf_counter()
            (await api.client.get(path)).raise_for_status()
            seconds.append(time.perf_counter() - began)
        found[f"{name}_ms"] = statistics.median(seconds) * 1_000
    return found


async def claimed(pair: RealPair, sizes: Sizes) -> dict[str, float]:
    """A part of the backlog is drained by a process of its own, which is stopped then."""
    began = time.time()
    async with served(*pair.options, "--workers", str(CONSUMERS)) as server:
        before = (await server.by_status())["completed"] if sizes.finished else 0
        await server.completed(before + sizes.claims)
        rss = _rss(server)
    return {"drain_per_second": (await pair.lives(began)).drained_per_second, "worker_rss_mib": rss}


async def submitted(api: Served, sizes: Sizes) -> dict[str, float]:
    posted = await post(api.port, CONNECTIONS, sizes.requests)
    return {"post_per_second": posted.per_second, "batch_per_second": await post_jobs(api.port, sizes.batched)}


async def reconciled(pair: RealPair) -> float:
    """A pass of reconcile in which nothing is lost, in milliseconds."""
    settings = Settings(port=0, workers=0, database_url=pair.database_url, redis_url=pair.redis.url)
    async with Server(msgspec.structs.replace(settings, log_level="warning")) as server:
        # The first pass looks at everything that is older than this process.
        await server.reconcile.pass_over()
        seconds = []
        for _ in range(LOOKS):
            began = time.perf_counter()
            await server.reconcile.step()
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds) * 1_000


async def payload(on: Engines, size: int, jobs: int) -> dict[str, float]:
    """Submitted one by one with so many bytes, then drained."""
    async with on.fresh() as pair:
        async with api_of(pair) as api:
            posted = await post(api.port, 16, jobs, "--payload", str(size))
            api_rss = _rss(api)
        async with served(*pair.options, "--workers", str(CONSUMERS)) as server:
            await server.completed(jobs)
            return {
                "post_16_per_second": posted.per_second,
                "post_16_p99_ms": posted.p99_ms,
                "drain_per_second": (await pair.lives()).drained_per_second,
                "api_rss_mib": api_rss,
                "worker_rss_mib": _rss(server),
            }


async def processes(on: Engines, number: int, requests: int, jobs: int) -> dict[str, float]:
    """One by one to so many processes; then so many, with 100 consumers each, run what waits."""
    behind_one_port = ("--processes", str(number))
    async with on.fresh() as pair:
        async with api_of(pair, *behind_one_port) as api:
            await all_alive(api, number)
            posted = await post(api.port, CONNECTIONS, requests)
            await post_jobs(api.port, jobs)
            # Nothing is to be run before all processes are there.
            (await api.client.post("/queues/default/pause")).raise_for_status()
        async with served(*pair.options, "--workers", str(CONSUMERS), *behind_one_port) as server:
            await all_alive(server, number)
            (await server.client.post("/queues/default/resume")).raise_for_status()
            await server.completed(requests + jobs)
            return {
                "post_64_per_second": posted.per_second,
                "post_64_p99_ms": posted.p99_ms,
                "drain_per_second": (await pair.lives()).drained_per_second,
                "rss_mib": _rss_of_all(server),
            }


async def all_alive(server: Served, processes: int) -> None:
    """Return when so many processes say that they live."""

    async def alive() -> bool:
        workers = (await server.client.get("/workers")).json()["items"]
        return sum(worker["alive"] for worker in workers) == processes

    await eventually(alive, within=START_SECONDS)


def _rss_of_all(server: Served) -> float:
    """The process and what it has started; pages that they share are counted more than once."""
    process = psutil.Process(server.process.pid)
    return sum(float(each.memory_info().rss) for each in (process, *process.children(recursive=True))) / 2**20


def _rss(server: Served) -> float:
    return float(psutil.Process(server.process.pid).memory_info().rss) / 2**20


def parts(on: Engines, wanted: Options) -> dict[str, Part]:
    def of(**more: Any) -> Part:
        claims, requests, batched = wanted.size(30_000, 100), wanted.size(20_000, 200), wanted.size(20_000, 200)
        return partial(backlog, on, Sizes(claims=claims, requests=requests, batched=batched, **more))

    def scaled(rows: int) -> int:
        return rows // 100 if wanted.quick else rows

    return {
        "empty": of(),
        "waiting_10k": of(waiting=scaled(10_000)),
        "waiting_100k": of(waiting=scaled(100_000)),
        "waiting_1m": of(waiting=scaled(1_000_000)),
        "finished_10m": of(waiting=scaled(1_000_000), finished=scaled(10_000_000)),
        "payload_100": partial(payload, on, 100, wanted.size(10_000, 100)),
        "payload_10k": partial(payload, on, 10_000, wanted.size(5_000, 50)),
        "payload_500k": partial(payload, on, 500_000, wanted.size(300, 10)),
        **{
            f"processes_{number}": partial(processes, on, number, wanted.size(20_000, 200), wanted.size(40_000, 200))
            for number in PROCESSES
        },
    }


def shares(figures: Figures) -> dict[str, float]:
    """The medians of what must stay flat, divided by those of the empty table."""
    found = {}
    for figure, values in figures.items():
        name, _, what = figure.partition(".")
        whole = figures.get(f"empty.{what}")
        if whole is not None and name.startswith(("waiting", "finished")) and what in FLAT:
            found[figure] = round(statistics.median(values) / statistics.median(whole), 3)
    return found


async def measured(on: Engines, wanted: Options) -> None:
    figures = await interleaved(parts(on, wanted), wanted)
    found = shares(figures)
    write("scale", wanted, figures, await on.versions(), shares=found)
    for name, share in found.items():
        print(f"{name:44} {share:8.2f} of the empty table's")


def main() -> None:
    # Ten million rows are made in each run.
    wanted = options(__doc__, runs=3)
    with engines() as on:
        asyncio.run(measured(on, wanted))


if __name__ == "__main__":
    main()
