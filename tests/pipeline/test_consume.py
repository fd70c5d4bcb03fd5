"""From the stream to the end: in which order, what a refused claim leads to, and what a drain leaves behind."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from jobserver.errors import DatabaseUnavailable
from jobserver.job.attempt import Attempt
from jobserver.job.handlers import Handlers
from jobserver.job.model import Priority, Status
from jobserver.job.times import instant_us
from jobserver.pipeline.consume import fetch_order
from jobserver.server import Server
from jobserver.stream.jobs import Batch, Message
from tests.conftest import Pair
from tests.engines import eventually
from tests.jobs import claimed, inserted, job_in
from tests.parts import consuming, ended, job_of, outcomes, parts, status_of, submitted, writing
from tests.servers import running
from tests.stream.messages import NORMAL, length, pending


class Work:
    """Handlers that say what they ran, and one that waits for its gate."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.ran: list[Any] = []
        self.handlers = Handlers()
        self.handlers.handler("note")(self.note)
        self.handlers.handler("gate")(self.wait)

    async def note(self, n: int) -> None:
        self.ran.append(n)

    async def wait(self, attempt: Attempt) -> str:
        self.ran.append(attempt.job_id)
        await self.gate.wait()
        return "through"


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def server(pair: Pair, work: Work) -> AsyncIterator[Server]:
    """Parts that do not run yet, with two consumers."""
    async with parts(pair, work.handlers, workers=2) as server:
        yield server


async def redis_of(server: Server) -> tuple[int, int, int]:
    """Entries of the stream, of them pending, and members of the delayed set."""
    sizes = await server.stream.sizes([NORMAL])
    return sizes.entries, sizes.pending, sizes.delayed


# In which order.


def test_of_twenty_fetches_sixteen_start_high_three_normal_and_one_low() -> None:
    first = Counter(fetch_order(turn, ["a"])[0][1] for turn in range(20))
    assert first == {Priority.HIGH: 16, Priority.NORMAL: 3, Priority.LOW: 1}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 16, 19, 20, 21, 60])
def test_every_queue_is_the_first_of_its_level_equally_often(count: int) -> None:
    queues = [f"q{number}" for number in range(count)]
    firsts = Counter(fetch_order(turn, queues)[0] for turn in range(20 * count))
    assert firsts == {
        (queue, level): turns
        for queue in queues
        for level, turns in ((Priority.HIGH, 16), (Priority.NORMAL, 3), (Priority.LOW, 1))
    }


@pytest.mark.parametrize("turn", range(20))
def test_every_fetch_names_every_stream_once_and_its_levels_in_order(turn: int) -> None:
    order = fetch_order(turn, ["a", "b", "c"])
    assert sorted(order) == [(queue, level) for queue in "abc" for level in Priority]
    levels = [level for _, level in order][::3]
    assert levels[1:] == sorted(levels[1:])


def test_without_queues_there_is_nothing_to_fetch() -> None:
    assert fetch_order(7, []) == []


async def test_one_consumer_runs_high_before_normal_before_low(pair: Pair, work: Work) -> None:
    async with parts(pair, work.handlers, workers=1) as server:
        async with writing(server):
            for n, priority in enumerate(["low", "normal", "high", "low", "normal", "high"]):
                await submitted(server, "note", {"n": n}, priority=priority)
        async with consuming(server):
            await eventually(lambda: len(work.ran) == 6)
        # The fifth fetch starts at normal, which is empty by then.
        assert work.ran == [2, 5, 1, 4, 0, 3]


async def test_a_job_runs_from_submit_to_its_end(server: Server, work: Work) -> None:
    async with consuming(server):
        job = await ended(server, (await submitted(server, "note", {"n": 5})).id)
        assert (job.status, job.attempt, job.fence, job.worker_id) == (Status.COMPLETED, 1, 2, server.worker_id)
        assert work.ran == [5]

        async def settled() -> bool:
            return await redis_of(server) == (0, 0, 0)

        await eventually(settled)


