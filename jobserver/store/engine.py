"""Engines, sessions, transactions and the loading of statements: the one seam between the two dialects.

A `Session` runs named statements of `sql/` on a raw driver connection. What a statement takes stands in its
header; on PostgreSQL a column is an array, on SQLite all columns travel as one JSON text of rows. A driver that
fails to answer surfaces as `DatabaseUnavailable`; anything else is a fault of the statement or of its data.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, nullcontext
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final, Protocol, cast
from uuid import UUID

import asyncpg
import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from jobserver.errors import ConfigurationError, DatabaseUnavailable, JobserverError
from jobserver.job.times import from_us, instant_us
from jobserver.store.migrations import HEAD

STATEMENT_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 5.0
CHECKOUT_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 0.5
# So long a transaction may stand idle before PostgreSQL ends it: a process that hangs between two of its statements,
# or whose machine is gone, must not hold the rows that others wait for.
IDLE_SECONDS: Final = 3.0
# So long a write that was refused counts: while nobody tries another, nobody knows better.
FULL_SECONDS: Final = 5.0
# So many steps of its machine SQLite takes between two looks at the clock: some milliseconds.
_STEPS: Final = 50_000
# The limit of a search's statements may be so much longer than what is left of its time.
_LIMIT_SLACK: Final = 0.05
_LIMIT: Final = sa.select(sa.func.set_config("statement_timeout", sa.bindparam("milliseconds", type_=sa.Text), True))
SQLITE_MINIMUM: Final = (3, 38)  # the ->> operator


class Row(Protocol):
    """A row of either driver: columns by name, values in the order of the statement."""

    def __getitem__(self, name: str, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...


Columns = Mapping[str, Sequence[Any]]
Select = Callable[[sa.Select[Any]], Awaitable[Sequence[Mapping[str, Any]]]]


class OutOfTime(DatabaseUnavailable):
    """A query took longer than it was given."""


_TAKES: Final = re.compile(r"^-- Takes: (.+?)\s*$", re.MULTILINE)
_PARAMETER: Final = re.compile(r"(?<![:\w]):([a-z_]+)\b")
_INCLUDE: Final = re.compile(r"^-- Include: ([a-z_]+)$", re.MULTILINE)


class Statement(msgspec.Struct, frozen=True):
    """One file of `sql/`: its text for a dialect, and the order and types of what it takes."""

    name: str
    text: str
    takes: tuple[tuple[str, str], ...]

    @classmethod
    def load(cls, name: str, dialect: str) -> Statement:
        folder = resources.files("jobserver.store") / "sql"
        path = folder / dialect / f"{name}.sql"
        if not path.is_file():
            path = folder / f"{name}.sql"
        text = path.read_text(encoding="utf-8")
        # What several statements do alike, and must do in one go, is said once.
        text = _INCLUDE.sub(lambda found: (folder / dialect / f"{found[1]}.part").read_text(encoding="utf-8"), text)
        header = _TAKES.search(text)
        takes = tuple(_declared(part) for part in header.group(1).split(",")) if header else ()
        if dialect == "postgresql":
            text = _positional(text, dict(takes), name)
        return cls(name, text, takes)


def _declared(part: str) -> tuple[str, str]:
    name, _, kind = part.strip().partition(" ")
    return name, kind.strip()


def _positional(text: str, takes: dict[str, str], name: str) -> str:
    """`:name` becomes `$n::type`, as asyncpg wants it."""
    order = {parameter: index for index, parameter in enumerate(takes, 1)}

    def replace(match: re.Match[str]) -> str:
        parameter = match.group(1)
        if parameter not in order:
            raise ValueError(f"{name}.sql uses :{parameter} without declaring it under Takes")
        return f"${order[parameter]}::{takes[parameter]}"

    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return _PARAMETER.sub(replace, "\n".join(lines))


def monotonic_ns() -> int:
    """Nanoseconds that go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime_ns(_CLOCK)


