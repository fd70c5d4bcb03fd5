"""The feed of events on every kind of server: appended once, counted, trimmed, named."""

from __future__ import annotations

from uuid import UUID, uuid4

import msgspec
import pytest

from jobserver.job.events import Change, Place, place_and_fence_of, place_of
from jobserver.job.model import Progress
from jobserver.stream.client import StreamClient
from jobserver.stream.events import EventStream, Told
from jobserver.stream.jobs import Batch, JobStream


@pytest.fixture
def events(client: StreamClient, redis_prefix: str) -> EventStream:
    return EventStream(client, redis_prefix)


def told(number: int, jobs: list[UUID], *, most: int = 1_000, gap: str = "", sender: str = "me") -> Told:
    payload = msgspec.json.encode([(5, [(job_id, "echo", "default", "queued", 0, 0) for job_id in jobs])])
    return Told(sender=sender, number=number, most=most, count=len(jobs), payload=payload, gap=gap)


async def tell(stream: JobStream, *arguments: Told) -> None:
    for each in arguments:
        assert await stream.apply(Batch(told=each)) is None


async def test_an_entry_comes_back_as_it_was_told(stream: JobStream, events: EventStream) -> None:
    jobs = [uuid4() for _ in range(3)]
    await tell(stream, told(1, jobs[:1]), told(2, jobs[1:], gap="overflow"))
    entries, said = await events.read("0-0", "0-0")
    assert said == []
    assert [(entry.start, entry.count, entry.gap) for entry in entries] == [(0, 1, ""), (1, 2, "overflow")]
    assert entries[0].flushes == [(5, [Change(str(jobs[0]), "echo", "default", "queued", 0, 0)])]
    head = await events.head()
    assert (head.count, head.last) == (3, entries[1].id)
    assert [entry.id for entry in await events.page(entries[1].id)] == [entries[1].id]
    assert [entry.id for entry in await events.page(f"({entries[0].id}")] == [entries[1].id]
    assert [entry.id for entry in await events.before(head.last, 5)] == [entry.id for entry in entries]


async def test_a_call_that_is_repeated_adds_its_events_once(stream: JobStream, events: EventStream) -> None:
    first, second = told(1, [uuid4()]), told(2, [uuid4()])
    await tell(stream, first, first, second, second, told(2, [uuid4()], sender="other"))
    entries, _ = await events.read("0-0", "0-0")
    assert [entry.start for entry in entries] == [0, 1, 2]


async def test_the_feed_keeps_so_many_events_and_about_a_tenth_more(stream: JobStream, events: EventStream) -> None:
    for number in range(1, 201):
        await tell(stream, told(number, [uuid4() for _ in range(number % 4 + 1)], most=100))
    entries = []
    last = "0-0"
    while page := await events.page(f"({last}"):
        entries += page
        last = page[-1].id
    kept = sum(entry.count for entry in entries)
    assert 100 <= kept <= 120
    assert entries[0].start == (await events.head()).count - kept


async def test_a_feed_is_named_once_and_anew_after_a_wipe(
    stream: JobStream, events: EventStream, client: StreamClient
) -> None:
    before = await events.head()
    assert (before.count, before.last) == (0, "0-0")
    await tell(stream, told(1, [uuid4()]))
    after = await events.head()
    assert (after.feed, after.count) == (before.feed, 1)
    await client.commands.flushall()
    await tell(stream, told(2, [uuid4()]))
    anew = await events.head()
    assert anew.count == 1
    assert anew.feed != before.feed


async def test_what_handlers_say_is_kept_for_a_while(stream: JobStream, events: EventStream) -> None:
    assert await events.progress_head() == "0-0"
    job_id = uuid4()
    payload = msgspec.json.encode((7, [(job_id, 3, Progress(50.0, "half"))]))
    told_of = Told(sender="me", number=1, most=10, count=0, payload=b"[]", progress=payload)
    assert await stream.apply(Batch(told=told_of)) is None
    entries, [(place, (at_us, [said]))] = await events.read("0-0", "0-0")
    assert (entries, at_us, said.id, said.fence, said.progress) == ([], 7, str(job_id), 3, Progress(50.0, "half"))
    assert await events.progress_head() == place


async def test_a_stray_entry_says_nothing(stream: JobStream, events: EventStream, client: StreamClient) -> None:
    await client.commands.xadd(stream.keys.events, {"e": "[["})
    await client.commands.xadd(stream.keys.progress, {"x": "y"})
    [entry], [(_, said)] = await events.read("0-0", "0-0")
    assert (entry.stray, entry.count, said) == (True, 0, (0, []))


@pytest.mark.parametrize("place", [Place("0a1b2c3d", 5, 0), Place("0a1b2c3d", 1_772_877_600_123, 7, 31)])
def test_a_place_is_read_as_it_was_written(place: Place) -> None:
    assert place_of(place.text) == place
    assert place_and_fence_of(f"{place.text}.12") == (place, 12)


@pytest.mark.parametrize(
    "text", ["", "x", "0a1b2c3d", "0a1b2c3d-1", "0A1B2C3D-1-1", "0a1b2c3d-1-1-1-1", "0a1b2c3d-١-1"]
)
def test_what_is_no_place_is_none(text: str) -> None:
    assert place_of(text) is None
    assert place_and_fence_of(text) is None


def test_a_place_that_is_not_known_still_names_a_fence() -> None:
    assert place_and_fence_of("none.4") == (None, 4)
