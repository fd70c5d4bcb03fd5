"""FastAPI, a row through asyncpg, and SAQ on Redis.

Persists: the row to PostgreSQL, committed at submit and when the job has ended; the queue to Redis only, as durable as
that Redis is. Between the two nothing mends: a row whose message is lost waits for ever.
Settings: one uvicorn process (uvloop, httptools) and one SAQ worker of 100 jobs at once, each with up to 20
connections to PostgreSQL; logs at warning.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import glue
import protocol
from saq import Queue

saq = Queue.from_url(protocol.REDIS_URL)


async def echo(ctx: dict[str, Any], *, job_id: str, payload: dict[str, Any]) -> None:
    await ctx["database"].execute(glue.FINISH, UUID(job_id), payload)


async def startup(ctx: dict[str, Any]) -> None:
    ctx["database"] = await glue.pool()


async def shutdown(ctx: dict[str, Any]) -> None:
    await ctx["database"].close()


settings = {
    "queue": saq,
    "functions": [echo],
    "concurrency": protocol.CONCURRENCY,
    "startup": startup,
    "shutdown": shutdown,
}


@asynccontextmanager
async def queue() -> AsyncIterator[glue.Enqueue]:
    await saq.connect()

    async def enqueue(job_id: str, payload: dict[str, Any]) -> None:
        await saq.enqueue("echo", job_id=job_id, payload=payload)

    yield enqueue
    await saq.disconnect()


app = glue.application(queue)


class GlueSaq(glue.Glue):
    module = "glue_saq_side"

    def worker(self) -> list[str]:
        return [protocol.program("saq"), "glue_saq_side.settings"]


if __name__ == "__main__":
    protocol.main(GlueSaq())
