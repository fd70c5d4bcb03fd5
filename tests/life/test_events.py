"""Live events while a process is killed and Redis is wiped: gaps only behind a reset, and every end is told."""

from __future__ import annotations

import asyncio
import random

import redis

from tests.engines import RedisServer, eventually
from tests.life.conftest import Serve
from tests.life.process import ServerProcess
from tests.sse import Follower, following


def port_of(server: ServerProcess) -> int:
    return int(server.url.rpartition(":")[2])


async def test_a_kill_and_a_wipe_leave_gaps_only_behind_a_reset(
    serve: Serve, postgresql_url: str, own_redis: RedisServer
) -> None:
    engines = ("--database-url", postgresql_url, "--redis-url", own_redis.url, "--lease-seconds", "2s")
    one, other = [await serve(*engines, "--workers", "4", handlers=None) for _ in range(2)]
    # Only a process that has lived for 5 s judges others.
    await asyncio.sleep(5.5)
    chooses = random.Random(5)
    living = [port_of(one), port_of(other)]
    readers = [Follower(lambda: chooses.choice(living), "/events", seed) for seed in range(5)]
    async with following(readers, hang_up_after=0.5):
        slow = await other.submit_all([{"type": "sleep", "payload": {"seconds": 1.0}} for _ in range(16)])
        late = await other.submit_all([{"type": "echo", "payload": 1, "delay": 0.5 * n} for n in range(10)])
        watched = [*slow, *late]
        watchers = [
            Follower(lambda: chooses.choice(living), f"/jobs/{job_id}/events", seed)
            for seed, job_id in enumerate(watched)
        ]
        async with following(watchers, hang_up_after=1.0) as watching:
            one.kill()
            living.remove(port_of(one))
            await other.submit_all([{"type": "echo", "payload": n} for n in range(100)])
            with redis.Redis.from_url(own_redis.url) as client:
                client.flushall()
            await other.submit_all([{"type": "echo", "payload": n} for n in range(100)])
            async with asyncio.timeout(60):
                await asyncio.gather(*watching)
        for job_id, watcher in zip(watched, watchers, strict=True):
            job = await other.get(f"/jobs/{job_id}")
            assert watcher.disordered == []
            assert watcher.seen[job_id][-1] == (job["fence"], "completed")
        await eventually(lambda: all("wiped" in each.resets or "missed" in each.resets for each in readers))
    assert all(each.disordered == [] for each in readers)
