"""A real Prometheus scrapes two processes under load: every panel has data, and every alert is evaluated."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.engines import eventually
from tests.grafana.files import FILES, RULES, expressions, rules
from tests.life.conftest import Serve
from tests.life.process import ServerProcess
from tests.prometheus import Prometheus, prometheus

MIXED = "tests.life.handlers_mixed:handlers"
OPTIONS = ("--backoff-base", "1", "--backoff-cap", "0.1s", "--workers", "16", "--log-level", "warning")
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LOAD_SECONDS = 12.0
# What Grafana would put in.
GIVEN = {"$__rate_interval": "10s", "$type": "mixed.retry"}
# One of each kind, and two that are retried: one in vain.
KINDS = (
    {"type": "mixed.complete", "payload": {"number": 1}},
    {"type": "mixed.fail", "payload": {}},
    {"type": "mixed.retry", "payload": {"times": 1}},
    {"type": "mixed.retry", "payload": {"times": 3}},
    {"type": "mixed.snooze", "payload": {}},
    {"type": "mixed.complete", "payload": {"number": 2}, "delay": 600},
)


@asynccontextmanager
async def loaded(servers: list[ServerProcess]) -> AsyncIterator[None]:
    """Mixed jobs come in, at both, all the time; their trace is sampled."""

    async def feed(server: ServerProcess) -> None:
        while True:
            answer = await server.http.post("/jobs/batch", json={"jobs": KINDS}, headers={"traceparent": SAMPLED})
            assert answer.status_code == 201, answer.text
            await asyncio.sleep(0.02)

    feeding = [asyncio.create_task(feed(server)) for server in servers]
    try:
        yield
        assert not any(task.done() for task in feeding)
    finally:
        for task in feeding:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def filled(expression: str) -> str:
    for variable, value in GIVEN.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


@pytest.mark.timeout(180)
async def test_every_panel_has_data_and_every_alert_is_evaluated(
    serve: Serve, shared_engines: tuple[str, ...], tmp_path: Path
) -> None:
    servers = [await serve(*shared_engines, *OPTIONS, handlers=MIXED) for _ in range(2)]
    began = time.time()
    targets = [server.http.base_url.netloc.decode() for server in servers]
    async with prometheus(tmp_path, targets, RULES) as scraper:
        async with loaded(servers):
            # The gauges of what is shared come from a sample every five seconds.
            await asyncio.sleep(LOAD_SECONDS)
            await _every_query_has_data(scraper)
            await _every_rule_is_evaluated(scraper)
        await _exemplars_are_kept(scraper, began)
        await _nothing_is_lost_on_the_way(scraper, servers)


async def _every_query_has_data(scraper: Prometheus) -> None:
    empty = []
    queries = [expression for path in FILES for expression in expressions(path)]
    assert len(queries) > 50
    for expression in queries:
        rows = await scraper.query(filled(expression))
        if not any(math.isfinite(float(row["value"][1])) for row in rows):
            empty.append(filled(expression))
    assert empty == []
    # Two processes say the same, and it is counted once.
    scheduled = 'jobserver_jobs{queue="plain", status="scheduled"}'
    [once] = (await scraper.values(f"max({scheduled})")).values()
    [twice] = (await scraper.values(f"sum({scheduled})")).values()
    assert 0 < once < twice
    assert (await scraper.values("max(jobserver_workers_alive)")) == {(): 2.0}
    # What the variable of the dashboard offers.
    types = await scraper.values("count by (type) (jobserver_jobs_created_total)")
    assert (("type", "mixed.retry"),) in types


async def _every_rule_is_evaluated(scraper: Prometheus) -> None:
    found = await scraper.rules()
    assert {rule["name"] for rule in found} == {rule["alert"] for rule in rules()}
    assert {rule["health"] for rule in found} == {"ok"}, found
    # Most of these jobs fail on purpose, and too few minutes have passed for it to fire.
    assert {rule["name"] for rule in found if rule["state"] == "firing"} == set()


async def _exemplars_are_kept(scraper: Prometheus, began: float) -> None:
    for name in ("attempt_duration", "queue_wait", "end_to_end"):
        found = await scraper.exemplars(f"jobserver_{name}_seconds_bucket", began, time.time() + 1)
        traces = {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}
        assert traces == {SAMPLED[3:35]}, name


async def _nothing_is_lost_on_the_way(scraper: Prometheus, servers: list[ServerProcess]) -> None:
    async def same() -> bool:
        [created] = (await scraper.values("sum(jobserver_jobs_created_total)")).values()
        return created == sum((await servers[0].counts()).values())

    await eventually(same, within=20.0, every=0.5)
    targets = await scraper.targets()
    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")] * 2
