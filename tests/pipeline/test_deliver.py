"""What Redis is told, and what becomes of it while Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from jobserver.job.model import Delivery, Priority
from jobserver.pipeline.deliver import MAX_WAITING, NEAR_HORIZON_SECONDS, Deliveries
from jobserver.stream.client import StreamClient
from jobserver.stream.jobs import Batch, Dead, JobStream, Message, Refusal
from tests.engines import RedisServer, eventually
from tests.stream.messages import ME, NORMAL, ids, length, message, pending

NOW_US = 1_772_877_600_000_000


class Told:
    """Deliveries on a server of the test's own, by a clock that stands still."""

    def __init__(self, url: str) -> None:
        self.client = StreamClient(url)
        self.stream = JobStream(self.client, "t")
        self.dropped: list[int] = []
        self.delays: list[int] = []
        self.now_us = NOW_US
        self.deliveries = Deliveries(
            self.stream, lambda: self.now_us, on_delay=self.delays.append, on_dropped=self.dropped.append
        )

    async def entries(self) -> int:
        return await length(self.client, self.stream)

    async def delayed(self) -> int:
        return (await self.stream.sizes([NORMAL])).delayed


@pytest.fixture
async def told(own_redis: RedisServer) -> AsyncIterator[Told]:
    told = Told(own_redis.url)
    told.deliveries.start()
    yield told
    await told.deliveries.close(within_seconds=0.1)
    await told.client.close()


def due(seconds: float = 0.0) -> Message:
    return message(available_at_us=NOW_US + int(seconds * 1e6))


async def test_due_messages_go_to_the_stream_and_later_ones_to_the_delayed_set(told: Told) -> None:
    told.deliveries.publish([due(-5), due(), due(3), due(1)])

    async def arrived() -> bool:
        return (await told.entries(), await told.delayed()) == (2, 2)

    await eventually(arrived)
    # The first due time is told, so that nobody sleeps over it.
    assert told.delays == [NOW_US + 1_000_000]


async def test_beyond_the_near_horizon_a_job_stays_in_sql_alone(told: Told) -> None:
    told.deliveries.publish([due(NEAR_HORIZON_SECONDS + 1), due(NEAR_HORIZON_SECONDS)])
    await eventually(lambda: told.deliveries.waiting == 0)
    await eventually(lambda: bool(told.delays))
    assert await told.delayed() == 1
    # But who fills the set from SQL decides for itself.
    told.deliveries.delay(due(NEAR_HORIZON_SECONDS + 1))
    await eventually(lambda: len(told.delays) == 2)
    assert await told.delayed() == 2


async def test_messages_keep_their_order(told: Told) -> None:
    sent = [due() for _ in range(3_500)]
    for each in sent:
        told.deliveries.publish([each])

    async def arrived() -> bool:
        return await told.entries() == len(sent)

    await eventually(arrived)
    assert ids((await told.stream.fetch([NORMAL], ME, 5_000)).deliveries) == [each.job_id for each in sent]


async def test_acknowledged_and_buried_ones_are_told_too(told: Told) -> None:
    told.deliveries.publish([due(), due()])

    async def arrived() -> bool:
        return await told.entries() == 2

    await eventually(arrived)
    fetched = await told.stream.fetch([NORMAL], ME, 2)
    dead = Dead(fetched.deliveries[0].job_id, 2, "t")
    told.deliveries.acknowledge(fetched.deliveries)
    told.deliveries.bury([dead])

    async def settled() -> bool:
        return await pending(told.client, told.stream) == 0 and await told.stream.dead_letters() != []

    await eventually(settled)
    assert await told.stream.dead_letters() == [(dead.job_id, 2)]


async def test_while_redis_is_away_nothing_is_lost(told: Told, own_redis: RedisServer) -> None:
    told.deliveries.publish([due()])
    await eventually(lambda: told.deliveries.waiting == 0)

    async def arrived() -> bool:
        return await told.entries() == 1

    await eventually(arrived)
    own_redis.kill()
    sent = [due() for _ in range(5_000)]
    told.deliveries.publish(sent)
    # One batch was taken and is being repeated.
    await eventually(lambda: told.deliveries.waiting < len(sent))
    own_redis.restart()

    async def caught_up() -> bool:
        return await told.entries() >= 1 + len(sent)

    await eventually(caught_up)
    found = set(ids((await told.stream.fetch([NORMAL], ME, 10_000)).deliveries))
    assert {each.job_id for each in sent} <= found
    assert told.dropped == []


async def test_what_finds_no_place_is_dropped_and_counted(told: Told, own_redis: RedisServer) -> None:
    own_redis.kill()
    messages = [due() for _ in range(MAX_WAITING)]
    told.deliveries.publish(messages)
    assert told.dropped == []
    told.deliveries.publish(due() for _ in range(7))
    told.deliveries.acknowledge([Delivery(messages[0].job_id, 0, 0, NORMAL, "1-1")])
    assert told.dropped == [7, 1]
    assert told.deliveries.waiting == MAX_WAITING


async def test_a_batch_that_redis_will_not_have_stops_nobody(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = JobStream.apply
    bad = Priority.LOW

    async def fails(self: JobStream, batch: Batch) -> Refusal | None:
        if any(each.priority is bad for each in batch.adds):
            raise ValueError("not a batch")
        return await apply(self, batch)

    monkeypatch.setattr(JobStream, "apply", fails)
    told.deliveries.publish([message(("default", bad), available_at_us=NOW_US)])
    await eventually(lambda: told.dropped == [1])
    told.deliveries.publish([due()])

    async def arrived() -> bool:
        return await told.entries() == 1

    await eventually(arrived)


async def test_close_sends_what_waits(own_redis: RedisServer) -> None:
    told = Told(own_redis.url)
    told.deliveries.start()
    told.deliveries.publish(due() for _ in range(3_000))
    await told.deliveries.close()
    assert await told.entries() == 3_000
    await told.client.close()


async def test_close_does_not_wait_for_a_server_that_is_away(own_redis: RedisServer) -> None:
    told = Told(own_redis.url)
    told.deliveries.start()
    own_redis.kill()
    told.deliveries.publish([due()])
    async with asyncio.timeout(5):
        await told.deliveries.close(within_seconds=0.2)
    await told.client.close()
