"""Watching: events in pieces of any size, resumed where they broke off, given up in the end."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobserver import Client, RequestRefused, ServerUnreachable, SyncClient
from jobserver.client import Event, JobEvent, ProgressEvent, ResetEvent
from jobserver.client.watching import MAX_EVENT_BYTES, Message, Reader
from tests.client.feeds import JOB, STREAM, Feed, job, message, refusal

# One stream with all that the format knows: each row of `READ` follows from it.
STREAM_TEXT = (
    b"\xef\xbb\xbf: hello\n\n"
    b"event: job\r\nid: 1-0-0\r\ndata: {}\r\n\r\n"
    b"data: a\ndata:b\ndata:  c\n\n"
    b"id: 2-0-0\n\n"
    b"event: progress\rdata: x\r\r"
    b"retry: 1500\nretry: soon\nunknown: 1\nid: no\0no\n\n"
    b"event: job\ndata: \xc3\xa4\nid\n\n"
    b"event: job\ndata: never finished"
)
READ = [
    Message("job", b"{}", "1-0-0"),
    Message("message", b"a\nb\n c", "1-0-0"),
    Message("progress", b"x", "2-0-0"),
    Message("job", "ä".encode(), ""),
]


@given(cuts=st.lists(st.integers(0, len(STREAM_TEXT))))
def test_events_are_read_in_pieces_of_any_size(cuts: list[int]) -> None:
    reader = Reader()
    edges = [0, *sorted(cuts), len(STREAM_TEXT)]
    pieces = [STREAM_TEXT[start:end] for start, end in itertools.pairwise(edges)]
    assert [found for piece in pieces for found in reader.feed(piece)] == READ
    assert (reader.retry_seconds, reader.last_event_id) == (1.5, "")


@pytest.mark.parametrize("endless", [b"x" * 65_536, b"data: x\n" * 8_192])
def test_an_event_without_end_is_not_kept(endless: bytes) -> None:
    reader = Reader()
    pieces = itertools.repeat(endless, 2 * MAX_EVENT_BYTES // len(endless))
    with pytest.raises(ServerUnreachable, match="without end"):
        list(itertools.chain.from_iterable(map(reader.feed, pieces)))


def test_comments_without_end_are_no_event() -> None:
    reader = Reader()
    for _ in range(2 * MAX_EVENT_BYTES // 6_000):
        assert list(reader.feed(b": live\n" * 1_000)) == []


async def watched(feed: Feed, *args: Any, limit: int | None = None, **filters: Any) -> list[Event]:
    """Everything that a client sees, or the first so many events."""
    found: list[Event] = []
    async with Client(feed.url, retries=1) as client:
        async for event in client.watch(*args, **filters):
            found.append(event)
            if len(found) == limit:
                break
    return found


def fences(events: list[Event]) -> list[int]:
    return [event.fence for event in events if isinstance(event, JobEvent)]


async def test_a_job_is_watched_to_its_end() -> None:
    progress = message(
        "progress", {"id": str(JOB), "progress": {"percent": 50, "message": "half"}, "at": "2026-03-07T10:00:00Z"}
    )
    sent = [STREAM, job(0, "queued"), job(1), progress, b": keepalive\n\n", job(2, "completed"), job(3)]
    async with Feed(sent).serving() as feed:
        events = await watched(feed, JOB)
    assert [event.event for event in events] == ["job", "job", "progress", "job"]
    assert fences(events) == [0, 1, 2]
    assert isinstance(events[2], ProgressEvent)
    assert (events[2].progress.percent, events[2].progress.message) == (50, "half")
    assert feed.heads[0].startswith(f"GET /jobs/{JOB}/events HTTP/1.1")
    assert feed.header(0, "accept") == "text/event-stream"


async def test_a_broken_stream_is_resumed_after_its_last_event() -> None:
    first = [STREAM, job(0, "queued", "a-1-0"), job(1, "running", "a-2-0"), job(9)[:20]]
    second = [STREAM, job(1, "running"), job(2, "completed", "a-3-0")]
    async with Feed(first, [refusal(503, Retry_After="0")], second).serving() as feed:
        events = await watched(feed, JOB)
    assert fences(events) == [0, 1, 2]
    assert [feed.header(index, "last-event-id") for index in range(3)] == [None, "a-2-0", "a-2-0"]
    assert events[-1].event_id == "a-3-0"


async def test_all_jobs_are_watched_with_filters_and_without_end() -> None:
    other = UUID(int=7)
    others = [message("reset", {}), message("news", 1)]
    async with Feed([STREAM, job(5, "completed", "x"), job(2, job_id=other), *others, job(6)]).serving() as feed:
        events = await watched(feed, type="echo", status=["running", "completed"], last_event_id="w", limit=6)
    assert fences(events) == [5, 2, 6, 5, 2]
    assert isinstance(events[2], ResetEvent)
    assert feed.heads[0].startswith("GET /events?type=echo&status=running&status=completed HTTP/1.1")
    assert [feed.header(index, "last-event-id") for index in range(2)] == ["w", "x"]


async def test_a_deleted_job_ends_its_watch() -> None:
    gone = {"id": str(JOB), "type": "echo", "queue": "default", "fence": 3, "at": "2026-03-07T10:00:00Z"}
    async with Feed([STREAM, job(1), message("deleted", gone), job(4)]).serving() as feed:
        assert [event.event for event in await watched(feed, JOB)] == ["job", "deleted"]
        assert [event.event for event in await watched(feed, limit=3)] == ["job", "deleted", "job"]


async def test_the_sync_client_watches_too() -> None:
    async with Feed([STREAM, job(0, "queued", "1")], [STREAM, job(0, "queued"), job(1, "failed")]).serving() as feed:

        def watch() -> list[Event]:
            with SyncClient(feed.url) as client:
                return list(client.watch(JOB))

        assert fences(await asyncio.to_thread(watch)) == [0, 1]


async def test_a_job_that_had_ended_before_the_stream_broke_ends_the_watch() -> None:
    async with Feed([STREAM, job(4, "failed")]).serving() as feed:
        assert fences(await watched(feed, JOB)) == [4]
    assert len(feed.heads) == 1


REFUSED = {
    "unknown job": (refusal(404), RequestRefused, 1),
    "no key": (refusal(401), RequestRefused, 1),
    "turned away again and again": (refusal(429, Retry_After="0"), RequestRefused, 2),
    "a Retry-After that is too long": (refusal(503, Retry_After="3600"), RequestRefused, 1),
    "another server": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", ServerUnreachable, 1),
    "cut before it began": (b"", ServerUnreachable, 2),
    "another format": (STREAM + message("job", {"id": 1}), ServerUnreachable, 1),
}


@pytest.mark.parametrize(("answer", "kind", "times"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_stream_is_told(answer: bytes, kind: type[Exception], times: int) -> None:
    async with Feed([answer]).serving() as feed:
        with pytest.raises(kind):
            await watched(feed, JOB)
    assert len(feed.heads) == times


async def test_no_content_ends_the_watch() -> None:
    async with Feed([STREAM, job(1)], [b"HTTP/1.1 204 No Content\r\n\r\n"]).serving() as feed:
        assert fences(await watched(feed)) == [1]


async def test_a_server_that_stays_away_is_given_up_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.client.watching.PATIENCE_SECONDS", 0.3)
    async with Feed([STREAM, job(1)], [b""]).serving() as feed:
        with pytest.raises(ServerUnreachable, match="No answer"):
            await watched(feed)
    # Longer than a first connection is tried.
    assert len(feed.heads) > 2


async def test_a_silent_stream_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.client.http.SILENCE_SECONDS", 0.2)
    silence = asyncio.Event()
    feed = Feed([STREAM, job(0, "queued", "1")], [STREAM, job(1, "completed")], held_open=silence)
    async with feed.serving():
        assert fences(await watched(feed, JOB)) == [0, 1]
        silence.set()
    assert feed.header(1, "last-event-id") == "1"


def test_the_events_of_one_job_have_no_filters() -> None:
    with SyncClient() as client, pytest.raises(TypeError, match="no filters"):
        list(client.watch(JOB, queue="mail"))
