"""A collector that answers nothing: what that does to a server under load, against one with a healthy collector.

    python -m bench.blackhole [--quick] [--runs 3]

For a minute a server that records a share of its traces takes and runs jobs as fast as it can: once while the
collector takes them, once while it is stopped (its connections stay open). Throughput and the server's memory go into
`bench/results/blackhole.json`; memory is the most during the second half, less that at the end of the first.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from contextlib import closing
from functools import partial
from typing import Final

import psutil

from bench.record import Options, interleaved, options, write
from bench.served import Engines, Served, engines, post_jobs, served
from tests.collector import Collector

SHARES: Final = (0.1, 1.0)
CONSUMERS: Final = 100
# As many as run in a few seconds: neither side waits for the other.
AHEAD: Final = 10_000
LOOK_SECONDS: Final = 0.25


async def loaded(on: Engines, *, share: float, healthy: bool, seconds: float) -> dict[str, float]:
    """Jobs a second, and what the memory did, while a collector is well or not."""
    with closing(Collector(None)) as collector:
        variables = {
            **collector.variables(),
            "OTEL_BSP_SCHEDULE_DELAY": "5000",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(share),
        }
        async with (
            on.fresh() as pair,
            served(*pair.options, "--workers", str(CONSUMERS), variables=variables) as server,
        ):
            await post_jobs(server.port, AHEAD)
            await server.completed(AHEAD)
            if not healthy:
                collector.suspend()
            return await measured_under_load(server, seconds)


async def measured_under_load(server: Served, seconds: float) -> dict[str, float]:
    process = psutil.Process(server.process.pid)
    before = await server.by_status()
    began = time.monotonic()
    memory: list[tuple[float, float]] = []
    feeding = asyncio.create_task(feed(server, began + seconds), name="feed")
    try:
        while (passed := time.monotonic() - began) < seconds:
            memory.append((passed, process.memory_info().rss / 2**20))
            await asyncio.sleep(LOOK_SECONDS)
        counts = await server.by_status()
        took = time.monotonic() - began
    finally:
        await feeding
    half = [mib for passed, mib in memory if passed < seconds / 2]
    rest = [mib for passed, mib in memory if passed >= seconds / 2]
    page = (await server.client.get("/metrics")).text
    [dropped] = re.findall(r"^jobserver_spans_dropped_total (\S+)$", page, re.MULTILINE)
    return {
        "per_second": (counts["completed"] - before["completed"]) / took,
        "grown_mib": max(rest) - half[-1],
        "most_mib": max(rest),
        "dropped": float(dropped),
    }


async def feed(server: Served, until: float) -> None:
    """Keep jobs waiting, without ever having more of them than run in a moment."""
    while time.monotonic() < until:
        counts = await server.by_status()
        if counts["queued"] < AHEAD:
            await post_jobs(server.port, AHEAD // 2)
        else:
            await asyncio.sleep(LOOK_SECONDS)


async def measured(on: Engines, wanted: Options) -> None:
    seconds = float(wanted.size(60, 5))
    parts = {
        f"{round(share * 100)}_percent_{'healthy' if healthy else 'blackholed'}": partial(
            loaded, on, share=share, healthy=healthy, seconds=seconds
        )
        for share in SHARES
        for healthy in (True, False)
    }
    figures = await interleaved(parts, wanted)
    write("blackhole", wanted, figures, await on.versions())
    for share in SHARES:
        name = f"{round(share * 100)}_percent"
        rates = [figures.get(f"{name}_{state}.per_second") for state in ("healthy", "blackholed")]
        well, ill = (None if each is None else statistics.median(each) for each in rates)
        if well is not None and ill is not None:
            print(f"{name:16} {ill / well:6.2f} of the throughput with a healthy collector")


def main() -> None:
    wanted = options(__doc__)
    with engines() as on:
        asyncio.run(measured(on, wanted))


if __name__ == "__main__":
    main()
