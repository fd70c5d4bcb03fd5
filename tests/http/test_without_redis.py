"""Redis that hangs is nobody's wait: each route answers within the 100 ms that a call to it may take, and its own."""

from __future__ import annotations

import time
from typing import Any, Final
from uuid import UUID

import httpx

from jobserver.http.app import OPERATIONS
from jobserver.job.model import Status
from jobserver.pipeline.feed import READY_SECONDS
from jobserver.server import Server
from tests.conftest import Pair
from tests.engines import RedisServer
from tests.jobs import claimed, inserted, job_in
from tests.relay import Relay
from tests.servers import running

# 100 ms for Redis; the rest is for SQL and a busy machine.
WITHIN_SECONDS: Final = 0.6

# Answers that go on; they wait for the feed for two seconds before they begin.
ENDLESS: Final = {("GET", "/events"), ("GET", "/jobs/{job_id}/events")}

# Method, path, which job it is about, what is sent, what is answered.
ROUTES: Final[tuple[tuple[str, str, str, Any, int], ...]] = (
    ("POST", "/jobs", "", {"type": "echo"}, 201),
    ("POST", "/jobs/batch", "", {"jobs": [{"type": "echo"}, {"type": "echo", "delay": 1}]}, 201),
    ("GET", "/jobs", "", None, 200),
    ("GET", "/jobs/{job_id}", "queued", None, 200),
    ("GET", "/jobs/{job_id}/attempts", "failed", None, 200),
    ("GET", "/jobs/{job_id}/why", "queued", None, 200),
    ("POST", "/jobs/{job_id}/cancel", "queued", None, 200),
    # Runs in another process, which is to be woken through Redis.
    ("POST", "/jobs/{job_id}/cancel", "running", None, 202),
    ("POST", "/jobs/{job_id}/retry", "canceled", None, 200),
    ("GET", "/dlq", "", None, 200),
    ("GET", "/dlq/groups", "", None, 200),
    ("POST", "/jobs/actions", "running", {"action": "cancel", "filter": {"type": "echo"}}, 200),
    ("POST", "/dlq/{job_id}/replay", "failed", None, 200),
    ("POST", "/dlq/replay", "", {"all": True}, 200),
    ("DELETE", "/dlq/{job_id}", "failed", None, 204),
    ("DELETE", "/dlq?all=true", "", None, 200),
    ("GET", "/queues", "", None, 200),
    ("POST", "/queues/{name}/pause", "", None, 200),
    ("POST", "/queues/{name}/resume", "", None, 200),
    ("GET", "/workers", "", None, 200),
    ("GET", "/admin/stats", "", None, 200),
    ("GET", "/admin/activity", "", None, 200),
    ("GET", "/types", "", None, 200),
    ("GET", "/audit", "", None, 200),
    ("GET", "/health", "", None, 200),
    ("GET", "/health/ready", "", None, 200),
    ("GET", "/metrics", "", None, 200),
    ("GET", "/schema/openapi.json", "", None, 200),
    ("GET", "/schema", "", None, 200),
    ("GET", "/session", "", None, 200),
    # There is no key that could be right.
    ("POST", "/session", "", {"key": "k"}, 401),
    ("DELETE", "/session", "", None, 204),
    ("GET", "/", "", None, 200),
    ("GET", "/assets/{name}", "", None, 404),
)


async def made(server: Server, which: str) -> UUID | None:
    """A job of this kind, without a word to Redis."""
    if which == "running":
        job_id = (await inserted(server.store)).job.id
        await claimed(server.store, job_id, lease_seconds=60.0)
        return job_id
    return await job_in(server.store, Status(which)) if which else None


async def late_routes(sqlite_url: str, own_redis: RedisServer) -> dict[tuple[str, str], float]:
    """Seconds that those routes of a new server took that took too long."""
    late = {}
    async with Relay(own_redis.port) as relay:
        pair = Pair("sqlite", sqlite_url, f"redis://127.0.0.1:{relay.port}/0", "t")
        async with running(pair, workers=1) as server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            relay.silence()
            for method, path, which, body, expected in ROUTES:
                job_id = await made(server, which)
                target = path.format(job_id=job_id, name="default")
                started = time.monotonic()
                answer = await client.request(method, target, json=body)
                took = time.monotonic() - started
                assert answer.status_code == expected, (method, path, answer.text)
                if took > WITHIN_SECONDS:
                    late[method, path] = took
                if path == "/health/ready":
                    assert (answer.json()["status"], answer.json()["redis"]) == ("degraded", "down")
    return late


async def test_every_route_answers_in_time_while_redis_is_silent(sqlite_url: str, own_redis: RedisServer) -> None:
    late = await late_routes(sqlite_url, own_redis)
    for _ in range(2):
        if late:
            # A busy machine is late with this route now, and with that one then; who waits for Redis always is.
            again = await late_routes(sqlite_url, own_redis)
            late = {route: seconds for route, seconds in late.items() if route in again}
    assert late == {}


async def test_streams_of_events_begin_while_redis_is_silent(sqlite_url: str, own_redis: RedisServer) -> None:
    async with Relay(own_redis.port) as relay:
        pair = Pair("sqlite", sqlite_url, f"redis://127.0.0.1:{relay.port}/0", "t")
        async with running(pair, workers=1) as server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            relay.silence()
            job_id = await made(server, "queued")
            for method, path in sorted(ENDLESS):
                started = time.monotonic()
                async with client.stream(method, path.format(job_id=job_id)) as answer:
                    assert answer.status_code == 200
                assert time.monotonic() - started < READY_SECONDS + WITHIN_SECONDS


def test_no_route_is_left_out() -> None:
    declared = {(operation.method, operation.path) for operation in OPERATIONS}
    assert {(method, path.partition("?")[0]) for method, path, *_ in ROUTES} | ENDLESS == declared
