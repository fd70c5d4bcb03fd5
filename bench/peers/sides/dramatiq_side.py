"""dramatiq on Redis, with a process a core and 8 threads each: its defaults, since threads are what it is made of.

Persists: to Redis only, as durable as that Redis is. A message is an entry of a hash and of a list before `send`
returns and is acknowledged after its actor has ended. No results are kept (the default).
Recovery: a fetch puts back what workers hold that were silent for 60 s, but only one of 1,000 fetches looks, by
chance (`maintenance_chance`, the default), and idle workers fetch a few times a second.
Settings: hiredis; the actor is a plain function, as usual there; no bulk call.
"""

from __future__ import annotations

import dramatiq
import protocol
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=protocol.REDIS_URL))


@dramatiq.actor
def noop(n: int, text: str) -> None:
    protocol.mark(n)
    protocol.hold_thread()


class Dramatiq(protocol.Side):
    async def submit(self, number: int) -> None:
        noop.send(number, protocol.TEXT)

    def worker(self) -> list[str]:
        return [protocol.program("dramatiq"), "dramatiq_side", "--threads", "8"]


if __name__ == "__main__":
    protocol.main(Dramatiq())