async def test_many_jobs_run_once_each(server: Server, work: Work) -> None:
    async with consuming(server):
        jobs = await asyncio.gather(*(submitted(server, "note", {"n": n}) for n in range(300)))
        for job in jobs:
            assert (await ended(server, job.id)).status is Status.COMPLETED
        assert sorted(work.ran) == list(range(300))
        await eventually(lambda: server.consumers.busy == 0)


async def test_a_job_that_has_ended_is_freed_at_once_and_not_by_the_garbage_collector(
    server: Server, work: Work
) -> None:
    async def through(count: int) -> None:
        done = len(work.ran) + count
        for n in range(count):
            await submitted(server, "note", {"n": n})
        await eventually(lambda: len(work.ran) == done and not len(server.holdings))

    async with consuming(server):
        await through(20)
        gc.collect()
        gc.disable()
        try:
            await through(200)
            # A cycle a job would be more objects than there were jobs.
            assert gc.collect() < 200
        finally:
            gc.enable()


# What is claimed ahead of its turn.


async def after_short_jobs(server: Server, work: Work) -> None:
    """So many that the consumers take jobs for short ones, and claim some ahead."""
    for job in await asyncio.gather(*(submitted(server, "note", {"n": 0}) for _ in range(100))):
        await ended(server, job.id)
    await eventually(lambda: not len(server.holdings))
    work.ran.clear()


async def test_three_times_as_many_are_claimed_ahead_and_no_more_run_than_there_are_consumers(
    server: Server, work: Work
) -> None:
    async with consuming(server):
        await after_short_jobs(server, work)
        jobs = [await submitted(server, "gate") for _ in range(10)]
        # By whole batches: one place may stay empty.
        await eventually(lambda: len(server.holdings) >= 7)
        assert len(server.holdings) <= 8
        assert server.consumers.busy == len(work.ran) == 2
        work.gate.set()
        for job in jobs:
            assert (await ended(server, job.id)).attempt == 1


async def test_what_waits_too_long_for_its_turn_is_handed_back(server: Server, work: Work) -> None:
    async with consuming(server):
        await after_short_jobs(server, work)
        jobs = [await submitted(server, "gate") for _ in range(6)]
        await eventually(lambda: len(server.holdings) == 6)
        # Two run; the others are there for any process, and nothing is claimed ahead of its turn any more.
        await eventually(lambda: len(server.holdings) == 2)
        found = [await job_of(server, job.id) for job in jobs]
        assert sorted(job.status for job in found) == [Status.QUEUED] * 4 + [Status.RUNNING] * 2
        assert sorted(job.attempt for job in found) == [0] * 4 + [1] * 2
        work.gate.set()
        for job in jobs:
            done = await ended(server, job.id)
            assert (done.status, done.attempt) == (Status.COMPLETED, 1)


async def test_what_was_claimed_ahead_is_handed_back_at_a_stop(server: Server, work: Work) -> None:
    async with consuming(server):
        await after_short_jobs(server, work)
        jobs = [await submitted(server, "gate") for _ in range(6)]
        await eventually(lambda: len(server.holdings) == 6)
        draining = asyncio.create_task(server.consumers.drain(within_seconds=5.0))
        await eventually(lambda: len(server.holdings) == 2)
        work.gate.set()
        await draining
        found = [await job_of(server, job.id) for job in jobs]
        assert sorted(job.status for job in found) == [Status.COMPLETED] * 2 + [Status.QUEUED] * 4
        assert sorted(job.attempt for job in found) == [0] * 4 + [1] * 2


# What a refused claim leads to.


async def told(server: Server, job_id: Any, fence: int, *, free: int = 2) -> None:
    """A message for the job, and then proof that it was read and judged."""
    message = Message(job_id, fence, "default", Priority.NORMAL, 1_000)
    assert await server.stream.apply(Batch(adds=[message])) is None
    await ended(server, (await submitted(server, "echo")).id)
    await eventually(lambda: server.consumers.free == free)
    await eventually(lambda: server.deliveries.waiting == 0)


async def test_a_message_of_no_job_is_dropped(server: Server) -> None:
    async with consuming(server):
        await told(server, uuid4(), 0)
        assert await eventually_is(server, (0, 0, 0))


