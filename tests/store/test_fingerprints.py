"""Fingerprints of failed jobs: written with the failure, gone with the replay; and the groups that they make."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from jobserver.job.fingerprint import fingerprint_of
from jobserver.job.lifecycle import EXPIRED
from jobserver.job.model import LeaseLost, Status, bounded_error
from jobserver.job.query import FailedGroup, JobFilter, Selection
from jobserver.store import views as views_module
from jobserver.store.engine import Database
from jobserver.store.jobs import JobStore
from jobserver.store.tables import jobs
from jobserver.store.views import Views
from tests.jobs import POLICY, claimed, inserted, job_in, raised, settled


async def fingerprint_in(database: Database, job_id: UUID) -> str | None:
    [row] = await database.select(sa.select(jobs.c.fingerprint).where(jobs.c.id == job_id))
    found: str | None = row["fingerprint"]
    return found


async def forget(database: Database, *job_ids: UUID) -> None:
    """As the previous release would have left them."""
    async with database._connection(database._writer) as connection:
        if database.sqlite:
            await connection.execute(sa.text("BEGIN IMMEDIATE"))
        await connection.execute(sa.update(jobs).where(jobs.c.id.in_(job_ids)).values(fingerprint=None))
        await connection.commit()


async def failed(store: JobStore, message: str = "no", **fields: object) -> UUID:
    job_id = (await inserted(store, **fields)).job.id
    await settled(store, await claimed(store, job_id), raised(message, retryable=False))
    return job_id


async def test_only_what_failed_for_good_has_a_fingerprint(store: JobStore, database: Database) -> None:
    job_id = await failed(store, "no 1")
    assert await fingerprint_in(database, job_id) == fingerprint_of(raised("no 2").error)
    for status in set(Status) - {Status.FAILED}:
        assert await fingerprint_in(database, await job_in(store, status)) is None, status
    await store.replay([job_id])
    assert await fingerprint_in(database, job_id) is None
    # Failed, said its process; but somebody had asked it to end.
    asked = await claimed(store, (await inserted(store)).job.id)
    await store.cancel([asked.id])
    moved = await settled(store, asked, raised(retryable=False))
    assert moved is not None
    assert moved.status is Status.CANCELED
    assert await fingerprint_in(database, asked.id) is None


async def test_a_failure_has_its_fingerprint_however_it_came_about(store: JobStore, database: Database) -> None:
    called = await failed(store, callback_url="https://example.com/")
    assert await fingerprint_in(database, called) == fingerprint_of(raised().error)
    past = database.clock.now()
    expired = (await inserted(store, expires_at=past)).job.id
    await store.expire(limit=10)
    assert await fingerprint_in(database, expired) == fingerprint_of(EXPIRED)
    error = bounded_error("LeaseLost", "the process x-1 died")
    crashed = (await inserted(store)).job.id
    for crash in range(POLICY.max_crashes):
        job = await claimed(store, crashed, 2 * crash)
        assert await fingerprint_in(database, crashed) is None
        await settled(store, job, LeaseLost(error))
        async with database._connection(database._writer) as connection:
            if database.sqlite:
                await connection.execute(sa.text("BEGIN IMMEDIATE"))
            await connection.execute(sa.update(jobs).where(jobs.c.id == crashed).values(due_at=jobs.c.created_at))
            await connection.commit()
    assert await fingerprint_in(database, crashed) == fingerprint_of(error)


async def test_what_failed_under_an_older_release_gets_its_fingerprint(store: JobStore, database: Database) -> None:
    old = [await failed(store, f"no {n}") for n in range(5)]
    await forget(database, *old)
    assert await store.save_fingerprints(limit=3) == 3
    assert await store.save_fingerprints(limit=3) == 2
    assert await store.save_fingerprints(limit=3) == 0
    assert {await fingerprint_in(database, job_id) for job_id in old} == {fingerprint_of(raised("no 1").error)}


async def test_a_fingerprint_that_comes_late_is_for_the_failure_that_it_was_made_of(
    store: JobStore, views: Views, database: Database
) -> None:
    async def save(job_id: UUID, fence: int) -> None:
        await database.fetch("save_fingerprints", {"id": [job_id], "fence": [fence], "fingerprint": ["0" * 16]})

    has_one = await failed(store)
    await save(has_one, 2)
    assert await fingerprint_in(database, has_one) == fingerprint_of(raised().error)
    again = await failed(store, "first")
    await forget(database, again)
    await save(again, 1)
    await save(again, 3)
    assert await fingerprint_in(database, again) is None
    await store.replay([again])
    await save(again, 3)
    assert await fingerprint_in(database, again) is None
    waiting = await job_in(store, Status.QUEUED)
    await save(waiting, 0)
    assert await fingerprint_in(database, waiting) is None


# Groups.


async def groups(views: Views, **options: object) -> list[FailedGroup]:
    found = await views.failed_groups(**{"type": None, "queue": None, "limit": 100} | options)  # type: ignore[arg-type]
    assert not found.partial
    return found.items


async def test_failed_jobs_are_grouped_by_type_and_error(store: JobStore, views: Views) -> None:
    first = [await failed(store, f"no {n}", type="a", queue=queue) for n, queue in enumerate("pqp")]
    other = await failed(store, "else", type="a")
    typed = await failed(store, "no 7", type="b")
    await job_in(store, Status.CANCELED, type="a")
    await job_in(store, Status.RETRYING, type="a")
    found = await groups(views)
    assert [(group.type, group.count, group.last_id) for group in found] == [
        ("b", 1, typed),
        ("a", 1, other),
        ("a", 3, first[-1]),
    ]
    alike = found[2]
    assert alike.fingerprint == found[0].fingerprint != found[1].fingerprint
    assert (alike.error_type, alike.message, alike.queues) == ("ValueError", "no 2", ("p", "q"))
    ends = [(await views.job(job_id)).finished_at for job_id in first]  # type: ignore[union-attr]
    assert (alike.first_failed_at, alike.last_failed_at) == (ends[0], ends[-1])
    assert [group.count for group in await groups(views, limit=1)] == [1]
    assert [(group.type, group.count) for group in await groups(views, type="a")] == [("a", 1), ("a", 3)]
    [in_queue] = await groups(views, queue="q")
    assert (in_queue.count, in_queue.queues, in_queue.message) == (1, ("q",), "no 1")
    assert await groups(views, type="c") == []
    # The group is what its fingerprint chooses, with its type.
    for dead_first in (True, False):
        wanted = JobFilter(
            statuses=frozenset({Status.FAILED}), type="a", fingerprint=alike.fingerprint, dead_first=dead_first
        )
        page = await views.jobs(wanted, limit=2, offset=0, cursor=None)
        assert ([job.id for job in page.items], page.total) == (first[:0:-1], 3)
        rest = await views.jobs(wanted, limit=2, offset=0, cursor=page.next_cursor)
        assert [job.id for job in rest.items] == first[:1]
    both = JobFilter(fingerprint=alike.fingerprint)
    assert {job.id for job in (await views.jobs(both, limit=9, offset=0, cursor=None)).items} == {*first, typed}
    none = JobFilter(fingerprint=alike.fingerprint, statuses=frozenset({Status.CANCELED}))
    assert (await views.jobs(none, limit=9, offset=0, cursor=None)).items == []


async def test_groups_of_jobs_that_have_no_fingerprint_yet_are_partial(
    store: JobStore, views: Views, database: Database
) -> None:
    job_ids = [await failed(store) for _ in range(2)]
    await forget(database, job_ids[0])
    found = await views.failed_groups(type=None, queue=None, limit=10)
    assert (found.partial, [group.count for group in found.items]) == (True, [1])
    await store.save_fingerprints(limit=10)
    assert [group.count for group in await groups(views)] == [2]


async def test_a_group_is_counted_window_by_window(
    store: JobStore, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        await failed(store, f"no {number}", type=f"t{number % 3}")
    monkeypatch.setattr("jobserver.store.search.FIRST_WINDOW", 4)
    monkeypatch.setattr("jobserver.store.search.LARGEST_WINDOW", 4)
    assert sorted((group.type, group.count) for group in await groups(views)) == [("t0", 10), ("t1", 10), ("t2", 10)]
    monkeypatch.setattr(views_module, "LIST_SECONDS", 0.0)
    assert sum(group.count for group in (await views.failed_groups(type=None, queue=None, limit=9)).items) <= 30


async def test_of_very_many_groups_the_last_are_kept(
    store: JobStore, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their fingerprints are: a walk goes along these, not along time."""
    for number in range(24):
        await failed(store, "again" if number % 6 == 5 else f"no {'x' * number}", type=f"t{number % 2}")
    expected = [(group.type, group.fingerprint, group.count) for group in await groups(views)]
    assert len(expected) == 21
    most = 0

    class Watched(views_module._Groups):
        def add(self, rows: Any, to: Any) -> None:
            nonlocal most
            super().add(rows, to)
            most = max(most, len(self.sums))

    monkeypatch.setattr(views_module, "_Groups", Watched)
    for window in (1, 4, 100):
        monkeypatch.setattr("jobserver.store.search.FIRST_WINDOW", window)
        monkeypatch.setattr("jobserver.store.views.GROUPS_WINDOW", window)
        found = [(group.type, group.fingerprint, group.count) for group in await groups(views, limit=3)]
        assert found == expected[:3]
    # Those that failed last, and those of the fingerprint at which a window ended.
    assert most <= 3 + 2


async def test_a_fingerprint_that_an_older_release_left_on_a_job_says_nothing(
    store: JobStore, views: Views, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It queues a failed job again without a word of the fingerprint."""
    still, again = [await failed(store) for _ in range(2)]
    fingerprint = await fingerprint_in(database, still)
    await store.replay([again])
    async with database._connection(database._writer) as connection:
        if database.sqlite:
            await connection.execute(sa.text("BEGIN IMMEDIATE"))
        await connection.execute(sa.update(jobs).where(jobs.c.id == again).values(fingerprint=fingerprint))
        await connection.commit()
    for few in (0, 10_000):
        monkeypatch.setattr(views_module, "FEW", few)
        page = await views.jobs(JobFilter(fingerprint=fingerprint), limit=9, offset=0, cursor=None)
        assert [job.id for job in page.items] == [still]
        chosen = await views.select(JobFilter(fingerprint=fingerprint), limit=9, cursor=None)
        assert list(chosen.fences) == [still]
    every = frozenset(Status)
    among = await store.among(
        [still, again], Selection(fingerprint=fingerprint), statuses=every, not_asked=False, limit=9
    )
    assert list(among) == [still]
