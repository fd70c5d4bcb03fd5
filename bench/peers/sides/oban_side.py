"""Oban for Python on PostgreSQL, with a queue of 100 jobs at once.

Persists: to PostgreSQL, committed at insert, when a batch is fetched and at the end of each job; finished rows are
kept for a day (the default).
Recovery: the leader looks each minute and puts back what began more than 300 s ago (`lifeline`, the default), whether
its worker lives or not: a shorter time would run jobs twice that take longer.
Settings: uvloop, orjson and psycopg's binary speedups (it brings them); logs at warning; without Oban Pro.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import protocol
from oban import Oban, worker
from oban.schema import install
from psycopg_pool import AsyncConnectionPool


@worker(queue="default")
class Noop:
    async def process(self, job: Any) -> None:
        protocol.mark(job.args["n"])
        await protocol.hold()


def args(number: int) -> dict[str, Any]:
    return {"n": number, "text": protocol.TEXT}


class ObanSide(protocol.Side):
    bulks = True
    pool: AsyncConnectionPool
    oban: Oban

    async def setup(self) -> None:
        async with AsyncConnectionPool(protocol.POSTGRES_URL, min_size=1) as pool:
            await install(pool)

    async def __aenter__(self) -> ObanSide:
        self.pool = AsyncConnectionPool(protocol.POSTGRES_URL, min_size=1, max_size=10, open=False)
        await self.pool.open()
        # Without queues it only inserts.
        self.oban = Oban(pool=self.pool, leadership=False)
        await self.oban.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.oban.stop()
        await self.pool.close()

    async def submit(self, number: int) -> None:
        await self.oban.enqueue(Noop.new(args(number)))

    async def submit_bulk(self, numbers: Sequence[int]) -> None:
        await self.oban.enqueue_many([Noop.new(args(number)) for number in numbers])

    def worker(self) -> list[str]:
        return [
            *(protocol.program("oban"), "start", "--dsn", protocol.POSTGRES_URL),
            *("--queues", f"default:{protocol.CONCURRENCY}", "--cron-modules", "oban_side", "--log-level", "WARNING"),
        ]


if __name__ == "__main__":
    # Jobs name their worker by its module, which has another name in the process that runs them.
    from oban_side import ObanSide as Imported

    protocol.main(Imported())
