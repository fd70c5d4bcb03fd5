"""Databases that are wrong, away or slow; transactions; statements; plans."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

import jobserver.store
import jobserver.stream
from jobserver.errors import ConfigurationError, DatabaseUnavailable
from jobserver.job.model import Priority, Status
from jobserver.job.query import JobFilter
from jobserver.store.engine import (
    Clock,
    Database,
    Statement,
    check_reachable,
    database_url,
    durability_warnings,
    migrate,
    schema_version,
)
from jobserver.store.jobs import JobStore
from jobserver.store.migrations import HEAD
from jobserver.store.tables import metadata
from jobserver.store.views import Views
from tests.conftest import Pair
from tests.engines import PostgresServer, eventually, free_port
from tests.jobs import claimed, inserted, submission

STORE = Path(jobserver.store.__file__).parent
STREAM = Path(jobserver.stream.__file__).parent


# URLs.


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        ("postgresql+asyncpg://u:p@h/db", "postgresql+asyncpg"),
        ("postgresql://u:p@h:5433/db", "postgresql+asyncpg"),
        ("postgres://h/db", "postgresql+asyncpg"),
        ("sqlite:///jobs.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:////data/jobs.db", "sqlite+aiosqlite"),
    ],
)
def test_the_usual_urls_are_accepted(text: str, driver: str) -> None:
    assert database_url(text).drivername == driver


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not readable"),
        ("just text", "not readable"),
        ("mysql://u:s3cret@h/db", "begins with mysql://"),
        ("postgresql+psycopg://u:s3cret@h/db", "begins with postgresql+psycopg://"),
        ("http://u:s3cret@h/db", "begins with http://"),
        ("redis://:s3cret@h/0", "begins with redis://"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql://u:s3cret@h:notaport/db", "not readable"),
    ],
)
def test_other_urls_are_refused_in_one_sentence_without_their_password(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        database_url(text)
    assert says in str(refused.value)
    assert "s3cret" not in str(refused.value)


async def test_a_database_that_cannot_be_used_is_named_without_its_password(own_postgres: PostgresServer) -> None:
    wrong = own_postgres.url().replace("postgres:", "postgres:s3cret", 1)
    for url in (
        f"postgresql://u:s3cret@127.0.0.1:{free_port()}/db",
        wrong,
        own_postgres.url("no_such_database"),
        own_postgres.url().replace("//postgres:", "//nobody:"),
    ):
        with pytest.raises(ConfigurationError, match="cannot be used") as refused:
            await check_reachable(url)
        password = url.split("://")[1].split("@")[0].split(":")[1]
        assert password not in str(refused.value)
        assert str(refused.value).count("\n") == 0


async def test_a_sqlite_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, and longer than a header would be " * 20)
    for path in (tmp_path / "no" / "such" / "folder.db", tmp_path / "text.db"):
        with pytest.raises(ConfigurationError, match=re.escape(str(path))):
            await check_reachable(f"sqlite:///{path}")


async def test_versions_are_named(pair: Any) -> None:
    version = await check_reachable(pair.database_url)
    assert version.startswith("PostgreSQL " if pair.name == "postgresql" else "SQLite 3.")


async def test_a_postgresql_that_may_lose_commits_is_warned_of(own_postgres: PostgresServer, tmp_path: Path) -> None:
    url = own_postgres.create_database()
    database = Database(url)
    # The servers of these tests run without fsync.
    assert [warning.split("=")[0] for warning in await durability_warnings(database)] == ["PostgreSQL runs with fsync"]
    await database.close()
    own_postgres.execute(f'ALTER DATABASE "{url.rsplit("/", 1)[1]}" SET synchronous_commit = off')
    database = Database(url)
    assert len(await durability_warnings(database)) == 2
    await database.close()
    sqlite = Database(f"sqlite:///{tmp_path / 'jobs.db'}")
    assert await durability_warnings(sqlite) == []
    await sqlite.close()


async def test_a_column_that_a_newer_release_adds_is_not_in_the_way(database: Database, store: JobStore) -> None:
    """Of statements that were prepared before it came, within a transaction."""

    async def replayed(column: str) -> None:
        for _ in range(2):
            [[known]] = await store.insert([[submission(idempotency_key="k")]])  # type: ignore[misc]
            assert not known.created
        async with database._connection(database._writer) as connection:
            await connection.execute(sa.text(f"ALTER TABLE jobs ADD COLUMN {column} text"))
            await connection.commit()

    await store.insert([[submission(idempotency_key="k")]])
    await replayed("newer")
    await replayed("newest")


async def test_a_statement_whose_answer_has_changed_its_shape_may_be_repeated(own_postgres: PostgresServer) -> None:
    url = own_postgres.create_database()
    database = Database(url, pool_size=1)
    async with database._connection(database._writer) as connection:
        await connection.execute(sa.text("CREATE TABLE grows (one integer)"))
        await connection.commit()
    database._statements["grows"] = Statement("grows", "SELECT * FROM grows", ())
    async with database.write() as session:
        await session.fetch("grows")
    own_postgres.execute("ALTER TABLE grows ADD COLUMN two integer", url.rsplit("/", 1)[1])
    with pytest.raises(DatabaseUnavailable):
        async with database.write() as session:
            await session.fetch("grows")
    async with database.write() as session:
        assert await session.fetch("grows") == []
    await database.close()


@pytest.mark.parametrize("path", sorted((STORE / "sql").rglob("*.sql")), ids=lambda path: path.stem)
def test_statements_name_the_columns_of_tables(path: Path) -> None:
    """`workers` is read by one process for another's sake outside of transactions alone."""
    tables = "|".join(set(metadata.tables) - {"workers"})
    text = path.read_text(encoding="utf-8")
    assert re.search(rf"SELECT \*\s+FROM ({tables})\b|RETURNING \*", text) is None


