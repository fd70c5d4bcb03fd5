"""A disk that is full, for real: to clients it is SQL that is down, and nothing is lost when there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from jobserver.job.model import Status
from jobserver.server import Server
from tests.clocks import judged_by_the_clock
from tests.conftest import Pair
from tests.engines import PostgresServer, RedisServer, eventually
from tests.gates import Gate
from tests.life.conftest import Serve
from tests.life.notes import Notes
from tests.parts import ended, submitted
from tests.servers import running

SIZE_MB = 24
# More than what is free within pages that are there already, and not to be compressed.
LARGE = 60_000


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        with open(self._ballast, "ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while ballast.write(bytes(65_536)):
                pass
        with open(self._ballast, "ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while ballast.write(b"0"):
                pass

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk() -> Iterator[Disk]:
    path = Path(tempfile.mkdtemp(prefix="disk-"))
    path.chmod(0o755)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=0755", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        timeout=10,
    )
    if mounted.returncode:
        path.rmdir()
        pytest.skip(f"no file system may be mounted here, so that none can be filled: {mounted.stderr.strip()}")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=10)
    path.rmdir()


Waits = Callable[[], bool]


@pytest.fixture
def finish_waits(capsys: pytest.CaptureFixture[str]) -> Waits:
    """Whether the log says that ends of attempts wait."""
    said: list[str] = []

    def waits() -> bool:
        said.append("".join(capsys.readouterr()))
        return "finish_waits_for_database" in "".join(said)

    return waits


async def full_and_free(
    server: Server, gate: Gate, fill: Callable[[], object], free: Callable[[], object], waits: Waits
) -> None:
    """What must hold on any database, before, while and after it has no room."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:

        async def submit() -> httpx.Response:
            return await client.post("/jobs", json={"type": "echo", "payload": secrets.token_hex(LARGE)})

        running_one = await submitted(server, "gate")
        await eventually(lambda: gate.started)
        await called(fill)
        accepted = []
        while (answer := await submit()).status_code == 201:
            accepted.append(answer.json()["id"])
            assert len(accepted) < 50
        assert answer.status_code == 503
        assert answer.json()["type"] == "/problems/database-unavailable"
        assert int(answer.headers["retry-after"]) >= 1
        started = time.monotonic()
        assert (await submit()).status_code == 503
        assert time.monotonic() - started < 6
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["database"]) == (503, "down")
        assert (await client.get("/health")).status_code == 200
        # It can be read.
        assert (await client.get(f"/jobs/{running_one.id}")).json()["status"] == "running"
        # The end of this one has no room, and waits for it.
        gate.open.set()
        await eventually(waits)
        assert (await client.get(f"/jobs/{running_one.id}")).json()["status"] == "running"
        await called(free)
        job = await ended(server, running_one.id)
        assert (job.status, job.attempt, job.crashes) == (Status.COMPLETED, 1, 0)
        assert job.result is not None
        assert len(job.result) == 2 * LARGE + 2
        answer = await submit()
        assert answer.status_code == 201
        accepted.append(answer.json()["id"])
        for job_id in accepted:
            shown = (await client.get(f"/jobs/{job_id}", params={"wait": 20})).json()
            assert (shown["status"], shown["crashes"]) == ("completed", 0)

        async def ready_again() -> bool:
            return (await client.get("/health/ready")).status_code == 200

        await eventually(ready_again)


async def called(function: Callable[[], object]) -> None:
    done = function()
    if asyncio.iscoroutine(done):
        await done


async def test_a_full_disk_of_postgresql_is_an_outage_of_its_own_length(
    disk: Disk, own_postgres: PostgresServer, redis_url: str, redis_prefix: str, finish_waits: Waits
) -> None:
    """A tablespace without room: the log of PostgreSQL itself is elsewhere, or it would end."""
    space = disk.path / "space"
    space.mkdir()
    if os.geteuid() == 0:
        shutil.chown(space, "nobody")
    own_postgres.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
    own_postgres.execute("CREATE DATABASE small TEMPLATE template0 TABLESPACE small")
    gate = Gate(lambda: secrets.token_hex(LARGE))
    pair = Pair("postgresql", own_postgres.url("small"), redis_url, redis_prefix)
    async with running(pair, gate.handlers, workers=2) as server:
        await full_and_free(server, gate, disk.fill, disk.free, finish_waits)
    own_postgres.execute("DROP DATABASE small WITH (FORCE)")
    own_postgres.execute("DROP TABLESPACE small")


