"""Lists, counts and single rows as the API shows them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import sqlalchemy as sa

from jobserver.errors import Invalid
from jobserver.job.model import Job, Priority, Status
from jobserver.job.query import JobFilter
from jobserver.store import tables
from jobserver.store import views as views_module
from jobserver.store.engine import Database
from jobserver.store.jobs import JobStore
from jobserver.store.views import Views
from jobserver.store.workers import WorkerStore
from tests.jobs import beat_of, claimed, inserted, job_in, raised, settled, submission


async def pages(views: Views, wanted: JobFilter, limit: int) -> list[UUID]:
    """Every job of a list, by following its cursor."""
    found: list[UUID] = []
    cursor: str | None = None
    while True:
        page = await views.jobs(wanted, limit=limit, offset=0, cursor=cursor)
        assert len(page.items) <= limit
        found += [job.id for job in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found
        assert len(page.items) == limit


async def listed(views: Views, wanted: JobFilter, **place: Any) -> list[UUID]:
    page = await views.jobs(wanted, **{"limit": 100, "offset": 0, "cursor": None, **place})
    return [job.id for job in page.items]


@pytest.fixture
async def some(store: JobStore) -> dict[str, Job]:
    """Jobs that differ in one way each."""
    fields: dict[str, dict[str, Any]] = {
        "plain": {},
        "typed": {"type": "other"},
        "queued": {"queue": "q2"},
        "tagged": {"tags": ("a", "b")},
        "both tags": {"tags": ("b", "c")},
        "odd tag": {"tags": ('"; DROP TABLE jobs; --', "100%", "ä")},
    }
    return {name: (await inserted(store, **each)).job for name, each in fields.items()}


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (JobFilter(), {"plain", "typed", "queued", "tagged", "both tags", "odd tag"}),
        (JobFilter(type="other"), {"typed"}),
        (JobFilter(type="no.such"), set()),
        (JobFilter(queue="q2"), {"queued"}),
        (JobFilter(queue="q2", type="other"), set()),
        (JobFilter(tag="a"), {"tagged"}),
        (JobFilter(tag="b"), {"tagged", "both tags"}),
        (JobFilter(tag="A"), set()),
        (JobFilter(tag='"; DROP TABLE jobs; --'), {"odd tag"}),
        (JobFilter(tag="100%"), {"odd tag"}),
        (JobFilter(tag="1"), set()),
        (JobFilter(tag="ä"), {"odd tag"}),
        (JobFilter(tag="b", queue="default"), {"tagged", "both tags"}),
        (
            JobFilter(statuses=frozenset({Status.QUEUED})),
            {"plain", "typed", "queued", "tagged", "both tags", "odd tag"},
        ),
        (JobFilter(statuses=frozenset({Status.FAILED})), set()),
    ],
)
async def test_filters_choose(views: Views, some: dict[str, Job], wanted: JobFilter, names: set[str]) -> None:
    page = await views.jobs(wanted, limit=100, offset=0, cursor=None)
    assert {job.id for job in page.items} == {some[name].id for name in names}
    assert (page.total, page.total_capped, page.next_cursor) == (len(names), False, None)


async def test_statuses_are_a_choice(store: JobStore, views: Views) -> None:
    jobs = {status: await job_in(store, status) for status in Status}
    for chosen in ({Status.FAILED}, {Status.FAILED, Status.RUNNING}, set(Status)):
        page = await views.jobs(JobFilter(statuses=frozenset(chosen)), limit=100, offset=0, cursor=None)
        assert {job.id for job in page.items} == {jobs[status] for status in chosen}
        assert page.total == len(chosen)


async def test_times_are_exclusive_to_the_microsecond(store: JobStore, views: Views) -> None:
    jobs = []
    for _ in range(5):
        jobs.append((await inserted(store)).job)
        await asyncio.sleep(0.002)  # another millisecond each
    middle = jobs[2].created_at
    after = await listed(views, JobFilter(created_after=middle))
    before = await listed(views, JobFilter(created_before=middle))
    assert after == [jobs[4].id, jobs[3].id]
    assert before == [jobs[1].id, jobs[0].id]
    step = timedelta(microseconds=1)
    only = JobFilter(created_after=middle - step, created_before=middle + step)
    page = await views.jobs(only, limit=100, offset=0, cursor=None)
    assert ([job.id for job in page.items], page.total) == ([jobs[2].id], 1)


async def test_lists_are_newest_first_and_paged_by_cursor_or_offset(store: JobStore, views: Views) -> None:
    jobs = [(await inserted(store)).job.id for _ in range(25)]
    newest = jobs[::-1]
    for limit in (1, 7, 25, 100):
        assert await pages(views, JobFilter(), limit) == newest
    assert await listed(views, JobFilter(), limit=5, offset=20) == newest[20:]
    assert await listed(views, JobFilter(), limit=5, offset=25) == []


async def test_a_cursor_stays_in_place_while_jobs_arrive_and_go(store: JobStore, views: Views) -> None:
    jobs = [await job_in(store, Status.FAILED) for _ in range(20)]
    first = await views.jobs(JobFilter(), limit=8, offset=0, cursor=None)
    await store.insert([[submission() for _ in range(10)]])
    await store.delete([jobs[12], first.items[-1].id])
    rest: list[UUID] = []
    cursor = first.next_cursor
    while cursor is not None:
        page = await views.jobs(JobFilter(), limit=5, offset=0, cursor=cursor)
        rest += [job.id for job in page.items]
        cursor = page.next_cursor
    assert [job.id for job in first.items] + rest == jobs[::-1]


async def test_dead_letters_are_paged_by_the_time_of_their_failure(store: JobStore, views: Views) -> None:
    jobs = [(await inserted(store)).job.id for _ in range(9)]
    order = [jobs[number] for number in (4, 0, 8, 2, 6, 1, 7, 3, 5)]
    for job_id in order:
        await settled(store, await claimed(store, job_id), raised(retryable=False))
    # Some that failed in one statement, at one moment.
    past = store.database.clock.now() - timedelta(seconds=1)
    together = [submission(expires_at=past) for _ in range(5)]
    await store.insert([together])
    await store.expire(limit=10)
    wanted = JobFilter(statuses=frozenset({Status.FAILED}), dead_first=True)
    expected = sorted((job.id for job in together), reverse=True) + order[::-1]
    for limit in (1, 3, 100):
        assert await pages(views, wanted, limit) == expected


@pytest.mark.parametrize("dead_first", [False, True])
@pytest.mark.parametrize("cursor", ["", "x", "!!!!", "ä", "AAAA", "A" * 22, "A" * 32, "_" * 32, "A" * 10_000, "\x00"])
async def test_what_is_no_cursor_of_the_list_is_invalid_or_just_a_place(
    views: Views, cursor: str, dead_first: bool
) -> None:
    wanted = JobFilter(dead_first=dead_first)
    if cursor == "A" * (32 if dead_first else 22):
        # The place before everything.
        assert (await views.jobs(wanted, limit=5, offset=0, cursor=cursor)).items == []
        return
    with pytest.raises(Invalid) as refused:
        await views.jobs(wanted, limit=5, offset=0, cursor=cursor)
    assert "cursor" in refused.value.path


async def test_a_cursor_of_the_one_list_is_none_of_the_other(store: JobStore, views: Views) -> None:
    for _ in range(3):
        await job_in(store, Status.FAILED)
    dead = await views.jobs(JobFilter(dead_first=True), limit=1, offset=0, cursor=None)
    plain = await views.jobs(JobFilter(), limit=1, offset=0, cursor=None)
    for wanted, cursor in ((JobFilter(), dead.next_cursor), (JobFilter(dead_first=True), plain.next_cursor)):
        assert cursor is not None
        with pytest.raises(Invalid):
            await views.jobs(wanted, limit=1, offset=0, cursor=cursor)


async def test_a_total_is_exact_up_to_its_cap(store: JobStore, views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views_module, "TOTAL_CAP", 10)
    await store.insert([[submission(type="t") for _ in range(10)]])
    for wanted in (JobFilter(), JobFilter(type="t")):
        page = await views.jobs(wanted, limit=1, offset=0, cursor=None)
        assert (page.total, page.total_capped) == (10, False)
    await store.insert([[submission(type="t")]])
    for wanted in (JobFilter(), JobFilter(type="t")):
        page = await views.jobs(wanted, limit=1, offset=0, cursor=None)
        assert (page.total, page.total_capped) == (10, True)


async def test_queues_show_their_counts_and_the_age_of_what_is_due(store: JobStore, views: Views) -> None:
    await store.add_queue("default")
    await store.add_queue("empty")
    await store.set_paused("paused", True)
    for status in Status:
        await job_in(store, status)
    [job] = (await store.insert([[submission(queue="paused", priority=Priority.LOW)]]))[:1]
    assert isinstance(job, list)
    found = {queue.name: queue for queue in await views.queues()}
    assert list(found) == ["default", "empty", "paused"]
    assert found["default"].counts == dict.fromkeys(Status, 1)
    assert found["empty"].counts == dict.fromkeys(Status, 0)
    assert [queue.paused for queue in found.values()] == [False, False, True]
    assert found["empty"].oldest_waiting_seconds is None
    for name in ("default", "paused"):
        age = found[name].oldest_waiting_seconds
        assert age is not None
        assert 0.0 <= age < 60.0
    assert await views.queue("empty") == found["empty"]
    assert await views.queue("no-such") is None
    stats = await views.stats()
    assert (stats.total, stats.dlq, stats.by_status[Status.QUEUED]) == (8, 1, 2)


async def test_a_job_that_is_delayed_is_not_waiting_yet(store: JobStore, views: Views) -> None:
    await store.add_queue("default")
    await job_in(store, Status.SCHEDULED)
    assert (await views.stats()).oldest_waiting_seconds is None


async def test_workers_are_alive_while_they_beat(
    store: JobStore, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = WorkerStore(store.database)

    async def beat(worker_id: str, *, stopped: bool = False, queues: tuple[str, ...] | None = None) -> None:
        await workers.beat(
            beat_of(worker_id, stopped=stopped, draining=stopped, queues=queues, types=("a", "b"), concurrency=4)
        )

    await beat("one")
    await beat("two", queues=("q",))
    await beat("two", queues=("q",), stopped=True)
    found = {worker.id: worker for worker in await views.workers()}
    assert {name: worker.alive for name, worker in found.items()} == {"one": True, "two": False}
    assert (found["two"].queues, found["one"].queues, found["one"].types) == (("q",), None, ("a", "b"))
    assert await workers.alive(within_seconds=60) == ["one"]
    assert (await views.stats()).workers == 1
    monkeypatch.setattr(views_module, "ALIVE_SECONDS", 0.0)
    assert not any(worker.alive for worker in await views.workers())
    assert (await views.stats()).workers == 0


async def test_a_process_that_is_alive_is_not_left_out_for_newer_ones_that_are_not(
    store: JobStore, views: Views
) -> None:
    workers = WorkerStore(store.database)
    await workers.beat(beat_of("old"))
    await workers.beat(beat_of("dead", stopped=True))
    async with store.database._writer.connect() as connection:
        names = [column.name for column in tables.workers.columns if column.name != "id"]
        dead = ", ".join(f"dead.{name}" for name in names)
        numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1100)"
        await connection.execute(
            sa.text(
                f"INSERT INTO workers (id, {', '.join(names)}) {numbers}"
                f" SELECT 'dead ' || i, {dead} FROM n CROSS JOIN workers AS dead WHERE dead.id = 'dead'"
            )
        )
        await connection.commit()
    found = await views.workers()
    assert len(found) == 1_000
    assert [worker.id for worker in found if worker.alive] == ["old"]
    assert [worker.started_at for worker in found] == sorted((each.started_at for each in found), reverse=True)


async def test_what_does_not_exist_is_none(views: Views) -> None:
    nobody = uuid4()
    assert await views.job(nobody) is None
    assert await views.attempts(nobody) is None
    assert await views.statuses([nobody]) == {}


async def test_statuses_of_many_are_one_question(store: JobStore, views: Views) -> None:
    jobs = {await job_in(store, status): status for status in Status}
    assert await views.statuses([*jobs, uuid4()]) == jobs


async def test_times_are_those_of_the_database(store: JobStore, views: Views, database: Database) -> None:
    job = await views.job((await inserted(store)).job.id)
    assert job is not None
    assert job.created_at.tzinfo is not None
    assert abs(database.clock.now() - job.created_at) < timedelta(seconds=30)


# Where a job stands.


async def stands(views: Views, job: Job, **expected: Any) -> None:
    standing = await views.standing(job, due=True)
    found = {name: getattr(standing, name) for name in expected}
    assert found == expected


async def test_a_job_is_behind_older_ones_and_those_of_higher_priority(store: JobStore, views: Views) -> None:
    # In one batch they share a moment, and go by their ids.
    [batch] = await store.insert([[submission() for _ in range(4)]])
    assert isinstance(batch, list)
    for place, each in enumerate(batch):
        await stands(views, each.job, ahead=place, capped=False, queued=None)
    low = (await inserted(store, priority=Priority.LOW)).job
    high = (await inserted(store, priority=Priority.HIGH)).job
    await stands(views, high, ahead=0)
    await stands(views, batch[3].job, ahead=4)
    await stands(views, low, ahead=5)
    for _ in range(2):
        await inserted(store, priority=Priority.HIGH)
    await stands(views, batch[0].job, ahead=3)
    await stands(views, low, ahead=7)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.QUEUED])
async def test_what_is_not_due_is_ahead_of_nobody(store: JobStore, views: Views, status: Status) -> None:
    for priority in Priority:
        await job_in(store, status, priority=priority)
        await inserted(store, queue="another", priority=priority)
    job = (await inserted(store, priority=Priority.LOW)).job
    await stands(views, job, ahead=0, paused=False)


async def test_of_a_job_that_is_not_due_nothing_is_counted(store: JobStore, views: Views) -> None:
    await inserted(store)
    job = (await inserted(store)).job
    assert (await views.standing(job, due=False)).ahead == 0


async def test_a_paused_queue_is_said_to_be(store: JobStore, views: Views) -> None:
    await store.set_paused("default", True)
    await store.set_paused("another", False)
    for name, paused in (("default", True), ("another", False), ("new", False)):
        job = (await inserted(store, queue=name)).job
        for due in (True, False):
            assert (await views.standing(job, due=due)).paused is paused


async def test_a_job_that_is_gone_stands_nowhere(store: JobStore, views: Views) -> None:
    job = (await inserted(store)).job
    await stands(views, msgspec.structs.replace(job, id=uuid4()), ahead=0, capped=False, paused=False)


async def test_with_many_before_it_a_job_is_counted_from_the_end(store: JobStore, views: Views) -> None:
    batch = []
    for _ in range(11):
        [group] = await store.insert([[submission() for _ in range(2_000)]])
        assert isinstance(group, list)
        batch += [each.job for each in group]
    # These wait, and are neither queued nor due.
    for _ in range(3):
        await job_in(store, Status.SCHEDULED)
    await inserted(store, queue="another")
    await stands(views, batch[9_999], ahead=9_999, capped=False, queued=None)
    # As many as are counted, on either side.
    await stands(views, batch[10_500], ahead=10_000, capped=True, queued=22_000)
    await stands(views, batch[11_999], ahead=10_000, capped=True, queued=22_000)
    await stands(views, batch[12_000], ahead=12_000, capped=False, queued=22_000)
    await stands(views, batch[21_999], ahead=21_999, capped=False, queued=22_000)
    # Of lower priority: after it, like the younger ones.
    for priority in (Priority.LOW, Priority.LOW, Priority.HIGH):
        await inserted(store, priority=priority)
    await stands(views, batch[21_999], ahead=22_000, capped=False, queued=22_003)
    await stands(views, batch[12_003], ahead=12_004, capped=False, queued=22_003)
    last = (await inserted(store, priority=Priority.LOW)).job
    await stands(views, last, ahead=22_003, capped=False, queued=22_004)
    urgent = (await inserted(store, priority=Priority.HIGH)).job
    await stands(views, urgent, ahead=1)
