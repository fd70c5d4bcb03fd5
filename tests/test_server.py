"""A server as a whole: what it starts in which order, what it refuses to start on, and what its health says."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest

from jobserver.errors import ConfigurationError
from jobserver.job.model import Status
from jobserver.pipeline.deliver import Deliveries
from jobserver.server import Server, recover
from jobserver.settings import Settings
from jobserver.store.engine import Database, migrate, schema_version
from jobserver.store.jobs import JobStore
from jobserver.store.views import Views
from tests.conftest import Pair
from tests.engines import PostgresServer, RedisServer, eventually, free_port
from tests.gates import Gate
from tests.jobs import claimed, inserted
from tests.parts import ended, job_of, outcomes, status_of, submitted
from tests.servers import running, settings_for

# Start.


async def test_a_started_server_says_what_it_is(pair: Pair) -> None:
    async with running(pair) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.facts.url == server.url
        assert server.facts.engines[0].startswith({"postgresql": "PostgreSQL", "sqlite": "SQLite"}[pair.name])
        assert server.facts.engines[1].startswith("Valkey")
        assert server.facts.consumers == 8
        assert {"echo", "sleep", "fail", "http.request"} <= set(server.facts.types)
        assert [worker.id for worker in await server.views.workers() if worker.alive] == [server.worker_id]


async def test_a_port_in_use_is_said_before_anything_is_touched(pair: Pair, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            async with running(pair, port=port):
                pytest.fail("it started")
        data = tmp_path / "data"
        with pytest.raises(ConfigurationError):
            async with Server(Settings(port=port, data_dir=data)):
                pytest.fail("it started")
        assert not data.exists()


async def test_a_host_that_is_not_ours_is_refused(pair: Pair) -> None:
    with pytest.raises(ConfigurationError, match=r"203\.0\.113\.1"):
        async with running(pair, host="203.0.113.1", allow_anonymous=True):
            pytest.fail("it started")


@pytest.mark.parametrize("which", ["database_url", "redis_url"])
async def test_an_engine_that_is_not_there_is_named(pair: Pair, which: str) -> None:
    port = free_port()
    url = {
        "database_url": f"postgresql://u:s3cret@127.0.0.1:{port}/x",
        "redis_url": f"redis://:s3cret@127.0.0.1:{port}",
    }
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}") as refused:
        async with Server(msgspec.structs.replace(settings_for(pair), **{which: url[which]})):
            pytest.fail("it started")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
async def test_without_migrations_an_old_schema_is_refused(
    dialect: str, postgres: PostgresServer, redis_url: str, redis_prefix: str, tmp_path: Path
) -> None:
    url = postgres.create_database() if dialect == "postgresql" else f"sqlite:///{tmp_path / 'jobs.db'}"
    pair = Pair("postgresql", url, redis_url, redis_prefix)
    with pytest.raises(ConfigurationError, match="run jobserver migrate"):
        async with running(pair, migrate=False):
            pytest.fail("it started")
    database = Database(url)
    assert await schema_version(database) is None
    await migrate(url)
    async with running(pair, migrate=False) as server:
        assert (await ended(server, (await submitted(server)).id)).status is Status.COMPLETED
    await database.close()


async def test_a_second_server_on_one_sqlite_file_is_refused(
    sqlite_url: str, redis_url: str, redis_prefix: str
) -> None:
    pair = Pair("sqlite", sqlite_url, redis_url, redis_prefix)
    async with running(pair):
        with pytest.raises(ConfigurationError, match="Another jobserver"):
            async with running(pair):
                pytest.fail("it started")
    async with running(pair) as server:
        assert (await ended(server, (await submitted(server)).id)).status is Status.COMPLETED


async def test_a_start_that_fails_leaves_nothing_behind(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {task.get_name() for task in asyncio.all_tasks()}

    async def fails(*_: Any) -> None:
        raise ConfigurationError("no HTTP today")

    with monkeypatch.context() as patched:
        patched.setattr(Server, "_start_http", fails)
        with pytest.raises(ConfigurationError, match="no HTTP today"):
            async with running(pair):
                pytest.fail("it started")
    assert {task.get_name() for task in asyncio.all_tasks()} == before
    async with running(pair) as server:
        assert (await ended(server, (await submitted(server)).id)).status is Status.COMPLETED


# Orphans of a predecessor.


async def test_alone_on_its_database_a_server_takes_the_orphans_at_its_start(
    sqlite_url: str, redis_url: str, redis_prefix: str
) -> None:
    database = Database(sqlite_url)
    job = await claimed(JobStore(database), (await inserted(JobStore(database))).job.id, lease_seconds=3_600.0)
    await database.close()
    async with running(Pair("sqlite", sqlite_url, redis_url, redis_prefix)) as server:
        done = await ended(server, job.id)
        assert (done.status, done.crashes) == (Status.COMPLETED, 1)
        assert await outcomes(server, job.id) == ["lease_lost", "completed"]


async def test_beside_others_a_server_waits_for_the_lease(
    postgresql_url: str, redis_url: str, redis_prefix: str
) -> None:
    database = Database(postgresql_url)
    store = JobStore(database)
    alive = await claimed(store, (await inserted(store)).job.id, lease_seconds=3_600.0)
    dead = await claimed(store, (await inserted(store)).job.id, lease_seconds=-1.0)
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    async with running(pair, lease_seconds=1.0) as server:
        assert await status_of(server, dead.id) is Status.RUNNING
        assert (await ended(server, dead.id)).status is Status.COMPLETED
        assert await status_of(server, alive.id) is Status.RUNNING
    await database.close()


async def test_a_pass_of_recovery_says_what_it_mended(pair: Pair) -> None:
    database = Database(pair.database_url)
    store = JobStore(database)
    await store.add_queue("default")
    waiting = (await inserted(store)).job
    await claimed(store, (await inserted(store)).job.id, lease_seconds=-1.0)
    await inserted(store, expires_at=database.clock.now())
    await database.close()
    mended = await recover(settings_for(pair))
    assert (mended.reclaimed, mended.expired) == (1, 1)
    assert mended.republished >= 1
    again = await recover(settings_for(pair))
    assert (again.reclaimed, again.expired, again.republished) == (0, 0, 0)
    async with running(pair) as server:
        assert (await ended(server, waiting.id)).attempt == 1


# Stop.


async def test_a_stop_waits_for_what_runs_while_http_answers_that_it_drains(pair: Pair) -> None:
    gate = Gate()
    async with httpx.AsyncClient(timeout=10) as client, asyncio.timeout(60):
        server = Server(settings_for(pair, drain_seconds=30.0), handlers=gate.handlers)
        await server.__aenter__()
        job = await submitted(server, "gate")
        await eventually(lambda: gate.started)
        leaving = asyncio.create_task(server.__aexit__(None, None, None))

        async def draining() -> bool:
            answer = await client.get(f"{server.url}/health/ready")
            return answer.status_code == 503 and answer.json()["draining"]

        await eventually(draining)
        assert (await client.get(f"{server.url}/health")).status_code == 200
        assert server.draining_jobs == 1
        assert (await job_of(server, job.id)).status is Status.RUNNING
        gate.open.set()
        await leaving
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{server.url}/health")
    database = Database(pair.database_url)
    views = Views(database)
    done = await views.job(job.id)
    assert done is not None
    assert done.status is Status.COMPLETED
    assert not any(worker.alive for worker in await views.workers())
    await database.close()


async def test_at_the_deadline_or_at_the_second_signal_a_stop_hands_back(pair: Pair) -> None:
    for drain_seconds, hurried in ((0.2, False), (60.0, True)):
        gate = Gate()
        started = time.monotonic()
        async with running(pair, gate.handlers, drain_seconds=drain_seconds) as server:
            job = await submitted(server, "gate")
            await eventually(lambda gate=gate: gate.started)  # type: ignore[misc]
            if hurried:
                server.stop_now()
        assert time.monotonic() - started < 15
        gate.open.set()
        async with running(pair, gate.handlers) as server:
            done = await ended(server, job.id)
            assert (done.status, done.attempt, done.crashes) == (Status.COMPLETED, 1, 0)
            assert await outcomes(server, job.id) == ["handed_back", "completed"]


async def test_a_waiting_request_is_answered_by_a_stop(pair: Pair) -> None:
    async with httpx.AsyncClient(timeout=30) as client:
        async with running(pair) as server:
            job = await submitted(server, delay=3_600.0)
            url = f"{server.url}/jobs/{job.id}"
            waiting = asyncio.create_task(client.get(url, params={"wait": 60}))
            await eventually(lambda: server.waiters._count == 1)
        async with asyncio.timeout(10):
            assert (await waiting).json()["status"] == "scheduled"


async def test_no_task_outlives_its_server_and_no_publisher_the_way_to_redis(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = Deliveries.close
    then: set[str] = set()

    async def closes(deliveries: Deliveries) -> None:
        then.update(task.get_name() for task in asyncio.all_tasks())
        await close(deliveries)

    monkeypatch.setattr(Deliveries, "close", closes)
    before = {task.get_name() for task in asyncio.all_tasks()}
    async with running(pair) as server:
        publishers = {f"upkeep {loop.name}" for loop in server._publishing}
        assert publishers <= {task.get_name() for task in asyncio.all_tasks()}
        for _ in range(5):
            await ended(server, (await submitted(server)).id)
    assert {task.get_name() for task in asyncio.all_tasks()} == before
    assert "upkeep prune" in then
    assert not publishers & then


async def test_stopping_without_the_database_ends(
    own_postgres: PostgresServer, redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.pipeline.consume._LAST_WRITES_SECONDS", 1.0)
    gate = Gate()
    url = own_postgres.create_database()
    async with asyncio.timeout(60):
        async with running(
            Pair("postgresql", url, redis_url, redis_prefix), gate.handlers, drain_seconds=0.5
        ) as server:
            await submitted(server, "gate")
            await eventually(lambda: gate.started)
            own_postgres.kill()
        own_postgres.restart()


# Health.


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as client:
        yield client


async def ready(client: httpx.AsyncClient, server: Server) -> tuple[int, dict[str, Any]]:
    answer = await client.get(f"{server.url}/health/ready")
    return answer.status_code, answer.json()


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_without_redis_a_server_is_degraded_and_takes_jobs(
    pair: Pair, own_redis: RedisServer, client: httpx.AsyncClient, how: str
) -> None:
    async with running(msgspec.structs.replace(pair, redis_url=own_redis.url)) as server:
        up = {"status": "ok", "database": "ok", "redis": "ok", "draining": False}

        async def is_up() -> bool:
            # Redis has a tenth of a second to answer, which a busy machine may take.
            return await ready(client, server) == (200, up)

        await eventually(is_up)
        if how == "killed":
            own_redis.kill()
        else:
            own_redis.pause()
        started = time.monotonic()
        assert await ready(client, server) == (200, {**up, "status": "degraded", "redis": "down"})
        assert time.monotonic() - started < 3
        jobs = []
        for number in range(10):
            answer = await client.post(f"{server.url}/jobs", json={"type": "echo", "payload": number})
            assert answer.status_code == 201
            jobs.append(answer.json()["id"])
        assert (await client.get(f"{server.url}/health")).status_code == 200
        if how == "killed":
            own_redis.restart()
        else:
            own_redis.resume()
        for job in jobs:
            shown = (await client.get(f"{server.url}/jobs/{job}", params={"wait": 30})).json()
            assert (shown["status"], shown["attempt"]) == ("completed", 1)

        await eventually(is_up)


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_without_its_database_a_server_is_unavailable_until_it_is_back(
    own_postgres: PostgresServer, redis_url: str, redis_prefix: str, client: httpx.AsyncClient, how: str
) -> None:
    url = own_postgres.create_database()
    async with running(Pair("postgresql", url, redis_url, redis_prefix)) as server:
        if how == "killed":
            own_postgres.kill()
        else:
            own_postgres.pause()
        try:
            started = time.monotonic()
            status, body = await ready(client, server)
            assert (status, body["status"], body["database"]) == (503, "unavailable", "down")
            assert time.monotonic() - started < 3

            async def only_the_database() -> bool:
                _, body = await ready(client, server)
                return (body["database"], body["redis"]) == ("down", "ok")

            await eventually(only_the_database)
            assert (await client.get(f"{server.url}/health")).status_code == 200
            if how == "killed":
                answer = await client.post(f"{server.url}/jobs", json={"type": "echo"})
                assert answer.status_code == 503
                assert int(answer.headers["Retry-After"]) >= 1
        finally:
            if how == "killed":
                own_postgres.restart()
            else:
                own_postgres.resume()

        async def back() -> bool:
            return (await ready(client, server))[0] == 200

        await eventually(back, within=30)
        answer = await client.post(f"{server.url}/jobs", json={"type": "echo"})
        assert answer.status_code == 201
        assert (await ended(server, UUID(answer.json()["id"]))).status is Status.COMPLETED