# Away and back.


@pytest.fixture
async def own(own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """A migrated database that may go away, asked with little patience."""
    url = own_postgres.create_database()
    await migrate(url)
    for name in ("STATEMENT_SECONDS", "LOOK_SECONDS", "CONNECT_SECONDS", "CHECKOUT_SECONDS"):
        monkeypatch.setattr(f"jobserver.store.engine.{name}", 1.0)
    database = Database(url, pool_size=3)
    yield database
    await database.close()


@pytest.mark.parametrize("how", ["killed", "paused", "restarted", "terminated"])
async def test_a_database_that_goes_away_is_unavailable_in_time_and_used_again_when_it_is_back(
    own: Database, own_postgres: PostgresServer, how: str
) -> None:
    store, views = JobStore(own), Views(own)
    job = (await inserted(store)).job
    # Every connection of the pool is open before.
    await asyncio.gather(*(views.job(job.id) for _ in range(6)))
    started = time.monotonic()
    if how == "killed":
        own_postgres.kill()
    elif how == "paused":
        own_postgres.pause()
    elif how == "restarted":
        own_postgres.restart("immediate")
    else:
        own_postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name='jobserver'"
        )

    async def asked() -> str:
        try:
            await store.insert([[submission()]])
            await store.insert([[submission(idempotency_key="k", fingerprint=b"f")]])
            await views.stats()
        except DatabaseUnavailable as error:
            return "unavailable" if str(error) else "without a word"
        return "ok"

    try:
        answers = await asyncio.gather(*(asked() for _ in range(8)))
    finally:
        if how == "paused":
            own_postgres.resume()
    if how in {"killed", "paused"}:
        assert set(answers) == {"unavailable"}
        assert time.monotonic() - started < 16
        if how == "killed":
            own_postgres.restart()

    async def back() -> bool:
        return {await asked() for _ in range(4)} == {"ok"}

    await eventually(back, within=20)
    assert own.pool_use() == 0
    assert await views.job(job.id) is not None