async def test_stray_entries_of_the_stream_are_dropped_and_stop_nobody(server: Server) -> None:
    async with consuming(server):
        for number in range(3):
            await server._client.commands.xadd(server.stream.keys.jobs(*NORMAL), {"stray": number})
        await told(server, uuid4(), 0)
        assert await eventually_is(server, (0, 0, 0))


@pytest.mark.parametrize(
    ("status", "fence"),
    [(Status.QUEUED, 5), (Status.RETRYING, 0), (Status.COMPLETED, 2), (Status.CANCELED, 0), (Status.FAILED, 1)],
)
async def test_a_stale_message_is_dropped(server: Server, status: Status, fence: int) -> None:
    job_id = await job_in(server.store, status)
    before = await job_of(server, job_id)
    async with consuming(server):
        await told(server, job_id, fence)
        assert await eventually_is(server, (0, 0, 0))
        assert await job_of(server, job_id) == before


async def test_a_message_that_is_early_goes_to_the_delayed_set(server: Server) -> None:
    job = (await inserted(server.store, delay_seconds=60.0)).job
    async with consuming(server):
        await told(server, job.id, 0)
        assert await eventually_is(server, (0, 0, 1))
        moved, due_us = await server.stream.promote([NORMAL], now_us=0, limit=1)
        assert (moved, due_us) == (0, instant_us(job.due_at))


async def test_a_message_of_a_paused_queue_is_dropped_and_its_job_waits(server: Server) -> None:
    job = (await inserted(server.store)).job
    # Another process paused it, and this one has not heard of it.
    await server.store.set_paused("default", True)
    async with consuming(server):
        await server.stream.apply(Batch(adds=[Message(job.id, 0, "default", Priority.NORMAL, 1_000)]))

        async def read() -> bool:
            return (await server.stream.watermarks([NORMAL]))[NORMAL] is None

        await eventually(read)
        assert await eventually_is(server, (0, 0, 0))
        assert await status_of(server, job.id) is Status.QUEUED


async def test_a_message_of_an_expired_job_is_dropped_and_left_to_upkeep(server: Server) -> None:
    past = server.store.database.clock.now() - timedelta(seconds=1)
    job = (await inserted(server.store, expires_at=past)).job
    async with consuming(server):
        await told(server, job.id, 0)
        assert await eventually_is(server, (0, 0, 0))
        assert await status_of(server, job.id) is Status.QUEUED


@pytest.mark.parametrize("lease_seconds", [60.0, -1.0])
async def test_a_message_of_a_job_that_another_process_runs_stays_pending(server: Server, lease_seconds: float) -> None:
    """Whether its lease is valid (XAUTOCLAIM was early) or over (reclaim will take the job back)."""
    job = await claimed(
        server.store, (await inserted(server.store)).job.id, worker_id="another", lease_seconds=lease_seconds
    )
    async with consuming(server):
        await told(server, job.id, 0)
        assert await eventually_is(server, (1, 1, 0))
        assert (await job_of(server, job.id)).worker_id == "another"


async def test_a_duplicate_message_runs_nothing_twice(server: Server, work: Work) -> None:
    async with consuming(server):
        job = await submitted(server, "gate")
        await eventually(lambda: work.ran)
        await told(server, job.id, 0, free=1)
        # The duplicate is gone; the message of the job that runs stays until it ends.
        assert await eventually_is(server, (1, 1, 0))
        work.gate.set()
        assert (await ended(server, job.id)).attempt == 1
        assert await eventually_is(server, (0, 0, 0))
        assert work.ran == [job.id]


async def test_the_own_message_of_a_job_that_runs_here_stays_pending(server: Server, work: Work) -> None:
    """XAUTOCLAIM brings it again when its handler runs for longer than a lease."""
    async with consuming(server):
        job = await submitted(server, "gate")
        await eventually(lambda: work.ran)
        held = server.holdings.get(job.id)
        assert held is not None
        server.consumers.take([held.delivery])
        await eventually(lambda: server.consumers.free == 1)
        await eventually(server.deliveries._idle.is_set)
        assert await redis_of(server) == (1, 1, 0)
        work.gate.set()
        assert (await ended(server, job.id)).attempt == 1


