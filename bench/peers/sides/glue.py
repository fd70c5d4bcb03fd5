"""What the three glues share: one table, one FastAPI route that writes a row and then puts the job on the queue.

The table holds what a small team would keep: the job, its status, when it came and when it ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
import protocol
from fastapi import FastAPI
from pydantic import BaseModel

TABLE = """
CREATE TABLE jobs (
    id uuid PRIMARY KEY,
    type text NOT NULL,
    payload jsonb NOT NULL,
    status text NOT NULL DEFAULT 'queued',
    result jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
)
"""
INSERT = "INSERT INTO jobs (id, type, payload) VALUES ($1, $2, $3)"
FINISH = "UPDATE jobs SET status = 'completed', result = $2, finished_at = now() WHERE id = $1"

Enqueue = Callable[[str, dict[str, Any]], Awaitable[None]]


class Submission(BaseModel):
    type: str
    payload: dict[str, Any]


class Submitted(BaseModel):
    id: uuid.UUID
    status: str


def application(queue: Callable[[], AbstractAsyncContextManager[Enqueue]]) -> FastAPI:
    """`POST /jobs` writes the row, commits, and only then enqueues, so that a worker finds it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with pool() as database, queue() as enqueue:
            app.state.database = database
            app.state.enqueue = enqueue
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/jobs", status_code=201)
    async def submit(submission: Submission) -> Submitted:
        job_id = uuid.uuid4()
        await app.state.database.execute(INSERT, job_id, submission.type, submission.payload)
        await app.state.enqueue(str(job_id), submission.payload)
        return Submitted(id=job_id, status="queued")

    return app


def pool() -> AbstractAsyncContextManager[asyncpg.Pool]:
    """Connections that speak JSON."""
    return asyncpg.create_pool(protocol.POSTGRES_URL, min_size=5, max_size=20, init=_speak_json)


async def _speak_json(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=_dumps, decoder=_loads)


def _dumps(value: Any) -> str:
    return json.dumps(value)


def _loads(text: str) -> Any:
    return json.loads(text)


class Glue(protocol.Side):
    """A glue is submitted to over HTTP only, by the load of the bench."""

    module = ""

    async def setup(self) -> None:
        connection = await asyncpg.connect(protocol.POSTGRES_URL)
        async with asyncio.timeout(30):
            await connection.execute(TABLE)
            await connection.close()

    def server(self) -> list[str]:
        return [
            *(sys.executable, "-m", "uvicorn", f"{self.module}:app", "--host", "127.0.0.1"),
            *("--port", str(protocol.PORT), "--log-level", "warning", "--no-access-log"),
        ]
