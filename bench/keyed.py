"""What an API key costs a submit: two servers without consumers, one of them with keys, one after the other.

    python -m bench.keyed [--runs 5] [--requests 10000]

CPU time of the server process for each `POST /jobs` over 64 connections, in microseconds: the median of the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys

import psutil

from bench.served import ROOT, RealPair, Served, api_of, engines, environment, post

CONNECTIONS = 64


async def cost(server: Served, requests: int, *options: str) -> float:
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    await post(server.port, CONNECTIONS, requests, *options)
    after = process.cpu_times()
    return (after.user - before.user + after.system - before.system) / requests * 1e6


def made_in(pair: RealPair) -> str:
    """A key that this database knows."""
    made = subprocess.run(
        [
            *(sys.executable, "-m", "jobserver", "keys", "create", "bench", "--scope", "submit"),
            *("--database-url", pair.database_url),
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()


async def measured(runs: int, requests: int) -> None:
    with engines() as on:
        async with on.fresh() as open_pair, on.fresh() as keyed_pair:
            key = await asyncio.to_thread(made_in, keyed_pair)
            async with (
                api_of(open_pair) as without,
                api_of(keyed_pair, "--redis-prefix", "keyed") as keyed,
            ):
                found: dict[str, list[float]] = {"without": [], "with": []}
                for number in range(runs + 1):
                    one = await cost(without, requests)
                    two = await cost(keyed, requests, "--key", key)
                    if number:  # the first warms up
                        found["without"].append(one)
                        found["with"].append(two)
    for name, values in found.items():
        print(f"{name} a key: {statistics.median(values):.1f} µs ({min(values):.1f} to {max(values):.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    asyncio.run(measured(options.runs, options.requests))


if __name__ == "__main__":
    main()
