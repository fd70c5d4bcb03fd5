"""What was decided elsewhere reaches this process within a second, and with Redis at once."""

from __future__ import annotations

import asyncio

import pytest

from jobserver.job.model import Progress, Status
from jobserver.server import Server
from tests.conftest import Pair
from tests.engines import eventually
from tests.parts import ended, job_of, parts
from tests.upkeep.gates import Gate, running_job


async def test_a_turn_brings_cancel_requests_and_stores_progress(consumer: Server, gate: Gate) -> None:
    job, other = await running_job(consumer, gate), await running_job(consumer, gate)
    await consumer.hear.step()
    assert (await job_of(consumer, job.id)).progress == Progress(50.0, "waiting")
    await consumer.store.cancel([job.id])
    await consumer.hear.step()
    async with asyncio.timeout(5):
        await gate.cancelled.wait()
    assert consumer.holdings.get(other.id) is not None
    gate.open.set()
    assert (await ended(consumer, other.id)).status is Status.COMPLETED


async def test_a_turn_brings_queues(consumer: Server) -> None:
    await consumer.store.set_paused("new", True)
    await consumer.hear.step()
    assert consumer.queues.paused["new"]


async def test_hearing_needs_no_redis(pair: Pair, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts(pair, gate.handlers) as server:
        monkeypatch.setitem(server.stream._client.reader.connection_pool.connection_kwargs, "port", 1)
        await server.hear.start()
        await eventually(lambda: server.hear._turns > 1)
        await server.hear.close()
