"""ArdiQ (Rust core), with 100 tasks at once.

Persists: to Redis only, as durable as that Redis is. A task is a key and a stream entry before `enqueue` returns and
is acknowledged after its handler has ended; its result is kept for the default time.
Recovery: a worker claims what was not renewed for 60 s (`idle_timeout_ms`, the default).
Settings: the worker is run by `app.run`, as its documents offer, with logs at warning.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

import protocol
from ardiq import Ardiq

app = Ardiq(redis_url=protocol.REDIS_URL, concurrency=protocol.CONCURRENCY)


@app.task()
async def noop(n: int, text: str) -> None:
    protocol.mark(n)
    await protocol.hold()


class ArdiqSide(protocol.Side):
    bulks = True

    async def submit(self, number: int) -> None:
        await noop.enqueue(number, protocol.TEXT)

    async def submit_bulk(self, numbers: Sequence[int]) -> None:
        await app.enqueue_many([noop.prepare(number, protocol.TEXT) for number in numbers])

    def worker(self) -> list[str]:
        return [sys.executable, __file__, "run"]


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        logging.basicConfig(level=logging.WARNING)
        asyncio.run(app.run())
    else:
        protocol.main(ArdiqSide())
        # As its own command leaves: its threads may outlive the interpreter, and then end the process with a fault.
        sys.stdout.flush()
        os._exit(0)