async def eventually_is(server: Server, expected: tuple[int, int, int]) -> bool:
    async def equal() -> bool:
        assert await redis_of(server) == expected
        return True

    return await eventually(equal)


async def test_a_type_that_is_not_handled_here_is_handed_on_with_a_delay(server: Server) -> None:
    job = (await inserted(server.store, type="not.here")).job
    async with consuming(server):
        await told(server, job.id, 0)

        # The end may be in another flush than that of the job which followed.
        async def handed_back() -> bool:
            return await outcomes(server, job.id) == ["handed_back"]

        await eventually(handed_back)
        after = await job_of(server, job.id)
        assert (after.status, after.attempt, after.retry_count, after.fence) == (Status.QUEUED, 0, 0, 2)
        assert timedelta(seconds=1) <= after.due_at - after.updated_at <= timedelta(seconds=30)
        assert await eventually_is(server, (0, 0, 1))


async def test_in_a_mixed_fleet_every_job_finds_its_handler(
    postgresql_url: str, redis_url: str, redis_prefix: str
) -> None:
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    one, two = Handlers(), Handlers()

    async def ok() -> str:
        return "ok"

    one.handler("only.one")(ok)
    two.handler("only.two")(ok)
    async with running(pair, one) as first, running(pair, two) as second:
        await first.types.refresh()
        jobs = [await submitted(first, f"only.{name}") for name in ("one", "two") * 3]
        for job in jobs:
            done = await ended(second, job.id, within_seconds=40.0)
            # Handed on, which costs nothing.
            assert (done.status, done.attempt) == (Status.COMPLETED, 1)


# When engines go away.


