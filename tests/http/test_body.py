"""Bodies: what is read, what is decoded, and what is refused with which status and path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from litestar.types import Receive

from jobserver.errors import Invalid
from jobserver.http import body
from jobserver.http.body import (
    BATCH_BYTES,
    ClientGone,
    check_content_type,
    decode_batch,
    decode_submit,
    decoder,
    limit_of,
    read,
)
from jobserver.http.problems import RequestRefused, TooLarge, reply_to
from jobserver.job.wire import BatchBody, ReplayBody, SubmitBody
from tests.http.cases import BAD_BATCHES, BAD_BODIES, BAD_REPLAYS, BadBody, field, nested, params

MIB = 1_048_576


def scope(**headers: str) -> Any:
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "headers": pairs}


def arriving(*chunks: bytes, then_gone: bool = False) -> Receive:
    """The ASGI messages of a body in chunks."""

    async def messages() -> AsyncIterator[Any]:
        for index, chunk in enumerate(chunks):
            more = then_gone or index < len(chunks) - 1
            yield {"type": "http.request", "body": chunk, "more_body": more}
        yield {"type": "http.disconnect"}

    return messages().__anext__


async def refusal(case: BadBody, kind: type[msgspec.Struct]) -> tuple[int, str | None]:
    """Status and path of what reading and decoding the case leads to."""
    try:
        data = await read(scope(), arriving(case.data), limit_of(kind, MIB))
        await decoder(kind, MIB)(data)
    except (RequestRefused, Invalid) as error:
        reply = reply_to(error, method="POST", path="/jobs")
        problem = msgspec.json.decode(reply.body)
        errors = problem.get("errors", [{"path": None}])
        return reply.status, errors[0]["path"]
    raise AssertionError("the body was accepted")


@pytest.mark.parametrize("case", params(BAD_BODIES))
async def test_a_bad_submit_is_refused(case: BadBody) -> None:
    assert await refusal(case, SubmitBody) == (case.status, case.path)


@pytest.mark.parametrize("case", params(BAD_BATCHES))
async def test_a_bad_batch_is_refused(case: BadBody) -> None:
    assert await refusal(case, BatchBody) == (case.status, case.path)


@pytest.mark.parametrize("case", params(BAD_REPLAYS))
async def test_a_bad_replay_is_refused(case: BadBody) -> None:
    assert await refusal(case, ReplayBody) == (case.status, case.path)


@pytest.mark.parametrize(
    "payload",
    [
        b"null",
        b'"\\u0000"',
        b'{"b":1,"a":2,"\\u00e9":"\xc3\xa9"}',
        b"123456789012345678901234567890",
        b"[1.0,1e2,-0.0,0.1]",
        b'"\\ud83d\\ude00"',
        b' {"a" : [ ] } ',
        b"1e-999",
    ],
)
def test_a_payload_passes_through_as_it_came(payload: bytes) -> None:
    body = decode_submit(b'{"type":"echo","payload":%s}' % payload, "$", MIB)
    assert bytes(body.payload).strip() == payload.strip()


def test_a_payload_left_out_is_null() -> None:
    assert bytes(decode_submit(b'{"type":"echo"}', "$", MIB).payload) == b"null"


def test_the_last_of_two_equal_keys_wins() -> None:
    assert decode_submit(b'{"type":"a","type":"b"}', "$", MIB).type == "b"


@pytest.mark.parametrize("data", [nested(64), nested(63, b'{"a":', b"}").replace(b'"a":}', b'"a":[]}')])
def test_nesting_of_64_is_accepted(data: bytes) -> None:
    decode_submit(data, "$", MIB)


def test_brackets_in_strings_are_not_nesting() -> None:
    decode_submit(field(payload=["[{" * 500, {"[" * 70: "]"}]), "$", MIB)


def test_wide_is_not_deep() -> None:
    decode_submit(field(payload=[[{}] for _ in range(1_000)]), "$", MIB)


async def test_a_payload_may_fill_its_limit() -> None:
    data = field(payload="x" * (MIB - 2))
    assert await read(scope(), arriving(data), limit_of(SubmitBody, MIB)) == data
    decode_submit(data, "$", MIB)


async def test_a_batch_keeps_its_order() -> None:
    data = msgspec.json.encode({"jobs": [{"type": "echo", "payload": number} for number in range(1_000)]})
    batch = await decode_batch(data, MIB)
    assert [msgspec.json.decode(body.payload) for body in batch.jobs] == list(range(1_000))


WELL: dict[str, bytes] = {
    "nothing but a type": b'{"type":"echo"}',
    "every field": field(
        payload={"a": [1, {"b": None}]},
        queue="q",
        priority="high",
        delay=1.5,
        max_retries=2,
        timeout=3,
        idempotency_key="k",
        tags=["a", "b"],
        callback_url="https://example.org/",
    ),
    "times": field(run_at="2040-01-01T12:00:00+02:00", expires_at="2041-01-01T00:00:00Z"),
    "deep": nested(64),
    "wide": field(payload=[[{}] for _ in range(1_000)]),
    "brackets in strings": field(payload="[{" * 500),
    "numbers as they came": b'{"type":"a","payload":{"n":[1.0,1e2,-0.0,123456789012345678901234567890,1e-999]}}',
    "not ASCII": '{"type":"a","payload":{"é":"\\u0000\\ud83d\\ude00"},"tags":["ü"]}'.encode(),
    "spaces": b' { "type" : "a" , "payload" :  [ 1 , 2 ] } ',
}
IN_A_BATCH = WELL | {case.name: case.data for case in BAD_BODIES}


async def outcome(data: bytes) -> list[SubmitBody] | tuple[str, ...]:
    try:
        return (await decode_batch(data, MIB)).jobs
    except (RequestRefused, Invalid) as error:
        return type(error).__name__, str(error), getattr(error, "path", "")


@pytest.mark.parametrize("name", IN_A_BATCH)
async def test_a_batch_at_once_is_what_its_jobs_are_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'{"jobs":[%s]}' % b",".join((WELL["every field"], IN_A_BATCH[name], WELL["not ASCII"]))
    assert (body._batch_at_once(data, MIB) is not None) is (name in WELL)
    at_once = await outcome(data)
    monkeypatch.setattr(body, "SLICE_BYTES", 0)
    one_by_one = await outcome(data)
    assert at_once == one_by_one
    assert isinstance(at_once, list) is (name in WELL)


async def test_a_small_payload_may_be_too_large_within_a_batch() -> None:
    data = b'{"jobs":[{"type":"a","payload":"12345678"},{"type":"a","payload":"123456789"}]}'
    with pytest.raises(TooLarge, match=r"^\$\.jobs\[1\]\.payload is larger than 10 bytes"):
        await decode_batch(data, 10)


async def test_a_large_batch_gives_others_their_turn() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    data = msgspec.json.encode({"jobs": [{"type": "echo", "payload": "x" * 100_000}] * 30})
    task = asyncio.create_task(other(), name="other")
    await decode_batch(data, MIB)
    task.cancel()
    assert turns >= 5


async def test_chunks_are_joined() -> None:
    assert await read(scope(), arriving(b'{"type"', b':"echo', b'"}'), 100) == b'{"type":"echo"}'


class Slow:
    """A client that sends a chunk when its gate is opened."""

    def __init__(self, *chunks: bytes) -> None:
        self.left = list(chunks)
        self.gate = asyncio.Event()
        self.cancelled = False

    async def receive(self) -> Any:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.gate.clear()
        return {"type": "http.request", "body": self.left.pop(0), "more_body": bool(self.left)}


async def test_a_body_that_comes_bit_by_bit_is_waited_for() -> None:
    slow = Slow(b'{"type"', b':"echo', b'"}')
    reading = asyncio.create_task(read(scope(), slow.receive, 100))
    for left in (3, 2, 1):
        await asyncio.sleep(0)
        assert len(slow.left) == left
        assert not reading.done()
        slow.gate.set()
        await asyncio.sleep(0)
    assert await reading == b'{"type":"echo"}'


async def test_a_body_that_comes_too_late_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.http.body.BODY_SECONDS", 0.05)
    slow = Slow(b"never")
    with pytest.raises(RequestRefused) as refused:
        await read(scope(), slow.receive, 100)
    assert refused.value.status == 408
    assert slow.cancelled


async def test_a_reading_that_is_cancelled_stops_waiting() -> None:
    slow = Slow(b"never")
    reading = asyncio.create_task(read(scope(), slow.receive, 100))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert slow.cancelled


async def test_a_body_is_counted_while_it_is_read() -> None:
    asked = 0

    async def endless() -> Any:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"x" * 1_000, "more_body": True}

    with pytest.raises(TooLarge):
        await read(scope(), endless, 10_000)
    assert asked == 11


async def test_a_body_that_announces_too_much_is_not_read() -> None:
    async def unread() -> Any:
        raise AssertionError("the body was read")

    with pytest.raises(TooLarge):
        await read(scope(content_length=str(BATCH_BYTES + 1)), unread, BATCH_BYTES)


async def test_a_client_that_goes_away_ends_the_reading() -> None:
    with pytest.raises(ClientGone):
        await read(scope(), arriving(b'{"type"', then_gone=True), 100)
    with pytest.raises(ClientGone):
        await read(scope(), arriving(), 100)


@pytest.mark.parametrize(
    "value",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
        'application/json; charset="utf-8"',
        "",
    ],
)
def test_json_in_utf8_is_accepted(value: str) -> None:
    check_content_type(scope(content_type=value))


def test_no_content_type_is_accepted() -> None:
    check_content_type(scope())
