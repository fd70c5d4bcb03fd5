"""Real engines, a real `jobserver serve` on them, and what a benchmark asks of both.

PostgreSQL with fsync and synchronous_commit on, Valkey without persistence; or the embedded pair, with what it does
by default. The load comes from processes of its own. Rates of jobs are taken from the rows themselves, by the
database's clock: looking on costs the server nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import asyncpg
import httpx
import msgspec

from jobserver.torture.resp import ask
from tests.engines import PostgresServer, RedisServer, find_postgres, free_port

ROOT: Final = Path(__file__).parent.parent
PERSISTENCE: Final = (
    "PostgreSQL with fsync and synchronous_commit on, Valkey without persistence; "
    "embedded: SQLite in WAL mode with synchronous=FULL, Valkey with AOF, fsync every second"
)
LIBRARIES: Final = ("litestar", "uvicorn", "uvloop", "httptools", "asyncpg", "redis", "msgspec", "sqlalchemy")

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 60.0
LOAD_SECONDS: Final = 900.0
LOOK_SECONDS: Final = 0.2

# Of jobs that are completed: how many, and (seconds since 1970) the first submit, first claim and last end.
_LIVES_POSTGRESQL: Final = """
    SELECT count(*), extract(epoch FROM min(created_at))::float8, extract(epoch FROM min(started_at))::float8,
        extract(epoch FROM max(finished_at))::float8
    FROM jobs WHERE status = 'completed' AND finished_at >= to_timestamp($1)
"""
_LIVES_SQLITE: Final = """
    SELECT count(*), min(created_at) / 1e6, min(started_at) / 1e6, max(finished_at) / 1e6
    FROM jobs WHERE status = 'completed' AND finished_at >= ? * 1e6
"""


class Lives(msgspec.Struct, frozen=True):
    """Completed jobs, and when the first was submitted, the first claimed and the last ended."""

    completed: int
    submitted: float
    started: float
    finished: float

    @property
    def drained_per_second(self) -> float:
        return self.completed / (self.finished - self.started)

    @property
    def lived_per_second(self) -> float:
        return self.completed / (self.finished - self.submitted)


class Pair(Protocol):
    """Empty engines of one measurement."""

    @property
    def options(self) -> tuple[str, ...]:
        """Of `jobserver serve`."""
        ...

    async def lives(self, since: float = 0.0) -> Lives:
        """Of the jobs that ended after this moment."""
        ...


class RealPair(msgspec.Struct, frozen=True):
    """A new database of a PostgreSQL, and a Valkey that holds nothing else."""

    postgres: PostgresServer
    redis: RedisServer
    database_url: str

    @property
    def options(self) -> tuple[str, ...]:
        return ("--database-url", self.database_url, "--redis-url", self.redis.url)

    async def lives(self, since: float = 0.0) -> Lives:
        [row] = await self.sql(_LIVES_POSTGRESQL, since)
        return Lives(*row)

    async def sql(self, query: str, *arguments: object, seconds: float = 60.0) -> list[Sequence[Any]]:
        """The rows of one statement."""
        async with self.connection() as connection:
            rows: list[Sequence[Any]] = await connection.fetch(query, *arguments, timeout=seconds)
            return rows

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection of asyncpg."""
        connection = await asyncpg.connect(self.database_url.replace("+asyncpg", ""), timeout=10)
        try:
            yield connection
        finally:
            await connection.close(timeout=10)

    async def ask_redis(self, *words: object, seconds: float = 10.0) -> Any:
        [answer] = await ask(self.redis.port, [words], seconds=seconds)
        return answer

    async def redis_bytes(self) -> int:
        """Memory that Valkey uses for data."""
        [used] = re.findall(r"used_memory:(\d+)", await self.ask_redis("INFO", "memory"))
        return int(used)


class EmbeddedPair(msgspec.Struct, frozen=True):
    """A new data folder, in which a server starts its own engines."""

    folder: Path

    @property
    def options(self) -> tuple[str, ...]:
        return ("--data-dir", str(self.folder))

    async def lives(self, since: float = 0.0) -> Lives:
        # Readers of a database in WAL mode disturb nobody.
        [database] = self.folder.rglob("jobs.db")
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
            return Lives(*connection.execute(_LIVES_SQLITE, (since,)).fetchone())


