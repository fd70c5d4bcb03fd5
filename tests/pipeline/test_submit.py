"""A submit that returns is committed, and told to Redis; what is refused is not stored."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from jobserver.errors import DatabaseUnavailable, Invalid, KeyReused, Overloaded
from jobserver.job.handlers import Handlers
from jobserver.job.model import Priority, Status
from jobserver.job.wire import SubmitBody
from jobserver.pipeline import submit as submit_module
from jobserver.pipeline.submit import Submitter
from jobserver.server import Server
from tests.conftest import Pair
from tests.engines import RedisServer, eventually
from tests.parts import body, job_of, parts, submitted, writing
from tests.stream.messages import ME, NORMAL, ids

mail = Handlers()


@mail.handler("email.send", queue="mail", priority="high", max_retries=7, timeout=30)
async def send(to: str) -> None:
    """Nothing is sent."""


async def batch(submitter: Submitter, *bodies: SubmitBody) -> Any:
    return await submitter.submit_many(bodies, scope="", trace_context=None)


async def total(server: Server) -> int:
    return (await server.views.stats()).total


async def test_a_submitted_job_is_committed_with_the_defaults_of_its_type_and_published(pair: Pair) -> None:
    async with parts(pair, mail) as server, writing(server):
        job = await submitted(server, "email.send", {"to": "a@b.c"})
        assert await job_of(server, job.id) == job
        assert (job.queue, job.priority, job.max_retries, job.timeout_seconds) == ("mail", Priority.HIGH, 7, 30.0)
        stream = ("mail", Priority.HIGH)

        async def arrived() -> list[Any]:
            return (await server.stream.fetch([stream], ME, 10)).deliveries

        [delivery] = await eventually(arrived)
        assert (delivery.job_id, delivery.fence) == (job.id, 0)
        assert job.id.version == 7


async def test_what_the_request_says_wins_over_the_defaults(pair: Pair) -> None:
    async with parts(pair, mail) as server, writing(server):
        run_at = server.store.database.clock.now() + timedelta(hours=1)
        inserted = await server.submitter.submit(
            body(
                "email.send",
                {"to": "a"},
                queue="other",
                priority="low",
                max_retries=0,
                timeout=1.5,
                run_at=run_at,
                expires_at=run_at + timedelta(hours=1),
                tags=("x", "y"),
            ),
            scope="key-1",
            trace_context="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        job = await job_of(server, inserted.job.id)
        assert (job.queue, job.priority, job.max_retries, job.timeout_seconds) == ("other", Priority.LOW, 0, 1.5)
        assert (job.status, job.run_at, job.expires_at) == (Status.SCHEDULED, run_at, run_at + timedelta(hours=1))
        assert (job.tags, job.trace_context) == (("x", "y"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        assert "other" in server.queues.paused


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"type_": "no.such"}, "$.type"),
        ({"type_": "email.send", "payload": {"to": 1}}, "$.payload.to"),
        ({"type_": "email.send", "payload": {}}, "$.payload"),
        ({"payload": "x" * 1_100}, "$.payload"),
    ],
)
async def test_what_is_refused_is_not_stored(pair: Pair, fields: dict[str, Any], path: str) -> None:
    async with parts(pair, mail, max_payload_bytes=1_024) as server, writing(server):
        with pytest.raises(Invalid) as refused:
            await server.submitter.submit(body(**fields), scope="", trace_context=None)
        assert refused.value.path == path
        with pytest.raises(Invalid) as refused:
            await batch(server.submitter, body(), body(), body(**fields), body())
        assert refused.value.path == path.replace("$", "$.jobs[2]")
        assert await total(server) == 0


async def test_a_past_expiry_is_judged_by_the_clock_of_the_database(pair: Pair) -> None:
    async with parts(pair) as server, writing(server):
        clock = server.store.database.clock
        with pytest.raises(Invalid, match="in the past") as refused:
            await submitted(server, expires_at=clock.now() - timedelta(milliseconds=1))
        assert refused.value.path == "$.expires_at"
        # This process's own clock may be an hour wrong.
        clock.measured(clock.now() - timedelta(hours=1), time.monotonic_ns(), time.monotonic_ns())
        await submitted(server, expires_at=clock.now() + timedelta(minutes=1))


async def test_an_unknown_type_is_refused_with_near_names_or_taken_with_global_defaults(pair: Pair) -> None:
    async with parts(pair, mail) as server, writing(server):
        with pytest.raises(Invalid, match=r"did you mean email\.send\?"):
            await submitted(server, "email.sent")
    async with parts(pair, workers=0, max_retries=9, timeout=11.0) as api, writing(api):
        job = await submitted(api, "email.sent", {"any": "thing"})
        assert (job.queue, job.max_retries, job.timeout_seconds) == ("default", 9, 11.0)


async def test_a_batch_is_stored_whole_and_answered_in_order(pair: Pair) -> None:
    async with parts(pair, mail) as server, writing(server):
        bodies = [body(payload=number) for number in range(1_000)]
        answers = await batch(server.submitter, *bodies)
        assert [each.job.payload for each in answers] == [str(number).encode() for number in range(1_000)]
        assert all(each.created for each in answers)
        assert [each.job.id for each in answers] == sorted(each.job.id for each in answers)
        assert await total(server) == 1_000


async def test_a_known_key_is_answered_with_its_job_and_published_once(pair: Pair) -> None:
    async with parts(pair) as server, writing(server):
        first = await submitted(server, payload=1, idempotency_key="k")
        again = await server.submitter.submit(body(payload=1, idempotency_key="k"), scope="", trace_context=None)
        assert (again.created, again.job.id) == (False, first.id)
        with pytest.raises(KeyReused):
            await submitted(server, payload=2, idempotency_key="k")
        with pytest.raises(KeyReused) as refused:
            await batch(server.submitter, body(), body(), body(payload=2, idempotency_key="k"))
        assert refused.value.index == 2
        other = await server.submitter.submit(
            body(payload=2, idempotency_key="k"), scope="another key", trace_context=None
        )
        assert other.created
        assert await total(server) == 2
        last = await submitted(server)

        async def arrived() -> list[Any]:
            found.extend((await server.stream.fetch([NORMAL], ME, 10)).deliveries)
            return found if last.id in ids(found) else []

        found: list[Any] = []
        assert ids(await eventually(arrived)) == [first.id, other.job.id, last.id]


async def test_submits_that_arrive_together_share_a_commit(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts(pair) as server, writing(server):
        sizes: list[int] = []
        insert = server.store.insert

        async def counted(groups: Any) -> Any:
            sizes.append(len(groups))
            return await insert(groups)

        monkeypatch.setattr(server.store, "insert", counted)
        jobs = await asyncio.gather(*(submitted(server, payload=number) for number in range(300)))
        assert len({job.id for job in jobs}) == 300
        assert sum(sizes) == 300
        assert len(sizes) < 30


async def test_a_bad_row_fails_its_own_submit_only(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever slips through validation and SQL will not have."""
    async with parts(pair) as server, writing(server):
        bad = SubmitBody(type="echo", payload=msgspec.Raw(b"\xff"))
        answers = await asyncio.gather(
            *(submitted(server, payload=number) for number in range(5)),
            server.submitter.submit(bad, scope="", trace_context=None),
            *(submitted(server, payload=number) for number in range(5)),
            return_exceptions=True,
        )
        assert [isinstance(answer, Exception) for answer in answers] == [False] * 5 + [True] + [False] * 5
        assert await total(server) == 10


