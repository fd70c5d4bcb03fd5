"""Submits in the process of a server, without HTTP: a part of `bench.throughput`, in a process of its own.

    python -m bench.inside DATABASE_URL REDIS_URL ONE_BY_ONE BULK

Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from itertools import repeat
from typing import Final

import msgspec
import uvloop

from bench.load import TEXT_BYTES, job
from jobserver.cli.serve import GC_THRESHOLDS
from jobserver.job.wire import SubmitBody
from jobserver.pipeline.submit import Submitter
from jobserver.server import Server
from jobserver.settings import Settings
from jobserver.telemetry.logs import configure_logs

CALLERS: Final = 64
BATCH: Final = 1_000
TIME_LIMIT_SECONDS: Final = 600.0


async def one_by_one(submitter: Submitter, body: SubmitBody, jobs: int) -> float:
    """Jobs a second, each awaited until it is committed, from 64 callers."""
    left = repeat(body, jobs)

    async def caller() -> None:
        for each in left:
            await submitter.submit(each, scope="", trace_context=None)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return jobs / (time.perf_counter() - began)


async def bulk(submitter: Submitter, body: SubmitBody, jobs: int) -> float:
    """Jobs a second, a batch after the other."""
    batch = min(BATCH, jobs)
    began = time.perf_counter()
    for _ in range(jobs // batch):
        await submitter.submit_many([body] * batch, scope="", trace_context=None)
    return jobs / (time.perf_counter() - began)


async def measured(database_url: str, redis_url: str, jobs: int, many: int) -> dict[str, float]:
    body = msgspec.json.decode(msgspec.json.encode(job(TEXT_BYTES)), type=SubmitBody)
    settings = Settings(port=0, workers=0, database_url=database_url, redis_url=redis_url, log_level="warning")
    configure_logs(settings.log_format, settings.log_level)
    async with asyncio.timeout(TIME_LIMIT_SECONDS), Server(settings) as server:
        # As `jobserver serve` does.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await one_by_one(server.submitter, body, max(jobs // 10, CALLERS))
        return {
            "submit_64_per_second": await one_by_one(server.submitter, body, jobs),
            "submit_many_1000_per_second": await bulk(server.submitter, body, many),
        }


def main() -> None:
    database_url, redis_url, jobs, many = sys.argv[1:]
    print(msgspec.json.encode(uvloop.run(measured(database_url, redis_url, int(jobs), int(many)))).decode())


if __name__ == "__main__":
    main()
