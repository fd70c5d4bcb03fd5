"""The statements of a job's life, on both engines."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from jobserver.errors import DatabaseUnavailable, KeyReused
from jobserver.job.lifecycle import TRANSITIONS, Transition, decide
from jobserver.job.model import (
    TERMINAL,
    Claimed,
    Ended,
    HandedBack,
    Job,
    LeaseLost,
    Outcome,
    Priority,
    Progress,
    Returned,
    Snoozed,
    Status,
    Submission,
    bounded_error,
)
from jobserver.job.query import Selection
from jobserver.store.engine import Database
from jobserver.store.jobs import MAX_KINDS, JobStore, Place, Pruned, Refusal, Settlement
from jobserver.store.views import Views
from tests.clocks import judged_by_the_clock
from tests.jobs import (
    POLICY,
    WORKER,
    claimed,
    delivery,
    inserted,
    job_in,
    raised,
    settled,
    submission,
    try_claim,
)


async def status_of(views: Views, job_id: UUID) -> Status:
    job = await views.job(job_id)
    assert job is not None
    return job.status


async def test_a_submitted_job_comes_back_as_it_was_sent(store: JobStore, views: Views) -> None:
    payload = b'{"z":1,"a":[9007199254740993123,1.5,"\\u0000"],"b":"\xc3\xa9"}'
    job = (await inserted(store, payload=payload, tags=("a", "b"), priority=Priority.HIGH)).job
    found = await views.job(job.id)
    assert found == job
    assert found is not None
    assert found.payload == payload
    assert found.status is Status.QUEUED
    assert (found.attempt, found.retry_count, found.crashes, found.fence) == (0, 0, 0, 0)


async def test_a_delay_makes_a_scheduled_job_that_is_due_later(store: JobStore) -> None:
    job = (await inserted(store, delay_seconds=60.0)).job
    assert job.status is Status.SCHEDULED
    assert job.run_at - job.created_at == timedelta(seconds=60)


async def test_a_run_at_in_the_past_is_now(store: JobStore, database: Database) -> None:
    job = (await inserted(store, run_at=database.clock.now() - timedelta(days=1))).job
    assert job.status is Status.QUEUED
    assert job.run_at == job.created_at


async def test_a_repeated_insert_stores_nothing_twice(store: JobStore, views: Views) -> None:
    jobs = [submission(), submission(idempotency_key="k", fingerprint=b"f")]
    first = await store.insert([[job] for job in jobs])
    again = await store.insert([[job] for job in jobs])
    assert first == again
    assert (await views.stats()).total == 2


def unlike(number: int) -> Submission:
    """Of many, none that has anything in common with another."""
    return submission(
        type=f"t{number}",
        queue=f"q{number}",
        priority=tuple(Priority)[number % len(Priority)],
        payload=b"%d" % number,
        max_retries=number,
        timeout_seconds=1.0 + number,
        delay_seconds=float(number % 3 * 60),
        run_at=datetime(2040, 1, 1, tzinfo=UTC) + timedelta(days=number) if number % 2 else None,
        expires_at=datetime(2050, 1, 1, tzinfo=UTC) + timedelta(days=number),
        tags=(f"n{number}",),
        callback_url=f"https://example.org/{number}",
        trace_context=f"00-{number:032x}-{number:016x}-01",
    )


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("count", [MAX_KINDS, MAX_KINDS + 1])
async def test_jobs_with_nothing_in_common_are_stored_as_they_were_sent(
    store: JobStore, views: Views, *, count: int, keyed: bool
) -> None:
    jobs = [unlike(number) for number in range(1, count + 1)]
    if keyed:
        jobs = [replace(job, idempotency_key=job.type, fingerprint=job.id.bytes) for job in jobs]
    [made] = await store.insert([jobs])
    assert isinstance(made, list)
    for sent, answer in zip(jobs, made, strict=True):
        stored = await views.job(sent.id)
        assert (answer.created, answer.job) == (True, stored)
        for name in (
            *("id", "type", "queue", "priority", "payload", "max_retries", "timeout_seconds", "expires_at"),
            *("idempotency_key", "tags", "callback_url", "trace_context"),
        ):
            assert getattr(stored, name) == getattr(sent, name), name
        due_at = sent.run_at or answer.job.created_at + timedelta(seconds=sent.delay_seconds)
        assert (answer.job.run_at, answer.job.due_at) == (due_at, due_at)
        assert answer.job.status is (Status.SCHEDULED if due_at > answer.job.created_at else Status.QUEUED)
    [again] = await store.insert([jobs])
    assert again == made


@judged_by_the_clock
async def test_jobs_with_nothing_in_common_cost_little_more(store: JobStore) -> None:
    """A batch whose jobs have keys or tags of their own: to look for each among all of them took 12 times as long."""

    async def seconds(*, apart: bool) -> float:
        jobs = [submission(tags=(f"n{number}",) if apart else ()) for number in range(1_000)]
        started = time.perf_counter()
        await store.insert([jobs])
        return time.perf_counter() - started

    alike, apart = zip(*[(await seconds(apart=False), await seconds(apart=True)) for _ in range(5)], strict=True)
    assert min(apart) < 5 * min(alike)


async def test_a_known_key_answers_with_the_first_job(store: JobStore, views: Views) -> None:
    first = await inserted(store, idempotency_key="k", fingerprint=b"f")
    second = await inserted(store, idempotency_key="k", fingerprint=b"f")
    assert (first.created, second.created) == (True, False)
    assert second.job.id == first.job.id
    assert (await views.stats()).total == 1


async def test_a_key_with_another_body_is_refused(store: JobStore, views: Views) -> None:
    await inserted(store, idempotency_key="k", fingerprint=b"f")
    [answer] = await store.insert([[submission(idempotency_key="k", fingerprint=b"g")]])
    assert isinstance(answer, KeyReused)
    assert (await views.stats()).total == 1


async def test_keys_are_scoped_to_their_sender(store: JobStore) -> None:
    first = await inserted(store, idempotency_key="k", fingerprint=b"f", scope="one")
    second = await inserted(store, idempotency_key="k", fingerprint=b"f", scope="two")
    assert first.job.id != second.job.id


async def test_a_group_is_stored_whole_or_not_at_all(store: JobStore, views: Views) -> None:
    await inserted(store, idempotency_key="k", fingerprint=b"f")
    group = [submission(), submission(idempotency_key="new", fingerprint=b"n"), submission(idempotency_key="k")]
    other = [submission()]
    refused, stored = await store.insert([group, other])
    assert isinstance(refused, KeyReused)
    assert refused.index == 2
    assert isinstance(stored, list)
    assert (await views.stats()).total == 2
    # The key that the refused group named first is free.
    assert (await inserted(store, idempotency_key="new", fingerprint=b"x")).created


async def test_a_key_freed_by_a_refused_group_goes_to_the_next_of_the_same_flush(store: JobStore) -> None:
    await inserted(store, idempotency_key="k", fingerprint=b"f")
    refused = [submission(idempotency_key="new", fingerprint=b"n"), submission(idempotency_key="k")]
    waiting = [submission(idempotency_key="new", fingerprint=b"m")]
    answers = await store.insert([refused, waiting])
    assert isinstance(answers[0], KeyReused)
    assert isinstance(answers[1], list)
    assert answers[1][0].created


async def test_the_same_key_twice_in_one_flush_is_one_job(store: JobStore, views: Views) -> None:
    pair = [submission(idempotency_key="k", fingerprint=b"f") for _ in range(2)]
    first, second = await store.insert([[job] for job in pair])
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert second[0].job.id == first[0].job.id
    assert [first[0].created, second[0].created] == [True, False]
    assert (await views.stats()).total == 1


async def test_a_key_is_free_again_when_its_time_is_over_and_its_job_terminal(database: Database) -> None:
    store = JobStore(database, idempotency_ttl_seconds=0.0)
    running = await inserted(store, idempotency_key="k", fingerprint=b"f")
    # Time is over, but the job is not terminal: still the same job.
    assert not (await inserted(store, idempotency_key="k", fingerprint=b"f")).created
    await store.cancel([running.job.id])
    assert (await inserted(store, idempotency_key="k", fingerprint=b"g")).created


async def test_concurrent_submits_of_a_key_make_one_job(store: JobStore, views: Views) -> None:
    answers = await asyncio.gather(*(inserted(store, idempotency_key="k", fingerprint=b"f") for _ in range(20)))
    assert sum(answer.created for answer in answers) == 1
    assert len({answer.job.id for answer in answers}) == 1
    assert (await views.stats()).total == 1


async def test_a_claim_takes_the_job_under_a_new_fence(store: JobStore, views: Views) -> None:
    job_id = await job_in(store, Status.QUEUED)
    job = await claimed(store, job_id)
    assert (job.fence, job.attempt) == (1, 1)
    found = await views.job(job_id)
    assert found is not None
    assert (found.status, found.worker_id) == (Status.RUNNING, WORKER)
    assert found.lease_expires_at is not None
    assert found.started_at is not None
    assert (found.lease_expires_at - found.started_at).total_seconds() == 15.0


@pytest.mark.parametrize("twice", [1, 2])
async def test_of_two_deliveries_one_is_claimed(store: JobStore, twice: int) -> None:
    job_id = await job_in(store, Status.QUEUED)
    answers = await store.claim(
        [delivery(job_id, 0, f"{n}-1") for n in range(twice + 1)],
        worker_id=WORKER,
        token=uuid4(),
        lease_seconds=15.0,
    )
    assert isinstance(answers[0], Claimed)
    assert answers[1:] == [Refusal("held")] * twice


async def test_the_claim_says_why_it_refused(store: JobStore, database: Database) -> None:
    async def verdict(job_id: UUID, fence: int) -> str:
        answer = await try_claim(store, job_id, fence)
        assert isinstance(answer, Refusal)
        return answer.verdict

    assert await verdict(uuid4(), 0) == "gone"
    assert await verdict(await job_in(store, Status.COMPLETED), 0) == "stale"
    assert await verdict(await job_in(store, Status.QUEUED), 7) == "stale"
    assert await verdict(await job_in(store, Status.SCHEDULED), 0) == "early"
    assert await verdict(await job_in(store, Status.RUNNING), 0) == "held"
    over = await job_in(store, Status.QUEUED)
    await claimed(store, over, lease_seconds=-1.0)
    assert await verdict(over, 0) == "over"
    expired = await inserted(store, expires_at=database.clock.now() - timedelta(seconds=1))
    assert await verdict(expired.job.id, 0) == "expired"
    await store.set_paused("default", True)
    assert await verdict(await job_in(store, Status.QUEUED), 0) == "paused"


async def test_a_claim_whose_commit_was_not_confirmed_is_recognised(store: JobStore) -> None:
    jobs = [await job_in(store, Status.QUEUED) for _ in range(2)]
    token = uuid4()
    deliveries = [delivery(job_id, 0) for job_id in jobs]
    first = await store.claim(deliveries, worker_id=WORKER, token=token, lease_seconds=15.0)
    again = await store.claim(deliveries, worker_id=WORKER, token=token, lease_seconds=15.0, repeated=True)
    assert again == first
    stranger = await store.claim(deliveries, worker_id=WORKER, token=uuid4(), lease_seconds=15.0, repeated=True)
    assert [answer.verdict for answer in stranger if isinstance(answer, Refusal)] == ["held", "held"]


async def test_a_stale_attempt_cannot_finish_a_job(store: JobStore, views: Views) -> None:
    job_id = await job_in(store, Status.QUEUED)
    zombie = await claimed(store, job_id, lease_seconds=-1.0)
    lost = await store.find_lost(limit=10)
    assert [each.job.id for each in lost] == [job_id]
    reclaimed = await settled(store, lost[0].job, LeaseLost(bounded_error("LeaseLost", "gone")), lease_over=True)
    assert reclaimed is not None
    assert reclaimed.status is Status.RETRYING
    assert await settled(store, zombie, Returned(b'"zombie"')) is None
    assert await status_of(views, job_id) is Status.RETRYING
    assert await store.extend_leases([(job_id, zombie.fence)], lease_seconds=15.0) == frozenset()


async def test_a_valid_lease_cannot_be_reclaimed(store: JobStore) -> None:
    job = await claimed(store, await job_in(store, Status.QUEUED))
    lost = LeaseLost(bounded_error("LeaseLost", "gone"))
    assert await settled(store, job, lost, lease_over=True) is None
    assert await settled(store, job, Returned(b"1")) is not None


async def test_a_settlement_whose_commit_was_not_confirmed_is_recognised(store: JobStore) -> None:
    job = await claimed(store, await job_in(store, Status.QUEUED))
    mine = Settlement(job.id, job.fence, Transition(status=Status.COMPLETED, ended=Ended.COMPLETED, result=b"1"))
    [first] = await store.settle([mine])
    [again] = await store.settle([mine], repeated=True)
    assert first is not None
    assert again is not None
    assert (again.fence, again.status) == (first.fence, first.status)
    # A reclaim's row of the same attempt is not mine.
    other = await claimed(store, await job_in(store, Status.QUEUED), lease_seconds=-1.0)
    await settled(store, other, LeaseLost(bounded_error("LeaseLost", "gone")), lease_over=True)
    [answer] = await store.settle(
        [Settlement(other.id, other.fence, Transition(status=Status.COMPLETED, ended=Ended.COMPLETED))],
        repeated=True,
    )
    assert answer is None


async def test_every_attempt_leaves_one_history_row(store: JobStore, views: Views) -> None:
    job_id = await job_in(store, Status.QUEUED, max_retries=1)
    await settled(store, await claimed(store, job_id), HandedBack())
    await settled(store, await claimed(store, job_id, 2), Snoozed(0.0))
    await settled(store, await claimed(store, job_id, 4), raised(after=0.0))
    job = await claimed(store, job_id, 6)
    running = await views.attempts(job_id)
    assert running is not None
    assert running[-1].outcome == "running"
    assert running[-1].ended_at is None
    await settled(store, job, raised())
    history = await views.attempts(job_id)
    assert history is not None
    assert [(each.number, each.fence, each.outcome) for each in history] == [
        (1, 1, "handed_back"),
        (1, 3, "snoozed"),
        (1, 5, "retrying"),
        (2, 7, "failed"),
    ]
    assert history[-1].error is not None
    assert history[-1].error.type == "ValueError"
    found = await views.job(job_id)
    assert found is not None
    assert (found.attempt, found.retry_count, found.fence) == (2, 1, 8)


async def test_attempts_that_end_together_are_won_or_refused_together(store: JobStore, views: Views) -> None:
    """Those that returned, and the others: one of each is a zombie's, and one is not storable."""
    jobs = [await claimed(store, await job_in(store, Status.QUEUED)) for _ in range(4)]
    returned, failed = Returned(b'{"n":1}'), raised(retryable=False)
    outcomes: list[Outcome] = [returned, failed, returned, failed]
    ends = [
        Settlement(job.id, job.fence - stale, decide(job, outcome, POLICY, 0.5))
        for job, outcome, stale in zip(jobs, outcomes, [0, 0, 1, 1], strict=True)
    ]
    unstorable = await claimed(store, await job_in(store, Status.QUEUED))
    bad = Settlement(unstorable.id, unstorable.fence, decide(unstorable, Returned(b"\xff"), POLICY, 0.5))
    with pytest.raises(UnicodeDecodeError):
        await store.settle([*ends, bad])
    # Those that returned by themselves: PostgreSQL has a statement of its own for such a batch.
    moves = await store.settle(ends[::2])
    assert [moved and moved.status for moved in moves] == [Status.COMPLETED, None]
    moves = await store.settle(ends)
    assert [moved and moved.status for moved in moves] == [None, Status.FAILED, None, None]
    for job, ended in zip(jobs, ("completed", "failed", "running", "running"), strict=True):
        history = await views.attempts(job.id)
        assert history is not None
        assert [each.outcome for each in history] == [ended]
    found = await views.job(jobs[0].id)
    assert found is not None
    assert (found.status, found.result, found.attempt, found.fence) == (Status.COMPLETED, b'{"n":1}', 1, 2)
    assert found.finished_at is not None
    assert found.lease_expires_at is None


