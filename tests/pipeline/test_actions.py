"""Actions on many jobs: what they are about, what they change, and what they leave alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from jobserver.job.model import TERMINAL, WAITING, Returned, Status
from jobserver.job.query import PERMITTED, JobFilter, Order, Selection, Verb
from jobserver.pipeline import commands as commands_module
from jobserver.server import Server
from tests.clocks import Hurried
from tests.conftest import Pair
from tests.engines import eventually
from tests.jobs import claimed, inserted, job_in, raised, settled
from tests.parts import parts, submitted, writing
from tests.pipeline.test_commands import Endless
from tests.servers import running
from tests.stream.messages import ME, NORMAL

VERBS: tuple[Verb, ...] = ("cancel", "retry", "delete")


@pytest.fixture
async def server(pair: Pair) -> AsyncIterator[Server]:
    async with parts(pair) as server, writing(server):
        yield server


async def statuses_of(server: Server, *job_ids: UUID) -> list[Status | None]:
    found = await server.views.statuses(job_ids)
    return [found.get(job_id) for job_id in job_ids]


def became(verb: Verb, status: Status) -> Status | None:
    """What a job in this status is after an action that is about it."""
    if status not in PERMITTED[verb]:
        return status
    if verb == "delete":
        return None
    if verb == "retry":
        return Status.QUEUED
    return Status.RUNNING if status is Status.RUNNING else Status.CANCELED


@pytest.mark.parametrize("by_ids", [False, True])
@pytest.mark.parametrize("verb", VERBS)
async def test_an_action_changes_what_it_is_for_and_a_dry_run_nothing(server: Server, verb: Verb, by_ids: bool) -> None:
    jobs = {status: await job_in(server.store, status, type="meant") for status in Status}
    others = {status: await job_in(server.store, status, type="other") for status in Status}
    order = (
        Order(verb=verb, ids=(*jobs.values(), uuid4())) if by_ids else Order(verb=verb, wanted=JobFilter(type="meant"))
    )
    expected = {job_id for status, job_id in jobs.items() if status in PERMITTED[verb]}
    dry = await server.commands.carry_out(Order(verb=verb, wanted=order.wanted, ids=order.ids, dry_run=True))
    assert (dry.matched, dry.changed, set(dry.ids), dry.next_cursor) == (len(expected), 0, expected, None)
    assert await statuses_of(server, *jobs.values()) == list(jobs)
    done = await server.commands.carry_out(order)
    assert (done.matched, done.changed, done.ids) == (len(expected), len(expected), dry.ids)
    assert await statuses_of(server, *jobs.values()) == [became(verb, status) for status in jobs]
    assert await statuses_of(server, *others.values()) == list(others)
    # There is nothing left to do, of what runs and was asked to end neither.
    again = await server.commands.carry_out(order)
    assert (again.matched, again.changed) == (0, 0)


@pytest.mark.parametrize("verb", VERBS)
async def test_what_changed_since_it_was_chosen_is_left_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, verb: Verb
) -> None:
    """A waiting job that is claimed, a failed one that is replayed and has ended in another way."""
    before, after = {
        "cancel": (Status.QUEUED, Status.RUNNING),
        "retry": (Status.FAILED, Status.CANCELED),
        "delete": (Status.FAILED, Status.CANCELED),
    }[verb]
    job_ids = [await job_in(server.store, before) for _ in range(3)]
    chosen = server.views.select

    async def select(*values: Any, **named: Any) -> Any:
        found = await chosen(*values, **named)
        assert set(found.fences) == set(job_ids)
        if verb == "cancel":
            await claimed(server.store, job_ids[1])
        else:
            await server.store.replay([job_ids[1]])
            await server.store.cancel([job_ids[1]])
        return found

    monkeypatch.setattr(server.views, "select", select)
    order = Order(verb=verb, wanted=JobFilter(statuses=frozenset({before})))
    done = await server.commands.carry_out(order)
    assert (done.matched, done.changed, set(done.ids)) == (3, 2, {job_ids[0], job_ids[2]})
    job = await server.views.job(job_ids[1])
    assert job is not None
    assert (job.status, job.cancel_requested) == (after, verb != "cancel")


async def test_what_ended_again_since_it_was_chosen_is_left_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed job that somebody queued again, and that completed, is not deleted with its result."""
    job_ids = [await job_in(server.store, Status.FAILED) for _ in range(2)]

    async def again(*values: Any, **named: Any) -> Any:
        found = await chosen(*values, **named)
        await server.store.replay(job_ids)
        for job_id in job_ids:
            fence = (await server.store.database.fetch("job", id=job_id))[0]["fence"]
            await settled(server.store, await claimed(server.store, job_id, fence), Returned(b"1"))
        return found

    chosen = server.views.select
    monkeypatch.setattr(server.views, "select", again)
    done = await server.commands.carry_out(Order(verb="delete", wanted=JobFilter(type="echo")))
    assert (done.matched, done.changed) == (2, 0)
    monkeypatch.undo()
    assert await statuses_of(server, *job_ids) == [Status.COMPLETED] * 2


