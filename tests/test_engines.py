"""The engines that the suite stands on do what their names say."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest
import redis.asyncio
import redis.exceptions
from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import create_async_engine

from tests.conftest import Pair
from tests.engines import EngineError, PostgresServer, RedisServer, eventually


async def test_a_pair_has_migrated_tables_in_a_database_of_its_own(pair: Pair) -> None:
    engine = create_async_engine(pair.database_url)
    async with engine.connect() as connection:
        tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    await engine.dispose()
    assert "jobs" in tables
    assert pair.database_url.startswith(pair.name)


def test_two_databases_of_one_template_are_apart(postgres: PostgresServer) -> None:
    template = postgres.create_database()
    database = template.rsplit("/", 1)[1]
    postgres.execute("CREATE TABLE notes (note text)", database)
    first, second = (postgres.create_database(template).rsplit("/", 1)[1] for _ in range(2))
    postgres.execute("INSERT INTO notes VALUES ('mine')", first)
    assert postgres.execute("SELECT count(*) FROM notes", first) == "1"
    assert postgres.execute("SELECT count(*) FROM notes", second) == "0"
    for name in (database, first, second):
        postgres.drop_database(postgres.url(name))
    with pytest.raises(EngineError, match="does not exist"):
        postgres.execute("SELECT 1", first)


def test_postgres_commits_synchronously_and_keeps_what_it_committed_before_a_crash() -> None:
    with PostgresServer() as server:
        assert server.execute("SHOW synchronous_commit") == "on"
        server.execute("CREATE TABLE notes AS SELECT 7 AS note")
        before = server.pid
        server.restart("immediate")
        assert server.pid != before
        assert server.execute("SELECT note FROM notes") == "7"
        folder, processes = server.folder, _tree(server.pid)
        server.pause()
    assert not folder.exists()
    assert psutil.wait_procs(processes, timeout=10)[1] == []


def test_paused_postgres_does_not_answer_until_it_is_resumed(postgres: PostgresServer) -> None:
    postgres.pause()
    try:
        assert {process.status() for process in _tree(postgres.pid)} == {psutil.STATUS_STOPPED}
    finally:
        postgres.resume()
    assert postgres.execute("SELECT 1") == "1"


async def test_every_redis_survives_a_pause_and_starts_empty_after_a_kill(redis_server: RedisServer) -> None:
    async with redis.asyncio.Redis.from_url(redis_server.url, socket_timeout=0.2) as client:
        await client.set("note", "here")
        redis_server.pause()
        with pytest.raises(redis.exceptions.TimeoutError):
            await client.get("note")
        redis_server.resume()
        assert await eventually(lambda: client.get("note")) == b"here"
        redis_server.kill()
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.get("note")
        redis_server.restart()
        assert await client.get("note") is None


async def test_own_redis_keeps_its_data_over_a_kill(own_redis: RedisServer) -> None:
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        await client.set("note", "here")
    own_redis.kill()
    own_redis.restart()
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        assert await client.get("note") == b"here"


def test_a_server_ends_with_its_killed_starter() -> None:
    script = (
        "import time; from tests.engines import RedisServer\n"
        "server = RedisServer('valkey'); server.start()\n"
        "print(server.pid, server.folder, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as starter:
        assert starter.stdout is not None
        pid, folder = starter.stdout.readline().split()
        server = psutil.Process(int(pid))
        starter.send_signal(signal.SIGKILL)
    server.wait(timeout=10)
    deadline = time.monotonic() + 10
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(folder).exists()


async def test_eventually_returns_the_first_truthy_value_and_names_the_last_one_otherwise() -> None:
    values = iter([0, None, 3])
    assert await eventually(lambda: next(values)) == 3
    with pytest.raises(AssertionError, match="the last value was AssertionError"):
        await eventually(_says_no, within=0.05)


async def _says_no() -> str:
    raise AssertionError("no")


def _tree(pid: int) -> list[psutil.Process]:
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]