async def test_a_sqlite_file_that_may_not_grow_is_an_outage_of_its_own_length(
    sqlite_url: str, redis_url: str, redis_prefix: str, finish_waits: Waits
) -> None:
    gate = Gate(lambda: secrets.token_hex(LARGE))
    async with running(Pair("sqlite", sqlite_url, redis_url, redis_prefix), gate.handlers, workers=2) as server:
        database = server.store.database

        async def limit(pages: str) -> None:
            async with database._session(database._writer) as (_, driver):
                await driver.execute_fetchall(f"PRAGMA max_page_count = {pages}")

        await full_and_free(server, gate, lambda: limit("1"), lambda: limit("1000000"), finish_waits)


async def test_a_full_disk_of_the_embedded_engines_loses_nothing(disk: Disk, serve: Serve, notes: Notes) -> None:
    """Both engines at once: SQLite has no room for a commit, Valkey none for its log."""
    server = await serve("--data-dir", str(disk.path / "data"), "--workers", "2", "--lease-seconds", "2s")
    running_jobs = await server.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(2)])
    await eventually(lambda: len(notes.all()) == 2)
    waiting = await server.submit_all([{"type": "echo", "payload": number} for number in range(20)])
    disk.fill()

    async def refused() -> httpx.Response | None:
        answer = await server.http.post("/jobs", json={"type": "echo", "payload": secrets.token_hex(LARGE)})
        if answer.status_code == 201:
            waiting.append(answer.json()["id"])
            return None
        return answer

    answer = await eventually(refused)
    assert answer is not None
    assert (answer.status_code, int(answer.headers["retry-after"]) >= 1) == (503, True)
    notes.open_gate()
    await eventually(lambda: [notes.events(job_id)[-1] for job_id in running_jobs] == ["returned", "returned"])
    assert (await server.http.get("/health")).status_code == 200
    assert (await server.http.get("/health/ready")).status_code == 503
    # Longer than a lease.
    full_at = time.monotonic()
    await eventually(lambda: time.monotonic() - full_at > 3)
    assert server.running
    disk.free()
    for job in await server.all_finished([*running_jobs, *waiting], within=40):
        assert (job["status"], job["crashes"]) == ("completed", 0)
    assert (await server.finished(await server.submit("echo")))["status"] == "completed"


@pytest.fixture
def small_redis(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A Valkey that keeps its log on the small disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(disk.path))
    with RedisServer("valkey", appendonly=True) as server:
        monkeypatch.undo()
        yield server


@judged_by_the_clock
async def test_a_full_disk_of_redis_is_an_outage_of_redis(
    disk: Disk, small_redis: RedisServer, sqlite_url: str
) -> None:
    """Once its log cannot be written it refuses every write and even a ping; jobs are taken all the same."""
    pair = Pair("sqlite", sqlite_url, small_redis.url, "t")
    async with running(pair) as server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        await ended(server, (await submitted(server)).id)
        disk.fill()
        jobs = []

        async def degraded() -> bool:
            jobs.append((await submitted(server)).id)
            answer = await client.get("/health/ready")
            return answer.status_code == 200 and answer.json()["redis"] == "down"

        await eventually(degraded, every=0.1)
        for _ in range(5):
            started = time.monotonic()
            answer = await client.post("/jobs", json={"type": "echo"})
            assert (answer.status_code, time.monotonic() - started < 1) == (201, True)
            jobs.append(UUID(answer.json()["id"]))
        disk.free()
        for job_id in jobs:
            job = await ended(server, job_id)
            assert (job.status, job.crashes) == (Status.COMPLETED, 0)