async def test_a_question_that_is_given_up_does_not_spoil_its_connection(
    own: Database, own_postgres: PostgresServer
) -> None:
    """A health check has less patience than a statement: what it leaves behind must not hang who comes next."""
    views = Views(own)
    await views.stats()
    own_postgres.pause()
    for _ in range(6):
        with pytest.raises((TimeoutError, DatabaseUnavailable)):
            async with asyncio.timeout(0.1):
                await views.stats()
    own_postgres.resume()
    async with asyncio.timeout(5):
        await asyncio.gather(*(views.stats() for _ in range(6)))
    assert own.pool_use() == 0


async def test_closing_does_not_wait_for_a_database_that_hangs(own_postgres: PostgresServer) -> None:
    database = Database(own_postgres.create_database(), pool_size=4)

    async def look() -> None:
        async with database._connection(database._writer) as connection:
            await connection.execute(sa.text("SELECT pg_sleep(0.05)"))

    await asyncio.gather(*(look() for _ in range(4)))
    own_postgres.pause()
    try:
        started = time.monotonic()
        await database.close()
        assert time.monotonic() - started < 4
    finally:
        own_postgres.resume()


async def test_a_fault_of_a_statement_is_not_an_outage(database: Database) -> None:
    store = JobStore(database)
    with pytest.raises(UnicodeDecodeError):
        await store.insert([[submission(payload=b"\xff")]])
    if not database.sqlite:
        with pytest.raises((asyncpg.DataError, asyncpg.PostgresError)):
            await store.insert([[submission(max_retries=2**40)]])
        assert database.pool_use() == 0


async def test_a_locked_sqlite_file_is_unavailable(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database, other = Database(sqlite_url), Database(sqlite_url)
    store = JobStore(database)
    await inserted(store)
    async with database._connection(database._writer) as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        await raw.execute_fetchall("PRAGMA busy_timeout=50")
    async with other.write() as session:
        await session.fetch("add_queue", name="held")
        with pytest.raises(DatabaseUnavailable, match="locked"):
            await inserted(store)
    await inserted(store)
    await database.close()
    await other.close()


# Transactions.


async def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    async def fails() -> None:
        async with database.write() as session:
            await session.fetch("add_queue", name="gone")
            raise RuntimeError

    for _ in range(5):
        with pytest.raises(RuntimeError):
            await fails()
    assert "gone" not in await JobStore(database).queues()
    async with database.write() as session:
        await session.fetch("add_queue", name="there")
    assert "there" in await JobStore(database).queues()


async def test_a_transaction_that_is_cancelled_leaves_nothing_and_blocks_nobody(database: Database) -> None:
    inside = asyncio.Event()

    async def waits() -> None:
        async with database.write() as session:
            await session.fetch("add_queue", name="gone")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(waits())
    await inside.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(10):
        assert "gone" not in await JobStore(database).queues()
        await JobStore(database).add_queue("there")
    assert database.pool_use() == 0


async def test_writers_beside_each_other_all_commit(database: Database) -> None:
    store = JobStore(database)
    await asyncio.gather(*(store.insert([[submission() for _ in range(5)]]) for _ in range(40)))
    assert (await Views(database).stats()).total == 200


# The clock.


async def test_the_clock_follows_the_database_and_never_jumps_back_within_a_measure() -> None:
    clock = Clock()
    before = clock.now()
    ahead = before + timedelta(hours=1)
    clock.measured(ahead, time.monotonic_ns(), time.monotonic_ns())
    assert abs(clock.now() - ahead) < timedelta(seconds=5)
    readings = [clock.now_us() for _ in range(10_000)]
    assert readings == sorted(readings)


# Statements.


def statement_files() -> list[Path]:
    return sorted((STORE / "sql").rglob("*.sql"))


def python_of(*folders: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.rglob("*.py")))


