"""What the parts that we stand on can do alone, and our figures as shares of it, in one run.

    python -m bench.ceilings [--quick] [--runs 5] [--only ours,litestar,...]

`ours`: `POST /jobs` at 64 connections, batches of 1,000, a drain at 100 consumers, all committed. Against them bare
Litestar and bare ASGI on uvicorn that echo the same body, bare asyncpg `unnest` (one statement, one commit, one
connection) and a bare redis-py loop of XREADGROUP and XACK. Everything goes into `bench/results/ceilings.json`.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import uuid_utils.compat as uuid_utils
import uvloop
from redis.asyncio import Redis

from bench.load import TEXT_BYTES, job
from bench.record import Figures, Options, Part, interleaved, options, write
from bench.served import ROOT, Engines, api_of, engines, environment, post, post_jobs, served
from jobserver.job.encoding import encode_json
from tests.engines import eventually, free_port

CONNECTIONS: Final = 64
CONSUMERS: Final = 100
# The floor of a system whose statements carry 100 rows, which is what a drain at 100 consumers can do at best.
ROWS: Final = (100, 1_000)
START_SECONDS: Final = 20.0

# our figure: the ceilings that it is shown as a share of.
CEILINGS: Final = {
    "ours.post_per_second": ("litestar.post_per_second", "asgi.post_per_second"),
    "ours.batch_per_second": ("asyncpg.insert_by_1000_per_second", "asyncpg.insert_by_100_per_second"),
    "ours.drain_per_second": ("redis.read_and_ack_per_second", "asyncpg.update_by_100_per_second"),
}


async def ours(on: Engines, jobs: int) -> dict[str, float]:
    """What is compared."""
    found: dict[str, float] = {}
    async with on.fresh() as pair, api_of(pair) as api:
        await post(api.port, CONNECTIONS, jobs // 10)
        posted = await post(api.port, CONNECTIONS, jobs)
        found = {"post_per_second": posted.per_second, "post_p99_ms": posted.p99_ms}
        found["batch_per_second"] = await post_jobs(api.port, jobs)
    async with on.fresh() as pair:
        async with api_of(pair) as api:
            await post_jobs(api.port, jobs)
        async with served(*pair.options, "--workers", str(CONSUMERS)) as server:
            await server.completed(jobs)
        found["drain_per_second"] = (await pair.lives()).drained_per_second
    return found


async def http(app: str, requests: int) -> dict[str, float]:
    """The same requests, answered and forgotten."""
    async with echoing(app) as port:
        await post(port, CONNECTIONS, requests // 10)
        posted = await post(port, CONNECTIONS, requests)
        return {"post_per_second": posted.per_second, "post_p99_ms": posted.p99_ms}


@asynccontextmanager
async def echoing(app: str) -> AsyncIterator[int]:
    """A server of `bench.echo`: its port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.echo", app, str(port)], cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL
    )

    async def answers() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert process.poll() is None, f"the echo server ended with {process.returncode}"
            return False
        writer.close()
        return True

    try:
        await eventually(answers, within=START_SECONDS)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def asyncpg(on: Engines, rows: int) -> dict[str, float]:
    """A table of an id, a status and a payload: one statement and one commit for so many rows."""
    payload = encode_json(job(TEXT_BYTES)["payload"]).decode()
    found: dict[str, float] = {}
    async with on.fresh() as pair, pair.connection() as connection:
        await connection.execute(
            "CREATE TABLE bare (id uuid PRIMARY KEY, status text NOT NULL, payload text NOT NULL)"
            " WITH (fillfactor = 80)"
        )
        for size in ROWS:
            ids = [[uuid_utils.uuid7() for _ in range(size)] for _ in range(max(rows // size, 1))]
            payloads = [payload] * size
            insert = (
                "INSERT INTO bare SELECT id, 'queued', payload FROM unnest($1::uuid[], $2::text[]) AS i(id, payload)"
            )
            began = time.perf_counter()
            for some in ids:
                await connection.execute(insert, some, payloads, timeout=60)
            found[f"insert_by_{size}_per_second"] = len(ids) * size / (time.perf_counter() - began)
            update = "UPDATE bare SET status = 'running' FROM unnest($1::uuid[]) AS i(id) WHERE bare.id = i.id"
            began = time.perf_counter()
            for some in ids:
                await connection.execute(update, some, timeout=60)
            found[f"update_by_{size}_per_second"] = len(ids) * size / (time.perf_counter() - began)
    return found


async def redis(on: Engines, messages: int) -> dict[str, float]:
    """Added in pipelines of 100, then read and acknowledged by 100 as one consumer of a group."""
    found: dict[str, float] = {}
    async with on.fresh() as pair:
        # Any: redis-py types its commands for both of its clients at once.
        client: Any = Redis.from_url(pair.redis.url, socket_timeout=10)
        try:
            await client.xgroup_create("bare", "group", id="0", mkstream=True)
            began = time.perf_counter()
            for _ in range(messages // 100):
                pipeline = client.pipeline(transaction=False)
                for _ in range(100):
                    pipeline.xadd("bare", {"m": "x" * 60})
                await pipeline.execute()
            found["add_per_second"] = messages / (time.perf_counter() - began)
            began = time.perf_counter()
            for _ in range(messages // 100):
                reply = await client.xreadgroup("group", "consumer", {"bare": ">"}, count=100)
                [[_, entries]] = reply.items() if isinstance(reply, dict) else reply
                # RESP3 wraps the entries of a stream once more.
                entries = entries[0] if isinstance(entries[0], list) else entries
                await client.xack("bare", "group", *(entry_id for entry_id, _ in entries))
            found["read_and_ack_per_second"] = messages / (time.perf_counter() - began)
            if (pending := (await client.xpending("bare", "group"))["pending"]) != 0:
                raise RuntimeError(f"{pending} messages were not acknowledged")
        finally:
            await client.aclose()
    return found


def parts(on: Engines, wanted: Options) -> dict[str, Part]:
    jobs = wanted.size(20_000, 200)
    return {
        "ours": partial(ours, on, jobs),
        "litestar": partial(http, "litestar", jobs),
        "asgi": partial(http, "asgi", jobs),
        "asyncpg": partial(asyncpg, on, wanted.size(100_000, 2_000)),
        "redis": partial(redis, on, wanted.size(100_000, 2_000)),
    }


def shares(figures: Figures) -> dict[str, float]:
    """The medians of ours, divided by those of their ceilings."""
    return {
        f"{figure} of {ceiling}": round(statistics.median(figures[figure]) / statistics.median(figures[ceiling]), 3)
        for figure, ceilings in CEILINGS.items()
        for ceiling in ceilings
        if figure in figures and ceiling in figures
    }


async def measured(on: Engines, wanted: Options) -> None:
    figures = await interleaved(parts(on, wanted), wanted)
    found = shares(figures)
    write("ceilings", wanted, figures, await on.versions(), shares=found)
    for name, share in found.items():
        print(f"{name:72} {share:8.2f}")


def main() -> None:
    wanted = options(__doc__)
    with engines() as on:
        uvloop.run(measured(on, wanted))


if __name__ == "__main__":
    main()
