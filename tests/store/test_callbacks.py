"""A callback is stored in the transaction of the transition that it tells of: once a terminal transition, or not."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from jobserver.job.lifecycle import CANCELED as CANCELED_ERROR
from jobserver.job.lifecycle import Transition, decide
from jobserver.job.model import (
    CALLBACK,
    CALLBACK_QUEUE,
    Canceled,
    Claimed,
    Ended,
    HandedBack,
    Job,
    LeaseLost,
    Outcome,
    Returned,
    Snoozed,
    Status,
    bounded_error,
)
from jobserver.job.query import JobFilter
from jobserver.store.engine import Database
from jobserver.store.jobs import JobStore, Lost, Settlement
from jobserver.store.views import Views
from tests.jobs import POLICY, beat_of, claimed, delivery, inserted, raised, submission

URL = "https://example.org/hook?a=1&b=%22"


async def callbacks(views: Views) -> list[Job]:
    """The callbacks that are stored, newest first."""
    page = await views.jobs(JobFilter(type=CALLBACK), limit=100, offset=0, cursor=None)
    return list(page.items)


def event_of(job: Job) -> dict[str, Any]:
    """What a callback tells; read as a CloudEvent by those who wrote the standard's library."""
    payload = msgspec.json.decode(job.payload)
    assert payload["url"] == URL
    event = payload["event"]
    assert JSONFormat().read(CloudEvent, msgspec.json.encode(event)).get_id() == event["id"]
    data: dict[str, Any] = event["data"]
    return data


async def running(store: JobStore, **fields: Any) -> Claimed:
    job = (await inserted(store, callback_url=URL, **fields)).job
    return await claimed(store, job.id)


def end(job: Claimed, outcome: Outcome, **options: Any) -> Settlement:
    return Settlement(job.id, job.fence, decide(job, outcome, POLICY, 0.5), calls_back=True, **options)


async def test_the_event_says_what_became_of_the_job(store: JobStore, views: Views) -> None:
    job = await running(store, type="mail.send", queue="post", tags=("a", 'b"\\'), trace_context="00-" + "1" * 32)
    result = '{"z":1,"a":[12345678901234567890123,1.50,"\\u0000\\ud83d\\ude00ü"]}'.encode()
    [moved] = await store.settle([end(job, Returned(result))])
    assert moved is not None
    [told] = await callbacks(views)
    assert moved.callback_id == told.id
    assert (told.type, told.queue, told.status, told.fence) == (CALLBACK, CALLBACK_QUEUE, Status.QUEUED, 0)
    assert (told.callback_url, told.max_retries, told.trace_context) == (None, 16, job.trace_context)
    assert told.id.version == 7
    stored = await views.job(job.id)
    assert stored is not None
    assert told.created_at == told.due_at == stored.finished_at
    # The result comes byte by byte as it was returned.
    assert result in told.payload
    event = msgspec.json.decode(told.payload)["event"]
    data = event.pop("data")
    finished = stored.finished_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if stored.finished_at else ""
    assert event == {
        "specversion": "1.0",
        "id": f"{job.id}:{moved.fence}",
        "source": "/jobs",
        "type": "jobserver.job.completed",
        "subject": str(job.id),
        "time": finished,
        "datacontenttype": "application/json",
    }
    assert data == {
        "id": str(job.id),
        "type": "mail.send",
        "queue": "post",
        "status": "completed",
        "attempt": 1,
        "retry_count": 0,
        "crashes": 0,
        "fence": 2,
        "tags": ["a", 'b"\\'],
        "created_at": stored.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "finished_at": finished,
        "result": msgspec.json.decode(result),
        "error": None,
    }
    event_of(told)


@pytest.mark.parametrize(
    ("outcome", "status", "error"),
    [
        (Returned(b"null"), "completed", None),
        (raised("no \x01 \u2028 'x'", retryable=False), "failed", {"type": "ValueError", "retryable": False}),
        (Canceled("enough"), "canceled", {"type": "Canceled", "message": "enough", "retryable": False}),
    ],
    ids=["returned", "raised", "canceled"],
)
async def test_every_end_is_told(
    store: JobStore, views: Views, outcome: Outcome, status: str, error: dict[str, Any] | None
) -> None:
    job = await running(store)
    [moved] = await store.settle([end(job, outcome)])
    [told] = await callbacks(views)
    assert moved is not None
    assert moved.callback_id == told.id
    data = event_of(told)
    assert data["status"] == status
    if error is None:
        assert data["error"] is None
    else:
        # The traceback is not for whoever listens there.
        assert set(data["error"]) == {"type", "message", "retryable"}
        assert error.items() <= data["error"].items()


@pytest.mark.parametrize("outcome", [raised(), Snoozed(1.0), HandedBack()], ids=["raised", "snoozed", "handed back"])
async def test_what_waits_again_tells_nothing(store: JobStore, views: Views, outcome: Outcome) -> None:
    job = await running(store)
    [moved] = await store.settle([end(job, outcome)])
    assert moved is not None
    assert moved.callback_id is None
    assert await callbacks(views) == []


