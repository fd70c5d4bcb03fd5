"""The floors that a release must not fall below, measured on the real command and real engines.

    python -m bench.floors [--runs 5] [--jobs 20000]

PostgreSQL with fsync and synchronous_commit on, Valkey without persistence, one server process; the load comes
from a process of its own on the same machine. Medians of the runs; everything goes into `bench/results/floors.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

import jobserver
from bench.record import machine
from bench.served import PERSISTENCE, Engines, api_of, engines, post_jobs, served
from bench.served import post as send

RESULTS = Path(__file__).parent / "results" / "floors.json"
FLOORS = {
    "drain_per_second": (5_000, "at least"),
    "post_per_second": (2_500, "at least"),
    "rss_growth_mib": (30, "at most"),
    "idle_cpu_percent": (3, "at most"),
    "idle_rss_mb": (150, "at most"),
    "start_seconds": (3, "at most"),
}


async def drain(on: Engines, jobs: int, workers: int = 100) -> dict[str, float]:
    """Jobs are queued through an API-only process, then a process with consumers starts."""
    async with on.fresh() as pair, api_of(pair) as api:
        bulk = await post_jobs(api.port, jobs)
        async with served(*pair.options, "--workers", str(workers)):
            await api.completed(jobs)
        lives = await pair.lives()
        return {"drain_per_second": lives.drained_per_second, "bulk_submit_per_second": bulk}


async def post(on: Engines, requests: int, connections: int = 64) -> dict[str, float]:
    """`POST /jobs` one by one over keep-alive connections, each committed before its answer."""
    async with on.fresh() as pair, api_of(pair) as api:
        warm_up = requests // 10
        await send(api.port, connections, warm_up)
        found = await send(api.port, connections, requests)
        stored = sum((await api.by_status()).values())
        if stored != requests + warm_up:
            raise RuntimeError(f"{stored} jobs are stored")
        return {"post_per_second": found.per_second, "post_p50_ms": found.p50_ms, "post_p99_ms": found.p99_ms}


async def memory(on: Engines, jobs: int = 100_000, early: int = 10_000) -> dict[str, float]:
    """Resident memory after many jobs, against that after a few."""
    async with on.fresh() as pair, served(*pair.options, "--workers", "100") as server:
        process = psutil.Process(server.process.pid)
        rss: list[int] = []
        for goal in (early, jobs):
            while (done := (await server.by_status())["completed"]) < goal:
                total = sum((await server.by_status()).values())
                if total - done < 5_000 and total < goal:
                    await post_jobs(server.port, 1_000)
                else:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(2)
            rss.append(process.memory_info().rss)
        return {"rss_mib": rss[1] / 2**20, "rss_growth_mib": (rss[1] - rss[0]) / 2**20}


async def idle(on: Engines, seconds: float = 20.0) -> dict[str, float]:
    """The embedded server with nothing to do, its Valkey included; and how long it takes to start."""
    async with on.embedded() as pair:
        started = time.perf_counter()
        async with served(*pair.options) as server:
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


async def measured(on: Engines, runs: int, jobs: int) -> dict[str, Any]:
    figures: dict[str, list[float]] = {}
    for number in range(runs):
        # Interleaved, so that a slow minute of the machine hits every figure alike.
        for part in (drain(on, jobs), post(on, jobs)):
            for name, value in (await part).items():
                figures.setdefault(name, []).append(value)
        print(f"run {number + 1} of {runs}: {_shown(figures)}", file=sys.stderr, flush=True)
    for part in (memory(on), idle(on)):
        for name, value in (await part).items():
            figures.setdefault(name, []).append(value)
    return {
        "machine": machine(),
        "versions": {"python": platform.python_version(), "jobserver": jobserver.__version__, **await on.versions()},
        "persistence": PERSISTENCE,
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
    with engines() as on:
        results = asyncio.run(measured(on, options.runs, options.jobs))
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