async def test_a_commit_that_was_not_confirmed_is_repeated_with_the_same_ids(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with parts(pair) as server, writing(server):
        insert = server.store.insert
        calls = 0

        async def unconfirmed(groups: Any) -> Any:
            nonlocal calls
            calls += 1
            answer = await insert(groups)
            if calls <= 2:
                raise DatabaseUnavailable("the connection was lost after the commit")
            return answer

        monkeypatch.setattr(server.store, "insert", unconfirmed)
        job = await submitted(server, payload=5, idempotency_key="k")
        assert await job_of(server, job.id) == job
        assert (calls, await total(server)) == (3, 1)


async def test_a_database_that_is_away_is_said_after_some_repeats(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts(pair) as server, writing(server):
        calls = 0

        async def away(groups: Any) -> Any:
            nonlocal calls
            calls += 1
            raise DatabaseUnavailable("away")

        monkeypatch.setattr(server.store, "insert", away)
        with pytest.raises(DatabaseUnavailable):
            await submitted(server)
        assert calls == 4


async def test_a_database_that_answers_slowly_with_no_is_not_asked_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with parts(pair) as server, writing(server):
        calls = 0

        async def slow(groups: Any) -> Any:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0.05)
            raise DatabaseUnavailable("no answer within its time")

        monkeypatch.setattr(server.store, "insert", slow)
        monkeypatch.setattr(submit_module, "_PATIENCE_SECONDS", 0.01)
        with pytest.raises(DatabaseUnavailable):
            await submitted(server)
        assert calls == 1


async def test_more_than_may_wait_is_overloaded_and_not_stored(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts(pair) as server, writing(server):
        gate = asyncio.Event()
        insert = server.store.insert

        async def gated(groups: Any) -> Any:
            await gate.wait()
            return await insert(groups)

        monkeypatch.setattr(server.store, "insert", gated)
        monkeypatch.setattr(server.submitter.batcher, "_max_waiting", 10)
        tasks = [asyncio.create_task(submitted(server, payload=number)) for number in range(100)]
        await eventually(lambda: sum(task.done() for task in tasks) > 50)
        gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Overloaded)]
        assert await total(server) == 100 - len(refused) > 0


async def test_submit_works_while_redis_is_away(pair: Pair, own_redis: RedisServer) -> None:
    async with parts(msgspec.structs.replace(pair, redis_url=own_redis.url)) as server, writing(server):
        own_redis.kill()
        started = time.monotonic()
        jobs = [await submitted(server, payload=number) for number in range(20)]
        assert time.monotonic() - started < 5
        assert await total(server) == 20
        own_redis.restart()

        async def arrived() -> bool:
            found.extend((await server.stream.fetch([NORMAL], ME, 100)).deliveries)
            return {job.id for job in jobs} <= set(ids(found))

        found: list[Any] = []
        assert await eventually(arrived)
