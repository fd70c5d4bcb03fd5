"""The floors that a release must not fall below, measured on the real command and real engines.

    python -m bench.floors [--runs 5] [--jobs 20000]

PostgreSQL with fsync and synchronous_commit on, Valkey without persistence, one server process; the load comes
from a process of its own on the same machine. Medians of the runs; everything goes into `bench/results/floors.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

import jobserver
from tests.engines import PostgresServer, RedisServer, find_postgres, free_port

RESULTS = Path(__file__).parent / "results" / "floors.json"
ROOT = Path(__file__).parent.parent
FLOORS = {
    "drain_per_second": (5_000, "at least"),
    "post_per_second": (2_500, "at least"),
    "rss_growth_mib": (30, "at most"),
    "idle_cpu_percent": (3, "at most"),
    "idle_rss_mb": (150, "at most"),
    "start_seconds": (3, "at most"),
}


class Served:
    """A server process and a client of it."""

    def __init__(self, process: subprocess.Popen[bytes], client: httpx.AsyncClient, port: int) -> None:
        self.process = process
        self.client = client
        self.port = port

    async def by_status(self) -> dict[str, int]:
        counts: dict[str, int] = (await self.client.get("/admin/stats")).json()["by_status"]
        return counts


@asynccontextmanager
async def served(*options: str) -> AsyncIterator[Served]:
    """`jobserver serve` with these options, from the call to the first answer, and stopped at the end."""
    port = free_port()
    # As installed: compiled modules, no settings of whoever measures.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("JOBSERVER_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobserver", "serve", "--port", str(port), "--log-level", "warning", *options],
            env=environment,
            stderr=log,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                deadline = time.monotonic() + 30
                while True:
                    try:
                        await client.get("/health")
                        break
                    except httpx.TransportError:
                        if process.poll() is not None or time.monotonic() > deadline:
                            log.seek(0)
                            raise RuntimeError(log.read().decode(errors="replace")) from None
                        await asyncio.sleep(0.01)
                yield Served(process, client, port)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def engines() -> Iterator[tuple[str, str]]:
    """A durable PostgreSQL with an empty database, and a Valkey: their URLs."""
    with PostgresServer(find_postgres(), fsync=True) as postgres, RedisServer("valkey") as redis:
        yield postgres.create_database(), redis.url


async def submit_many(client: httpx.AsyncClient, jobs: int) -> float:
    """Submit no-op jobs in batches of 1,000; returns how many a second."""
    body = {"jobs": [{"type": "echo", "payload": {"n": n, "text": "x" * 80}} for n in range(1_000)]}
    started = time.perf_counter()
    for _ in range(jobs // 1_000):
        (await client.post("/jobs/batch", json=body)).raise_for_status()
    return jobs / (time.perf_counter() - started)


async def drain(jobs: int, workers: int = 100) -> dict[str, float]:
    """Jobs are queued through an API-only process, then a process with consumers starts."""
    with engines() as (database_url, redis_url):
        urls = ("--database-url", database_url, "--redis-url", redis_url)
        async with served(*urls, "--workers", "0", "--accept-unknown-types") as api:
            bulk = await submit_many(api.client, jobs)
            async with served(*urls, "--workers", str(workers)):
                first: tuple[float, int] | None = None
                while True:
                    done = (await api.by_status())["completed"]
                    if done and first is None:
                        first = (time.perf_counter(), done)
                    if done >= jobs and first is not None:
                        took = time.perf_counter() - first[0]
                        return {"drain_per_second": (jobs - first[1]) / took, "bulk_submit_per_second": bulk}
                    await asyncio.sleep(0.02)


async def post(requests: int, connections: int = 64) -> dict[str, float]:
    """`POST /jobs` one by one over keep-alive connections, each committed before its answer."""
    with engines() as (database_url, redis_url):
        async with served(
            "--database-url", database_url, "--redis-url", redis_url, "--workers", "0", "--accept-unknown-types"
        ) as api:
            command = [sys.executable, "-m", "bench.load", "127.0.0.1", str(api.port), str(connections)]
            for count in (requests // 10, requests):  # the first is a warm-up
                load = await asyncio.create_subprocess_exec(
                    *command, str(count), cwd=ROOT, stdout=asyncio.subprocess.PIPE
                )
                output, _ = await load.communicate()
            found = msgspec.json.decode(output)
            if found["statuses"] != {"201": requests}:
                raise RuntimeError(f"not every request was accepted: {found['statuses']}")
            stored = sum((await api.by_status()).values())
            if stored != requests + requests // 10:
                raise RuntimeError(f"{stored} jobs are stored")
            return {
                "post_per_second": found["per_second"],
                "post_p50_ms": found["p50_ms"],
                "post_p99_ms": found["p99_ms"],
            }


async def memory(jobs: int = 100_000, early: int = 10_000) -> dict[str, float]:
    """Resident memory after many jobs, against that after a few."""
    with engines() as (database_url, redis_url):
        async with served("--database-url", database_url, "--redis-url", redis_url, "--workers", "100") as server:
            process = psutil.Process(server.process.pid)
            rss: list[int] = []
            for goal in (early, jobs):
                while (done := (await server.by_status())["completed"]) < goal:
                    total = sum((await server.by_status()).values())
                    if total - done < 5_000 and total < goal:
                        await submit_many(server.client, 1_000)
                    else:
                        await asyncio.sleep(0.05)
                await asyncio.sleep(2)
                rss.append(process.memory_info().rss)
            return {"rss_mib": rss[1] / 2**20, "rss_growth_mib": (rss[1] - rss[0]) / 2**20}


async def idle(seconds: float = 20.0) -> dict[str, float]:
    """The embedded server with nothing to do, its Valkey included; and how long it takes to start."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        async with served("--data-dir", folder) as server:
            start_seconds = time.perf_counter() - started
            await asyncio.sleep(3)
            tree = [psutil.Process(server.process.pid)]
            tree += tree[0].children(recursive=True)
            before = sum(sum(process.cpu_times()[:2]) for process in tree)
            await asyncio.sleep(seconds)
            after = sum(sum(process.cpu_times()[:2]) for process in tree)
            return {
                "start_seconds": start_seconds,
                "idle_cpu_percent": (after - before) / seconds * 100,
                "idle_rss_mb": sum(process.memory_info().rss for process in tree) / 1e6,
            }


