"""Live events: whether readers get each transition once and in order, what faults do to them, what streams cost.

    python -m bench.events [--quick] [--only exact,faults,streams] [--into FOLDER]

`exact`: 100,000 transitions and 50 readers that hang up at random and come back, on two processes behind one port.
`faults`: again, with one of two servers killed by -9 and a FLUSHALL on the way, and 200 streams of single jobs.
`streams`: 1,000 open streams on one process, idle and under load. A violation ends the run with an error. Everything
goes into `bench/results/events.json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import psutil

from bench.record import Options, interleaved, options, write
from bench.served import Engines, RealPair, Served, engines, served
from tests.engines import eventually, free_port
from tests.life.process import ServerProcess
from tests.sse import Follower, events_of, following

READERS: Final = 50
WATCHED: Final = 200
STREAMS: Final = 1_000
BATCH: Final = 500
WITHIN_SECONDS: Final = 300.0
# More than there are transitions: nothing is trimmed.
EVENTS_MAX: Final = "1000000"
# Of a hundred jobs so many are retried once, which makes five transitions instead of three.
RETRIED: Final = 7


class Violation(Exception):
    """Readers saw what they must not, or missed what they must see."""


async def submitted(client: httpx.AsyncClient, jobs: int) -> list[str]:
    """So many jobs in batches, some of which fail once; their ids."""
    ids: list[str] = []
    while len(ids) < jobs:
        count = min(BATCH, jobs - len(ids))
        bodies = [
            {"type": "fail", "payload": {"times": 1}} if number % 100 < RETRIED else {"type": "echo", "payload": number}
            for number in range(count)
        ]
        answer = await client.post("/jobs/batch", json={"jobs": bodies})
        answer.raise_for_status()
        ids += [each["id"] for each in answer.json()["jobs"]]
    return ids


async def fences(pair: RealPair) -> dict[str, int]:
    """The highest fence of each job, by SQL."""
    return {str(job_id): fence for job_id, fence in await pair.sql("SELECT id, fence FROM jobs")}


async def settled(pair: RealPair) -> None:
    """Return when no job waits or runs."""
    query = "SELECT count(*) FROM jobs WHERE status NOT IN ('completed', 'failed', 'canceled')"

    async def none_left() -> bool:
        [[left]] = await pair.sql(query)
        return not left

    await eventually(none_left, within=WITHIN_SECONDS, every=0.5)


def check(readers: Sequence[Follower], truth: Mapping[str, int], *, exact: bool) -> int:
    """Every event once and in order; without `exact`, gaps where there was a reset. Returns events that were missed."""
    missed = 0
    for reader in readers:
        if reader.disordered:
            raise Violation(f"not in order or not once: {reader.disordered[:3]}")
        if unknown := set(reader.seen) - set(truth):
            raise Violation(f"jobs that do not exist: {sorted(unknown)[:3]}")
        gaps = sum(fence + 1 - len(reader.seen.get(job_id, ())) for job_id, fence in truth.items())
        if gaps and (exact or not reader.resets):
            raise Violation(f"{gaps} events were missed, without a reset")
        if exact and reader.resets:
            raise Violation(f"resets: {reader.resets}")
        missed += gaps
    return missed


async def exact(on: Engines, wanted: Options) -> dict[str, float]:
    jobs, readers = wanted.size(31_850, 1_000), wanted.size(READERS, 10)
    options = ("--processes", "2", "--workers", "50", "--backoff-base", "1", "--events-max", EVENTS_MAX)
    async with on.fresh() as pair, served(*pair.options, *options) as server:
        followers = [Follower(lambda: server.port, "/events", seed) for seed in range(readers)]
        async with following(followers, hang_up_after=2.0):
            began = time.monotonic()
            await submitted(server.client, jobs)
            await settled(pair)
            done = time.monotonic()
            truth = await fences(pair)
            transitions = sum(truth.values()) + len(truth)
            await eventually(
                lambda: all(each.count >= transitions for each in followers), within=WITHIN_SECONDS, every=0.2
            )
            seen = time.monotonic()
        check(followers, truth, exact=True)
    return {
        "transitions": transitions,
        "readers": readers,
        "connections": sum(each.connections for each in followers),
        "events_seen": sum(each.count for each in followers),
        "jobs_seconds": done - began,
        "seen_seconds": seen - began,
    }


async def faults(on: Engines, wanted: Options) -> dict[str, float]:
    jobs, readers = wanted.size(31_850, 2_000), wanted.size(READERS, 10)
    watched = wanted.size(WATCHED, 50)
    common = ("--workers", "50", "--backoff-base", "1", "--events-max", EVENTS_MAX, "--log-level", "error")
    with TemporaryDirectory(prefix="bench-") as folder:
        async with on.fresh() as pair, contextlib.AsyncExitStack() as stack:
            ports = [free_port(), free_port()]

            async def start(number: int) -> ServerProcess:
                arguments = (*pair.options, *common, "--port", str(ports[number]))
                process = await ServerProcess.start(arguments, cwd=Path(folder), log=Path(folder) / f"{number}.log")
                stack.push_async_callback(process.end)
                return await process.started()

            servers = [await start(0), await start(1)]
            # Only a process that has lived for 5 s judges others.
            await asyncio.sleep(6.0)
            port_of = partial(random.Random(7).choice, ports)
            followers = [Follower(port_of, "/events", seed) for seed in range(readers)]
            async with following(followers, hang_up_after=2.0):
                client = servers[1].http
                ids = await submitted(client, jobs // 3)
                watchers = [
                    Follower(port_of, f"/jobs/{job_id}/events", seed) for seed, job_id in enumerate(ids[:watched])
                ]
                late = await _delayed(client, watched)
                watchers += [Follower(port_of, f"/jobs/{job_id}/events", seed) for seed, job_id in enumerate(late)]
                async with following(watchers, hang_up_after=2.0) as watching:
                    load = asyncio.create_task(submitted(client, jobs - jobs // 3), name="load")
                    await asyncio.sleep(2.0)
                    servers[0].kill()
                    await asyncio.sleep(2.0)
                    await pair.ask_redis("FLUSHALL")
                    servers[0] = await start(0)
                    await load
                    await settled(pair)
                    truth = await fences(pair)
                    async with asyncio.timeout(WITHIN_SECONDS):
                        await asyncio.gather(*watching)
                # Nothing more comes; what is on its way arrives.
                await asyncio.sleep(5.0)
            missed = check([*followers], truth, exact=False)
            for watcher in watchers:
                [(job_id, events)] = watcher.seen.items()
                if watcher.disordered or events[-1][0] != truth[job_id]:
                    raise Violation(f"the end of {job_id} was not told, or not in order: {events}")
    return {
        "transitions": sum(truth.values()) + len(truth),
        "readers": readers,
        "watched": len(watchers),
        "terminal_events": len(watchers),
        "resets": sum(len(each.resets) for each in followers),
        "missed_behind_resets": missed,
    }


async def _delayed(client: httpx.AsyncClient, count: int) -> list[str]:
    bodies = [{"type": "echo", "payload": 1, "delay": 1 + 8 * number / count} for number in range(count)]
    answer = await client.post("/jobs/batch", json={"jobs": bodies})
    answer.raise_for_status()
    return [each["id"] for each in answer.json()["jobs"]]


async def streams(on: Engines, wanted: Options) -> dict[str, float]:
    """Memory and CPU of one process, and of the same without streams."""
    # Longer than a keepalive takes to come.
    count, seconds, load_seconds = wanted.size(STREAMS, 100), wanted.size(16, 3), wanted.size(8, 3)
    async with on.fresh() as pair, served(*pair.options, "--workers", "10") as server:
        process = psutil.Process(server.process.pid)
        await submitted(server.client, 100)
        await server.settled()
        figures: dict[str, float] = {"streams": count}
        before = process.memory_info().rss
        figures["idle_cpu_percent_without"] = await _cpu(process, seconds)
        figures["load_cpu_percent_without"] = await _under_load(server, process, load_seconds)
        opened = [asyncio.create_task(_drained(server.port), name="stream") for _ in range(count)]

        async def all_open() -> bool:
            page = (await server.client.get("/metrics")).text
            return f"jobserver_event_readers {float(count)}" in page

        await eventually(all_open, within=60, every=0.2)
        figures["kib_a_stream"] = (process.memory_info().rss - before) / 1024 / count
        figures["rss_mib"] = process.memory_info().rss / 2**20
        figures["idle_cpu_percent"] = await _cpu(process, seconds)
        figures["load_cpu_percent"] = await _under_load(server, process, load_seconds)
        figures["load_kib_a_stream"] = (process.memory_info().rss - before) / 1024 / count
        for task in opened:
            task.cancel()
        await asyncio.gather(*opened, return_exceptions=True)
    return figures


async def _drained(port: int) -> None:
    async for _ in events_of(port, "/events"):
        pass


async def _cpu(process: psutil.Process, seconds: float, during: Callable[[], Awaitable[object]] | None = None) -> float:
    """Of one core, in percent."""
    began, used = time.monotonic(), sum(process.cpu_times()[:2])
    if during is None:
        await asyncio.sleep(seconds)
    else:
        await during()
    return 100 * (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - began)


async def _under_load(server: Served, process: psutil.Process, seconds: float) -> float:
    """Ten jobs a second: thirty events a second to each stream."""

    async def load() -> None:
        for _ in range(round(seconds * 10)):
            await server.client.post("/jobs", json={"type": "echo", "payload": 1})
            await asyncio.sleep(0.1)

    return await _cpu(process, seconds, load)


async def measure(wanted: Options) -> None:
    with engines() as on:
        parts: dict[str, Any] = {
            "exact": lambda: exact(on, wanted),
            "faults": lambda: faults(on, wanted),
            "streams": lambda: streams(on, wanted),
        }
        figures = await interleaved(parts, wanted)
        write("events", wanted, figures, await on.versions())


def main() -> None:
    asyncio.run(measure(options(__doc__, runs=1)))


if __name__ == "__main__":
    main()