async def test_a_cancel_that_was_requested_meanwhile_is_what_is_told(store: JobStore, views: Views) -> None:
    job = await running(store)
    [asked] = await store.cancel([job.id])
    assert (asked.status, asked.callback_id) == (Status.RUNNING, None)
    assert await callbacks(views) == []
    [moved] = await store.settle([end(job, raised("first"))])
    [told] = await callbacks(views)
    assert moved is not None
    assert moved.callback_id == told.id
    assert event_of(told)["status"] == "canceled"
    # Returned wins over it.
    job = await running(store)
    await store.cancel([job.id])
    [moved] = await store.settle([end(job, Returned(b"1"))])
    assert moved is not None
    assert moved.status is Status.COMPLETED


async def test_a_stale_end_tells_nothing(store: JobStore, views: Views) -> None:
    job = await running(store)
    stale = msgspec.structs.replace(end(job, Returned(b"1")), fence=job.fence - 1)
    assert await store.settle([stale]) == [None]
    assert await callbacks(views) == []
    assert await store.settle([end(job, Returned(b"1")), end(job, raised(retryable=False))]) != [None, None]
    assert await store.settle([end(job, Returned(b"1"))]) == [None]
    assert len(await callbacks(views)) == 1


async def test_what_does_not_run_cannot_end_and_tells_nothing(store: JobStore, views: Views) -> None:
    job = await running(store)
    [moved] = await store.settle([end(job, raised())])
    assert moved is not None
    waits = msgspec.structs.replace(end(job, Returned(b"1")), fence=moved.fence)
    assert await store.settle([waits]) == [None]
    assert await callbacks(views) == []


async def test_an_end_that_is_repeated_tells_once(store: JobStore, views: Views) -> None:
    job = await running(store)
    ended = [end(job, Returned(b"1"))]
    [first] = await store.settle(ended)
    [again] = await store.settle(ended, repeated=True)
    assert first is not None
    assert again is not None
    assert (first.callback_id is None, again.callback_id) == (False, None)
    assert len(await callbacks(views)) == 1


async def test_of_a_batch_those_tell_that_want_to_and_ended(store: JobStore, views: Views) -> None:
    wants = [await running(store) for _ in range(3)]
    plain = await claimed(store, (await inserted(store)).job.id)
    moves = await store.settle(
        [
            end(wants[0], Returned(b"0")),
            Settlement(plain.id, plain.fence, decide(plain, Returned(b"1"), POLICY, 0.5)),
            end(wants[1], raised()),
            end(wants[2], raised(retryable=False)),
        ]
    )
    assert [move is not None and move.callback_id is not None for move in moves] == [True, False, False, True]
    found = {event_of(each)["id"]: each.id for each in await callbacks(views)}
    assert found == {str(move.job_id): move.callback_id for move in moves if move and move.callback_id}
    history = await views.attempts(wants[1].id)
    assert history is not None
    assert [each.outcome for each in history] == ["retrying"]
    stored = await views.job(wants[1].id)
    assert stored is not None
    assert stored.error is not None
    assert history[0].error == stored.error


async def test_among_jobs_that_all_completed_the_one_that_wants_to_tells(store: JobStore, views: Views) -> None:
    wants, plain = await running(store), await claimed(store, (await inserted(store)).job.id)
    moves = await store.settle(
        [
            end(wants, Returned(b"0")),
            Settlement(plain.id, plain.fence, decide(plain, Returned(b"1"), POLICY, 0.5)),
        ]
    )
    assert [move is not None and move.callback_id is not None for move in moves] == [True, False]
    assert [event_of(each)["id"] for each in await callbacks(views)] == [str(wants.id)]


@pytest.mark.parametrize("status", ["queued", "scheduled", "retrying"])
async def test_a_waiting_job_that_is_canceled_tells(store: JobStore, views: Views, status: str) -> None:
    if status == "retrying":
        job = await running(store)
        await store.settle([end(job, raised("first"))])
        job_id = job.id
    else:
        delay = {"scheduled": 60.0}.get(status, 0.0)
        job_id = (await inserted(store, callback_url=URL, delay_seconds=delay)).job.id
    [result] = await store.cancel([job_id])
    [told] = await callbacks(views)
    assert result.callback_id == told.id
    data = event_of(told)
    assert (data["status"], data["fence"], data["result"]) == ("canceled", result.fence, None)
    assert (data["error"] is None) == (status != "retrying")
    assert await store.cancel([job_id]) == []
    assert len(await callbacks(views)) == 1


async def test_jobs_that_are_canceled_together_tell_each_for_itself(store: JobStore, views: Views) -> None:
    [group] = await store.insert([[submission(callback_url=URL if n % 2 else None) for n in range(6)]])
    assert isinstance(group, list)
    results = await store.cancel([each.job.id for each in group])
    told = {result.job_id for result in results if result.callback_id is not None}
    assert told == {each.job.id for each in group if each.job.callback_url}
    assert {UUID(event_of(each)["id"]) for each in await callbacks(views)} == told


