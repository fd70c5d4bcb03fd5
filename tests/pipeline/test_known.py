"""Types and queues as every process knows them, in fleets whose processes differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from jobserver.errors import DatabaseUnavailable, Invalid
from jobserver.job.handlers import Handlers
from jobserver.job.model import Priority
from jobserver.pipeline.known import MAX_QUEUES, Queues, Types
from jobserver.store.engine import Database
from jobserver.store.jobs import JobStore
from tests.conftest import Pair
from tests.parts import parts

mail = Handlers()


@mail.handler("email.send", queue="mail", priority="high", max_retries=7, timeout=30)
async def send(to: str, copies: Annotated[int, Meta(ge=1)] = 1) -> None:
    """Nothing is sent."""


@mail.handler("email.nothing")
async def nothing() -> None:
    """Takes no arguments."""


other = Handlers()


@other.handler("image.scale")
async def scale(width: int) -> None:
    """Nothing is scaled."""


@pytest.fixture
async def store(postgresql_url: str) -> AsyncIterator[JobStore]:
    """Where a fleet may be: on PostgreSQL."""
    database = Database(postgresql_url)
    yield JobStore(database)
    await database.close()


def types(store: JobStore, handlers: Handlers | None = None) -> Types:
    return Types(store, handlers or Handlers(), max_retries=3, timeout_seconds=60.0)


async def test_an_api_only_process_knows_what_workers_registered(pair: Pair) -> None:
    async with parts(pair) as server:
        api = types(server.store)
        assert await api.find("email.send") is None
        worker = types(server.store, mail)
        await worker.register()
        await api.refresh()
        found = await api.find("email.send")
        assert found == worker.own["email.send"]
        assert found is not None
        assert (found.queue, found.priority, found.max_retries, found.timeout_seconds) == (
            "mail",
            Priority.HIGH,
            7,
            30.0,
        )
        defaults = await api.find("email.nothing")
        assert defaults is not None
        assert (defaults.queue, defaults.max_retries, defaults.timeout_seconds) == ("default", 3, 60.0)


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"to": "a"}, None),
        ({"to": "a", "copies": 2}, None),
        ({"to": 1}, "$.payload.to"),
        ({"to": "a", "copies": 0}, "$.payload.copies"),
        ({}, "$.payload"),
        (None, "$.payload"),
        ({"to": "a", "unknown": 1}, "$.payload"),
        ([], "$.payload"),
        ("text", "$.payload"),
    ],
)
async def test_a_payload_is_checked_alike_by_who_handles_it_and_by_who_does_not(
    store: JobStore, payload: object, path: str | None
) -> None:
    worker, api = types(store, mail), types(store)
    await worker.register()
    await api.refresh()
    raw = msgspec.json.encode(payload)
    for process in (worker, api):
        if path is None:
            process.check("email.send", raw)
        else:
            with pytest.raises(Invalid) as refused:
                process.check("email.send", raw)
            assert refused.value.path == path
        process.check("email.nothing", b"null")


async def test_workers_with_different_handlers_know_each_other_within_a_look(pair: Pair) -> None:
    async with parts(pair) as server:
        one, two = types(server.store, mail), types(server.store, other)
        await one.register()
        await two.register()
        await one.refresh()
        await two.refresh()
        assert (await one.find("image.scale")) == two.own["image.scale"]
        assert (await two.find("email.send")) == one.own["email.send"]
        # A later release of the handler: its new defaults are known to the others, its own to itself.
        renewed = Handlers()
        renewed.handler("image.scale", queue="images", max_retries=9)(scale.function)
        await types(server.store, renewed).register()
        await one.refresh()
        await two.refresh()
        found = await one.find("image.scale")
        assert found is not None
        assert (found.queue, found.max_retries) == ("images", 9)
        assert (await two.find("image.scale")) == two.own["image.scale"]


def counted_looks(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one with each look at the registered types."""
    looks: list[object] = []
    since = store.types_since

    async def counted(moment: datetime) -> object:
        looks.append(moment)
        return await since(moment)

    monkeypatch.setattr(store, "types_since", counted)
    return looks


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/schema"},
        {"properties": {"to": {"pattern": "(?<=a+)b("}}},
        {"type": "no such type"},
    ],
    ids=["elsewhere", "pattern", "type"],
)
async def test_a_schema_that_cannot_be_read_checks_nothing_and_fetches_nothing(
    store: JobStore, schema: dict[str, object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("something was looked up")

    monkeypatch.setattr("socket.getaddrinfo", asked)
    await store.register_types([msgspec.structs.replace(types(store, mail).own["email.send"], schema=schema)])
    api = types(store)
    assert await api.find("email.send") is not None
    api.check("email.send", b'{"to": 1}')
    assert "schema_unreadable" in caplog.messages
    # It is still JSON.
    with pytest.raises(msgspec.DecodeError):
        api.check("email.send", b"{")


async def test_those_who_ask_for_unknown_types_at_once_share_a_look(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with parts(pair) as server:
        api = types(server.store)
        looks = counted_looks(server.store, monkeypatch)
        assert await asyncio.gather(*(api.find("no.such") for _ in range(50))) == [None] * 50
        # The one under way when they came, and the next.
        assert 1 <= len(looks) <= 2


async def test_a_look_that_fails_is_none(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes it for the answer that there is no such type."""
    async with parts(pair) as server:
        api = types(server.store)

        async def away(since: datetime) -> None:
            await asyncio.sleep(0)
            raise DatabaseUnavailable("away")

        monkeypatch.setattr(server.store, "types_since", away)
        answers = await asyncio.gather(*(api.find("no.such") for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in answers] == [DatabaseUnavailable] * 3
        assert not api.looked(within_seconds=60.0)


async def test_a_registration_that_commits_late_is_not_overlooked(store: JobStore) -> None:
    """Its time is that of its statement: another process may have registered, and been seen, in between."""
    api = types(store)
    async with store.database.write() as session:
        late = types(store, mail).own["email.send"]
        await session.fetch(
            "register_type",
            type=late.type,
            queue=late.queue,
            priority=int(late.priority),
            max_retries=late.max_retries,
            timeout_seconds=late.timeout_seconds,
            schema="{}",
        )
        await types(store, other).register()
        await api.refresh()
        assert await api.find("image.scale") is not None
    await api.refresh()
    assert await api.find("email.send") is not None


async def test_near_names_are_offered(pair: Pair) -> None:
    async with parts(pair) as server:
        await types(server.store, other).register()
        known = types(server.store, mail)
        await known.refresh()
        assert known.near("email.sent")[0] == "email.send"
        assert known.near("image.scales")[0] == "image.scale"
        assert list(known.near("something else")) == []


async def test_queues_are_known_to_every_process_and_bounded(pair: Pair) -> None:
    async with parts(pair) as server:
        store = server.store
        one, two = Queues(store, None), Queues(store, None)
        await one.refresh()
        await one.ensure(f"q{number}" for number in range(MAX_QUEUES - 1))
        with pytest.raises(Invalid, match="1000 queues already") as refused:
            await one.ensure(["one-too-many"])
        assert refused.value.path == "$.queue"
        await one.ensure(["q0", "default"])
        await two.refresh()
        assert set(two.paused) == {"default", *(f"q{number}" for number in range(MAX_QUEUES - 1))}
        with pytest.raises(Invalid):
            await two.ensure(["one-too-many"])
        assert "one-too-many" not in await store.queues()
        assert len(two.streams()) == 3 * MAX_QUEUES


async def test_a_paused_queue_is_not_served_and_only_wanted_ones_are(pair: Pair) -> None:
    async with parts(pair) as server:
        every, some = Queues(server.store, None), Queues(server.store, ("b", "later"))
        await every.ensure(["a", "b"])
        await server.store.set_paused("b", True)
        await server.store.set_paused("new", True)
        await every.refresh()
        await some.refresh()
        assert every.served() == ["a", "default"]
        # What has ended is told by everybody.
        assert some.served() == ["later", "callbacks"]
        await server.store.set_paused("b", False)
        await some.refresh()
        assert some.served() == ["b", "later", "callbacks"]
        # Upkeep looks after all queues, whoever serves them.
        assert {name for name, _ in some.streams()} == {"a", "b", "default", "new"}


async def test_where_unknown_types_are_taken_they_are_looked_up_once_a_second(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with parts(pair) as server:
        api = types(server.store)
        looks = counted_looks(server.store, monkeypatch)
        for _ in range(50):
            assert await api.find("no.such", within_seconds=60.0) is None
        assert len(looks) == 1