async def test_only_the_newest_hundred_attempts_are_kept(store: JobStore, views: Views) -> None:
    job_id = await job_in(store, Status.QUEUED)
    for fence in range(0, 210, 2):
        await settled(store, await claimed(store, job_id, fence), HandedBack())
    history = await views.attempts(job_id)
    assert history is not None
    assert len(history) == 100
    assert history[-1].fence == 209


async def test_an_end_is_told_though_the_history_could_not_be_trimmed(
    store: JobStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = (await inserted(store, callback_url="https://example.org")).job.id
    job = await claimed(store, job_id)
    # As if it had had many attempts before.
    monkeypatch.setattr("jobserver.store.jobs.ATTEMPTS_KEPT", 0)
    fetch = database.fetch

    async def untrimmed(statement: str, *arguments: Any, **scalars: Any) -> Any:
        if statement == "trim_attempts":
            raise DatabaseUnavailable("gone")
        return await fetch(statement, *arguments, **scalars)

    monkeypatch.setattr(database, "fetch", untrimmed)
    moved = await settled(store, job, raised(retryable=False), calls_back=True)
    assert moved is not None
    assert moved.callback_id is not None


async def test_a_cancel_requested_in_between_wins_over_everything_but_completed(store: JobStore, views: Views) -> None:
    for outcome, expected in (
        (Returned(b"1"), Status.COMPLETED),
        (raised(), Status.CANCELED),
        (Snoozed(5.0), Status.CANCELED),
        (HandedBack(), Status.CANCELED),
    ):
        job = await claimed(store, await job_in(store, Status.QUEUED))
        [asked] = await store.cancel([job.id])
        assert (asked.status, asked.worker_id) == (Status.RUNNING, WORKER)
        assert await store.cancel_requests(WORKER) == [(job.id, job.fence)]
        # With the end of another job: alone, one that returned has a statement of its own on PostgreSQL.
        other = await claimed(store, await job_in(store, Status.QUEUED))
        ends = [
            Settlement(job.id, job.fence, decide(job, outcome, POLICY, 0.5)),
            Settlement(other.id, other.fence, decide(other, raised(retryable=False), POLICY, 0.5)),
        ]
        moved = (await store.settle(ends))[0]
        assert moved is not None
        assert moved.status is expected
        found = await views.job(job.id)
        assert found is not None
        assert found.finished_at is not None


async def test_a_replay_starts_over_and_keeps_history_and_fence(store: JobStore, views: Views) -> None:
    job_id = await job_in(store, Status.FAILED)
    [again] = await store.replay([job_id])
    assert again.fence == 3
    job = await views.job(job_id)
    assert job is not None
    assert (job.status, job.attempt, job.retry_count, job.crashes) == (Status.QUEUED, 0, 0, 0)
    assert job.error is None
    assert job.finished_at is None
    history = await views.attempts(job_id)
    assert history is not None
    assert len(history) == 1
    # The worker of before names a fence that is gone for good.
    assert isinstance(await try_claim(store, job_id, 1), Refusal)
    assert (await claimed(store, job_id, 3)).attempt == 1


async def test_progress_is_stored_for_the_holder_only(store: JobStore, views: Views) -> None:
    job = await claimed(store, await job_in(store, Status.QUEUED))
    await store.save_progress([(job.id, job.fence, Progress(50.0, "half"))])
    await store.save_progress([(job.id, job.fence - 1, Progress(99.0, "zombie"))])
    found = await views.job(job.id)
    assert found is not None
    assert found.progress == Progress(50.0, "half")


async def test_expiry_fails_waiting_jobs(store: JobStore, views: Views, database: Database) -> None:
    past = database.clock.now() - timedelta(seconds=1)
    waiting = await inserted(store, expires_at=past)
    fresh = await inserted(store, expires_at=past + timedelta(hours=1))
    moved = await store.expire(limit=10)
    assert [each.job_id for each in moved] == [waiting.job.id]
    job = await views.job(waiting.job.id)
    assert job is not None
    assert job.error is not None
    assert (job.status, job.error.type, job.fence) == (Status.FAILED, "Expired", 1)
    assert await status_of(views, fresh.job.id) is Status.QUEUED


async def test_of_some_jobs_those_are_found_that_a_command_is_about(store: JobStore) -> None:
    failed = [await job_in(store, Status.FAILED, type="a", queue="q") for _ in range(3)]
    other = await job_in(store, Status.FAILED, type="b")
    canceled = await job_in(store, Status.CANCELED, type="a", queue="q")
    every = [other, canceled, *reversed(failed), uuid4()]

    async def among(selection: Selection, *statuses: Status, limit: int = 10) -> list[UUID]:
        return list(await store.among(every, selection, statuses=statuses, not_asked=False, limit=limit))

    assert await among(Selection(type="a"), Status.FAILED) == failed
    assert await among(Selection(queue="q"), Status.FAILED, limit=2) == failed[:2]
    assert await among(Selection(), Status.FAILED) == [*failed, other]
    assert await among(Selection(type="a"), Status.CANCELED) == [canceled]
    assert await among(Selection(fingerprint="0" * 16), *Status) == []


@pytest.mark.parametrize("status", sorted(set(Status) - TERMINAL))
async def test_only_terminal_jobs_are_deleted_whatever_is_meant(store: JobStore, status: Status) -> None:
    job_id = await job_in(store, status)
    assert await store.delete([job_id], statuses=frozenset(Status)) == []


async def test_a_deleted_job_takes_its_history_and_key_with_it(store: JobStore, views: Views) -> None:
    job_id = await job_in(store, Status.FAILED, idempotency_key="k", fingerprint=b"f")
    [gone] = await store.delete([job_id])
    assert gone.job_id == job_id
    assert await views.job(job_id) is None
    assert await views.attempts(job_id) is None
    assert (await inserted(store, idempotency_key="k", fingerprint=b"other")).created
    completed = await job_in(store, Status.COMPLETED)
    assert await store.delete([completed]) == []


async def test_pruning_deletes_only_what_is_old_and_terminal(store: JobStore, views: Views) -> None:
    kept = [await job_in(store, status) for status in Status if status is not Status.COMPLETED]
    gone = [await job_in(store, Status.COMPLETED) for _ in range(3)]
    assert (await store.prune(Status.COMPLETED, older_than_seconds=3600.0, limit=10)).deleted == 0
    assert (await store.prune(Status.COMPLETED, older_than_seconds=-1.0, limit=2)).deleted == 2
    assert (await store.prune(Status.COMPLETED, older_than_seconds=-1.0, limit=2)).deleted == 1
    for job_id in kept:
        assert await views.job(job_id) is not None
    for job_id in gone:
        assert await views.job(job_id) is None


async def test_what_is_pruned_is_judged_once_more_as_it_is_deleted(store: JobStore, database: Database) -> None:
    """It was seen before, and may have been replayed since."""
    done = await job_in(store, Status.COMPLETED)
    seen = [done, *[await job_in(store, status) for status in Status if status is not Status.COMPLETED]]
    for seconds, gone in ((3600.0, []), (-1.0, [done])):
        rows = await database.fetch("prune_jobs", ids=seen, status="completed", older_than_seconds=seconds)
        assert [database.uuid(row["id"]) for row in rows] == gone


async def test_a_job_stays_as_long_as_its_key_is_known(store: JobStore, views: Views, database: Database) -> None:
    first = await job_in(store, Status.COMPLETED, idempotency_key="k", fingerprint=b"f")
    place = place_of(await views.job(first))
    assert await store.prune(Status.COMPLETED, older_than_seconds=-1.0, limit=1) == Pruned(0, place)
    again = await inserted(store, idempotency_key="k", fingerprint=b"f")
    assert (again.created, again.job.id) == (False, first)
    brief = JobStore(database, idempotency_ttl_seconds=0.0)
    over = await job_in(brief, Status.COMPLETED, idempotency_key="over", fingerprint=b"f")
    assert (await store.prune(Status.COMPLETED, older_than_seconds=-1.0, limit=10)).deleted == 1
    assert await views.job(over) is None
    # Whoever deletes a job by hand means its key, too.
    await store.delete([first], statuses=TERMINAL)
    assert (await inserted(store, idempotency_key="k", fingerprint=b"f")).created


def place_of(job: Job | None) -> Place:
    assert job is not None
    assert job.finished_at is not None
    return job.finished_at, job.id


async def test_counts_follow_every_transition_and_need_no_scan(store: JobStore, views: Views) -> None:
    for status in Status:
        for _ in range(2):
            await job_in(store, status)
    await job_in(store, Status.QUEUED, queue="other")
    before = await views.stats()
    assert before.by_status == {status: 2 + (status is Status.QUEUED) for status in Status}
    while await store.fold_counts(limit=7):
        pass
    assert await views.stats() == before
    await store.prune(Status.COMPLETED, older_than_seconds=-1.0, limit=10)
    assert (await views.stats()).by_status[Status.COMPLETED] == 0


async def test_overtaken_jobs_are_found_once_and_in_order(store: JobStore, database: Database) -> None:
    lost = [await job_in(store, Status.QUEUED) for _ in range(5)]
    later = await job_in(store, Status.SCHEDULED)
    mark = database.clock.now() + timedelta(seconds=1)
    streams = [("default", Priority.NORMAL, mark)]
    found = await store.bump_overtaken(streams, limit=3)
    assert [each.job_id for each in found] == lost[:3]
    assert later not in [each.job_id for each in found]
    cut = [("default", Priority.NORMAL, found[0].available_at - timedelta(microseconds=1))]
    rest = await store.bump_overtaken(cut, limit=10)
    assert [each.job_id for each in rest] == lost[3:]
    assert await store.bump_overtaken(cut, limit=10) == []


async def test_the_near_horizon_shows_waiting_jobs_of_a_window(store: JobStore, database: Database) -> None:
    await job_in(store, Status.QUEUED)
    soon = (await inserted(store, delay_seconds=60.0)).job
    await inserted(store, delay_seconds=3600.0)
    now = database.clock.now()
    found = await store.near_horizon(
        [("default", Priority.NORMAL)], after=now, until=now + timedelta(minutes=10), limit=10
    )
    assert [(each.job_id, each.available_at) for each in found] == [(soon.id, soon.run_at)]


async def test_concurrent_batches_in_any_order_do_not_deadlock(store: JobStore, views: Views) -> None:
    jobs = [submission() for _ in range(60)]
    await store.insert([[job] for job in jobs])

    async def claim_shuffled(seed: int) -> list[Claimed]:
        shuffled = list(jobs)
        random.Random(seed).shuffle(shuffled)
        answers = await store.claim(
            [delivery(job.id, 0) for job in shuffled],
            worker_id=f"worker-{seed}",
            token=uuid4(),
            lease_seconds=15.0,
        )
        return [answer for answer in answers if isinstance(answer, Claimed)]

    for _ in range(5):
        won = await asyncio.gather(*(claim_shuffled(seed) for seed in range(4)))
        assert sum(map(len, won)) in (60, 0)
    assert (await views.stats()).by_status[Status.RUNNING] == 60


@pytest.mark.parametrize("start", list(Status))
async def test_sql_permits_exactly_the_transitions_that_are_drawn(
    store: JobStore, views: Views, start: Status, database: Database
) -> None:
    """Every way to write, tried on a job in each status: what moves it must be drawn, and what is drawn must move."""
    moves: set[tuple[Status, Status]] = set()
    past = database.clock.now() - timedelta(seconds=1)

    async def fresh() -> tuple[UUID, int]:
        # Due already, so that every waiting status can be claimed.
        if start is Status.SCHEDULED:
            job_id = await job_in(store, Status.QUEUED)
            await settled(store, await claimed(store, job_id), Snoozed(0.0))
        elif start is Status.RETRYING:
            job_id = await job_in(store, Status.QUEUED)
            await settled(store, await claimed(store, job_id), raised(after=0.0))
        else:
            job_id = await job_in(store, start)
        job = await views.job(job_id)
        assert job is not None
        assert job.status is start
        return job_id, job.fence

    async def note(job_id: UUID, fence: int) -> None:
        job = await views.job(job_id)
        assert job is not None
        assert job.fence == fence + (job.status is not start)
        if job.status is not start:
            moves.add((start, job.status))

    job_id, fence = await fresh()
    await try_claim(store, job_id, fence)
    await note(job_id, fence)
    for target in Status:
        if target is Status.RUNNING:
            continue
        job_id, fence = await fresh()
        transition = Transition(status=target, ended=Ended.FAILED)
        await store.settle([Settlement(job_id, fence, transition)])
        await note(job_id, fence)
        job_id, fence = await fresh()
        await store.settle([Settlement(job_id, fence + 1, transition), Settlement(job_id, fence - 1, transition)])
        await note(job_id, fence)
    job_id, fence = await fresh()
    await store.cancel([job_id], statuses=frozenset(Status))
    await note(job_id, fence)
    job_id, fence = await fresh()
    await store.replay([job_id], statuses=frozenset(Status))
    await note(job_id, fence)
    expiring = await job_in(store, start, expires_at=past) if start in {Status.QUEUED, Status.SCHEDULED} else None
    if expiring is not None:
        await store.expire(limit=10)
        assert await status_of(views, expiring) is Status.FAILED
        moves.add((start, Status.FAILED))
    elif start is Status.RETRYING:
        job = await inserted(store, expires_at=database.clock.now() + timedelta(seconds=0.2))
        await settled(store, await claimed(store, job.job.id), raised(after=0.0))
        async with asyncio.timeout(10):
            while not await store.expire(limit=10):
                pass
        moves.add((start, Status.FAILED))
    else:
        assert await store.expire(limit=10) == []
    assert moves == {(before, after) for before, after in TRANSITIONS if before is start}


async def test_a_stale_end_does_not_swallow_the_valid_one_of_the_same_flush(store: JobStore, views: Views) -> None:
    job_id = await job_in(store, Status.QUEUED)
    old = await claimed(store, job_id)
    await settled(store, old, HandedBack())
    new = await claimed(store, job_id, 2)
    end = Transition(status=Status.COMPLETED, ended=Ended.COMPLETED, result=b"1")
    stale, valid = await store.settle([Settlement(job_id, old.fence, end), Settlement(job_id, new.fence, end)])
    assert stale is None
    assert valid is not None
    assert await status_of(views, job_id) is Status.COMPLETED


async def test_one_call_of_reconcile_bumps_no_more_than_its_limit_in_all_queues(
    store: JobStore, database: Database
) -> None:
    for queue in ("a", "b", "c"):
        for _ in range(3):
            await job_in(store, Status.QUEUED, queue=queue)
    mark = database.clock.now() + timedelta(seconds=1)
    marks = [(queue, Priority.NORMAL, mark) for queue in ("a", "b", "c")]
    assert len(await store.bump_overtaken(marks, limit=4)) == 4


async def test_a_cancel_that_races_with_a_failure_costs_no_retry(store: JobStore, views: Views) -> None:
    job = await claimed(store, await job_in(store, Status.QUEUED))
    await store.cancel([job.id])
    await settled(store, job, raised())
    found = await views.job(job.id)
    assert found is not None
    assert (found.status, found.retry_count) == (Status.CANCELED, 0)
    assert found.run_at <= found.updated_at


# Each guard by itself: the job is such that no other guard of the statement refuses.


async def run_again(store: JobStore) -> tuple[Claimed, Claimed]:
    """The claim that was lost, and the one that holds the job now."""
    job_id = await job_in(store, Status.QUEUED)
    zombie = await claimed(store, job_id)
    await settled(store, zombie, HandedBack())
    return zombie, await claimed(store, job_id, zombie.fence + 1)


@pytest.mark.parametrize("outcome", [Returned(b'"zombie"'), raised(retryable=False)], ids=["returned", "raised"])
async def test_a_zombie_cannot_end_a_job_that_runs_again(store: JobStore, views: Views, outcome: Outcome) -> None:
    zombie, holder = await run_again(store)
    assert await settled(store, zombie, outcome) is None
    job = await views.job(holder.id)
    assert job is not None
    assert (job.status, job.fence, job.result) == (Status.RUNNING, holder.fence, None)


async def test_a_lease_is_extended_for_the_holder_only(store: JobStore, views: Views) -> None:
    zombie, holder = await run_again(store)
    before = await views.job(holder.id)
    assert await store.extend_leases([(zombie.id, zombie.fence)], lease_seconds=600.0) == frozenset()
    assert await views.job(holder.id) == before
    assert await store.extend_leases([(holder.id, holder.fence)], lease_seconds=600.0) == frozenset({holder.id})


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.RUNNING])
async def test_what_does_not_run_has_no_lease_and_no_progress(store: JobStore, views: Views, status: Status) -> None:
    before = await views.job(await job_in(store, status))
    assert before is not None
    assert await store.extend_leases([(before.id, before.fence)], lease_seconds=600.0) == frozenset()
    await store.save_progress([(before.id, before.fence, Progress(99.0, "late"))])
    assert await views.job(before.id) == before