async def test_a_job_that_expires_tells(store: JobStore, views: Views, database: Database) -> None:
    soon = database.clock.now()
    wants = (await inserted(store, callback_url=URL, expires_at=soon)).job
    await inserted(store, expires_at=soon)
    later = (await inserted(store, callback_url=URL)).job
    moves = await store.expire(limit=10)
    assert sorted(each.callback_id is not None for each in moves) == [False, True]
    [told] = await callbacks(views)
    data = event_of(told)
    assert (data["id"], data["status"], data["error"]["type"]) == (str(wants.id), "failed", "Expired")
    assert await store.expire(limit=10) == []
    assert later.status is Status.QUEUED


@pytest.mark.parametrize("ended_by", ["cancel", "expire"])
async def test_what_is_told_is_the_end_of_the_job(
    store: JobStore, views: Views, database: Database, ended_by: str
) -> None:
    """By one look at the clock, for all that end together."""
    soon = database.clock.now()
    [group] = await store.insert([[submission(callback_url=URL, expires_at=soon) for _ in range(5)]])
    assert isinstance(group, list)
    ids = [each.job.id for each in group]
    await (store.cancel(ids) if ended_by == "cancel" else store.expire(limit=10))
    jobs = [await views.job(job_id) for job_id in ids]
    [moment] = {moment for job in jobs if job is not None for moment in (job.finished_at, job.updated_at)}
    told = [datetime.fromisoformat(event_of(each)["finished_at"]) for each in await callbacks(views)]
    assert told == [moment] * len(ids)


async def test_a_job_that_crashes_too_often_tells(store: JobStore, views: Views, database: Database) -> None:
    job = await running(store)
    gone = LeaseLost(bounded_error("LeaseLost", "gone"))
    move = Transition(status=Status.FAILED, ended=Ended.LEASE_LOST, crash_delta=1, error=gone.error)
    [early] = await store.settle([Settlement(job.id, job.fence, move, lease_over=True, calls_back=True)])
    assert early is None
    assert await callbacks(views) == []
    [moved] = await store.settle([Settlement(job.id, job.fence, move, calls_back=True)])
    [told] = await callbacks(views)
    assert moved is not None
    assert moved.callback_id == told.id
    assert (event_of(told)["status"], event_of(told)["crashes"]) == ("failed", 1)


async def test_jobs_taken_from_the_dead_tell(store: JobStore, views: Views, database: Database) -> None:
    if database.sqlite:
        pytest.skip("a folder has one process: its jobs are taken back by settle")
    from jobserver.store.workers import WorkerStore

    other = database.sibling()
    await WorkerStore(other).beat(beat_of("dead"))
    await other.close()
    [group] = await store.insert([[submission(callback_url=URL), submission()]])
    assert isinstance(group, list)
    for each in group:
        await claimed(store, each.job.id, worker_id="dead")

    def end_of(lost: Lost) -> Settlement:
        move = Transition(status=Status.FAILED, ended=Ended.LEASE_LOST, crash_delta=1, error=CANCELED_ERROR)
        return Settlement(lost.job.id, lost.job.fence, move, calls_back=lost.job.callback_url is not None)

    await asyncio.sleep(0.01)
    taken = await store.take_from_dead("dead", end_of, silent_seconds=0.0, limit=10)
    assert sorted(moved.callback_id is not None for _, moved in taken) == [False, True]
    assert len(await callbacks(views)) == 1


async def test_a_replay_that_ends_again_tells_again(store: JobStore, views: Views) -> None:
    job = await running(store)
    await store.settle([end(job, raised(retryable=False))])
    [again] = await store.replay([job.id])
    second = await claimed(store, job.id, again.fence)
    assert second.callback_url == URL
    await store.settle([end(second, Returned(b"1"))])
    told = [event_of(each) for each in await callbacks(views)]
    assert sorted((each["status"], each["fence"]) for each in told) == [("completed", 5), ("failed", 2)]


async def test_a_callback_is_a_job_like_any_other_and_tells_nobody(store: JobStore, views: Views) -> None:
    job = await running(store)
    await store.settle([end(job, Returned(b"1"))])
    [told] = await callbacks(views)
    answers = await store.claim([delivery(told.id, 0)], worker_id="w", token=UUID(int=1), lease_seconds=15.0)
    [held] = answers
    assert isinstance(held, Claimed)
    assert (held.callback_url, held.max_retries, held.timeout_seconds) == (None, 16, 60.0)
    await store.settle([Settlement(held.id, held.fence, decide(held, Returned(b"1"), POLICY, 0.5))])
    assert len(await callbacks(views)) == 1
    stats = await views.stats()
    assert (stats.total, stats.by_status[Status.COMPLETED]) == (2, 2)
