"""taskiq with the Redis Streams broker of taskiq-redis, which acknowledges, in one worker process of 100 tasks at once.

Persists: to Redis only, as durable as that Redis is. A task is a stream entry before `kiq` returns and is acknowledged
after its handler has ended. No results are kept: no result backend is the default.
Recovery: a worker claims what is older than 10 minutes (`idle_timeout`, the default), whether its worker lives or
not, and only after it has received another task; a shorter time would run tasks twice that take longer.
Settings: uvloop and hiredis; logs at warning; no bulk call.
"""

from __future__ import annotations

import protocol
from taskiq_redis import RedisStreamBroker

# From the start of the stream: jobs that were queued before the first worker are not to be skipped.
broker = RedisStreamBroker(protocol.REDIS_URL, consumer_id="0")


@broker.task(task_name="noop")
async def noop(n: int, text: str) -> None:
    protocol.mark(n)
    await protocol.hold()


class Taskiq(protocol.Side):
    async def __aenter__(self) -> Taskiq:
        await broker.startup()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await broker.shutdown()

    async def submit(self, number: int) -> None:
        await noop.kiq(number, protocol.TEXT)

    def worker(self) -> list[str]:
        return [
            *(protocol.program("taskiq"), "worker", "taskiq_redis_side:broker", "--workers", "1"),
            *("--max-async-tasks", str(protocol.CONCURRENCY), "--log-level", "WARNING"),
        ]


if __name__ == "__main__":
    protocol.main(Taskiq())