async def measured(runs: int, jobs: int) -> dict[str, Any]:
    figures: dict[str, list[float]] = {}
    for number in range(runs):
        # Interleaved, so that a slow minute of the machine hits every figure alike.
        for part in (drain(jobs), post(jobs)):
            for name, value in (await part).items():
                figures.setdefault(name, []).append(value)
        print(f"run {number + 1} of {runs}: {_shown(figures)}", file=sys.stderr, flush=True)
    for part in (memory(), idle()):
        for name, value in (await part).items():
            figures.setdefault(name, []).append(value)
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "platform": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "jobserver": jobserver.__version__,
        },
        "persistence": "PostgreSQL with fsync and synchronous_commit on; Valkey without AOF; idle: SQLite and AOF",
        "command": " ".join(["python -m bench.floors", *sys.argv[1:]]),
        "jobs": jobs,
        "runs": {name: [round(value, 3) for value in values] for name, values in figures.items()},
        "medians": {name: round(statistics.median(values), 3) for name, values in figures.items()},
    }


def _shown(figures: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {values[-1]:.0f}" for name, values in figures.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=20_000)
    options = parser.parse_args()
    results = asyncio.run(measured(options.runs, options.jobs))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    failed = 0
    for name, value in results["medians"].items():
        floor, sense = FLOORS.get(name, (None, ""))
        held = floor is None or (value >= floor if sense == "at least" else value <= floor)
        failed += not held
        wanted = "" if floor is None else f"  ({sense} {floor}: {'held' if held else 'NOT HELD'})"
        print(f"{name:24} {value:12,.1f}{wanted}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
