"""Publish, fetch, acknowledge, reclaim, promote, watermarks: every call on every kind of server."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from jobserver.job.model import Priority
from jobserver.stream.client import StreamClient
from jobserver.stream.jobs import Batch, Dead, JobStream
from jobserver.stream.keys import GROUP
from tests.engines import eventually
from tests.stream.messages import HIGH, LOW, ME, NORMAL, consumers, ids, length, message, pending, published


async def test_a_message_comes_back_as_it_was_published(stream: JobStream) -> None:
    sent = message(("mail", Priority.HIGH), fence=7, available_at_us=1_772_877_600_123_456)
    await published(stream, [sent])
    fetched = await stream.fetch([("mail", Priority.HIGH)], ME, 10)
    [found] = fetched.deliveries
    assert (found.job_id, found.fence, found.available_at_us) == (sent.job_id, 7, 1_772_877_600_123_456)
    assert found.stream == ("mail", Priority.HIGH)


async def test_a_fetch_takes_the_first_streams_first_and_never_more_than_its_count(stream: JobStream) -> None:
    low = await published(stream, [message(LOW) for _ in range(3)])
    normal = await published(stream, [message(NORMAL) for _ in range(3)])
    high = await published(stream, [message(HIGH) for _ in range(3)])
    order = [HIGH, NORMAL, LOW]
    assert ids((await stream.fetch(order, ME, 4)).deliveries) == [*high, normal[0]]
    assert ids((await stream.fetch([LOW, NORMAL], ME, 4)).deliveries) == [*low, normal[1]]
    assert ids((await stream.fetch(order, ME, 4)).deliveries) == [normal[2]]
    assert (await stream.fetch(order, ME, 4)).deliveries == []


async def test_a_group_starts_at_the_first_message(stream: JobStream) -> None:
    before = await published(stream, [message() for _ in range(3)])
    fetched = await stream.fetch([NORMAL], ME, 10)
    assert fetched.made_group
    assert ids(fetched.deliveries) == before
    assert not (await stream.fetch([NORMAL], ME, 10)).made_group


async def test_a_batch_larger_than_one_call_of_lua_may_unpack_goes_through(
    stream: JobStream, client: StreamClient
) -> None:
    sent = await published(stream, [message() for _ in range(9_000)])
    fetched = await stream.fetch([NORMAL], ME, 9_000)
    assert ids(fetched.deliveries) == sent
    assert await stream.apply(Batch(acks=fetched.deliveries)) is None
    assert (await length(client, stream), await pending(client, stream)) == (0, 0)


async def test_an_acknowledged_message_is_neither_pending_nor_stored(stream: JobStream, client: StreamClient) -> None:
    await published(stream, [message(), message(), message(HIGH)])
    fetched = await stream.fetch([HIGH, NORMAL], ME, 10)
    assert await pending(client, stream) == 2
    await stream.apply(Batch(acks=fetched.deliveries[:2]))
    assert (await pending(client, stream, HIGH), await length(client, stream, HIGH)) == (0, 0)
    assert (await pending(client, stream), await length(client, stream)) == (1, 1)


async def test_an_empty_batch_asks_nothing(stream: JobStream, client: StreamClient) -> None:
    await client.close()
    assert await stream.apply(Batch()) is None


async def test_one_batch_acknowledges_adds_delays_and_buries(stream: JobStream) -> None:
    await published(stream, [message()])
    [done] = (await stream.fetch([NORMAL], ME, 1)).deliveries
    added, later, dead = message(), message(available_at_us=5_000), Dead(uuid4(), 3, "email.send")
    assert await stream.apply(Batch(acks=[done], adds=[added], delays=[later], dead=[dead])) is None
    assert ids((await stream.fetch([NORMAL], ME, 10)).deliveries) == [added.job_id]
    assert await stream.promote([NORMAL], now_us=5_000, limit=10) == (1, None)
    assert ids((await stream.fetch([NORMAL], ME, 10)).deliveries) == [later.job_id]
    assert await stream.dead_letters() == [(dead.job_id, 3)]


async def test_the_feed_of_dead_letters_is_capped_and_newest_first(
    stream: JobStream, client: StreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.stream.jobs.DLQ_MAXLEN", 100)
    dead = [Dead(uuid4(), number, "t") for number in range(1_000)]
    await stream.apply(Batch(dead=dead))
    found = await stream.dead_letters()
    assert found == [(each.job_id, each.fence) for each in reversed(dead[-100:])]
    # "~" trims by whole nodes of the stream.
    assert await client.commands.xlen(stream.keys.dlq) < 300


async def test_a_wait_returns_as_soon_as_a_message_arrives(stream: JobStream) -> None:
    streams = [HIGH, NORMAL]
    await stream.fetch(streams, ME, 1)
    waiting = asyncio.create_task(stream.wait(streams, ME, 5))
    [sent] = await published(stream, [message()])
    async with asyncio.timeout(5):
        fetched = await waiting
    assert ids(fetched.deliveries) == [sent]
    assert fetched.deliveries[0].stream == NORMAL


async def test_a_wait_for_nothing_ends_within_a_second_or_two(stream: JobStream) -> None:
    await stream.fetch([NORMAL], ME, 1)
    async with asyncio.timeout(3):
        assert (await stream.wait([NORMAL], ME, 5)).deliveries == []


async def test_a_wipe_during_a_wait_loses_nothing_that_is_published_after_it(
    stream: JobStream, client: StreamClient
) -> None:
    """Valkey says NOGROUP, Redis 7 UNBLOCKED, and Redis 6.2 nothing at all: it blocks on."""
    await stream.fetch([NORMAL], ME, 1)
    waiting = asyncio.create_task(stream.wait([NORMAL], ME, 5))

    async def blocked() -> bool:
        return any(each["cmd"] == "xreadgroup" for each in await client.commands.client_list())

    await eventually(blocked)
    await client.commands.flushall()
    async with asyncio.timeout(5):
        woken = await waiting
    assert woken.deliveries == []
    sent = await published(stream, [message(), message()])
    fetched = await stream.fetch([NORMAL], ME, 5)
    assert fetched.made_group
    assert ids(fetched.deliveries) == sent


async def test_a_wait_on_a_wiped_stream_says_so(stream: JobStream, client: StreamClient) -> None:
    await stream.fetch([NORMAL], ME, 1)
    await client.commands.flushall()
    assert (await stream.wait([NORMAL], ME, 5)).made_group


async def test_scripts_come_back_after_they_were_flushed(stream: JobStream, client: StreamClient) -> None:
    await published(stream, [message()])
    for _ in range(2):
        await client.commands.script_flush()
        sent = await published(stream, [message()])
        await client.commands.script_flush()
        assert sent[0] in ids((await stream.fetch([NORMAL], ME, 10)).deliveries)
        await client.commands.script_flush()
        assert await stream.promote([NORMAL], now_us=1, limit=1) == (0, None)
        await client.commands.script_flush()
        assert await stream.watermarks([NORMAL]) == {NORMAL: None}


async def test_messages_of_a_dead_consumer_are_taken_over_when_they_are_idle(
    stream: JobStream, client: StreamClient
) -> None:
    sent = await published(stream, [message(fence=3), message(fence=4)])
    await stream.fetch([NORMAL], "dead", 10)
    assert await stream.reclaim(NORMAL, ME, min_idle_ms=60_000, cursor="0-0", count=10) == ([], "0-0")
    found, cursor = await stream.reclaim(NORMAL, ME, min_idle_ms=0, cursor="0-0", count=10)
    assert (ids(found), cursor) == (sent, "0-0")
    assert [each.fence for each in found] == [3, 4]
    # They are fresh again.
    assert await stream.reclaim(NORMAL, "third", min_idle_ms=60_000, cursor="0-0", count=10) == ([], "0-0")


async def test_old_pending_messages_behind_many_fresh_ones_are_found_by_the_cursor(
    stream: JobStream, client: StreamClient
) -> None:
    sent = await published(stream, [message() for _ in range(303)])
    fetched = await stream.fetch([NORMAL], "dead", 303)
    old = fetched.deliveries[-3:]
    # The last three have been idle for an hour; the 300 before them are fresh.
    await client.commands.execute_command(
        "XCLAIM", stream.keys.jobs(*NORMAL), GROUP, "dead", 0, *(each.entry_id for each in old), "IDLE", 3_600_000
    )
    found, cursor = await stream.reclaim(NORMAL, ME, min_idle_ms=60_000, cursor="0-0", count=10)
    assert found == []
    assert cursor != "0-0"
    looks = 1
    while cursor != "0-0":
        more, cursor = await stream.reclaim(NORMAL, ME, min_idle_ms=60_000, cursor=cursor, count=10)
        found += more
        looks += 1
        assert looks < 100
    assert ids(found) == sent[-3:]


async def test_a_pending_entry_that_was_deleted_is_passed_over(stream: JobStream, client: StreamClient) -> None:
    sent = await published(stream, [message(), message()])
    fetched = await stream.fetch([NORMAL], "dead", 2)
    await client.commands.execute_command("XDEL", stream.keys.jobs(*NORMAL), fetched.deliveries[0].entry_id)
    found, _ = await stream.reclaim(NORMAL, ME, min_idle_ms=0, cursor="0-0", count=10)
    assert ids(found) == sent[1:]


async def test_nothing_is_taken_over_from_a_wiped_stream(stream: JobStream) -> None:
    assert await stream.reclaim(NORMAL, ME, min_idle_ms=0, cursor="5-5", count=10) == ([], "0-0")


async def test_what_is_not_a_message_of_ours_stops_nobody_and_can_be_acknowledged(
    stream: JobStream, client: StreamClient
) -> None:
    """A stray entry names no job: its claim finds none, and then it is dropped."""
    key = stream.keys.jobs(*NORMAL)
    [first] = await published(stream, [message()])
    await client.commands.xadd(key, {"something": "else"})
    await client.commands.xadd(key, {"m": "not a message"})
    [last] = await published(stream, [message()])
    nobody = UUID(int=0)
    fetched = await stream.fetch([NORMAL], "dead", 2)
    assert ids(fetched.deliveries) == [first, nobody]
    assert await stream.watermarks([NORMAL]) == {NORMAL: 0}
    await stream.fetch([NORMAL], "dead", 2)
    found, _ = await stream.reclaim(NORMAL, ME, min_idle_ms=0, cursor="0-0", count=10)
    assert ids(found) == [first, nobody, nobody, last]
    await stream.apply(Batch(acks=found))
    assert (await length(client, stream), await pending(client, stream)) == (0, 0)


async def test_promote_moves_what_is_due_and_says_when_the_next_is(stream: JobStream) -> None:
    due = [message(fence=number, available_at_us=1_772_877_600_000_001 + number) for number in range(3)]
    later = [message(HIGH, available_at_us=1_772_877_601_000_000), message(available_at_us=1_772_877_602_000_000)]
    await stream.apply(Batch(delays=[*due, *later]))
    both = [HIGH, NORMAL]
    assert await stream.promote(both, now_us=1_772_877_600_000_000, limit=10) == (0, due[0].available_at_us)
    assert await stream.promote(both, now_us=due[1].available_at_us, limit=10) == (2, due[2].available_at_us)
    assert await stream.promote(both, now_us=due[2].available_at_us, limit=10) == (1, later[0].available_at_us)
    deliveries = (await stream.fetch(both, ME, 10)).deliveries
    assert [(each.job_id, each.fence, each.available_at_us) for each in deliveries] == [
        (each.job_id, each.fence, each.available_at_us) for each in due
    ]
    assert await stream.promote(both, now_us=later[1].available_at_us, limit=10) == (2, None)


async def test_promote_stops_at_its_limit(stream: JobStream) -> None:
    await stream.apply(Batch(delays=[message(name, available_at_us=5) for name in (HIGH, NORMAL) for _ in range(3)]))
    assert await stream.promote([HIGH, NORMAL], now_us=5, limit=4) == (4, 5)
    assert await stream.promote([HIGH, NORMAL], now_us=5, limit=4) == (2, None)


async def test_two_processes_promote_each_message_once(stream: JobStream) -> None:
    sent = [message(available_at_us=number) for number in range(500)]
    await stream.apply(Batch(delays=sent))
    moved = await asyncio.gather(*(stream.promote([NORMAL], now_us=500, limit=100) for _ in range(6)))
    assert sum(count for count, _ in moved) == 500
    deliveries = (await stream.fetch([NORMAL], ME, 1_000)).deliveries
    assert sorted(ids(deliveries)) == sorted(each.job_id for each in sent)


async def test_the_watermark_is_the_oldest_message_that_was_not_delivered(stream: JobStream) -> None:
    assert await stream.watermarks([NORMAL]) == {NORMAL: None}
    await published(stream, [message(available_at_us=us) for us in (10, 20, 30)])
    # Before there is a group nothing was delivered.
    assert await stream.watermarks([NORMAL, HIGH]) == {NORMAL: 10, HIGH: None}
    await stream.fetch([NORMAL], ME, 1)
    assert await stream.watermarks([NORMAL]) == {NORMAL: 20}
    fetched = await stream.fetch([NORMAL], ME, 2)
    assert await stream.watermarks([NORMAL]) == {NORMAL: None}
    await stream.apply(Batch(acks=fetched.deliveries))
    assert await stream.watermarks([NORMAL]) == {NORMAL: None}
    await published(stream, [message(available_at_us=40)])
    assert await stream.watermarks([NORMAL]) == {NORMAL: 40}


async def test_an_incarnation_is_set_once_and_is_another_after_a_wipe(stream: JobStream, client: StreamClient) -> None:
    assert await stream.incarnation("first") == ("first", True)
    assert await stream.incarnation("second") == ("first", False)
    await client.commands.flushall()
    assert await stream.incarnation("third") == ("third", True)


async def test_a_consumer_is_forgotten_only_when_it_is_dead_idle_and_has_nothing_pending(
    stream: JobStream, client: StreamClient
) -> None:
    await published(stream, [message() for _ in range(3)])
    for name, count in (("busy", 1), ("alive", 1), ("done", 1)):
        fetched = await stream.fetch([NORMAL], name, count)
        if name != "busy":
            await stream.apply(Batch(acks=fetched.deliveries))
    names = {"busy", "alive", "done"}
    assert await consumers(client, stream) == names
    assert await stream.forget_consumers([NORMAL, HIGH], ["alive"], idle_ms=60_000) == 0
    assert await consumers(client, stream) == names

    async def forgotten() -> bool:
        # A consumer is idle from the next millisecond on.
        await stream.forget_consumers([NORMAL, HIGH], ["alive"], idle_ms=0)
        return await consumers(client, stream) == {"busy", "alive"}

    await eventually(forgotten)
    assert await pending(client, stream) == 1
    found, _ = await stream.reclaim(NORMAL, ME, min_idle_ms=0, cursor="0-0", count=10)
    assert len(found) == 1


async def test_sizes_count_entries_pending_and_delayed(stream: JobStream) -> None:
    await published(stream, [message(), message(), message(HIGH)])
    await stream.apply(Batch(delays=[message(), message(LOW)]))
    await stream.fetch([NORMAL], ME, 1)
    sizes = await stream.sizes([HIGH, NORMAL, LOW])
    assert (sizes.entries, sizes.pending, sizes.delayed) == (3, 1, 2)


@pytest.mark.usefixtures("patient")
async def test_a_wake_reaches_everybody_who_listens(stream: JobStream) -> None:
    async with stream.listening() as one, stream.listening() as other:
        await stream.wake([uuid4()])
        async with asyncio.timeout(5):
            assert await eventually(one.next)
            assert await eventually(other.next)


async def test_two_prefixes_share_a_server_and_nothing_else(client: StreamClient) -> None:
    one, other = JobStream(client, "one"), JobStream(client, "other")
    await published(one, [message()])
    assert (await other.fetch([NORMAL], ME, 10)).deliveries == []
    assert (await other.incarnation("x"))[1]
    assert (await one.incarnation("y"))[1]
    names = [key.decode() for key in await client.commands.keys("*")]
    assert all(name.startswith(("{one}:", "{other}:")) for name in names)
