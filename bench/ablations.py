"""What each lever is worth: drain and `POST /jobs` with one of them taken away, against the server as it is.

    python -m bench.ablations [--quick] [--runs 5] [--only as_it_is,batching,...]

Everything goes into `bench/results/ablations.json`, each figure also as a share of that of the server as it is.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Final

import msgspec

from bench.ablated import LEVERS
from bench.record import Figures, Options, Part, interleaved, options, write
from bench.served import Engines, engines, post, post_jobs, served
from tests.collector import Collector

AS_IT_IS: Final = "as_it_is"
CONNECTIONS: Final = 64
CONSUMERS: Final = 100


class Ablation(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is started without something; `sql` is run on its empty tables."""

    command: tuple[str, ...] = ("jobserver",)
    options: tuple[str, ...] = ()
    log_level: str = "warning"
    sql: str | None = None
    # The share of traces that is recorded, and sent to a collector on the same two cores. None: no traces at all.
    traces: float | None = None


ABLATIONS: Final[dict[str, Ablation]] = {
    AS_IT_IS: Ablation(),
    # A long lease: what nobody has claimed cannot be extended.
    **{name: Ablation(command=("bench.ablated", name), options=("--lease-seconds", "600")) for name in LEVERS},
    "info_logs": Ablation(log_level="info"),
    "two_connections": Ablation(options=("--pool-size", "2")),
    "full_pages": Ablation(sql="ALTER TABLE jobs SET (fillfactor = 100)"),
    **{f"traces_{percent}_percent": Ablation(traces=percent / 100) for percent in (0, 1, 10, 100)},
}


@contextmanager
def tracing(share: float | None) -> Iterator[Mapping[str, str]]:
    """The variables of a server that records this share of its traces, while a collector takes them."""
    if share is None:
        yield {}
        return
    with closing(Collector(None)) as collector:
        yield {
            **collector.variables(),
            "OTEL_BSP_SCHEDULE_DELAY": "5000",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(share),
        }


async def both(on: Engines, ablation: Ablation, jobs: int) -> dict[str, float]:
    """`POST /jobs` over 64 connections, then a drain by another process, both without the lever."""
    with tracing(ablation.traces) as variables:
        return await both_with(variables, on, ablation, jobs)


async def both_with(variables: Mapping[str, str], on: Engines, ablation: Ablation, jobs: int) -> dict[str, float]:
    """The same, with these variables in the environment."""
    started = partial(served, command=ablation.command, log_level=ablation.log_level, variables=variables)
    async with on.fresh() as pair:
        async with started(*pair.options, *ablation.options, "--workers", "0", "--accept-unknown-types") as api:
            if ablation.sql is not None:
                await pair.sql(ablation.sql)
            await post(api.port, CONNECTIONS, jobs // 10)
            posted = await post(api.port, CONNECTIONS, jobs)
            await post_jobs(api.port, jobs)
        async with started(*pair.options, *ablation.options, "--workers", str(CONSUMERS)) as server:
            await server.completed(jobs // 10 + 2 * jobs)
        lives = await pair.lives()
        return {
            "post_per_second": posted.per_second,
            "post_p99_ms": posted.p99_ms,
            "drain_per_second": lives.drained_per_second,
        }


def shares(figures: Figures) -> dict[str, float]:
    """The median of each rate, divided by that of the server as it is."""
    found = {}
    for figure, values in figures.items():
        name, _, what = figure.partition(".")
        whole = figures.get(f"{AS_IT_IS}.{what}")
        if whole is not None and name != AS_IT_IS and what.endswith("per_second"):
            found[figure] = round(statistics.median(values) / statistics.median(whole), 3)
    return found


def parts(on: Engines, wanted: Options) -> dict[str, Part]:
    jobs = wanted.size(20_000, 200)
    return {name: partial(both, on, ablation, jobs) for name, ablation in ABLATIONS.items()}


async def measured(on: Engines, wanted: Options) -> None:
    figures = await interleaved(parts(on, wanted), wanted)
    found = shares(figures)
    write("ablations", wanted, figures, await on.versions(), shares=found)
    for name, share in found.items():
        print(f"{name:44} {share:8.2f} of the server as it is")


def main() -> None:
    wanted = options(__doc__)
    with engines() as on:
        asyncio.run(measured(on, wanted))


if __name__ == "__main__":
    main()
