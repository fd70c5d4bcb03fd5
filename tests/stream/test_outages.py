"""A server that is full, killed, paused or wiped: an exception within its time, and no lie afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from jobserver.errors import StreamUnavailable
from jobserver.stream.client import StreamClient
from jobserver.stream.events import Told
from jobserver.stream.jobs import Batch, Dead, JobStream
from tests.engines import RedisServer, eventually
from tests.stream.messages import ME, NORMAL, ids, length, message, pending, published


async def test_under_a_full_memory_additions_are_refused_and_reported(stream: JobStream, client: StreamClient) -> None:
    sent = await published(stream, [message() for _ in range(50)])
    done = (await stream.fetch([NORMAL], ME, 10)).deliveries
    await client.commands.config_set("maxmemory", 1)
    more = [message() for _ in range(4)]
    dead = Dead(more[0].job_id, 1, "t")
    refused = await stream.apply(Batch(adds=more[:2], delays=more[2:], dead=[dead]))
    assert refused is not None
    assert refused.why.startswith("5 additions failed")
    assert "maxmemory" in refused.why
    assert not refused.untold
    assert await stream.apply(Batch(acks=done)) is None
    assert (await length(client, stream), await pending(client, stream)) == (40, 0)
    # Reading, taking over and looking go on.
    assert ids((await stream.fetch([NORMAL], ME, 5)).deliveries) == sent[10:15]
    found, _ = await stream.reclaim(NORMAL, "other", min_idle_ms=0, cursor="0-0", count=10)
    assert ids(found) == sent[10:15]
    assert await stream.watermarks([NORMAL]) == {NORMAL: 1_000}
    await client.commands.config_set("maxmemory", 0)
    assert await stream.apply(Batch(adds=more)) is None
    assert await length(client, stream) == 44


async def test_events_that_were_refused_are_told_from_messages_that_were(
    stream: JobStream, client: StreamClient
) -> None:
    """Of one call: transitions find their place by what it frees, or a key of another kind is in their way."""
    told = Told(sender="me", number=1, most=100, count=1, payload=b"[[1,[]]]", gap="", progress=b"")
    await client.commands.set(stream.keys.jobs(*NORMAL), "no stream")
    refused = await stream.apply(Batch(adds=[message()], told=told))
    assert refused is not None
    assert (refused.untold, refused.why.startswith("1 additions failed: WRONGTYPE")) == (False, True)
    assert await client.commands.xlen(stream.keys.events) == 1
    await client.commands.delete(stream.keys.jobs(*NORMAL))
    for key in (stream.keys.events, stream.keys.feed):
        await client.commands.set(key, "no feed")
        told = msgspec.structs.replace(told, number=told.number + 1)
        refused = await stream.apply(Batch(adds=[message()], told=told))
        assert refused is not None
        assert (refused.untold, refused.why.startswith("1 additions failed: WRONGTYPE")) == (True, True)
        await client.commands.delete(key)
    await client.commands.config_set("maxmemory", 1)
    refused = await stream.apply(Batch(told=msgspec.structs.replace(told, number=told.number + 1)))
    assert refused is not None
    assert refused.untold


async def test_under_a_full_memory_what_frees_may_add(stream: JobStream, client: StreamClient) -> None:
    """The next message of a job takes the place of its last, and a promoted one the place of its member."""
    await published(stream, [message()])
    done = (await stream.fetch([NORMAL], ME, 1)).deliveries
    await stream.apply(Batch(delays=[message(available_at_us=number) for number in (1, 2, 900)]))
    await client.commands.config_set("maxmemory", 1)
    assert await stream.apply(Batch(acks=done, adds=[message()])) is None
    assert await stream.promote([NORMAL], now_us=10, limit=10) == (2, 900)
    assert (await length(client, stream), await pending(client, stream)) == (3, 0)


async def test_a_killed_server_is_unavailable_at_once_and_usable_after_its_return(own_redis: RedisServer) -> None:
    client = StreamClient(own_redis.url)
    stream = JobStream(client, "t")
    await published(stream, [message()])
    own_redis.kill()
    started = time.monotonic()
    with pytest.raises(StreamUnavailable):
        await stream.apply(Batch(adds=[message()]))
    with pytest.raises(StreamUnavailable):
        await stream.wait([NORMAL], ME, 1)
    with pytest.raises(StreamUnavailable):
        await stream.reclaim(NORMAL, ME, min_idle_ms=0, cursor="0-0", count=1)
    with pytest.raises(StreamUnavailable):
        await client.ping()
    assert time.monotonic() - started < 3
    own_redis.restart()
    sent = await published(stream, [message()])
    assert sent[0] in ids((await stream.fetch([NORMAL], ME, 10)).deliveries)
    await client.close()


async def test_a_server_killed_during_a_wait_is_unavailable(own_redis: RedisServer) -> None:
    client = StreamClient(own_redis.url)
    stream = JobStream(client, "t")
    await stream.fetch([NORMAL], ME, 1)
    waiting = asyncio.create_task(stream.wait([NORMAL], ME, 1))

    async def blocked() -> bool:
        return any(each["cmd"] == "xreadgroup" for each in await client.commands.client_list())

    await eventually(blocked)
    own_redis.kill()
    with pytest.raises(StreamUnavailable):
        async with asyncio.timeout(3):
            await waiting
    await client.close()


async def test_a_paused_server_is_unavailable_within_three_seconds(own_redis: RedisServer) -> None:
    client = StreamClient(own_redis.url)
    stream = JobStream(client, "t")
    await published(stream, [message()])
    own_redis.pause()
    started = time.monotonic()

    async def refused() -> None:
        with pytest.raises(StreamUnavailable):
            await stream.apply(Batch(adds=[message()]))

    # More than there are connections.
    await asyncio.gather(*(refused() for _ in range(12)))
    assert time.monotonic() - started < 3
    own_redis.resume()
    await published(stream, [message()])
    await client.close()


async def test_a_paused_server_does_not_hold_a_wait_for_long(own_redis: RedisServer) -> None:
    client = StreamClient(own_redis.url)
    stream = JobStream(client, "t")
    await stream.fetch([NORMAL], ME, 1)
    own_redis.pause()
    with pytest.raises(StreamUnavailable):
        async with asyncio.timeout(8):
            await stream.wait([NORMAL], ME, 1)
    own_redis.resume()
    await published(stream, [message()])
    assert (await stream.fetch([NORMAL], ME, 10)).deliveries
    await client.close()


@pytest.mark.usefixtures("patient")
async def test_listening_to_a_server_that_is_gone_ends(own_redis: RedisServer) -> None:
    client = StreamClient(own_redis.url)
    stream = JobStream(client, "t")

    async def listen() -> None:
        async with stream.listening() as wakes:
            own_redis.kill()
            while True:
                await wakes.next()

    with pytest.raises(StreamUnavailable):
        async with asyncio.timeout(5):
            await listen()
    own_redis.restart()
    async with stream.listening() as wakes:
        await stream.wake([message().job_id])
        assert await eventually(wakes.next)
    await client.close()


@pytest.mark.parametrize("turns", range(12))
async def test_a_call_that_is_cancelled_ends_cancelled(own_redis: RedisServer, turns: int) -> None:
    """However far it got: a loop that is told to end must not go on."""
    client = StreamClient(own_redis.url)
    stream = JobStream(client, "t")
    await stream.fetch([NORMAL], ME, 1)
    calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "fetch": lambda: stream.fetch([NORMAL], ME, 1),
        "apply": lambda: stream.apply(Batch(adds=[message()])),
        "reclaim": lambda: stream.reclaim(NORMAL, ME, min_idle_ms=0, cursor="0-0", count=1),
    }
    for name, call in calls.items():
        for _ in range(5):
            task = asyncio.create_task(call(), name=name)
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.cancel():
                await asyncio.wait([task])
                assert task.cancelled(), (name, task)
    await client.close()
