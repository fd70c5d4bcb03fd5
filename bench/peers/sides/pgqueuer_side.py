"""PgQueuer on PostgreSQL through asyncpg, in batches of 100.

Persists: to PostgreSQL, in logged tables (its default, `durable`). Committed at enqueue and when a batch is picked;
the end of a job is written in batches a moment after its handler ended, and moves the row to a log table.
Recovery: a worker picks again what has had no heartbeat for 30 s, and looks at least every 30 s (the defaults).
Settings: uvloop (it brings it); the worker is run by `pgqueuer.run`, as its documents offer, since the command
`pgq run` fails beside current releases of typer; logs at warning.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pgqueuer
import protocol
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries


@asynccontextmanager
async def factory() -> AsyncIterator[PgQueuer]:
    connection = await asyncpg.connect(protocol.POSTGRES_URL)
    pgq = PgQueuer(AsyncpgDriver(connection))

    @pgq.entrypoint("noop")
    async def noop(job: Job) -> None:
        protocol.mark(json.loads(job.payload)["n"])
        await protocol.hold()

    yield pgq
    await connection.close()


def payload(number: int) -> bytes:
    return json.dumps({"n": number, "text": protocol.TEXT}).encode()


class PgQueuerSide(protocol.Side):
    bulks = True
    connection: asyncpg.Connection
    queries: Queries

    async def setup(self) -> None:
        async with self:
            await self.queries.install()

    async def __aenter__(self) -> PgQueuerSide:
        self.connection = await asyncpg.connect(protocol.POSTGRES_URL)
        self.queries = Queries(AsyncpgDriver(self.connection))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.connection.close()

    async def submit(self, number: int) -> None:
        await self.queries.enqueue("noop", payload(number))

    async def submit_bulk(self, numbers: Sequence[int]) -> None:
        count = len(numbers)
        await self.queries.enqueue(["noop"] * count, [payload(number) for number in numbers], [0] * count)

    def worker(self) -> list[str]:
        return [sys.executable, __file__, "run"]


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        uvloop.run(pgqueuer.run(factory, batch_size=protocol.CONCURRENCY))
    else:
        protocol.main(PgQueuerSide())