_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """The database's time as this process knows it: an offset, measured at heartbeats, advanced monotonically."""

    def __init__(self) -> None:
        # One value, because it is measured by one thread and read by another.
        self._base = (time.time_ns() // 1000, monotonic_ns())

    def now_us(self) -> int:
        base_us, mark_ns = self._base
        return base_us + (monotonic_ns() - mark_ns) // 1000

    def now(self) -> datetime:
        return from_us(self.now_us())

    def measured(self, database_now: datetime, asked_ns: int, answered_ns: int) -> None:
        """The database said `database_now` to a question asked and answered at these `monotonic_ns()`."""
        self._base = (instant_us(database_now), (asked_ns + answered_ns) // 2)


class Session(Protocol):
    """One connection, in a transaction or by itself."""

    async def fetch(self, statement: str, columns: Columns | None = None, /, **scalars: Any) -> Sequence[Row]:
        """Run a statement of `sql/` by name and return its rows."""
        ...


class _PostgresSession:
    def __init__(self, database: Database, driver: asyncpg.Connection, limit_seconds: float) -> None:
        self._database = database
        self._driver = driver
        self._limit_seconds = limit_seconds

    async def fetch(self, statement: str, columns: Columns | None = None, /, **scalars: Any) -> Sequence[Row]:
        loaded = self._database.statement(statement)
        given = {**(columns or {}), **scalars}
        arguments = [given[name] for name, _ in loaded.takes]
        rows: Sequence[Row] = await self._driver.fetch(loaded.text, *arguments, timeout=self._limit_seconds)
        return rows


class _SqliteSession:
    def __init__(self, database: Database, driver: Any) -> None:
        self._database = database
        self._driver = driver

    async def fetch(self, statement: str, columns: Columns | None = None, /, **scalars: Any) -> Sequence[Row]:
        loaded = self._database.statement(statement)
        arguments = {name: _sqlite_value(value) for name, value in scalars.items()}
        arguments["now"] = self._database.clock.now_us()
        if columns is not None:
            arguments["rows"] = _sqlite_rows(columns)
        rows: Sequence[Row] = await self._driver.execute_fetchall(loaded.text, arguments)
        return rows


def _sqlite_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return instant_us(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, list | tuple):
        return msgspec.json.encode([_sqlite_value(each) for each in value]).decode()
    return value


def _sqlite_rows(columns: Columns) -> str:
    names = list(columns)
    rows = [dict(zip(names, map(_sqlite_value, values), strict=True)) for values in zip(*columns.values(), strict=True)]
    return msgspec.json.encode(rows).decode()


_UNAVAILABLE: Final = (
    OSError,
    TimeoutError,
    PoolTimeout,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.PostgresIOError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # A newer release has added a column. Outside of a transaction asyncpg repeats it itself.
    asyncpg.InvalidCachedStatementError,
    sqlite3.OperationalError,
    sqlite3.InterfaceError,
)

_SQLITE_REFUSES: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)


class Database:
    """The source of truth. `read` and `write` give sessions; `fetch` runs one statement in its own transaction."""

    def __init__(
        self,
        url: str | URL,
        *,
        pool_size: int = 8,
        statement_seconds: float | None = None,
        keepalive_seconds: int | None = None,
    ) -> None:
        self.url = database_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.dialect = "sqlite" if self.sqlite else "postgresql"
        self.clock = Clock()
        self._statements: dict[str, Statement] = {}
        self._refused_write: float | None = None
        looks = 4 if self.sqlite else max(2, pool_size // 2)
        if self.sqlite:
            # One writer: its pool of one is the write lock, first come, first served.
            self._writer = _sqlite_engine(self.url, 1)
            self._reader = _sqlite_engine(self.url, 4)
            self._looker = _sqlite_engine(self.url, looks)
        else:
            self._writer = self._reader = _postgres_engine(self.url, pool_size, statement_seconds, keepalive_seconds)
            # What clients look at never takes the place of a claim, an end or a lease.
            # Searches have their own limit, which the server keeps; the driver's would cost the connection.
            self._looker = _postgres_engine(self.url, looks, LOOK_SECONDS + 1.0)
        # Taken from the pool and not given back after each statement: that costs as much as twenty rows.
        self._kept: list[tuple[AsyncConnection, Any]] = []
        self._most_kept = pool_size // 2
        # How many wait for one of the pool: what is kept would never come to them.
        self._in_line = 0
        self._closed = False
        # Half of the connections for looks: searches take seconds, and other looks should not wait for them.
        self._searches = asyncio.Semaphore(max(1, looks // 2))

    def sibling(self, *, keepalive_seconds: int | None = None) -> Database:
        """The same database with the same clock, by one connection of its own, for another thread's event loop.

        With `keepalive_seconds` PostgreSQL gives up a client whose machine went silent, and frees its locks.
        """
        sibling = Database(self.url, pool_size=1, keepalive_seconds=keepalive_seconds)
        sibling.clock = self.clock
        return sibling

    def statement(self, name: str) -> Statement:
        loaded = self._statements.get(name)
        if loaded is None:
            loaded = self._statements[name] = Statement.load(name, self.dialect)
        return loaded

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Session]:
        """A session without a transaction: each statement is its own."""
        async with self._session(self._reader) as (session, _):
            yield session

    @asynccontextmanager
    async def look(self) -> AsyncIterator[Session]:
        """A session for what clients want to see, from a pool of its own and with a shorter time limit."""
        async with self._session(self._looker, LOOK_SECONDS) as (session, _):
            yield session

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[Session]:
        """A session whose statements write, each in its own transaction and within this time."""
        async with self._session(self._writer, seconds) as (session, _):
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Session]:
        """A session in one transaction: committed at the end, rolled back on any exception."""
        async with self._session(self._writer) as (session, driver):
            if self.sqlite:
                await driver.execute_fetchall("BEGIN IMMEDIATE")
                try:
                    yield session
                except BaseException:
                    await driver.rollback()
                    raise
                await driver.commit()
            else:
                async with driver.transaction():
                    yield session

    async def fetch(self, statement: str, columns: Columns | None = None, /, **scalars: Any) -> Sequence[Row]:
        """One statement, in a transaction of its own, in one round trip."""
        if self.sqlite:
            async with self._session(self._writer) as (session, _):
                return await session.fetch(statement, columns, **scalars)
        with self._unavailable():
            connection, driver = self._kept.pop() if self._kept else await self._taken()
            try:
                rows = await _PostgresSession(self, driver, STATEMENT_SECONDS).fetch(statement, columns, **scalars)
            except BaseException as error:
                if isinstance(error, (*_UNAVAILABLE, asyncio.CancelledError)):
                    await _drop(connection)
                await connection.close()
                raise
            if len(self._kept) < self._most_kept and not self._in_line and not self._closed:
                self._kept.append((connection, driver))
            else:
                await connection.close()
                # Whoever waited for it takes it before this caller's next flush does.
                await asyncio.sleep(0)
            return rows

    async def _taken(self) -> tuple[AsyncConnection, Any]:
        """A connection of the pool, and its driver's own."""
        with self._lined_up():
            connection = await self._writer.connect()
        try:
            return connection, (await connection.get_raw_connection()).driver_connection
        except BaseException:
            await connection.close()
            raise

    async def select(self, query: sa.Select[Any]) -> Sequence[Mapping[str, Any]]:
        """A query built by SQLAlchemy, for the lists whose filters vary."""
        async with self._connection(self._looker) as connection:
            result = await connection.execute(query)
            return cast("Sequence[Mapping[str, Any]]", result.mappings().all())

    @asynccontextmanager
    async def looking(self, seconds: float) -> AsyncIterator[Select]:
        """For queries that may find little in much: within `seconds`, which the engine itself keeps to, too.

        Raises OutOfTime out of the query that was under way then. At most half of the connections for looks do this.
        """
        async with self._searching(), self._connection(self._looker) as connection:
            raw = await connection.get_raw_connection()
            ends = time.monotonic() + seconds
            # PostgreSQL's limit is that of each statement, as it was set last.
            limit = float("inf")
            if self.sqlite:
                driver = cast(Any, raw.driver_connection)
                await driver.set_progress_handler(lambda: time.monotonic() > ends, _STEPS)

            async def select(query: sa.Select[Any]) -> Sequence[Mapping[str, Any]]:
                nonlocal limit
                try:
                    left = max(ends - time.monotonic(), 0.001)
                    if not self.sqlite and limit > left + _LIMIT_SLACK:
                        limit = left
                        await connection.execute(_LIMIT, {"milliseconds": str(max(1, int(left * 1000)))})
                    result = await connection.execute(query)
                except DBAPIError as error:
                    if _is_out_of_time(_cause(error)):
                        raise OutOfTime(f"a query took longer than {seconds:g} s") from error
                    raise
                return cast("Sequence[Mapping[str, Any]]", result.mappings().all())

            try:
                yield select
            finally:
                if self.sqlite:
                    await driver.set_progress_handler(None, _STEPS)

    @asynccontextmanager
    async def _searching(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(CHECKOUT_SECONDS):
                await self._searches.acquire()
        except TimeoutError:
            raise DatabaseUnavailable("too many searches are under way") from None
        try:
            yield
        finally:
            self._searches.release()

    async def close(self) -> None:
        self._closed = True
        while self._kept:
            connection, _ = self._kept.pop()
            await connection.close()
        for engine in {self._writer, self._reader, self._looker}:
            await engine.dispose()

    @property
    def refuses_writes(self) -> bool:
        """Whether it reads and does not write, as of the last seconds: its disk is full, or it is a standby."""
        return self._refused_write is not None and time.monotonic() - self._refused_write < FULL_SECONDS

    def pool_use(self) -> int:
        """Connections in use now."""
        return sum(int(pool.checkedout()) for pool in self._pools()) - len(self._kept)

    def pool_limit(self) -> int:
        """Connections that may be in use at the same time."""
        return sum(int(pool.size()) for pool in self._pools())

    def _pools(self) -> set[Any]:
        return {self._writer.pool, self._reader.pool, self._looker.pool}

    @asynccontextmanager
    async def _connection(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """A pooled connection; whatever says "the database is away" becomes DatabaseUnavailable."""
        pool: Any = engine.pool
        with self._unavailable():
            if self._kept and engine is self._writer and pool.checkedout() >= pool.size():
                await self._kept.pop()[0].close()
            async with AsyncExitStack() as stack:
                with self._lined_up() if engine is self._writer else nullcontext():
                    connection = await stack.enter_async_context(engine.connect())
                try:
                    yield connection
                except (*_UNAVAILABLE, asyncio.CancelledError):
                    # Its state is unknown: the pool must not hand it out again.
                    if not self.sqlite:
                        await _drop(connection)
                    raise

    @contextmanager
    def _lined_up(self) -> Iterator[None]:
        self._in_line += 1
        try:
            yield
        finally:
            self._in_line -= 1

    @contextmanager
    def _unavailable(self) -> Iterator[None]:
        """Whatever says "the database is away" becomes DatabaseUnavailable."""
        try:
            yield
        except JobserverError:
            raise
        except DBAPIError as error:
            if error.connection_invalidated or _is_unavailable(_cause(error)):
                self._note_refusal(_cause(error))
                raise DatabaseUnavailable(_sentence(_cause(error))) from error
            raise
        except _UNAVAILABLE as error:
            if not _is_unavailable(error):
                raise
            self._note_refusal(error)
            raise DatabaseUnavailable(_sentence(error)) from error

    @asynccontextmanager
    async def _session(
        self, engine: AsyncEngine, limit_seconds: float | None = None
    ) -> AsyncIterator[tuple[Session, Any]]:
        limit_seconds = STATEMENT_SECONDS if limit_seconds is None else limit_seconds
        async with self._connection(engine) as connection:
            raw = await connection.get_raw_connection()
            driver = cast(Any, raw.driver_connection)
            session = _SqliteSession(self, driver) if self.sqlite else _PostgresSession(self, driver, limit_seconds)
            yield session, driver

    def _note_refusal(self, error: BaseException) -> None:
        full = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _SQLITE_REFUSES
        if full or isinstance(error, asyncpg.DiskFullError | asyncpg.ReadOnlySQLTransactionError):
            self._refused_write = time.monotonic()

    # Values of a row, from either driver.

    def instant(self, value: Any) -> datetime | None:
        if value is None or not self.sqlite:
            return cast("datetime | None", value)
        return from_us(value)

    def moment(self, value: Any) -> datetime:
        return from_us(value) if self.sqlite else cast(datetime, value)

    def uuid(self, value: Any) -> UUID:
        return UUID(value) if self.sqlite else cast(UUID, value)


def _is_unavailable(error: BaseException) -> bool:
    # SQLite's code 1 is a statement that is wrong; its other operational errors are about files and locks.
    wrong = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_ERROR
    return isinstance(error, _UNAVAILABLE) and not wrong


def _is_out_of_time(error: BaseException) -> bool:
    interrupted = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT
    return interrupted or isinstance(error, asyncpg.QueryCanceledError)


def _cause(error: BaseException) -> BaseException:
    """The driver's own exception below SQLAlchemy's wrappers."""
    while True:
        inner = getattr(error, "orig", None) or error.__cause__
        if not isinstance(inner, BaseException) or inner is error:
            return error
        error = inner


def _sentence(error: BaseException) -> str:
    return str(error) or type(error).__name__


def database_url(text: str | URL) -> URL:
    """The URL that the engines use. `postgresql://` and `sqlite://` are accepted too; ConfigurationError if not
    usable. Messages never carry the password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError(
            "The database URL is not readable: it should look like postgresql+asyncpg://user@host/name."
        ) from error
    if url.drivername in {"postgresql", "postgres", "postgresql+asyncpg"}:
        return url.set(drivername="postgresql+asyncpg")
    if url.drivername in {"sqlite", "sqlite+aiosqlite"}:
        if not url.database or url.database == ":memory:":
            raise ConfigurationError("The database URL names no file: use sqlite+aiosqlite:///path/to/jobs.db.")
        return url.set(drivername="sqlite+aiosqlite")
    raise ConfigurationError(
        f"The database URL begins with {url.drivername}://: use postgresql+asyncpg:// or sqlite+aiosqlite://."
    )


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """Says good-bye, but not for long: a server that hangs must not hold up a stop, connection by connection."""

    async def close(self, *, timeout: float | None = None) -> None:
        try:
            await super().close(timeout=CLOSE_SECONDS if timeout is None else min(timeout, CLOSE_SECONDS))
        except TimeoutError:
            self.terminate()


async def _drop(connection: AsyncConnection) -> None:
    """Take a connection out of its pool without a word to the server, which may not answer."""
    raw = await connection.get_raw_connection()
    cast(Any, raw.driver_connection).terminate()
    await connection.invalidate()


def _postgres_engine(
    url: URL, pool_size: int, limit_seconds: float | None = None, keepalive_seconds: int | None = None
) -> AsyncEngine:
    keepalive = {}
    if keepalive_seconds is not None:
        keepalive = {
            "tcp_keepalives_idle": str(keepalive_seconds),
            "tcp_keepalives_interval": "1",
            "tcp_keepalives_count": "3",
        }
    # Who may take longer over a statement may take longer between two: a migration, a search.
    idle_seconds = IDLE_SECONDS if limit_seconds is None else limit_seconds
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=CHECKOUT_SECONDS,
        connect_args={
            "timeout": CONNECT_SECONDS,
            "command_timeout": STATEMENT_SECONDS if limit_seconds is None else limit_seconds,
            "connection_class": _Connection,
            "server_settings": {
                "application_name": "jobserver",
                "jit": "off",
                # A plan made for a table that was empty, or for one batch's arrays, can be a thousand times slower
                # than the generic one. Every statement here has its index.
                "plan_cache_mode": "force_generic_plan",
                "enable_seqscan": "off",
                "enable_hashjoin": "off",
                "enable_mergejoin": "off",
                "idle_in_transaction_session_timeout": f"{idle_seconds * 1000:.0f}",
                **keepalive,
            },
        },
    )


def _sqlite_engine(url: URL, pool_size: int) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=CHECKOUT_SECONDS,
        connect_args={"isolation_level": None, "timeout": 5.0},
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "busy_timeout=5000",
            "foreign_keys=ON",
            "cache_size=-16000",
            "temp_store=MEMORY",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
        connection.driver_connection.row_factory = sqlite3.Row

    return engine


MIGRATION_LOCK: Final = 0x6A6F6273  # "jobs"
MIGRATION_SECONDS: Final = 600.0
_LOCK_SECONDS: Final = 2
_LOCK_PAUSE_SECONDS: Final = 1.0
_LOCK_POLL_SECONDS: Final = 0.1


async def schema_version(database: Database) -> str | None:
    """The Alembic revision of the database, None while it has no tables."""
    async with database._connection(database._reader) as connection:
        try:
            found = await connection.execute(sa.text("SELECT version_num FROM alembic_version"))
        except DBAPIError as error:
            missing = (asyncpg.UndefinedTableError, sqlite3.OperationalError)
            if isinstance(_cause(error), missing) and "alembic_version" in str(error):
                return None
            raise
        return cast("str | None", found.scalar())


async def migrate(url: str) -> None:
    """Bring the database's schema to this release, under a lock; returns at once when it is there already."""
    # Another process may be migrating, and an index on a large table takes its time.
    database = Database(url, statement_seconds=MIGRATION_SECONDS)
    try:
        if await schema_version(database) == HEAD:
            return
        async with asyncio.timeout(MIGRATION_SECONDS):
            if database.sqlite:
                async with database._writer.connect() as connection:
                    await connection.execute(sa.text("BEGIN EXCLUSIVE"))
                    await connection.run_sync(_upgrade)
                    await connection.commit()
            else:
                await _migrate_postgres(database)
    finally:
        await database.close()


async def _migrate_postgres(database: Database) -> None:
    """While other processes work on: nobody waits for a lock of ours, or behind one that we wait for, for long."""
    async with database._writer.connect() as guard:
        await guard.execution_options(isolation_level="AUTOCOMMIT")
        # Asked for again and again: who waits for it inside of a statement is what building an index waits for.
        while not await guard.scalar(sa.text(f"SELECT pg_try_advisory_lock({MIGRATION_LOCK})")):  # noqa: ASYNC110
            await asyncio.sleep(_LOCK_POLL_SECONDS)
        # Its session holds the lock until it is closed.
        while True:
            try:
                async with database._writer.connect() as connection:
                    await connection.execute(sa.text(f"SET lock_timeout = '{_LOCK_SECONDS}s'"))
                    await connection.commit()
                    await connection.run_sync(_upgrade)
                    return
            except DBAPIError as error:
                # Those who wait behind us go first, and it goes on with the migration that it was at.
                if not isinstance(_cause(error), asyncpg.LockNotAvailableError | asyncpg.DeadlockDetectedError):
                    raise
            await asyncio.sleep(_LOCK_PAUSE_SECONDS)


def _upgrade(connection: sa.Connection) -> None:
    # Imported here to keep start-up fast: only a database that is behind needs Alembic.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def check_reachable(url: str) -> str:
    """The engine's version for the banner; ConfigurationError with one sentence when it cannot be used."""
    database = Database(url)
    shown = database.url.render_as_string(hide_password=True)
    try:
        if database.sqlite:
            # Without the driver: its thread outlives a file that cannot be opened, and then complains by itself.
            with closing(sqlite3.connect(database.url.database or "")) as file:
                file.execute("SELECT count(*) FROM sqlite_schema")
            version = sqlite3.sqlite_version
        else:
            async with asyncio.timeout(CONNECT_SECONDS + 5), database._reader.connect() as connection:
                version = str((await connection.execute(sa.text("SHOW server_version"))).scalar())
        if database.sqlite and tuple(map(int, version.split(".")[:2])) < SQLITE_MINIMUM:
            raise ConfigurationError(f"This Python comes with SQLite {version}: at least 3.38 is needed.")
        return f"{'SQLite' if database.sqlite else 'PostgreSQL'} {version}"
    except (SQLAlchemyError, sqlite3.Error, *_UNAVAILABLE) as error:
        raise ConfigurationError(
            f"The database {shown} cannot be used: {_sentence(_cause(error)).rstrip('.')}."
        ) from error
    finally:
        await database.close()


async def durability_warnings(database: Database) -> list[str]:
    """What makes a commit of this PostgreSQL less than durable, in words."""
    if database.sqlite:
        return []
    async with database._connection(database._reader) as connection:
        found = []
        for name in ("fsync", "synchronous_commit"):
            value = (await connection.execute(sa.text(f"SHOW {name}"))).scalar()
            if value == "off":
                found.append(f"PostgreSQL runs with {name}=off: a crash of its machine can lose accepted jobs")
        return found