async def test_a_message_of_another_fence_changes_nothing(store: JobStore, views: Views) -> None:
    job = await claimed(store, await job_in(store, Status.QUEUED))
    await settled(store, job, HandedBack())
    before = await views.job(job.id)
    assert before is not None
    assert (before.status, before.fence) == (Status.QUEUED, 2)
    for fence in (0, 1, 3):
        assert isinstance(await try_claim(store, job.id, fence), Refusal)
        assert await views.job(job.id) == before


async def test_only_waiting_jobs_are_overtaken(store: JobStore, views: Views, database: Database) -> None:
    jobs = {status: await job_in(store, status) for status in Status}
    mark = database.clock.now() + timedelta(hours=1)
    found = await store.bump_overtaken([("default", Priority.NORMAL, mark)], limit=100)
    waiting = {jobs[status] for status in (Status.QUEUED, Status.SCHEDULED, Status.RETRYING)}
    assert {each.job_id for each in found} == waiting
    assert len(found) == len(waiting)


async def test_an_end_that_is_named_twice_is_won_once(store: JobStore) -> None:
    job = await claimed(store, await job_in(store, Status.QUEUED))
    end = Settlement(job.id, job.fence, Transition(status=Status.COMPLETED, ended=Ended.COMPLETED, result=b"1"))
    first, second = await store.settle([end, end])
    assert first is not None
    assert second is None


async def test_an_end_that_is_confirmed_late_says_nothing_of_what_came_after(store: JobStore) -> None:
    """The job has moved on: what it is now was told by whoever moved it."""
    job = await claimed(store, await job_in(store, Status.QUEUED))
    mine = Settlement(job.id, job.fence, Transition(status=Status.QUEUED, ended=Ended.HANDED_BACK))
    await store.settle([mine])
    await claimed(store, job.id, job.fence + 1)
    assert await store.settle([mine], repeated=True) == [None]


async def test_a_key_is_known_for_its_time_however_its_job_ended(store: JobStore) -> None:
    first = await inserted(store, idempotency_key="k", fingerprint=b"f")
    await settled(store, await claimed(store, first.job.id), Returned(b"1"))
    again = await inserted(store, idempotency_key="k", fingerprint=b"f")
    assert (again.created, again.job.id, again.job.status) == (False, first.job.id, Status.COMPLETED)
