"""Whatever keeps a server from starting is one sentence on stderr and exit code 2: no traceback, no password."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.conftest import Pair
from tests.engines import PostgresServer
from tests.life.conftest import Serve
from tests.life.process import command

PASSWORD = "correct-horse"
MODULES = {
    "plain.py": "handlers = {'a': 1}\n",
    "broken.py": "1 / 0\n",
    "unparsable.py": "def (:\n",
    "quitting.py": "raise SystemExit(7)\n",
    "signature.py": (
        "from jobserver import Handlers\nhandlers = Handlers()\n@handlers.handler('a')\nasync def a(*payload): ...\n"
    ),
    "annotation.py": (
        "from jobserver import Handlers\nhandlers = Handlers()\n"
        "@handlers.handler('a')\nasync def a(picture: object()): ...\n"
    ),
    "twice.py": (
        "from jobserver import Handlers\nhandlers = Handlers()\n"
        "@handlers.handler('a')\nasync def a(): ...\n@handlers.handler('a')\nasync def b(): ...\n"
    ),
}


class Place(msgspec.Struct, frozen=True):
    """What a case may name."""

    pair: Pair
    postgres: PostgresServer
    taken_port: int
    closed_port: int
    workdir: Path


class Case(msgspec.Struct, frozen=True):
    arguments: Callable[[Place], tuple[str, ...]]
    # What the sentence says.
    says: tuple[str, ...]


def engines(place: Place, database: str | None = None, redis: str | None = None) -> tuple[str, ...]:
    return (
        *("--database-url", database or place.pair.database_url),
        *("--redis-url", redis or place.pair.redis_url),
    )


CASES = {
    "port in use": Case(lambda place: ("--port", str(place.taken_port)), ("Cannot listen on 127.0.0.1 port", "in use")),
    "no such host": Case(lambda _: ("--host", "no-such-host.invalid", "--allow-anonymous"), ("no-such-host.invalid",)),
    "beyond loopback": Case(lambda _: ("--host", "0.0.0.0"), ("0.0.0.0", "--allow-anonymous")),
    "database without redis": Case(
        lambda place: ("--database-url", f"postgresql://u:{PASSWORD}@127.0.0.1:{place.closed_port}/d"),
        ("--database-url was given without --redis-url",),
    ),
    "redis without database": Case(
        lambda place: ("--redis-url", f"redis://u:{PASSWORD}@127.0.0.1:{place.closed_port}/0"),
        ("--redis-url was given without --database-url",),
    ),
    "no scheme": Case(lambda place: engines(place, database=f"u:{PASSWORD}@127.0.0.1/d"), ("database",)),
    "another database": Case(
        lambda place: engines(place, database=f"mysql://u:{PASSWORD}@127.0.0.1/d"), ("postgresql",)
    ),
    "another redis": Case(lambda place: engines(place, redis=f"http://u:{PASSWORD}@127.0.0.1/"), ("redis://",)),
    "bad port in a url": Case(
        lambda place: engines(place, database=f"postgresql://u:{PASSWORD}@127.0.0.1:port/d"), ("database",)
    ),
    "no database there": Case(
        lambda place: engines(place, database=f"postgresql://u:{PASSWORD}@127.0.0.1:{place.closed_port}/d"),
        ("@127.0.0.1:", "/d cannot be used"),
    ),
    "wrong password of the database": Case(
        lambda place: engines(place, database=f"postgresql://postgres:{PASSWORD}@127.0.0.1:{place.postgres.port}/d"),
        ("password authentication failed",),
    ),
    "no such database": Case(
        lambda place: engines(place, database=place.postgres.url("nowhere").replace("+asyncpg", "")),
        ("nowhere", "does not exist"),
    ),
    "no redis there": Case(
        lambda place: engines(place, redis=f"redis://u:{PASSWORD}@127.0.0.1:{place.closed_port}/0"), ("127.0.0.1:",)
    ),
    "wrong password of redis": Case(
        lambda place: engines(place, redis=place.pair.redis_url.replace("://", f"://u:{PASSWORD}@")),
        ("invalid username-password",),
    ),
    "an SQLite file in no folder": Case(
        lambda place: engines(place, database=f"sqlite+aiosqlite:///{place.workdir}/missing/jobs.db"), ("missing",)
    ),
    "a data folder that is a file": Case(lambda place: ("--data-dir", str(place.workdir / "plain.py")), ("plain.py",)),
    "no colon": Case(lambda _: ("plain",), ("plain", "MODULE:HANDLERS")),
    "no such module": Case(lambda _: ("missing_module:handlers",), ("missing_module",)),
    "no such attribute": Case(lambda _: ("plain:others",), ("plain", "others")),
    "not a Handlers": Case(lambda _: ("plain:handlers",), ("plain:handlers", "Handlers")),
    "a module that raises": Case(lambda _: ("broken:handlers",), ("broken", "ZeroDivisionError")),
    "a module that does not parse": Case(lambda _: ("unparsable:handlers",), ("unparsable", "SyntaxError")),
    "a module that exits": Case(lambda _: ("quitting:handlers",), ("quitting", "SystemExit")),
    "a signature with *args": Case(lambda _: ("signature:handlers",), ("payload",)),
    "an annotation that is no type": Case(lambda _: ("annotation:handlers",), ("picture",)),
    "a type declared twice": Case(lambda _: ("twice:handlers",), ("'a'",)),
    "a number out of range": Case(lambda _: ("--workers", "-1"), ("--workers",)),
    "not a duration": Case(lambda _: ("--lease-seconds", "soon"), ("--lease-seconds", "duration")),
    "no such option": Case(lambda _: ("--worker", "1"), ("--worker",)),
    "several processes on the embedded engines": Case(lambda _: ("--processes", "2"), ("--processes 2", "PostgreSQL")),
    "several processes on SQLite": Case(
        lambda place: (*engines(place, database="sqlite+aiosqlite:///jobs.db"), "--processes", "2"),
        ("--processes 2", "PostgreSQL"),
    ),
    "no database there for several processes": Case(
        lambda place: (
            *engines(place, database=f"postgresql://u:{PASSWORD}@127.0.0.1:{place.closed_port}/d"),
            *("--processes", "3"),
        ),
        ("@127.0.0.1:", "/d cannot be used"),
    ),
    "nothing to do": Case(lambda _: ("--no-http", "--workers", "0"), ("--no-http", "--workers 0")),
}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Bound and not listening: whoever connects is refused, and nobody else gets it."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield closed.getsockname()[1]


@pytest.mark.parametrize("name", CASES)
async def test_a_server_that_cannot_start_says_why_in_one_sentence(
    name: str,
    postgres: PostgresServer,
    postgresql_template: str,
    redis_url: str,
    redis_prefix: str,
    taken_port: int,
    closed_port: int,
    workdir: Path,
) -> None:
    for file, text in MODULES.items():
        (workdir / file).write_text(text)
    # Nobody gets as far as to change it.
    pair = Pair("postgresql", postgresql_template, redis_url, redis_prefix)
    case = CASES[name]
    place = Place(pair, postgres, taken_port, closed_port, workdir)
    refused = await command("serve", "--port", "0", *case.arguments(place), cwd=workdir)
    assert (refused.code, refused.out) == (2, "")
    said = refused.err.splitlines()
    assert len(said) == 1, refused.err
    assert said[0].startswith("jobserver: ")
    assert said[0].endswith(".")
    assert not said[0].endswith("..")
    for words in case.says:
        assert words in said[0]
    assert PASSWORD not in refused.err
    # Refused before anything was made, unless the folder itself is at fault.
    assert not (workdir / ".jobserver" / "jobs.db").exists()


async def test_an_old_schema_is_refused_where_migrating_is_not_wanted(
    postgres: PostgresServer, redis_url: str, redis_prefix: str, workdir: Path, serve: Serve
) -> None:
    url = postgres.create_database()
    engines_ = ("--database-url", url, "--redis-url", redis_url, "--redis-prefix", redis_prefix)
    try:
        refused = await command("serve", *engines_, "--port", "0", "--no-migrate", cwd=workdir)
        assert refused.code == 2
        assert len(refused.err.splitlines()) == 1
        assert "run jobserver migrate" in refused.err
        migrated = await command("migrate", "--database-url", url, cwd=workdir)
        assert (migrated.code, migrated.out) == (0, "")
        server = await serve(*engines_, "--no-migrate")
        assert (await server.finished(await server.submit("echo")))["status"] == "completed"
        # It works beside a running server too.
        assert (await command("migrate", "--database-url", url, cwd=workdir)).code == 0
        await server.end()
    finally:
        postgres.drop_database(url)
