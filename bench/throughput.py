"""How many jobs a second: submitted, drained, and both at once, each commit included.

    python -m bench.throughput [--quick] [--runs 5] [--only drain_100,...]

`python`: in the process of the server, without HTTP. `submit`: over HTTP, one process without consumers. `drain_N`:
jobs that wait are run by one process with N consumers. `lives_64`: 64 connections submit while 100 consumers run.
`embedded`: the same on the pair that needs no services. Everything goes into `bench/results/throughput.json`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

import msgspec

from bench.record import Options, Part, interleaved, options, write
from bench.served import ROOT, Engines, Pair, api_of, engines, environment, output_of, post, post_jobs, served

# connections: requests of a full run.
CONNECTIONS: Final = {1: 2_000, 16: 10_000, 64: 20_000, 256: 20_000}
# consumers: jobs of a full run.
CONSUMERS: Final = {1: 2_000, 10: 10_000, 100: 20_000, 1_000: 20_000}
# A quick run does a hundredth of the jobs.
QUICK: Final = 100


# Makes empty engines.
Pairs = Callable[[], AbstractAsyncContextManager[Pair]]


class Sizes(msgspec.Struct, frozen=True):
    """How many jobs a part handles."""

    quick: bool

    def __call__(self, full: int) -> int:
        return max(full // QUICK, 20) if self.quick else full


async def python(on: Engines, size: Sizes) -> dict[str, float]:
    """Submits in the server's own process: one by one from 64 callers, and 1,000 at once from one."""
    async with on.fresh() as pair:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.inside", pair.database_url, pair.redis.url),
            *(str(size(20_000)), str(size(50_000))),
            cwd=ROOT,
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        return msgspec.json.decode(await output_of(process), type=dict[str, float])


async def submit(on: Engines, size: Sizes) -> dict[str, float]:
    """`POST /jobs` one by one, and `/jobs/batch` of 1,000 from one connection and from four."""
    found: dict[str, float] = {}
    async with on.fresh() as pair, api_of(pair) as api:
        await post(api.port, 64, size(2_000))
        for connections, requests in CONNECTIONS.items():
            posted = await post(api.port, connections, size(requests))
            found |= {
                f"post_{connections}_per_second": posted.per_second,
                f"post_{connections}_p50_ms": posted.p50_ms,
                f"post_{connections}_p99_ms": posted.p99_ms,
            }
        for connections in (1, 4):
            found[f"batch_by_{connections}_per_second"] = await post_jobs(
                api.port, size(40_000), connections=connections
            )
    return found


async def drain(pairs: Pairs, size: Sizes, consumers: int, jobs: int) -> dict[str, float]:
    """Jobs wait; a process with so many consumers runs them."""
    async with pairs() as pair:
        async with api_of(pair) as api:
            await post_jobs(api.port, size(jobs))
        async with served(*pair.options, "--workers", str(consumers)) as server:
            await server.completed(size(jobs))
            return {"per_second": (await pair.lives()).drained_per_second}


async def lives(pairs: Pairs, size: Sizes, jobs: int) -> dict[str, float]:
    """Submitted over 64 connections and run by 100 consumers of the same process, from first submit to last end."""
    async with pairs() as pair, served(*pair.options, "--workers", "100") as server:
        warm_up = size(1_000)
        await post(server.port, 64, warm_up)
        await server.completed(warm_up)
        last = (await pair.lives()).finished
        posted = await post(server.port, 64, size(jobs))
        await server.completed(warm_up + size(jobs))
        # Just after the warm-up's last end, by the same clock.
        lived = await pair.lives(last + 1e-5)
        return {
            "per_second": lived.lived_per_second,
            "post_per_second": posted.per_second,
            "post_p99_ms": posted.p99_ms,
        }


async def embedded(on: Engines, size: Sizes) -> dict[str, float]:
    """SQLite and a Valkey of the server's own."""
    async with on.embedded() as pair, api_of(pair) as api:
        await post(api.port, 64, size(1_000))
        posted = await post(api.port, 64, size(10_000))
        batch = await post_jobs(api.port, size(20_000))
    drained = await drain(on.embedded, size, 100, 10_000)
    lived = await lives(on.embedded, size, 10_000)
    return {
        "post_64_per_second": posted.per_second,
        "post_64_p99_ms": posted.p99_ms,
        "batch_by_1_per_second": batch,
        "drain_100_per_second": drained["per_second"],
        "lives_64_per_second": lived["per_second"],
    }


def parts(on: Engines, wanted: Options) -> dict[str, Part]:
    size = Sizes(wanted.quick)
    return {
        "python": partial(python, on, size),
        "submit": partial(submit, on, size),
        **{f"drain_{number}": partial(drain, on.fresh, size, number, jobs) for number, jobs in CONSUMERS.items()},
        "lives_64": partial(lives, on.fresh, size, 20_000),
        "embedded": partial(embedded, on, size),
    }


async def measured(on: Engines, wanted: Options) -> None:
    figures = await interleaved(parts(on, wanted), wanted)
    write("throughput", wanted, figures, await on.versions())


def main() -> None:
    wanted = options(__doc__)
    with engines() as on:
        asyncio.run(measured(on, wanted))


if __name__ == "__main__":
    main()
