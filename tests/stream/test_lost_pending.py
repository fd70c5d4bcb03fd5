"""Entries whose pending list was lost with their consumer: nobody will acknowledge them, so the sweep deletes them."""

from __future__ import annotations

from jobserver.stream.client import StreamClient
from jobserver.stream.jobs import Batch, JobStream
from jobserver.stream.keys import GROUP
from tests.stream.messages import HIGH, ME, NORMAL, ids, length, message, pending, published

OTHER = "worker-other"


async def lose(client: StreamClient, stream: JobStream, consumer: str) -> None:
    """As anybody may: its pending entries are forgotten, and stay in the stream."""
    await client.commands.execute_command("XGROUP", "DELCONSUMER", stream.keys.jobs(*NORMAL), GROUP, consumer)


async def sweep(stream: JobStream) -> None:
    await stream.forget_consumers([HIGH, NORMAL], [ME, OTHER], idle_ms=60_000)


async def test_what_was_delivered_and_is_pending_with_nobody_is_deleted(
    stream: JobStream, client: StreamClient
) -> None:
    sent = await published(stream, [message() for _ in range(3)])
    await stream.fetch([NORMAL], OTHER, 2)
    await lose(client, stream, OTHER)
    assert (await length(client, stream), await pending(client, stream)) == (3, 0)
    await sweep(stream)
    assert await length(client, stream) == 1
    # What nobody has read yet is still to be read.
    assert ids((await stream.fetch([NORMAL], ME, 10)).deliveries) == sent[2:]


async def test_what_is_pending_and_what_comes_after_it_stays(stream: JobStream, client: StreamClient) -> None:
    await published(stream, [message() for _ in range(4)])
    await stream.fetch([NORMAL], OTHER, 1)
    kept = (await stream.fetch([NORMAL], ME, 1)).deliveries
    await stream.fetch([NORMAL], OTHER, 1)
    await lose(client, stream, OTHER)
    await sweep(stream)
    # The third is found later, when nothing before it is pending any more.
    assert (await length(client, stream), await pending(client, stream)) == (3, 1)
    await stream.apply(Batch(acks=kept))
    await sweep(stream)
    assert (await length(client, stream), await pending(client, stream)) == (1, 0)


async def test_a_group_that_begins_anew_loses_nothing(stream: JobStream, client: StreamClient) -> None:
    sent = await published(stream, [message() for _ in range(3)])
    await stream.fetch([NORMAL], OTHER, 2)
    await client.commands.execute_command("XGROUP", "DESTROY", stream.keys.jobs(*NORMAL), GROUP)
    await sweep(stream)
    assert ids((await stream.fetch([NORMAL], ME, 10)).deliveries) == sent
    await sweep(stream)
    assert await length(client, stream) == 3
