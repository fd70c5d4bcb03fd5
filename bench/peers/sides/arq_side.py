"""arq, in the settings of its documents, with 100 jobs at once.

Persists: to Redis only, as durable as that Redis is. A job is a key and a member of a sorted set before `enqueue_job`
returns; it leaves both when its handler has ended; its result is kept for an hour (the default).
Recovery: a job is free again when its in-progress key expires: 10 s after the longest `job_timeout`, which is 300 s
(the default); a shorter one would end jobs that run for minutes.
Settings: `poll_delay` stays 0.5 s, the default, which is what its latency shows; logs at warning; no bulk call.
"""

from __future__ import annotations

from typing import Any

import protocol
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings


async def noop(ctx: dict[str, Any], n: int, text: str) -> None:
    protocol.mark(n)
    await protocol.hold()


class WorkerSettings:
    functions = (noop,)
    redis_settings = RedisSettings.from_dsn(protocol.REDIS_URL)
    max_jobs = protocol.CONCURRENCY


LOG = {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}}


class Arq(protocol.Side):
    poll_seconds = 0.5
    pool: ArqRedis

    async def __aenter__(self) -> Arq:
        self.pool = await create_pool(RedisSettings.from_dsn(protocol.REDIS_URL))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.pool.aclose()

    async def submit(self, number: int) -> None:
        await self.pool.enqueue_job("noop", n=number, text=protocol.TEXT)

    def worker(self) -> list[str]:
        return [protocol.program("arq"), "arq_side.WorkerSettings", "--custom-log-dict", "arq_side.LOG"]


if __name__ == "__main__":
    protocol.main(Arq())
