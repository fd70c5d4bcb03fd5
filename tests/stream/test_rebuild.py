"""Connections that are made anew: all of them, under whoever uses them, and only if new ones are answered."""

from __future__ import annotations

import asyncio
import time

import pytest

from jobserver.errors import StreamUnavailable
from jobserver.job.model import Delivery
from jobserver.stream.client import StreamClient
from jobserver.stream.jobs import JobStream
from tests.clocks import judged_by_the_clock
from tests.engines import RedisServer, eventually
from tests.relay import Relay
from tests.stream.messages import ME, NORMAL, ids, message, published


async def clients(observer: StreamClient) -> dict[int, str]:
    """Every connection but the observer's own: its number and its last command."""
    own = await observer.commands.client_id()
    return {int(each["id"]): each["cmd"] for each in await observer.commands.client_list() if int(each["id"]) != own}


@pytest.mark.usefixtures("patient")
async def test_every_connection_is_new_and_who_waited_goes_on(redis_server: RedisServer) -> None:
    observer = StreamClient(redis_server.url)
    client = StreamClient(redis_server.url)
    stream = JobStream(client, "t")
    await asyncio.gather(*(client.script("sizes", [], ["g"]) for _ in range(4)))
    await stream.fetch([NORMAL], ME, 1)
    woken: list[object] = []

    async def listen() -> None:
        async with stream.listening() as wakes:
            while True:
                woken.extend(await wakes.next())

    async def read() -> list[Delivery]:
        while not (found := (await stream.wait([NORMAL], ME, 1)).deliveries):
            pass
        return found

    ear, reader = asyncio.create_task(listen()), asyncio.create_task(read())

    async def both_wait() -> bool:
        return {"subscribe", "xreadgroup"} <= set((await clients(observer)).values())

    await eventually(both_wait)
    before = set(await clients(observer))
    await client.rebuild()
    [sent] = await published(stream, [message()])
    async with asyncio.timeout(5):
        assert ids(await reader) == [sent]

    async def heard() -> bool:
        await stream.wake([sent])
        return sent in woken

    await eventually(heard)

    async def all_new() -> bool:
        return not before & set(await clients(observer))

    await eventually(all_new)
    ear.cancel()
    await asyncio.wait([ear])
    await client.close()
    await observer.close()


@pytest.mark.usefixtures("patient")
async def test_a_server_that_does_not_answer_leaves_everything_as_it_is(own_redis: RedisServer) -> None:
    client = StreamClient(own_redis.url)
    await client.ping()
    before = await client.commands.client_id()
    own_redis.pause()
    started = time.monotonic()
    with pytest.raises(StreamUnavailable):
        await client.rebuild()
    assert time.monotonic() - started < 4
    own_redis.resume()
    assert await client.commands.client_id() == before
    await client.close()


@judged_by_the_clock
async def test_connections_that_fell_silent_are_replaced(own_redis: RedisServer) -> None:
    """Also one that is in use, by a call that would go on until its limit."""
    async with Relay(own_redis.port) as relay:
        client = StreamClient(f"redis://127.0.0.1:{relay.port}/0")
        await client.ping()
        relay.strand()
        started = time.monotonic()
        with pytest.raises(StreamUnavailable):
            await client.ping()
        # On the path of a request: 100 ms, and what a busy machine adds.
        assert time.monotonic() - started < 1
        await client.rebuild()
        async with asyncio.timeout(1):
            await client.ping()
        await client.close()
