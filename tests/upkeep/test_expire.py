"""What was not started in time fails, whether or not anybody looks at it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from jobserver.job.model import Status
from jobserver.server import Server
from tests.conftest import Pair
from tests.engines import eventually
from tests.jobs import inserted, job_in
from tests.parts import job_of, status_of, submitted
from tests.servers import running


async def test_expired_jobs_fail_into_the_dead_letters_and_wake_who_waits(server: Server) -> None:
    now = server.store.database.clock.now()
    old = (await inserted(server.store, expires_at=now - timedelta(seconds=1))).job
    fresh = (await inserted(server.store, expires_at=now + timedelta(hours=1))).job
    waiting = asyncio.create_task(server.commands.wait(old.id, 20))
    await eventually(lambda: server.waiters._count == 1)
    assert await server.expire.step() == 1
    async with asyncio.timeout(5):
        done = await waiting
    assert (done.status, done.fence) == (Status.FAILED, 1)
    assert done.error is not None
    assert (done.error.type, done.error.retryable) == ("Expired", False)
    assert await status_of(server, fresh.id) is Status.QUEUED

    async def buried() -> list[Any]:
        return await server.stream.dead_letters()

    assert await eventually(buried) == [(old.id, 1)]
    assert await server.expire.step() == 0


async def test_a_running_job_does_not_expire(server: Server) -> None:
    expires_at = server.store.database.clock.now() + timedelta(seconds=0.3)
    job_id = await job_in(server.store, Status.RUNNING, expires_at=expires_at)
    other = (await inserted(server.store, expires_at=expires_at)).job

    async def expired() -> bool:
        await server.expire.step()
        return await status_of(server, other.id) is Status.FAILED

    await eventually(expired)
    assert await status_of(server, job_id) is Status.RUNNING


async def test_more_than_one_look_takes_expire_too(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.upkeep.expire.LIMIT", 3)
    past = server.store.database.clock.now() - timedelta(seconds=1)
    for _ in range(7):
        await inserted(server.store, expires_at=past)
    assert [await server.expire._step() for _ in range(3)] == [0.0, 0.0, None]
    assert (await server.views.stats()).by_status[Status.FAILED] == 7


async def test_a_job_in_a_paused_queue_expires_too(pair: Pair) -> None:
    async with running(pair) as server:
        await server.commands.pause("default")
        expires_at = server.store.database.clock.now() + timedelta(seconds=0.5)
        job = await submitted(server, expires_at=expires_at)
        done = await server.commands.wait(job.id, 10)
        assert done.status is Status.FAILED
        assert (await job_of(server, job.id)).attempt == 0
