"""Fixtures of the whole suite: real engines, a fresh database and a key prefix of its own for each test."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec
import pytest

from jobserver.cli.serve import collect_seldom, spare_the_collector
from jobserver.pipeline import activity
from jobserver.stream import client, jobs, limits
from tests.engines import (
    EngineError,
    EngineMissingError,
    PostgresServer,
    RedisKind,
    RedisServer,
    find_system_postgres,
)

_TESTS: Final = Path(__file__).parent
# Folders whose tests start processes, of servers or of a browser: each costs as much as dozens of the others.
_HEAVY: Final = {"cli", "dashboard", "life", "torture"}
# So many tests of a module in a row, at the most: what it has for all of its tests is made once for them.
_IN_A_ROW: Final = 16


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What says of itself that it takes long begins first, so that nobody waits for it in the end.

    Workers of xdist begin with a share of the list each. The heavy tests are spread over it: by name they would be the
    share of one, and all workers would come to them at once when the others are done.
    """
    items.sort(key=_longest, reverse=True)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        items[:] = _spread(items, workers)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: to look at it again and again took a tenth of the time of the tests."""
    spare_the_collector()
    collect_seldom()


def _spread(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    heavy: list[list[pytest.Item]] = []
    light: list[pytest.Item] = []
    for item in items:
        if not (_longest(item) or item.path.relative_to(_TESTS).parts[0] in _HEAVY):
            light.append(item)
        elif heavy and heavy[-1][0].path == item.path and len(heavy[-1]) < _IN_A_ROW:
            heavy[-1].append(item)
        else:
            heavy.append([item])
    if not heavy:
        return light
    # To each share its part, and what takes longest at the beginning of each.
    rows = [row for share in range(workers) for row in heavy[share::workers]]
    ordered: list[pytest.Item] = []
    for number, row in enumerate(rows):
        ordered += row
        ordered += light[len(light) * number // len(rows) : len(light) * (number + 1) // len(rows)]
    return ordered


def _longest(item: pytest.Item) -> float:
    limit = item.get_closest_marker("timeout")
    return 0.0 if limit is None else float(limit.args[0])


class Pair(msgspec.Struct, frozen=True):
    """The engines of one test: an empty, migrated database, and a Redis of which it uses only its prefix."""

    name: Literal["postgresql", "sqlite"]
    database_url: str
    redis_url: str
    redis_prefix: str


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this worker's session."""
    try:
        server = _started_postgres()
    except EngineMissingError as error:
        pytest.skip(str(error))
    yield server
    server.stop()


def _started_postgres() -> PostgresServer:
    server = PostgresServer()
    try:
        server.start()
    except EngineError as error:
        # The wheel's programs want a newer system library than this system has, for instance.
        print(f"falling back to the system's PostgreSQL: {error}", file=sys.stderr)
        server = PostgresServer(find_system_postgres())
        server.start()
    return server


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A server of the tests of one module alone, to kill and pause."""
    try:
        server = PostgresServer()
        server.start()
    except EngineMissingError as error:
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    """The Valkey server that the tests of this worker share. Never flush or kill it: see `own_redis`."""
    with _redis("valkey") as server:
        yield server


@pytest.fixture
def redis_url(valkey: RedisServer) -> str:
    return valkey.url


@pytest.fixture
def redis_prefix() -> str:
    """A prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Valkey server of this test alone, to flush, kill, pause and restart. It keeps its data."""
    with _redis("valkey", appendonly=True) as server:
        yield server


@pytest.fixture(params=["valkey", "redis6", "redis7"])
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of this test alone, of every kind that this machine has."""
    with _redis(request.param) as server:
        yield server


@pytest.fixture(params=["postgresql", "sqlite"])
def pair(request: pytest.FixtureRequest, redis_url: str, redis_prefix: str) -> Pair:
    """Both pairs of engines, one after the other."""
    database_url: str = request.getfixturevalue(f"{request.param}_url")
    return Pair(request.param, database_url, redis_url, redis_prefix)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes longer for an answer of Redis than the tenth of a second that a request waits for it."""
    for waits in (activity, client, jobs, limits):
        monkeypatch.setattr(waits, "REQUEST_SECONDS", 10.0)


@pytest.fixture
def postgresql_url(postgres: PostgresServer, postgresql_template: str) -> Iterator[str]:
    """A migrated PostgreSQL database of this test alone."""
    url = postgres.create_database(postgresql_template)
    yield url
    postgres.drop_database(url)


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database of this test alone."""
    # The whole folder: what is not yet in the main file is in the log beside it.
    folder = shutil.copytree(sqlite_template, tmp_path / "sqlite")
    return f"sqlite+aiosqlite:///{folder / 'jobs.db'}"


@pytest.fixture(scope="session")
def postgresql_template(postgres: PostgresServer) -> str:
    url = postgres.create_database()
    _migrate(url)
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    _migrate(f"sqlite+aiosqlite:///{folder / 'jobs.db'}")
    return folder


def _migrate(url: str) -> None:
    # Here, so that tests without a database do not pay for the import of SQLAlchemy and Alembic.
    from jobserver.store.engine import migrate

    asyncio.run(migrate(url))


def _redis(kind: RedisKind, *, appendonly: bool = False) -> RedisServer:
    try:
        return RedisServer(kind, appendonly=appendonly)
    except EngineMissingError as error:
        pytest.skip(str(error))
