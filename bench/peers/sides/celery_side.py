"""Celery on Redis, prefork with a process a core: its default, and what its documents advise.

Persists: to Redis only, as durable as that Redis is. A message is an entry of a list before `delay` returns. It is
acknowledged before its task runs (the default), so a worker that is killed loses what it was running.
Recovery: with `acks_late`, which its documents advise for tasks that must run again after a crash, and which is on
where that is measured, a message returns after the visibility timeout of an hour (the default); a shorter one would
run tasks twice that take longer. Without it, what ran is lost.
Settings: results ignored and 50 messages prefetched a process, both advised for many short tasks; no gossip, mingle
or heartbeat; logs at warning; no bulk call.
"""

from __future__ import annotations

import protocol
from celery import Celery

app = Celery("celery_side", broker=protocol.REDIS_URL)
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=50, broker_connection_retry_on_startup=True)
if protocol.RECOVERY:
    app.conf.update(task_acks_late=True)


@app.task(name="noop")
def noop(n: int, text: str) -> None:
    protocol.mark(n)
    protocol.hold_thread()


class CelerySide(protocol.Side):
    async def submit(self, number: int) -> None:
        noop.delay(number, protocol.TEXT)

    def worker(self) -> list[str]:
        return [
            *(protocol.program("celery"), "--app", "celery_side", "worker", "--loglevel", "WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]


if __name__ == "__main__":
    protocol.main(CelerySide())
