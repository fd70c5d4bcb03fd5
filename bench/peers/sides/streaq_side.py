"""streaQ, with 100 tasks at once and uvloop.

Persists: to Redis only, as durable as that Redis is. A task is a key and a stream entry before `enqueue` returns; it
is acknowledged after its handler has ended, and its result kept for 5 minutes (the default).
Recovery: a worker claims what was not renewed for 60 s (`idle_timeout`, the default), and looks at least that often.
Settings: the worker is run by `run_sync` instead of the command, which would log every task at info.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import protocol
from streaq import Worker

worker = Worker(redis_url=protocol.REDIS_URL, concurrency=protocol.CONCURRENCY, anyio_kwargs={"use_uvloop": True})


@worker.task()
async def noop(n: int, text: str) -> None:
    protocol.mark(n)
    await protocol.hold()


class Streaq(protocol.Side):
    bulks = True

    async def __aenter__(self) -> Streaq:
        await worker.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await worker.__aexit__(None, None, None)

    async def submit(self, number: int) -> None:
        await noop.enqueue(number, protocol.TEXT)

    async def submit_bulk(self, numbers: Sequence[int]) -> None:
        await worker.enqueue_many([noop.enqueue(number, protocol.TEXT) for number in numbers])

    def worker(self) -> list[str]:
        return [sys.executable, __file__, "run"]


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        logging.basicConfig(level=logging.WARNING)
        worker.run_sync()
    else:
        protocol.main(Streaq())