@pytest.mark.parametrize(
    ("verb", "by"),
    [
        ("retry", "filter"),
        ("retry", "ids"),
        ("retry", "dead letters"),
        ("retry", "dead letters by ids"),
        ("delete", "filter"),
        ("delete", "ids"),
    ],
)
async def test_what_failed_again_since_it_was_chosen_is_left_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, verb: Verb, by: str
) -> None:
    """Its failure is another one than that which was chosen."""
    job_id, other = [await job_in(server.store, Status.FAILED) for _ in range(2)]

    def then_fails_again(chooses: Any) -> Any:
        async def chosen(*values: Any, **named: Any) -> Any:
            found = await chooses(*values, **named)
            if not seen:
                seen.append(job_id)
                [again] = await server.store.replay([job_id])
                await settled(
                    server.store, await claimed(server.store, job_id, again.fence), raised("else", retryable=False)
                )
            return found

        return chosen

    seen: list[UUID] = []
    for owner, name in ((server.views, "select"), (server.views, "oldest_failed"), (server.store, "among")):
        monkeypatch.setattr(owner, name, then_fails_again(getattr(owner, name)))
    commands, both = server.commands, (job_id, other)
    if by == "filter":
        changed: Any = (await commands.carry_out(Order(verb=verb, wanted=JobFilter(type="echo")))).ids
    elif by == "ids":
        changed = (await commands.carry_out(Order(verb=verb, ids=both))).ids
    else:
        selection = Selection(type="echo") if by == "dead letters" else Selection(ids=both)
        changed = await commands.replay_many(selection, limit=10, dry_run=False)
    assert (seen, changed) == ([job_id], [other])
    assert await statuses_of(server, job_id) == [Status.FAILED]


async def test_a_job_that_is_claimed_while_all_are_canceled_is_asked_to_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await job_in(server.store, Status.QUEUED)
    chosen = server.views.select

    async def select(*values: Any, **named: Any) -> Any:
        found = await chosen(*values, **named)
        await claimed(server.store, job_id)
        return found

    monkeypatch.setattr(server.views, "select", select)
    done = await server.commands.carry_out(Order(verb="cancel", wanted=JobFilter(type="echo")))
    assert done.ids == [job_id]
    job = await server.views.job(job_id)
    assert job is not None
    assert (job.status, job.cancel_requested) == (Status.RUNNING, True)


async def test_an_action_goes_on_where_its_limit_was_reached(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_module, "_CHUNK", 2)
    jobs = [await job_in(server.store, Status.FAILED) for _ in range(12)]
    wanted = JobFilter(type="echo")
    canary = await server.commands.carry_out(Order(verb="retry", wanted=wanted, limit=5))
    assert (canary.ids, canary.matched) == (jobs[:6:-1], 5)
    assert canary.next_cursor is not None
    cursor, rest = canary.next_cursor, []
    while cursor is not None:
        # What the canaries have become is not looked at again.
        await settled(server.store, await claimed(server.store, canary.ids.pop(), 3), raised(retryable=False))
        done = await server.commands.carry_out(Order(verb="retry", wanted=wanted, limit=5, cursor=cursor))
        rest += done.ids
        cursor = done.next_cursor
    assert rest == jobs[6::-1]


async def test_a_selection_that_takes_too_long_says_where_to_go_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = await job_in(server.store, Status.QUEUED, payload=b'"rare"')
    for _ in range(40):
        await job_in(server.store, Status.QUEUED)
    monkeypatch.setattr("jobserver.store.search.time", Hurried(1.0))
    monkeypatch.setattr("jobserver.store.search.FIRST_WINDOW", 1)
    monkeypatch.setattr("jobserver.store.search.LARGEST_WINDOW", 1)
    cursor, ids, turns = None, [], 0
    while cursor is not None or turns == 0:
        done = await server.commands.carry_out(Order(verb="cancel", wanted=JobFilter(q="rare"), cursor=cursor))
        ids += done.ids
        cursor, turns = done.next_cursor, turns + 1
    assert (ids, await statuses_of(server, rare)) == ([rare], [Status.CANCELED])
    assert turns > 1


async def test_replayed_jobs_are_delivered_and_canceled_ones_wake_who_waits(server: Server) -> None:
    failed = [await job_in(server.store, Status.FAILED) for _ in range(3)]
    await server.commands.carry_out(Order(verb="retry", wanted=JobFilter(statuses=frozenset({Status.FAILED}))))
    found: set[UUID] = set()

    async def published() -> bool:
        found.update(each.job_id for each in (await server.stream.fetch([NORMAL], ME, 100)).deliveries)
        return found == set(failed)

    await eventually(published)
    await server.commands.carry_out(Order(verb="cancel", ids=tuple(failed)))
    for job_id in failed:
        assert (await server.commands.wait(job_id, 5)).status is Status.CANCELED


async def test_running_jobs_end_where_they_run(pair: Pair) -> None:
    endless = Endless()
    async with running(pair, endless.handlers) as server:
        ids = [(await submitted(server, "endless")).id for _ in range(2)]
        await eventually(lambda: endless.started == 2)
        done = await server.commands.carry_out(Order(verb="cancel", wanted=JobFilter(type="endless")))
        assert set(done.ids) == set(ids)
        await eventually(lambda: endless.cancelled == 2)
        for job_id in ids:
            assert (await server.commands.wait(job_id, 5)).status is Status.CANCELED


async def test_a_callback_is_stored_with_each_cancel_of_many(server: Server) -> None:
    jobs = [(await inserted(server.store, callback_url="https://example.com/")).job.id for _ in range(2)]
    await server.commands.carry_out(Order(verb="cancel", ids=tuple(jobs)))
    told = await server.views.jobs(JobFilter(type="callback"), limit=10, offset=0, cursor=None)
    assert len(told.items) == 2


def test_the_statuses_that_are_permitted_are_those_that_the_statements_permit() -> None:
    assert PERMITTED["cancel"] == WAITING | {Status.RUNNING}
    assert PERMITTED["delete"] == TERMINAL
    assert PERMITTED["retry"] == TERMINAL - {Status.COMPLETED}
    asked = JobFilter(statuses=frozenset({Status.FAILED, Status.QUEUED}))
    assert Order(verb="cancel", wanted=asked).statuses == {Status.QUEUED}
    assert Order(verb="retry", wanted=asked).statuses == {Status.FAILED}
