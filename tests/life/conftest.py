"""Fixtures that start `jobserver serve` on engines of a test, and end whatever a test left running."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest

from tests.engines import PostgresServer
from tests.life.notes import Notes
from tests.life.process import ServerProcess

GATED = "tests.life.handlers_gated:handlers"
SHORT_LEASE = ("--lease-seconds", "2s")


class Serve(Protocol):
    """Starts a server with these arguments and waits until it has started."""

    async def __call__(self, *arguments: str, handlers: str | None = GATED, **variables: str) -> ServerProcess: ...


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """The current folder of the servers and commands of a test."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    return folder


@pytest.fixture
async def serve(tmp_path: Path, workdir: Path) -> AsyncIterator[Serve]:
    """On no engines in particular. What the servers wrote is shown when the test fails."""
    started: list[ServerProcess] = []

    async def start(*arguments: str, handlers: str | None = GATED, **variables: str) -> ServerProcess:
        reference = () if handlers is None else (handlers,)
        log = tmp_path / f"server-{len(started)}.log"
        process = await ServerProcess.start((*reference, *arguments), cwd=workdir, log=log, **variables)
        started.append(process)
        return await process.started()

    yield start
    for number, process in enumerate(started):
        await process.end()
        print(f"--- server {number} (process {process.pid})\n{process.stderr[-6_000:]}")
    for process in started:
        assert "Traceback" not in process.stderr


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Where embedded engines keep their data; a Valkey that outlived its server is ended."""
    folder = tmp_path / "data"
    yield folder
    with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
        orphan = psutil.Process(int((folder / "valkey" / "pid").read_text(encoding="ascii")))
        # The id is from a file: it counts only with the folder in the process's own words.
        if str(folder) in " ".join(orphan.cmdline()):
            orphan.kill()


@pytest.fixture
def migrated_dir(data_dir: Path, sqlite_template: Path) -> Path:
    """The same, migrated already: that takes a second, and is shown by the first starts of `tests/cli`."""
    return shutil.copytree(sqlite_template, data_dir)


@pytest.fixture
def alone(migrated_dir: Path, serve: Serve) -> Serve:
    """On embedded engines, always on the same folder."""

    async def start(*arguments: str, handlers: str | None = GATED, **variables: str) -> ServerProcess:
        where = ("--data-dir", str(migrated_dir))
        return await serve(*where, *SHORT_LEASE, *arguments, handlers=handlers, **variables)

    return start


@pytest.fixture
def shared_engines(postgresql_url: str, redis_url: str, redis_prefix: str) -> tuple[str, ...]:
    """The arguments that name engines which any number of servers may share."""
    return ("--database-url", postgresql_url, "--redis-url", redis_url, "--redis-prefix", redis_prefix)


@pytest.fixture
def fleet(shared_engines: tuple[str, ...], serve: Serve) -> Serve:
    """On shared engines: each call starts one more process."""

    async def start(*arguments: str, handlers: str | None = GATED, **variables: str) -> ServerProcess:
        return await serve(*shared_engines, *SHORT_LEASE, *arguments, handlers=handlers, **variables)

    return start


@pytest.fixture(params=["embedded", "postgresql"])
def anywhere(request: pytest.FixtureRequest) -> Serve:
    """One server at a time, on both pairs of engines, one after the other."""
    start: Serve = request.getfixturevalue("alone" if request.param == "embedded" else "fleet")
    return start


@pytest.fixture
def own_postgres(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test alone, to kill."""
    # The session's one has found out which programs work here.
    with PostgresServer(postgres._bin) as server:
        yield server
