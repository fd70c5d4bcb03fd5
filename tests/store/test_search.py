"""Lists whose filters have no index: what they find, and that they end in time and go on where they ended."""

from __future__ import annotations

import asyncio
import base64
import random
import re
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from jobserver.errors import Invalid
from jobserver.job.model import Job, Status
from jobserver.job.query import JobFilter, Page
from jobserver.store import engine, search
from jobserver.store import views as views_module
from jobserver.store.engine import Database, OutOfTime
from jobserver.store.jobs import JobStore
from jobserver.store.search import BY_FINGERPRINT, BY_ID, Path, Walk, failed_path, few_path
from jobserver.store.tables import jobs
from jobserver.store.views import Views
from tests.clocks import Hurried, judged_by_the_clock
from tests.jobs import claimed, inserted, job_in, raised, settled, submission


async def found(views: Views, **wanted: Any) -> list[UUID]:
    page = await views.jobs(JobFilter(**wanted), limit=100, offset=0, cursor=None)
    assert (page.next_cursor, page.partial) == (None, False)
    assert (page.total, page.total_capped) == (len(page.items), False)
    return [job.id for job in page.items]


# What is found.


@pytest.mark.parametrize(
    ("payload", "parts", "others"),
    [
        (b'{"to":"user@example.com"}', ["user@", '"to"', "user@example.com", '{"to":'], ["User@", "users", '"to": ']),
        (b'["100%", "a_b"]', ["100%", "a_b", "%", "_"], ["1%0", "a%b", "a_%"]),
        (b'["back\\\\slash"]', ["back\\slash", "\\"], ["back/slash"]),
        ('["Grüße"]'.encode(), ["Grüße", "ü", "Gr\\u00fc\\u00DFe"], ["gr", "Grusse"]),
        (b'["Gr\\u00fc\\u00DFe"]', ["Gr\\u00fc", "\\u00DF"], ["gr"]),
        (b'["Gr\\u00fc\\u00dfe"]', ["Grüße", "ü", "Gr\\u00FC\\u00DFe"], ["Grusse"]),
        (b'["Gr\\u00FC\\u00DFe"]', ["Grüße", "üß"], ["Grusse"]),
        (b'["\\ud83d\\ude00"]', ["😀"], ["😁"]),
        ('["😀"]'.encode(), ["😀", "\\ud83d\\ude00"], ["😁"]),
        (b'["a\\nb", "say \\"hi\\""]', ["a\nb", 'say "hi"', "a\\nb"], ["a b"]),
        (b'["https:\\/\\/example.com"]', ["https://example.com"], ["http://"]),
        (b'["nul \\u0000 here"]', ["nul \\u0000 here"], ["nul  here"]),
        (b"123456789012345678901234567890", ["90123456"], ["0000"]),
        (b"null", ["null"], ["nulls"]),
    ],
)
async def test_a_search_finds_a_part_of_the_payload_literally(
    store: JobStore, views: Views, payload: bytes, parts: list[str], others: list[str]
) -> None:
    job_id = (await inserted(store, payload=payload)).job.id
    await inserted(store, payload=b'{"n":1}')
    for part in parts:
        assert await found(views, q=part) == [job_id], part
    for part in others:
        assert await found(views, q=part) == [], part


async def test_a_search_for_an_error_looks_at_its_type_and_its_message_alone(store: JobStore, views: Views) -> None:
    messages = ['no "quotes" ä 100%', "Traceback of a kind", "other"]
    made = []
    for message in messages:
        job_id = (await inserted(store, payload=b'"quotes"')).job.id
        await settled(store, await claimed(store, job_id), raised(message, retryable=message != "other"))
        made.append(job_id)
    await inserted(store, payload=b'"quotes"')
    assert await found(views, error='no "quotes"') == [made[0]]
    assert await found(views, error="ä 100%") == [made[0]]
    assert await found(views, error="1%") == []
    assert await found(views, error="ValueError") == made[::-1]
    assert await found(views, error="ValueError", statuses=frozenset({Status.FAILED})) == made[2:]
    # Every traceback begins so. What a caller may not see, a search must not tell.
    assert await found(views, error="Traceback") == [made[1]]
    assert await found(views, error="retryable") == []
    assert await found(views, error='"type"') == []
    dead = JobFilter(error="other", q="quotes", dead_first=True, statuses=FAILED)
    assert await paged(views, dead, limit=9) == made[2:]


