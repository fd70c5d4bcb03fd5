"""FastAPI, a row through asyncpg, and arq.

Persists: the row to PostgreSQL, committed at submit and when the job has ended; the queue to Redis only, as durable as
that Redis is. Between the two nothing mends: a row whose message is lost waits for ever.
Settings: one uvicorn process (uvloop, httptools) and one arq worker of 100 jobs at once, each with up to 20
connections to PostgreSQL; logs at warning.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import glue
import protocol
from arq import create_pool
from arq.connections import RedisSettings


async def echo(ctx: dict[str, Any], job_id: str, payload: dict[str, Any]) -> None:
    await ctx["database"].execute(glue.FINISH, UUID(job_id), payload)


async def startup(ctx: dict[str, Any]) -> None:
    ctx["database"] = await glue.pool()


async def shutdown(ctx: dict[str, Any]) -> None:
    await ctx["database"].close()


class WorkerSettings:
    functions = (echo,)
    on_startup = startup
    on_shutdown = shutdown
    redis_settings = RedisSettings.from_dsn(protocol.REDIS_URL)
    max_jobs = protocol.CONCURRENCY


LOG = {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}}


@asynccontextmanager
async def queue() -> AsyncIterator[glue.Enqueue]:
    pool = await create_pool(RedisSettings.from_dsn(protocol.REDIS_URL))

    async def enqueue(job_id: str, payload: dict[str, Any]) -> None:
        await pool.enqueue_job("echo", job_id, payload)

    yield enqueue
    await pool.aclose()


app = glue.application(queue)


class GlueArq(glue.Glue):
    module = "glue_arq_side"

    def worker(self) -> list[str]:
        return [protocol.program("arq"), "glue_arq_side.WorkerSettings", "--custom-log-dict", "glue_arq_side.LOG"]


if __name__ == "__main__":
    protocol.main(GlueArq())
