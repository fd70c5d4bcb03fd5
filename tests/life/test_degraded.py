"""Both engines away at once, in any order, and a database that hangs: what clients are told, and that all jobs end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, Literal
from uuid import UUID

import httpx
import pytest

from jobserver.errors import DatabaseUnavailable
from jobserver.job.handlers import Handlers
from jobserver.job.model import Job, Status
from jobserver.pipeline.submit import ANSWER_SECONDS
from jobserver.server import HEALTH_SECONDS, Server
from tests.clocks import judged_by_the_clock
from tests.conftest import Pair
from tests.engines import PostgresServer, RedisServer, eventually
from tests.parts import ended, job_of, submitted
from tests.servers import running

Engine = Literal["database", "redis"]

LEASE_SECONDS = 1.5
# What a machine with other things to do may add to a time limit.
SLACK_SECONDS = 1.5


@pytest.fixture(scope="module")
def restarted_postgres(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server of these tests alone, to kill and pause."""
    # The session's one has found out which programs work here.
    with PostgresServer(postgres._bin) as server:
        yield server


class Gates:
    """Handlers that wait: for the first gate, or for the second."""

    def __init__(self) -> None:
        self.open = (asyncio.Event(), asyncio.Event())
        self.started = 0
        self.ended = 0
        self.handlers = Handlers()
        self.handlers.handler("gate")(self.run)

    async def run(self, gate: int) -> int:
        self.started += 1
        await self.open[gate].wait()
        self.ended += 1
        return gate


class Fleet:
    """Two servers on the same engines, and what is asked of them over HTTP."""

    def __init__(self, servers: list[Server], client: httpx.AsyncClient) -> None:
        self.servers = servers
        self.client = client

    async def ready(self, server: Server) -> tuple[int, dict[str, Any]]:
        started = time.monotonic()
        answer = await self.client.get(f"{server.url}/health/ready")
        assert time.monotonic() - started < HEALTH_SECONDS + SLACK_SECONDS
        return answer.status_code, answer.json()

    async def say(self, **engines: str) -> None:
        """Every server says so of its engines, and answers accordingly."""
        database = engines["database"] == "ok"
        code = 200 if database else 503
        status = ("ok" if engines["redis"] == "ok" else "degraded") if database else "unavailable"

        async def said(server: Server) -> bool:
            answered, body = await self.ready(server)
            assert (answered, body["status"]) == (code, status), body
            assert engines.items() <= body.items(), body
            return True

        for server in self.servers:
            await eventually(lambda server=server: said(server), within=20)  # type: ignore[misc]

    async def submit(self, server: Server) -> httpx.Response:
        return await self.client.post(f"{server.url}/jobs", json={"type": "echo"})


async def answered(ask: Callable[[], Awaitable[Job]]) -> Job:
    """As a client repeats what got a 503: that a connection died with its server shows when it is used again."""

    async def once() -> Job | None:
        with contextlib.suppress(DatabaseUnavailable):
            return await ask()
        return None

    job = await eventually(once, within=40)
    assert job is not None
    return job


async def ended_at_last(server: Server, job_id: UUID) -> Job:
    return await answered(lambda: ended(server, job_id, within_seconds=30))


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
async def fleet(
    restarted_postgres: PostgresServer, postgresql_template: str, own_redis: RedisServer, gates: Gates
) -> AsyncIterator[Fleet]:
    pair = Pair("postgresql", restarted_postgres.create_database(), own_redis.url, "t")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        options = {"workers": 2, "lease_seconds": LEASE_SECONDS}
        servers = [await stack.enter_async_context(running(pair, gates.handlers, **options)) for _ in range(2)]
        yield Fleet(servers, client)


