"""Engines that are wiped, killed and restarted under a running fleet: no accepted job is lost."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import redis

from tests.engines import PostgresServer, RedisServer, eventually
from tests.life.conftest import Serve
from tests.life.notes import Notes
from tests.life.process import ServerProcess

LEASE_SECONDS = 2.0


async def test_a_flushed_redis_loses_no_job(
    postgresql_url: str, own_redis: RedisServer, serve: Serve, notes: Notes
) -> None:
    engines = ("--database-url", postgresql_url, "--redis-url", own_redis.url)
    one, other = await asyncio.gather(*(serve(*engines, "--lease-seconds", "2s", "--workers", "2") for _ in range(2)))
    holding = await one.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(4)])
    await eventually(lambda: len(notes.all()) == 4)
    waiting = await one.submit_all([{"type": "echo", "payload": number} for number in range(500)])
    delayed = await other.submit_all([{"type": "echo", "payload": number, "delay": 3} for number in range(50)])
    with redis.Redis.from_url(own_redis.url) as client:
        await eventually(lambda: _holds(client, 554))
        client.flushall()
    notes.open_gate()

    jobs = await other.all_finished([*holding, *waiting, *delayed], within=40)
    assert {job["status"] for job in jobs} == {"completed"}
    assert await one.counts() == {"completed": 554}
    assert [job["result"] for job in jobs[4:504]] == list(range(500))
    # Published again, and not run again: a duplicate is refused at its claim.
    assert {(job["attempt"], job["crashes"]) for job in jobs} == {(1, 0)}
    for server in (one, other):
        assert (await server.finished(await server.submit("echo")))["status"] == "completed"


async def test_a_flushed_embedded_valkey_loses_no_job(alone: Serve, data_dir: Path, notes: Notes) -> None:
    server = await alone("--workers", "2")
    holding = await server.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(2)])
    await eventually(lambda: len(notes.all()) == 2)
    waiting = await server.submit_all([{"type": "echo", "payload": number} for number in range(100)])
    delayed = await server.submit_all([{"type": "echo", "payload": number, "delay": 2} for number in range(10)])
    with redis.Redis(unix_socket_path=str(data_dir / "valkey.sock")) as client:
        await eventually(lambda: _holds(client, 112))
        client.flushall()
    notes.open_gate()
    jobs = await server.all_finished([*holding, *waiting, *delayed])
    assert {(job["status"], job["attempt"], job["crashes"]) for job in jobs} == {("completed", 1, 0)}


async def test_scripts_that_were_flushed_are_loaded_again(
    postgresql_url: str, own_redis: RedisServer, serve: Serve
) -> None:
    server = await serve("--database-url", postgresql_url, "--redis-url", own_redis.url)
    await server.finished(await server.submit("echo"))
    with redis.Redis.from_url(own_redis.url) as client:
        client.script_flush()
    now, soon = await server.submit("echo"), await server.submit("echo", delay=0.5)
    assert [job["status"] for job in await server.all_finished([now, soon])] == ["completed", "completed"]


async def test_jobs_are_accepted_without_redis_and_run_when_it_is_back_empty(
    postgresql_url: str, own_redis: RedisServer, serve: Serve, notes: Notes
) -> None:
    engines = ("--database-url", postgresql_url, "--redis-url", own_redis.url)
    one, other = await asyncio.gather(*(serve(*engines, "--lease-seconds", "2s", "--workers", "4") for _ in range(2)))
    before = await one.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(20)])
    await eventually(lambda: len(notes.all()) == 8)
    own_redis.kill()
    await eventually(lambda: says_ready(one, 200, "degraded", redis="down"))
    meanwhile = [await one.submit("echo", number) for number in range(20)]
    meanwhile += await other.submit_all([{"type": "echo", "delay": 1} for _ in range(20)])
    # What runs does not need Redis to end.
    notes.open_gate()
    running = [note["job_id"] for note in notes.all()][:8]
    assert {job["status"] for job in await other.all_finished(running)} == {"completed"}

    for name in ("appendonlydir", "dump.rdb"):
        shutil.rmtree(own_redis.folder / name, ignore_errors=True)
    own_redis.restart()
    jobs = await one.all_finished([*before, *meanwhile], within=40)
    assert {job["status"] for job in jobs} == {"completed"}
    assert {(job["attempt"], job["crashes"]) for job in jobs} == {(1, 0)}
    await eventually(lambda: says_ready(one, 200, "ok", redis="ok"))


async def test_an_embedded_valkey_that_dies_is_started_again(alone: Serve) -> None:
    server = await alone()
    [valkey] = server.children
    await server.finished(await server.submit("echo"))
    valkey.kill()
    jobs = [await server.submit("echo", number) for number in range(50)]
    assert {job["status"] for job in await server.all_finished(jobs)} == {"completed"}
    [again] = server.children
    assert again.pid != valkey.pid
    assert await server.stop() == 0


async def test_a_killed_postgres_loses_no_job_and_no_lease_is_stolen_when_it_is_back(
    own_postgres: PostgresServer, redis_url: str, redis_prefix: str, serve: Serve, notes: Notes
) -> None:
    engines = ("--database-url", own_postgres.create_database(), "--redis-url", redis_url)
    settings = (*engines, "--redis-prefix", redis_prefix, "--lease-seconds", f"{LEASE_SECONDS}s")
    one = await serve(*settings, "--workers", "4")
    ending = await one.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(2)])
    longer = notes.gated | {"gate": f"{notes.gate}-2"}
    lasting = await one.submit_all([{"type": "gated", "payload": longer} for _ in range(2)])
    await eventually(lambda: len(notes.all()) == 4)
    waiting = await one.submit_all([{"type": "echo"} for _ in range(20)])
    other = await serve(*settings, "--workers", "0")

    own_postgres.kill()
    killed_at = time.monotonic()
    await eventually(lambda: says_ready(one, 503, "unavailable", database="down"))
    for server in (one, other):
        refused = await server.http.post("/jobs", json={"type": "echo"})
        assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
        assert int(refused.headers["retry-after"]) >= 1
        unknown = await server.http.get(f"/jobs/{lasting[0]}")
        assert (unknown.status_code, "retry-after" in unknown.headers) == (503, True)
        assert (await server.http.get("/health")).status_code == 200
    # These end while there is nobody to tell; the others' leases are over by now, for all that SQL knows.
    notes.open_gate()
    await eventually(lambda: [notes.events(job_id)[-1] for job_id in ending] == ["returned", "returned"])
    await eventually(lambda: time.monotonic() - killed_at > 2 * LEASE_SECONDS)
    own_postgres.restart("immediate")

    for job in await other.all_finished([*ending, *waiting]):
        assert (job["status"], job["attempt"], job["crashes"]) == ("completed", 1, 0)
    # Longer than any lease that could have been stolen.
    back_at = time.monotonic()
    await eventually(lambda: time.monotonic() - back_at > LEASE_SECONDS + 2)
    for job_id in lasting:
        job = await other.job(job_id)
        assert (job["status"], job["attempt"], job["crashes"], job["fence"]) == ("running", 1, 0, 1)
    (notes.gate.parent / f"{notes.gate.name}-2").touch()
    for job in await other.all_finished(lasting):
        assert (job["status"], job["attempt"], job["crashes"]) == ("completed", 1, 0)
    assert (await other.finished(await other.submit("echo")))["status"] == "completed"
    assert await other.counts() == {"completed": 25}
    await eventually(lambda: says_ready(one, 200, "ok", database="ok"))


async def says_ready(server: ServerProcess, code: int, status: str, **engines: str) -> bool:
    answer = await server.http.get("/health/ready")
    said = answer.json()
    assert (answer.status_code, said["status"]) == (code, status), said
    assert engines.items() <= said.items()
    return True


def _holds(client: redis.Redis, messages: int) -> bool:
    """Whether there are so many, in streams or, until they are due, in delayed sets. Duplicates do no harm."""
    streams = [key for key in client.scan_iter("*", _type="stream") if not key.endswith(b"dlq")]
    found = sum(client.xlen(key) for key in streams) + sum(client.zcard(key) for key in client.scan_iter(_type="zset"))
    assert found >= messages, found
    return True
