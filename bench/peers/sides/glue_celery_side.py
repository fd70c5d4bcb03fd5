"""FastAPI, a row through asyncpg, and Celery on Redis: the glue that most build.

Persists: the row to PostgreSQL, committed at submit and when the task has ended; the queue to Redis only, as durable as
that Redis is. Between the two nothing mends: a row whose message is lost waits for ever.
Settings: one uvicorn process (uvloop, httptools) with up to 20 connections; Celery prefork with a process a core, 50
messages prefetched, results ignored, one psycopg connection a process.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import glue
import protocol
import psycopg
from celery import Celery
from celery.signals import worker_process_init

celery = Celery("glue_celery_side", broker=protocol.REDIS_URL)
celery.conf.update(task_ignore_result=True, worker_prefetch_multiplier=50, broker_connection_retry_on_startup=True)
database: list[psycopg.Connection[Any]] = []


@worker_process_init.connect
def connect(**_: Any) -> None:
    database.append(psycopg.connect(protocol.POSTGRES_URL, autocommit=True))


@celery.task(name="echo")
def echo(job_id: str, payload: dict[str, Any]) -> None:
    database[0].execute(
        "UPDATE jobs SET status = 'completed', result = %s, finished_at = now() WHERE id = %s",
        (json.dumps(payload), job_id),
    )


@asynccontextmanager
async def queue() -> AsyncIterator[glue.Enqueue]:
    async def enqueue(job_id: str, payload: dict[str, Any]) -> None:
        # Celery's call blocks; a thread for half a millisecond would cost more than it spares.
        echo.delay(job_id, payload)

    yield enqueue


app = glue.application(queue)


class GlueCelery(glue.Glue):
    module = "glue_celery_side"

    def worker(self) -> list[str]:
        return [
            *(protocol.program("celery"), "--app", "glue_celery_side:celery", "worker", "--loglevel", "WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]


if __name__ == "__main__":
    protocol.main(GlueCelery())
