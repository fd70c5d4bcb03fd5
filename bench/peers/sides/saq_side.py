"""SAQ on Redis, in the settings of its documents, with 100 jobs at once.

Persists: to Redis only, as durable as that Redis is. A job is a key and an entry of a list before `enqueue` returns;
its key is rewritten when it starts and when it ends, and kept for 10 minutes after (the default).
Recovery: a sweep each minute (the default) retries what has had no heartbeat; heartbeats are for jobs that ask for
them: where that is measured, a job has 600 s, retries, and a heartbeat of 30 s that its handler renews each 10 s.
Settings: redis-py with hiredis, as its extra offers; logs at warning (the default); no bulk call.
"""

from __future__ import annotations

import asyncio
from typing import Any

import protocol
from saq import Queue

BEAT_SECONDS = 10
# `timeout` alone is for jobs of 10 s.
LONG: dict[str, Any] = {"timeout": 600, "heartbeat": 30, "retries": 3} if protocol.RECOVERY else {}

queue = Queue.from_url(protocol.REDIS_URL)


async def noop(ctx: dict[str, Any], *, n: int, text: str) -> None:
    protocol.mark(n)
    for _ in range(int(protocol.HOLD_SECONDS / BEAT_SECONDS)):
        await asyncio.sleep(BEAT_SECONDS)
        await ctx["job"].update()


settings = {"queue": queue, "functions": [noop], "concurrency": protocol.CONCURRENCY}


class Saq(protocol.Side):
    async def __aenter__(self) -> Saq:
        await queue.connect()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await queue.disconnect()

    async def submit(self, number: int) -> None:
        await queue.enqueue("noop", n=number, text=protocol.TEXT, **LONG)

    def worker(self) -> list[str]:
        return [protocol.program("saq"), "saq_side.settings"]


if __name__ == "__main__":
    protocol.main(Saq())