def test_every_statement_is_used_in_code() -> None:
    code = python_of(STORE)
    unused = {path.stem for path in statement_files() if f'"{path.stem}"' not in code}
    assert unused == set()


def test_every_statement_that_code_names_has_its_file_on_both_dialects() -> None:
    named = set(re.findall(r"\bfetch\(\s*\"([a-z_]+)\"", python_of(STORE)))
    assert named
    # PostgreSQL writes history, folds counts and ends plain attempts in statements of its own; and it has the locks
    # that prove a death.
    alone = (
        "fold_counts",
        "complete",
        "settle_calling",
        "silent_workers",
        "lock_of_dead",
        "still_silent",
        "running_of",
    )
    only = {"record_attempts": {"sqlite"}, "call_back": {"sqlite"}} | {name: {"postgresql"} for name in alone}
    for name in named:
        for dialect in only.get(name, {"postgresql", "sqlite"}):
            Statement.load(name, dialect)


@pytest.mark.parametrize("path", statement_files(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_statement_declares_what_it_takes_and_takes_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("-- ")
    text = re.sub(r"(?m)^-- Include: (\w+)$", lambda part: path.with_name(f"{part[1]}.part").read_text(), text)
    header = re.search(r"^-- Takes: (.+)$", text, re.MULTILINE)
    declared = {part.strip().split()[0] for part in header.group(1).split(",")} if header else set()
    body = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    used = set(re.findall(r"(?<![:\w]):([a-z_]+)\b", body))
    if path.parent.name == "sqlite":
        # Columns travel as one JSON text, and the clock is ours.
        in_rows = set(re.findall(r"->> '([a-z_]+)'", body))
        assert used - {"now", "rows"} <= declared
        # Of a settlement the history is written by a second statement.
        assert declared <= used | in_rows | ({"ended"} if path.stem == "settle" else set())
    else:
        assert used == declared


def test_both_dialects_of_a_statement_take_the_same() -> None:
    # PostgreSQL is told once what jobs have in common, and stores callbacks in the statement that ends a job.
    calling = {("callback_retries", "integer")}
    more = {"insert_jobs": {("kind", "integer[]")}, "cancel": calling, "expire": calling}
    for path in sorted((STORE / "sql" / "sqlite").glob("*.sql")):
        if (STORE / "sql" / "postgresql" / path.name).exists():
            one, other = (Statement.load(path.stem, dialect).takes for dialect in ("sqlite", "postgresql"))
            assert one == tuple(each for each in other if each not in more.get(path.stem, ())), path.stem


def test_every_script_is_used_in_code_and_says_what_it_takes() -> None:
    code = python_of(STREAM)
    scripts = sorted((STREAM / "scripts").glob("*.lua"))
    assert scripts
    for path in scripts:
        assert re.search(rf"\bscript\(\s*\"{path.stem}\"", code), path.stem
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = [line.removeprefix("-- ").split(":")[0] for line in lines if line.startswith("-- ")]
        assert [word for word in comments if word in {"KEYS", "ARGV", "Returns"}] == ["KEYS", "ARGV", "Returns"]


def test_no_statement_is_written_outside_the_store_and_no_key_outside_its_module() -> None:
    package = STORE.parent
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        # The torture breaks servers, and says so to them.
        if not path.is_relative_to(STORE) and not path.is_relative_to(package / "torture"):
            assert not re.search(r"\b(SELECT .+ FROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b", text), path
        if path.name != "keys.py" and path.is_relative_to(STREAM):
            assert ":jobs:" not in text, path


# Plans.

HOT = (
    "claim",
    "settle",
    "extend_leases",
    "save_progress",
    "find_lost",
    "cancel",
    "cancel_requests",
    "expire",
    "bump_overtaken",
    "near_horizon",
    "work_waits",
    "oldest_waiting",
    "jobs_ahead",
    "jobs_behind",
    "why_refused",
    "recently_failed",
    "among",
    "last_failed",
    "without_fingerprint",
    "save_fingerprints",
    "old_jobs",
    "prune_jobs",
    "prune_keys",
    "statuses",
    "job",
    "attempts",
)


@pytest.fixture
async def filled(postgresql_url: str) -> AsyncIterator[Database]:
    """Ten thousand jobs, in every status, and statistics of them."""
    database = Database(postgresql_url)
    store = JobStore(database)
    for _ in range(5):
        jobs = [submission(queue=f"q{number % 5}") for number in range(2_000)]
        await store.insert([jobs])
    connection = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
    await connection.execute(
        """
        UPDATE jobs SET status = CASE WHEN n < 7000 THEN 'completed' WHEN n < 7500 THEN 'failed'
            WHEN n < 7520 THEN 'running' ELSE status END,
            finished_at = CASE WHEN n < 7500 THEN clock_timestamp() END,
            lease_expires_at = CASE WHEN n BETWEEN 7500 AND 7519 THEN clock_timestamp() + interval '1 h' END,
            worker_id = 'w'
        FROM (SELECT id AS other, row_number() OVER (ORDER BY id) AS n FROM jobs) AS numbered WHERE other = jobs.id
        """
    )
    await connection.execute(
        """
        INSERT INTO attempts (job_id, fence, number, started_at, ended_at, outcome)
        SELECT id, 1, 1, created_at, created_at, 'failed' FROM jobs WHERE status IN ('completed', 'failed')
        """
    )
    await connection.execute("ANALYZE")
    await connection.close()
    yield database
    await database.close()


def scanned(plan: Any) -> Iterator[tuple[str, str]]:
    """The (kind of node, table) of every scan in a plan."""
    if isinstance(plan, list):
        for each in plan:
            yield from scanned(each)
    elif isinstance(plan, dict):
        if "Relation Name" in plan:
            yield plan["Node Type"], plan["Relation Name"]
        for value in plan.values():
            if isinstance(value, dict | list):
                yield from scanned(value)


async def test_no_hot_statement_scans_the_jobs(filled: Database, postgresql_url: str) -> None:
    """With the planner's own choice: the settings of our connections only repeat it."""
    store = JobStore(filled)
    [row] = (await store.insert([[submission()]]))[:1]
    assert isinstance(row, list)
    job_id = row[0].job.id
    now = filled.clock.now()
    values: dict[str, Any] = {
        "uuid": job_id,
        "text": "q1",
        "bigint": 0,
        "integer": 100,
        "smallint": 1,
        "float8": 60.0,
        "timestamptz": now,
        "boolean": False,
    }
    given = {"status": "completed", "type": None, "queue": "q1"}
    connection = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
    # A plan that serves every value, as the cached one of a running server does.
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    wrong: dict[str, list[tuple[str, str]]] = {}
    for name in HOT:
        statement = filled.statement(name)
        arguments = []
        for parameter, kind in statement.takes:
            value = given.get(parameter, values[kind.removesuffix("[]")])
            arguments.append([value] * 3 if kind.endswith("[]") else value)
        literals = ", ".join(_literal(each, kind) for each, (_, kind) in zip(arguments, statement.takes, strict=True))
        kinds = ", ".join(kind for _, kind in statement.takes)
        await connection.execute(f"PREPARE hot{f'({kinds})' if kinds else ''} AS {statement.text}")
        call = f"hot({literals})" if literals else "hot"
        [(plan,)] = await connection.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE {call}")
        bad = [scan for scan in scanned(json.loads(plan)) if scan[0] == "Seq Scan" and scan[1] in {"jobs", "attempts"}]
        if bad:
            wrong[name] = bad
        await connection.execute("DEALLOCATE hot")
    await connection.close()
    assert wrong == {}


async def test_what_names_rows_by_id_looks_for_them_by_id(postgresql_url: str) -> None:
    """On tables without rows and statistics, where an index of what waits or runs looks as good: the plan is kept."""
    database = Database(postgresql_url)
    wrong: dict[str, list[str]] = {}
    async with database._writer.connect() as connection:
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        for name in sorted(path.stem for path in (STORE / "sql" / "postgresql").glob("*.sql")):
            statement = database.statement(name)
            kinds = [kind for _, kind in statement.takes]
            if "uuid[]" not in kinds:
                continue
            await raw.execute(f"PREPARE by_id({', '.join(kinds)}) AS {statement.text}")
            plan = await raw.fetch(f"EXPLAIN EXECUTE by_id({', '.join('NULL' for _ in kinds)})")
            await raw.execute("DEALLOCATE by_id")
            if bad := [line for (line,) in plan if re.search(r"Join Filter: .*\bid = |Seq Scan on jobs", line)]:
                wrong[name] = bad
    await database.close()
    assert wrong == {}


def _literal(value: Any, kind: str) -> str:
    if value is None:
        return f"NULL::{kind}"
    if isinstance(value, list):
        return f"ARRAY[{', '.join(_literal(each, kind.removesuffix('[]')) for each in value)}]::{kind}"
    return f"'{value}'::{kind}"


async def test_lists_of_the_api_use_an_index(filled: Database) -> None:
    views = Views(filled)
    started = time.monotonic()
    for wanted in (
        JobFilter(),
        JobFilter(statuses=frozenset({Status.FAILED}), dead_first=True),
        JobFilter(statuses=frozenset({Status.RUNNING})),
        JobFilter(queue="q1"),
    ):
        page = await views.jobs(wanted, limit=20, offset=0, cursor=None)
        assert page.items
    assert time.monotonic() - started < 5


# The schema's version.


async def test_a_database_without_tables_has_no_version(tmp_path: Path, own_postgres: PostgresServer) -> None:
    for url in (f"sqlite:///{tmp_path / 'new.db'}", own_postgres.create_database()):
        database = Database(url)
        assert await schema_version(database) is None
        await database.close()


async def test_a_migrated_database_has_the_newest(database: Database) -> None:
    assert await schema_version(database) == HEAD


async def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    store, views = JobStore(database), Views(database)
    job = (await inserted(store)).job
    await claimed(store, job.id)
    async with database.write() as session:
        await session.fetch("add_queue", name="held")
        async with asyncio.timeout(5):
            found = await views.job(job.id)
    assert found is not None
    assert (found.status, found.priority) == (Status.RUNNING, Priority.NORMAL)


async def test_whoever_waits_for_a_connection_gets_one_while_others_take_turns(postgresql_url: str) -> None:
    """Flushes follow upon each other: those who wait for a place are not passed over again and again."""
    database = Database(postgresql_url, pool_size=2)
    taken = [0] * 6

    async def flushes(number: int) -> None:
        while True:
            await database.fetch("add_queue", name=f"q{number}")
            taken[number] += 1

    tasks = [asyncio.create_task(flushes(number)) for number in range(len(taken))]
    await eventually(lambda: max(taken) > 20)
    async with asyncio.timeout(2), database.read() as session:
        await session.fetch("now")
    await eventually(lambda: min(taken) > 20, within=2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await database.close()


async def test_what_is_kept_for_the_next_flush_is_given_up_for_who_waits(postgresql_url: str) -> None:
    database = Database(postgresql_url, pool_size=2)
    await database.fetch("add_queue", name="one")
    async with asyncio.timeout(2), database.read() as session, database.read() as other:
        await session.fetch("now")
        await other.fetch("now")
    await database.close()


async def test_a_wrong_statement_is_no_outage(pair: Pair) -> None:
    database = Database(pair.database_url)
    with pytest.raises(DBAPIError):
        await database.select(sa.select(sa.text("no_such_column")))
    await database.close()
