"""A scrape shows the shared state as of the last sample, and asks no engine."""

from __future__ import annotations

import re

import pytest

from jobserver.errors import DatabaseUnavailable, StreamUnavailable
from jobserver.job.model import Status
from jobserver.server import Server
from jobserver.store.workers import Beat
from jobserver.upkeep import sample
from tests.jobs import job_in
from tests.parts import submitted


def page(server: Server) -> str:
    return server.telemetry.metrics.render("text/plain")[0].decode()


async def test_the_gauges_show_the_last_sample(server: Server) -> None:
    assert 'jobserver_engine_up{engine="database"} 0.0' in page(server)
    # Nothing is known, so nothing is said.
    assert "\njobserver_workers_alive " not in page(server)
    await job_in(server.store, Status.FAILED)
    await job_in(server.store, Status.QUEUED)
    await server.heartbeat.pulse.beat(server.worker_store)
    await server.sample.step()
    shown = page(server)
    assert 'jobserver_jobs{queue="default",status="failed"} 1.0' in shown
    assert 'jobserver_jobs{queue="default",status="queued"} 1.0' in shown
    assert "jobserver_dead_letters 1.0" in shown
    assert "jobserver_workers_alive 1.0" in shown
    assert 'jobserver_engine_up{engine="database"} 1.0' in shown
    assert 'jobserver_engine_up{engine="redis"} 1.0' in shown
    assert "\njobserver_stream_entries 0.0" in shown
    await submitted(server)
    assert 'jobserver_jobs{queue="default",status="queued"} 1.0' in page(server)
    await server.sample.step()
    assert 'jobserver_jobs{queue="default",status="queued"} 2.0' in page(server)


async def test_a_redis_that_is_away_is_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    await server.sample.step()

    async def away(streams: object) -> None:
        raise StreamUnavailable("away")

    monkeypatch.setattr(server.stream, "sizes", away)
    with pytest.raises(StreamUnavailable):
        await server.sample.step()
    shown = page(server)
    assert 'jobserver_engine_up{engine="redis"} 0.0' in shown
    assert 'jobserver_engine_up{engine="database"} 1.0' in shown


async def test_a_database_that_is_away_is_shown_and_redis_is_asked_all_the_same(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(server.views, "stats", away)
    with pytest.raises(DatabaseUnavailable):
        await server.sample.step()
    shown = page(server)
    assert 'jobserver_engine_up{engine="redis"} 1.0' in shown
    assert 'jobserver_engine_up{engine="database"} 0.0' in shown


async def test_what_was_seen_too_long_ago_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    await server.sample.step()
    names = ("jobs", "oldest_waiting_seconds", "dead_letters", "workers_alive", "stream_entries", "stream_pending")
    assert [name for name in names if re.search(rf"^jobserver_{name}\b", page(server), re.MULTILINE)] == list(names)
    monkeypatch.setattr(sample, "FRESH_SECONDS", 0.0)
    assert [name for name in names if re.search(rf"^jobserver_{name}\b", page(server), re.MULTILINE)] == []


async def test_a_process_without_consumers_is_no_worker(server: Server) -> None:
    await server.heartbeat.pulse.beat(server.worker_store)
    await server.worker_store.beat(
        Beat(
            worker_id="api",
            host="h",
            pid=1,
            version="1",
            draining=False,
            stopped=False,
            concurrency=0,
            running=0,
            loop_lag_seconds=0.0,
            queues=None,
            types=(),
        )
    )
    await server.sample.step()
    assert (await server.views.stats()).workers == 2
    assert "jobserver_workers_alive 1.0" in page(server)
