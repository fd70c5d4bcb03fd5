"""A scrape shows the shared state as of the last sample, and asks no engine."""

from __future__ import annotations

import pytest

from jobserver.errors import StreamUnavailable
from jobserver.job.model import Status
from jobserver.server import Server
from tests.jobs import job_in
from tests.parts import submitted


def page(server: Server) -> str:
    return server.telemetry.metrics.render("text/plain")[0].decode()


async def test_the_gauges_show_the_last_sample(server: Server) -> None:
    assert "jobserver_stream_up 0.0" in page(server)
    await job_in(server.store, Status.FAILED)
    await job_in(server.store, Status.QUEUED)
    await server.heartbeat.pulse.beat(server.worker_store)
    await server.sample.step()
    shown = page(server)
    assert 'jobserver_jobs{queue="default",status="failed"} 1.0' in shown
    assert 'jobserver_jobs{queue="default",status="queued"} 1.0' in shown
    assert "jobserver_dead_letters 1.0" in shown
    assert "jobserver_workers_alive 1.0" in shown
    assert "jobserver_stream_up 1.0" in shown
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
    assert "jobserver_stream_up 0.0" in page(server)