class Engines:
    """One PostgreSQL and one Valkey for a whole run."""

    def __init__(self, postgres: PostgresServer, redis: RedisServer) -> None:
        self._postgres: Final = postgres
        self._redis: Final = redis

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[RealPair]:
        """Empty engines; what is put there is gone afterwards."""
        url = await asyncio.to_thread(self._postgres.create_database)
        try:
            pair = RealPair(self._postgres, self._redis, url)
            await pair.ask_redis("FLUSHALL", seconds=60.0)
            yield pair
        finally:
            await asyncio.to_thread(self._postgres.drop_database, url)

    @asynccontextmanager
    async def embedded(self) -> AsyncIterator[EmbeddedPair]:
        """Engines that the server starts by itself."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            yield EmbeddedPair(Path(folder) / "data")

    async def versions(self) -> dict[str, str]:
        """What the figures were measured on."""
        [[info]] = [await ask(self._redis.port, [("INFO", "server")])]
        [valkey] = re.findall(r"valkey_version:(\S+)", info)
        return {"postgresql": self._postgres.version, "valkey": valkey, **{name: version(name) for name in LIBRARIES}}


@contextmanager
def engines() -> Iterator[Engines]:
    """Started here, and stopped at the end."""
    # Asked to end, a benchmark still ends what it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with PostgresServer(find_postgres(), fsync=True) as postgres, RedisServer("valkey") as redis:
        yield Engines(postgres, redis)


class Served:
    """A server process and a client of it."""

    def __init__(self, process: subprocess.Popen[bytes], client: httpx.AsyncClient, port: int) -> None:
        self.process: Final = process
        self.client: Final = client
        self.port: Final = port

    async def by_status(self) -> dict[str, int]:
        counts: dict[str, int] = (await self.client.get("/admin/stats")).raise_for_status().json()["by_status"]
        return counts

    async def completed(self, jobs: int, *, within: float = LOAD_SECONDS) -> None:
        """Return when so many jobs are completed."""
        async with asyncio.timeout(within):
            # Asked over HTTP, of another process: there is no event to wait for.
            while (await self.by_status())["completed"] < jobs:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_SECONDS)

    async def settled(self, *, within: float = LOAD_SECONDS) -> None:
        """Return when no job waits or runs."""
        async with asyncio.timeout(within):
            while True:
                counts = await self.by_status()
                if not any(counts[status] for status in ("queued", "scheduled", "retrying", "running")):
                    return
                await asyncio.sleep(LOOK_SECONDS)


# As installed: compiled modules, no settings of whoever measures.
def environment() -> dict[str, str]:
    ours = ("JOBSERVER_", "OTEL_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@asynccontextmanager
async def served(
    *options: str,
    log_level: str = "warning",
    command: Sequence[str] = ("jobserver",),
    variables: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Served]:
    """`jobserver serve` with these options, from the call to the first answer, and stopped at the end.

    `command` is the module that starts it, with its own arguments; `variables` are added to its environment.
    """
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "serve", "--port", str(port), "--log-level", log_level, *options],
            env={**environment(), **variables},
            stdin=subprocess.DEVNULL,
            stderr=log,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
                deadline = time.monotonic() + START_SECONDS
                while True:
                    try:
                        await client.get("/health")
                        break
                    except httpx.TransportError:
                        if process.poll() is not None or time.monotonic() > deadline:
                            log.seek(0)
                            raise RuntimeError(log.read().decode(errors="replace")) from None
                        await asyncio.sleep(0.01)
                yield Served(process, client, port)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def api_of(pair: Pair, *more: str, **options: Any) -> contextlib.AbstractAsyncContextManager[Served]:
    """A server process that takes jobs and runs none."""
    return served(*pair.options, "--workers", "0", "--accept-unknown-types", *more, **options)


async def output_of(process: asyncio.subprocess.Process) -> bytes:
    """What it prints until its end, which must be a good one."""
    try:
        output, _ = await asyncio.wait_for(process.communicate(), LOAD_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"a process of the benchmark ended with {process.returncode}")
    return output


class Posted(msgspec.Struct, frozen=True):
    """What `bench.load` saw."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]


async def post(port: int, connections: int, requests: int, *options: str) -> Posted:
    """Requests one by one over so many connections, from a process of its own; all must be answered 201."""
    load = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.load", "127.0.0.1", str(port), str(connections), str(requests), *options),
        cwd=ROOT,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    found = msgspec.json.decode(await output_of(load), type=Posted)
    if found.statuses != {"201": requests}:
        raise RuntimeError(f"not every request was accepted: {found.statuses}")
    return found


async def post_jobs(port: int, jobs: int, *options: str, connections: int = 1) -> float:
    """Submit in batches of 1,000 (or all at once, where there are fewer); returns jobs a second."""
    batch = min(1_000, jobs)
    posted = await post(port, connections, jobs // batch, "--batch", str(batch), *options)
    return posted.per_second * batch
