"""Secrets stay where they are: planted ones are searched in everything that a full run says to anybody."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from jobserver.torture.resp import ask
from tests.cli.process import Serving, jobserver
from tests.collector import Collector, Sink, collector
from tests.engines import EngineMissingError, PostgresServer, RedisServer, eventually
from tests.keys import bearer

HANDLERS: Final = """
from jobserver import Attempt, Handlers, NotRetryable

handlers = Handlers()


@handlers.handler("pay")
async def pay(attempt: Attempt, card: str, fails: bool = False) -> str:
    attempt.logger.info("paying")
    if fails:
        raise NotRetryable("no money")
    return card
"""


class Planted:
    """What nobody may find, and where everything went that was said."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.said: list[tuple[str, str]] = []

    def plant(self, name: str, value: str | None = None) -> str:
        self.secrets[name] = value or f"planted{secrets.token_hex(12)}"
        return self.secrets[name]

    def hear(self, where: str, text: str) -> None:
        self.said.append((where, text))

    def found(self, *, but: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
        return [
            (name, where)
            for name, value in self.secrets.items()
            for where, text in self.said
            if value in text and where not in but
        ]


@pytest.fixture
def behind() -> Iterator[tuple[Collector, Sink]]:
    try:
        with collector() as found:
            yield found
    except EngineMissingError as error:
        pytest.skip(str(error))


@pytest.mark.timeout(180)
async def test_planted_secrets_are_in_nothing_that_a_server_says(
    postgres: PostgresServer, own_redis: RedisServer, tmp_path: Path, behind: tuple[Collector, Sink]
) -> None:
    planted = Planted()
    to, sink = behind
    database = postgres.create_database()
    database_name = database.rpartition("/")[2]
    password = planted.plant("database password")
    role = f"r{secrets.token_hex(6)}"
    postgres.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{password}'")
    redis_password = planted.plant("redis password")
    await ask(own_redis.port, [("CONFIG", "SET", "requirepass", redis_password)])
    (tmp_path / "payments.py").write_text(HANDLERS, encoding="utf-8")
    url = f"postgresql+asyncpg://{role}:{password}@127.0.0.1:{postgres.port}/{database_name}"
    variables = {
        "JOBSERVER_DATABASE_URL": url,
        "JOBSERVER_REDIS_URL": f"redis://:{redis_password}@127.0.0.1:{own_redis.port}/0",
        **to.variables(),
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    keys = {}
    for scope in ("read", "submit", "admin"):
        made = jobserver("keys", "create", scope, "--scope", scope, cwd=tmp_path, **variables)
        assert made.code == 0, made.err
        keys[scope] = planted.plant(f"{scope} key", made.out.strip())
        planted.hear("keys create", made.err)
    planted.hear("keys list", jobserver("keys", "list", cwd=tmp_path, **variables).out)
    card = planted.plant("payload")
    wrong = planted.plant("key that is none")
    planted.plant("database url", url)

    options = ("payments:handlers", "--workers", "4", "--log-format", "json", "--log-level", "debug")
    with Serving(tmp_path, *options, "--max-retries", "0", "--rate-limit", "1000/minute", **variables) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:

            async def say(method: str, path: str, key: str | None, *, own: bool = False, **more: Any) -> httpx.Response:
                answer = await client.request(method, path, headers={} if key is None else bearer(key), **more)
                # A job's own payload comes back to whoever may see the job: that is what it is for.
                planted.hear(
                    "the job itself" if own else f"{method} {path}",
                    json.dumps(dict(answer.headers)) + answer.text,
                )
                return answer

            ids = []
            for fails in (False, True):
                job = {"type": "pay", "payload": {"card": card, "fails": fails}}
                stored = await say("POST", "/jobs", keys["submit"], own=True, json=job)
                assert stored.status_code == 201, stored.text
                ids.append(stored.json()["id"])
                await say("GET", f"/jobs/{ids[-1]}?wait=20", keys["admin"], own=True)
            bad: tuple[dict[str, Any], ...] = (
                {"type": "pay", "payload": {"card": card, "fails": "x"}},
                {"type": "pay", "payload": {"card": [card]}},
                {"type": "pay", "payload": {"card": 1, "extra": card}},
                {"type": "pay", "payload": {"card": card}, "delay": -1},
            )
            for body in bad:
                assert (await say("POST", "/jobs", keys["submit"], json=body)).status_code == 422
            for name in ("workers", "metrics", "types", "queues", "admin/stats", "schema", "audit", "health/ready"):
                path = f"/{name}"
                await say("GET", path, keys["admin"])
                await say("GET", path, wrong)
            for job_id in ids:
                await say("GET", f"/jobs/{job_id}/attempts", keys["admin"])
            await say("POST", f"/dlq/{ids[1]}/replay", keys["admin"], own=True)
            await say("POST", "/queues/q/pause", keys["admin"])
            await say("POST", "/queues/q/pause", keys["read"])
            # Both engines go, and errors are told of them.
            own_redis.kill()
            await say("GET", "/health/ready", None)
            await say("POST", "/jobs", keys["submit"], own=True, json={"type": "pay", "payload": {"card": card}})
            postgres.execute(f"ALTER ROLE {role} PASSWORD 'changed'")
            postgres.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database_name}'"
            )
            for _ in range(3):
                await say("GET", "/queues", keys["read"])
                await say("POST", "/jobs", keys["submit"], json={"type": "pay", "payload": {"card": "x"}})
                await say("GET", "/metrics", keys["read"])
                await asyncio.sleep(1)
            await say("GET", "/health/ready", None)

            await eventually(lambda: sink.named("process default") and sink.metrics and sink.logs, within=30)
        planted.hear("log", server.err)
    planted.hear("log of the end", server.err)
    pushed = f"{sink.spans} {sink.metrics} {sink.logs}"
    planted.hear("traces, metrics and logs that were pushed", pushed)
    assert planted.found(but=frozenset({"the job itself"})) == []
    # What was searched was there to be searched.
    log = "".join(text for where, text in planted.said if where == "log")
    assert '"paying"' in log
    assert "keys_in_use" in log or "server_started" in log
    assert "no money" in pushed
    itself = "".join(text for where, text in planted.said if where == "the job itself")
    assert card in itself
    postgres.execute(f'DROP DATABASE IF EXISTS "{database_name}" WITH (FORCE)')
    postgres.execute(f"DROP ROLE {role}")