async def test_a_claim_whose_commit_was_not_confirmed_runs_once(
    server: Server, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = server.store.claim
    calls: list[bool] = []

    async def unconfirmed(*args: Any, **options: Any) -> Any:
        answer = await claim(*args, **options)
        calls.append(options["repeated"])
        if len(calls) < 3:
            raise DatabaseUnavailable("the connection was lost after the commit")
        return answer

    monkeypatch.setattr(server.store, "claim", unconfirmed)
    async with consuming(server):
        job = await ended(server, (await submitted(server, "note", {"n": 1})).id)
    assert (job.status, job.attempt, job.fence) == (Status.COMPLETED, 1, 2)
    assert work.ran == [1]
    assert calls == [False, True, True]


async def test_a_fault_of_one_attempt_stops_no_consumer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    start = server.executor.start
    faults = 4

    def faulty(running: Any, ended: Any) -> Any:
        nonlocal faults
        if faults:
            faults -= 1
            raise RuntimeError("a fault of ours")
        return start(running, ended)

    monkeypatch.setattr(server.executor, "start", faulty)
    async with consuming(server):
        lost = [await submitted(server, "echo") for _ in range(4)]
        await eventually(lambda: faults == 0)
        assert (await ended(server, (await submitted(server, "echo")).id)).status is Status.COMPLETED
        # Reclaimed once their leases are over.
        assert [await status_of(server, job.id) for job in lost] == [Status.RUNNING] * 4


async def test_nothing_is_read_while_others_take_this_process_for_dead(server: Server, work: Work) -> None:
    asked = 0
    lives = False

    def may_claim() -> bool:
        nonlocal asked
        asked += 1
        return lives

    server.consumers.may_claim = may_claim
    async with consuming(server):
        job = await submitted(server, "note", {"n": 1})
        await eventually(lambda: server.deliveries._idle.is_set() and asked > 2)
        assert await redis_of(server) == (1, 0, 0)
        lives = True
        assert (await ended(server, job.id)).status is Status.COMPLETED


async def test_a_wiped_stream_is_noticed_by_who_reads_it(server: Server) -> None:
    wiped = asyncio.Event()
    async with consuming(server):
        await ended(server, (await submitted(server, "echo")).id)
        server.consumers.on_wiped = wiped.set
        keys = [server.stream.keys.jobs("default", priority) for priority in Priority]
        await server._client.commands.delete(*keys)
        async with asyncio.timeout(10):
            await wiped.wait()
        assert (await ended(server, (await submitted(server, "echo")).id)).status is Status.COMPLETED


# Drain.


async def test_a_drain_lets_what_runs_end_and_starts_nothing_more(server: Server, work: Work) -> None:
    async with writing(server), server.executor:
        server.consumers.start()
        jobs = [await submitted(server, "gate") for _ in range(6)]
        await eventually(lambda: len(work.ran) == 2)
        draining = asyncio.create_task(server.consumers.drain(within_seconds=20))
        await eventually(server.consumers._draining.is_set)
        work.gate.set()
        await draining
        await server.consumers.close()
        statuses = Counter([(await status_of(server, job.id)) for job in jobs])
        assert statuses == {Status.COMPLETED: 2, Status.QUEUED: 4}
        assert len(work.ran) == 2
        for job in jobs:
            after = await job_of(server, job.id)
            assert after.attempt == (after.status is Status.COMPLETED)
        # What was not started is there for the next process.
        await eventually(lambda: server.deliveries.waiting == 0)

        async def given_back() -> bool:
            return await redis_of(server) == (4, 0, 0)

        await eventually(given_back)


async def test_what_is_claimed_while_a_drain_begins_is_handed_back(
    server: Server, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = server.store.claim
    committed, drains = asyncio.Event(), asyncio.Event()

    async def answered_late(*args: Any, **options: Any) -> Any:
        answer = await claim(*args, **options)
        committed.set()
        await drains.wait()
        return answer

    monkeypatch.setattr(server.store, "claim", answered_late)
    async with writing(server), server.executor:
        server.consumers.start()
        job = await submitted(server, "note", {"n": 1})
        async with asyncio.timeout(10):
            await committed.wait()
        draining = asyncio.create_task(server.consumers.drain(within_seconds=5))
        await eventually(server.consumers._draining.is_set)
        drains.set()
        await draining
        await server.consumers.close()
        assert work.ran == []
        assert await outcomes(server, job.id) == ["handed_back"]
        assert (await job_of(server, job.id)).attempt == 0


async def test_at_its_deadline_a_drain_hands_back_what_runs(server: Server, work: Work) -> None:
    async with writing(server), server.executor:
        server.consumers.start()
        jobs = [await submitted(server, "gate") for _ in range(2)]
        await eventually(lambda: len(work.ran) == 2)
        async with asyncio.timeout(10):
            await server.consumers.drain(within_seconds=0.1)
        await server.consumers.close()
        for job in jobs:
            after = await job_of(server, job.id)
            assert (after.status, after.attempt, after.retry_count, after.fence) == (Status.QUEUED, 0, 0, 2)
            assert await outcomes(server, job.id) == ["handed_back"]

        async def given_back() -> bool:
            return await redis_of(server) == (2, 0, 0)

        await eventually(given_back)


async def test_a_cancel_request_survives_the_drain(server: Server, work: Work) -> None:
    async with writing(server), server.executor:
        server.consumers.start()
        job = await submitted(server, "gate")
        await eventually(lambda: work.ran)
        # Asked through another process: this one has not heard of it.
        await server.store.cancel([job.id])
        await server.consumers.drain(within_seconds=0.1)
        await server.consumers.close()
        assert await status_of(server, job.id) is Status.CANCELED


async def test_a_drain_without_a_database_ends(server: Server, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*args: Any, **options: Any) -> Any:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr("jobserver.pipeline.consume._LAST_WRITES_SECONDS", 0.3)
    async with writing(server), server.executor:
        server.consumers.start()
        job = await submitted(server, "gate")
        await eventually(lambda: work.ran)
        settle = server.store.settle
        monkeypatch.setattr(server.store, "settle", away)
        async with asyncio.timeout(10):
            await server.consumers.drain(within_seconds=0.1)
            await server.consumers.close()
            await server.finisher.batcher.close(within_seconds=0.1)
        monkeypatch.setattr(server.store, "settle", settle)
        # Its lease will end, and another process takes it.
        assert await status_of(server, job.id) is Status.RUNNING
        assert (await length(server._client, server.stream), await pending(server._client, server.stream)) == (1, 1)
