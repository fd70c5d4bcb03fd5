"""Whether a server that works for long grows: ten minutes at a steady rate, its memory noted every few seconds.

    python -m bench.soak [--quick] [--minutes 10] [--rate 1000] [--into FOLDER]

One process submits over 64 keep-alive connections, a server with 100 consumers takes the jobs and runs them.
Everything goes into `bench/results/soak.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from typing import Final

import msgspec
import psutil

from bench.record import QUICK, RESULTS, Options, write
from bench.served import Engines, RealPair, Served, engines, post, served

CONNECTIONS: Final = 64
CONSUMERS: Final = 100
LOOK_SECONDS: Final = 5.0
# Until caches are filled and pools are open. Growth is counted from here on.
WARM_UP_SECONDS: Final = 60.0


class Noted(msgspec.Struct, frozen=True):
    """The server's resident memory and Valkey's, so many seconds after the start."""

    seconds: float
    rss_mib: float
    redis_mib: float


async def note(server: Served, pair: RealPair, began: float) -> Noted:
    process = psutil.Process(server.process.pid)
    return Noted(
        round(time.monotonic() - began, 1),
        round(process.memory_info().rss / 2**20, 2),
        round(await pair.redis_bytes() / 2**20, 2),
    )


async def soaked(
    on: Engines, seconds: float, rate: float, warm_up_seconds: float
) -> tuple[dict[str, float], list[Noted]]:
    """The figures, and the curve behind them."""
    pause = CONNECTIONS / rate
    async with on.fresh() as pair, served(*pair.options, "--workers", str(CONSUMERS)) as server:
        await post(server.port, CONNECTIONS, CONNECTIONS * 10)
        await server.settled()
        began = time.monotonic()
        idle = await note(server, pair, began)
        load = asyncio.create_task(
            post(server.port, CONNECTIONS, round(rate * seconds), "--pause", str(pause)), name="load"
        )
        curve: list[Noted] = []
        while not load.done():
            await asyncio.wait([load], timeout=LOOK_SECONDS)
            curve.append(await note(server, pair, began))
        posted = await load
        await server.settled()
        lives = await pair.lives()
        last = await note(server, pair, began)
    warm = [each.rss_mib for each in curve if each.seconds >= warm_up_seconds] or [each.rss_mib for each in curve]
    # The first and the last tenth: one sample may be taken while a batch is in memory.
    tenth = max(1, len(warm) // 10)
    return {
        "jobs": lives.completed,
        "post_per_second": posted.per_second,
        "post_p99_ms": posted.p99_ms,
        "rss_warm_mib": statistics.median(warm[:tenth]),
        "rss_end_mib": statistics.median(warm[-tenth:]),
        "rss_growth_mib": statistics.median(warm[-tenth:]) - statistics.median(warm[:tenth]),
        "rss_spread_mib": max(warm) - min(warm),
        "redis_idle_mib": idle.redis_mib,
        "redis_after_mib": last.redis_mib,
    }, curve


async def measured(on: Engines, wanted: Options, minutes: float, rate: float) -> None:
    seconds = minutes * 60
    figures, curve = await soaked(on, seconds, rate, min(WARM_UP_SECONDS, seconds / 4))
    runs = {f"soak.{name}": [round(value, 3)] for name, value in figures.items()}
    write("soak", wanted, runs, await on.versions(), minutes=minutes, rate=rate, curve=curve)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some seconds, into results/quick")
    parser.add_argument("--minutes", type=float, help="how long (10, or 0.1 with --quick)")
    parser.add_argument("--rate", type=float, default=1_000.0, help="jobs a second, at the most")
    parser.add_argument("--runs", type=int, help="taken for the sake of bench, and not heeded: it runs once")
    parser.add_argument("--into", type=Path, help="folder of the results")
    given = parser.parse_args()
    wanted = Options(quick=given.quick, runs=1, only=(), folder=given.into or (QUICK if given.quick else RESULTS))
    with engines() as on:
        asyncio.run(measured(on, wanted, given.minutes or (0.1 if given.quick else 10.0), given.rate))


if __name__ == "__main__":
    main()