@pytest.mark.parametrize("few", [0, 10_000])
async def test_walks_find_what_the_filters_say(
    store: JobStore, views: Views, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Against the same choice made here, in windows of seven rows, along every path that there is."""
    chance = random.Random(7)
    for _ in range(90):
        await job_in(
            store,
            chance.choice(list(Status)),
            type=chance.choice("ab"),
            queue=chance.choice("pq"),
            tags=tuple(chance.sample(["x", "y"], chance.randint(0, 2))),
            payload=b'{"n":%d}' % chance.randint(1, 3),
        )
    every = (await views.jobs(JobFilter(), limit=100, offset=0, cursor=None)).items
    monkeypatch.setattr(search, "FIRST_WINDOW", 7)
    monkeypatch.setattr(search, "LARGEST_WINDOW", 7)
    monkeypatch.setattr(views_module, "FEW", few)
    alike = next(job for job in every if job.status is Status.FAILED)
    some: list[tuple[dict[str, Any], Callable[[Job], bool]]] = [
        ({}, lambda job: True),
        ({"type": "a"}, lambda job: job.type == "a"),
        ({"queue": "p"}, lambda job: job.queue == "p"),
        ({"tag": "x"}, lambda job: "x" in job.tags),
        ({"q": '"n":2'}, lambda job: b"2" in job.payload),
        ({"error": "ValueError"}, lambda job: job.error is not None and job.error.type == "ValueError"),
        (
            {"type": "b", "queue": "q", "q": "1"},
            lambda job: (job.type, job.queue, job.payload) == ("b", "q", b'{"n":1}'),
        ),
        ({"created_before": alike.created_at}, lambda job: job.created_at < alike.created_at),
        ({"created_after": alike.created_at}, lambda job: job.created_at > alike.created_at),
        ({"not_asked": True}, lambda job: not job.cancel_requested),
    ]
    chosen_statuses = (
        set(),
        {Status.FAILED},
        {Status.QUEUED},
        {Status.RUNNING},
        {Status.QUEUED, Status.RETRYING, Status.RUNNING},
        {Status.COMPLETED, Status.CANCELED, Status.SCHEDULED},
    )
    for statuses in chosen_statuses:
        for wanted, chooses in some:
            expected = [job.id for job in every if (not statuses or job.status in statuses) and chooses(job)]
            asked = JobFilter(statuses=frozenset(statuses), **wanted)
            assert await paged(views, asked, limit=4) == expected, asked
            assert await paged(views, asked, limit=100) == expected, asked
            if not {"q", "error", "not_asked"} & set(wanted):
                page = await views.jobs(asked, limit=3, offset=5, cursor=None)
                assert [job.id for job in page.items] == expected[5:8], asked
                assert (page.total, page.total_capped) == (len(expected), False), asked
    by_end = sorted((job for job in every if job.status is Status.FAILED), key=lambda job: (job.finished_at, job.id))
    for wanted, chooses in some:
        expected = [job.id for job in reversed(by_end) if chooses(job)]
        asked = JobFilter(statuses=frozenset({Status.FAILED}), dead_first=True, **wanted)
        assert await paged(views, asked, limit=4) == expected, asked
        oldest = await views.oldest_failed(asked, limit=5)
        assert [each.job_id for each in oldest.jobs] == expected[::-1][:5], asked
        assert await views.count_failed(asked) == len(expected)
        if oldest.after is not None:
            more = await views.oldest_failed(asked, limit=100, after=oldest.after)
            assert [each.job_id for each in more.jobs] == expected[::-1][5:], asked
            assert more.after is None


async def paged(views: Views, wanted: JobFilter, *, limit: int) -> list[UUID]:
    ids: list[UUID] = []
    cursor: str | None = None
    while True:
        page = await views.jobs(wanted, limit=limit, offset=0, cursor=cursor)
        ids += [job.id for job in page.items]
        cursor = page.next_cursor
        if cursor is None:
            assert not page.partial
            return ids


# Time.


@pytest.mark.parametrize("dead_first", [False, True])
async def test_partial_pages_find_each_job_once_while_others_arrive(
    store: JobStore, views: Views, monkeypatch: pytest.MonkeyPatch, dead_first: bool
) -> None:
    expected = []
    for number in range(120):
        rare = number % 17 == 3
        job_id = await job_in(store, Status.FAILED, payload=b'"rare"' if rare else b'"common"')
        if rare:
            expected.append(job_id)
    monkeypatch.setattr(search, "time", Hurried(0.3))
    monkeypatch.setattr(search, "FIRST_WINDOW", 10)
    statuses = frozenset({Status.FAILED}) if dead_first else frozenset()
    wanted = JobFilter(q="rare", statuses=statuses, dead_first=dead_first)
    pages: list[Page] = []
    cursor: str | None = None
    while not pages or cursor is not None:
        page = await views.jobs(wanted, limit=100, offset=0, cursor=cursor)
        pages.append(page)
        cursor = page.next_cursor
        assert page.partial == (cursor is not None)
        assert page.total_capped == (page.partial or len(pages) > 1)
        # Newer than all that was looked at: they belong on the first page of another search.
        await job_in(store, Status.FAILED, payload=b'"rare"')
        assert len(pages) < 40
    assert len(pages) > 3
    assert any(not page.items for page in pages)
    assert [job.id for page in pages for job in page.items] == expected[::-1]


async def test_a_rare_type_is_a_partial_page_and_its_count_is_capped(
    store: JobStore, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = await inserted(store, type="rare")
    await store.insert([[submission() for _ in range(100)]])
    monkeypatch.setattr(search, "time", Hurried(0.3))
    monkeypatch.setattr(search, "FIRST_WINDOW", 10)
    page = await views.jobs(JobFilter(type="rare"), limit=10, offset=0, cursor=None)
    assert (page.items, page.partial, page.total_capped) == ([], True, True)
    assert await paged(views, JobFilter(type="rare"), limit=10) == [rare.job.id]


async def test_a_partial_page_with_an_offset_goes_on_behind_it(
    store: JobStore, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for _ in range(30):
        made.append((await inserted(store, type="rare")).job.id)
        await store.insert([[submission() for _ in range(5)]])
    monkeypatch.setattr(search, "time", Hurried(0.3))
    monkeypatch.setattr(search, "FIRST_WINDOW", 10)
    for offset in (0, 1, 17, 29, 30, 31):
        page = await views.jobs(JobFilter(type="rare"), limit=100, offset=offset, cursor=None)
        assert page.partial
        pages = [page]
        while page.next_cursor is not None:
            page = await views.jobs(JobFilter(type="rare"), limit=100, offset=0, cursor=page.next_cursor)
            pages.append(page)
        assert [job.id for page in pages for job in page.items] == made[::-1][offset:], offset
    for forged in (b"i" * 16 + b"\xff" * 4, b"i" * 16 + b"\0" * 3, b"i" * 16 + b"\0" * 5):
        with pytest.raises(Invalid):
            await views.jobs(JobFilter(), limit=1, offset=0, cursor=base64.urlsafe_b64encode(forged).decode())


async def test_a_walk_gets_on_however_late_it_is(
    store: JobStore, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [(await inserted(store)).job.id for _ in range(30)]
    monkeypatch.setattr(views_module, "LIST_SECONDS", 0.0)
    assert await paged(views, JobFilter(q="n"), limit=100) == made[::-1]


async def test_a_walk_that_cannot_get_on_says_so(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "time", Hurried(10.0))
    with pytest.raises(OutOfTime):
        await views.jobs(JobFilter(q="n"), limit=100, offset=0, cursor=None)


@judged_by_the_clock
async def test_the_engine_ends_a_query_that_takes_too_long(database: Database) -> None:
    numbers = sa.select(sa.literal(1).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(sa.select(numbers.c.n + 1).where(numbers.c.n < 2_000_000_000))
    endless = sa.select(sa.func.count().label("n")).select_from(numbers)
    started = time.monotonic()
    with pytest.raises(OutOfTime):
        async with database.looking(0.3) as select:
            await select(endless)
    assert time.monotonic() - started < 2.0
    # And is as good as before.
    for _ in range(5):
        async with database.looking(5.0) as select:
            [row] = await select(sa.select(sa.literal(1).label("n")))
            assert row["n"] == 1
    async with database.look() as session:
        assert await session.fetch("types") == []


@judged_by_the_clock
async def test_the_time_of_a_search_is_that_of_all_its_queries_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = sa.select(sa.literal(1).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(sa.select(numbers.c.n + 1).where(numbers.c.n < 2_000_000_000))
    endless = sa.select(sa.func.count().label("n")).select_from(numbers)
    async with database.looking(2.0) as select:
        await select(sa.select(sa.literal(1).label("n")))
        await asyncio.sleep(1.5)
        began = time.monotonic()
        with pytest.raises(OutOfTime):
            await select(endless)
    assert time.monotonic() - began < 1.5
    # As long as other looks may take, and it is still the engine that ends it.
    monkeypatch.setattr(engine, "LOOK_SECONDS", 0.5)
    short = Database(database.url)
    try:
        with pytest.raises(OutOfTime):
            async with short.looking(0.5) as select:
                await select(endless)
    finally:
        await short.close()


async def test_what_was_counted_first_leaves_less_time_to_find(
    store: JobStore, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await job_in(store, Status.FAILED)
    wanted = JobFilter(fingerprint=await alike(views, job_id))
    given: list[float] = []
    find = Walk.find

    async def noted(self: Walk, *args: Any, **more: Any) -> Any:
        given.append(self.left_seconds)
        return await find(self, *args, **more)

    count = Walk.count

    async def slow(self: Walk, **more: Any) -> int:
        n = await count(self, **more)
        await asyncio.sleep(0.3)
        return n

    monkeypatch.setattr(Walk, "find", noted)
    monkeypatch.setattr(Walk, "count", slow)
    page = await views.jobs(wanted, limit=10, offset=0, cursor=None)
    assert [each.id for each in page.items] == [job_id]
    assert given[0] < views_module.LIST_SECONDS - 0.2


async def alike(views: Views, job_id: UUID) -> str:
    """The fingerprint of a failed job."""
    groups = await views.failed_groups(type=None, queue=None, limit=10)
    return next(group.fingerprint for group in groups.items if group.last_id == job_id)


async def test_searches_leave_connections_for_others(
    database: Database, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CHECKOUT_SECONDS", 0.2)
    async with database.looking(5.0), database.looking(5.0):
        assert await views.types() == []
        with pytest.raises(engine.DatabaseUnavailable, match="too many searches"):
            async with database.looking(5.0):
                raise AssertionError("a third one")
    async with database.looking(5.0):
        pass


FAILED = frozenset({Status.FAILED})


@pytest.mark.parametrize(
    ("path", "index"),
    [
        (failed_path(JobFilter(statuses=FAILED)), "jobs_terminal"),
        (failed_path(JobFilter(statuses=FAILED), ascending=True), "jobs_terminal"),
        (failed_path(JobFilter(statuses=FAILED, fingerprint="0" * 16)), "jobs_failed"),
        (BY_FINGERPRINT, "jobs_failed"),
        (BY_ID, "jobs_1|jobs_pkey"),
        (few_path(JobFilter(statuses=FAILED)), "jobs_terminal|jobs_failed"),
        (few_path(JobFilter(statuses=frozenset({Status.RUNNING}))), "jobs_running"),
        (few_path(JobFilter(statuses=frozenset({Status.QUEUED}))), "jobs_waiting"),
        (few_path(JobFilter(fingerprint="0" * 16)), "jobs_failed"),
    ],
)
async def test_every_path_goes_along_its_index(database: Database, path: Path, index: str) -> None:
    """SQLite uses a partial index only where it finds its condition word for word."""
    edge = sa.select(*path.keys).select_from(path.source).where(*path.between(None, None)).order_by(*path.order)
    async with database._connection(database._looker) as connection:
        text = str(edge.limit(1).compile(connection.sync_connection, compile_kwargs={"literal_binds": True}))
        explain = "EXPLAIN QUERY PLAN" if database.sqlite else "EXPLAIN"
        plan = str((await connection.execute(sa.text(f"{explain} {text}"))).all())
    assert re.search(rf"INDEX \w*({index})" if database.sqlite else rf"Scan \w* ?using ({index})|on ({index})", plan), (
        plan
    )
    # In the order of the index, unless it is that of a few.
    assert (path.source is not jobs) or ("Sort" not in plan and "TEMP B-TREE" not in plan), plan