@pytest.mark.parametrize("first_up", ["database", "redis"])
@pytest.mark.parametrize("first_down", ["database", "redis"])
async def test_with_both_engines_away_every_job_ends_and_no_lease_is_stolen(
    fleet: Fleet,
    restarted_postgres: PostgresServer,
    own_redis: RedisServer,
    gates: Gates,
    first_down: Engine,
    first_up: Engine,
) -> None:
    one, other = fleet.servers
    ending, lasting = [[(await submitted(one, "gate", {"gate": gate})).id for _ in range(2)] for gate in (0, 1)]
    await eventually(lambda: gates.started == 4)
    waiting = [(await submitted(one)).id for _ in range(6)]
    state = {"database": "ok", "redis": "ok"}

    async def turn(engine: Engine, to: str) -> None:
        server = restarted_postgres if engine == "database" else own_redis
        if to == "down":
            await asyncio.to_thread(server.kill)
        else:
            await asyncio.to_thread(server.restart)
        state[engine] = to
        await fleet.say(**state)

    async def submits() -> None:
        """Taken as long as there is SQL, whatever Redis does; else not acknowledged, and soon."""
        for server in fleet.servers:
            started = time.monotonic()
            answer = await fleet.submit(server)
            assert time.monotonic() - started < ANSWER_SECONDS + SLACK_SECONDS
            if state["database"] == "ok":
                assert answer.status_code == 201
                waiting.append(UUID(answer.json()["id"]))
            else:
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1

    await turn(first_down, "down")
    await submits()
    await turn("redis" if first_down == "database" else "database", "down")
    away_at = time.monotonic()
    await submits()
    # These end while nobody can be told; the leases of the others end meanwhile, for all that SQL knows.
    gates.open[0].set()
    await eventually(lambda: gates.ended == 2)
    await eventually(lambda: time.monotonic() - away_at > LEASE_SECONDS + 0.5)
    await turn(first_up, "ok")
    await submits()
    await turn("redis" if first_up == "database" else "database", "ok")
    await submits()

    for job_id in [*ending, *waiting]:
        job = await ended_at_last(other, job_id)
        assert (job.status, job.attempt, job.crashes) == (Status.COMPLETED, 1, 0)
    # Longer than anything that could have been stolen would take to show.
    back_at = time.monotonic()
    await eventually(lambda: time.monotonic() - back_at > LEASE_SECONDS + 1)
    for job_id in lasting:
        job = await answered(lambda job_id=job_id: job_of(one, job_id))  # type: ignore[misc]
        assert (job.status, job.attempt, job.crashes, job.fence) == (Status.RUNNING, 1, 0, 1)
    gates.open[1].set()
    for job_id in lasting:
        job = await ended_at_last(other, job_id)
        assert (job.status, job.attempt, job.crashes) == (Status.COMPLETED, 1, 0)
    assert gates.started == 4


@judged_by_the_clock
async def test_a_database_that_hangs_costs_a_client_seconds_and_the_process_nothing(
    fleet: Fleet, restarted_postgres: PostgresServer, gates: Gates
) -> None:
    one, other = fleet.servers
    lasting = (await submitted(one, "gate", {"gate": 0})).id
    await eventually(lambda: gates.started == 1)
    restarted_postgres.pause()
    try:
        took: list[float] = []

        async def refused() -> None:
            started = time.monotonic()
            answer = await fleet.submit(one)
            took.append(time.monotonic() - started)
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
            assert int(answer.headers["retry-after"]) >= 1

        async def lives() -> None:
            while len(took) < 20:
                started = time.monotonic()
                assert (await fleet.client.get(f"{one.url}/health")).status_code == 200
                assert time.monotonic() - started < SLACK_SECONDS
                code, body = await fleet.ready(one)
                assert (code, body["database"]) == (503, "down")

        # More than there are connections, so that some wait for those that wait.
        await asyncio.gather(lives(), *(refused() for _ in range(20)))
        assert max(took) < ANSWER_SECONDS + SLACK_SECONDS
    finally:
        restarted_postgres.resume()
    await fleet.say(database="ok", redis="ok")
    gates.open[0].set()
    job = await ended(other, lasting)
    assert (job.status, job.attempt, job.crashes) == (Status.COMPLETED, 1, 0)

    async def taken() -> bool:
        return (await fleet.submit(one)).status_code == 201

    await eventually(taken)
