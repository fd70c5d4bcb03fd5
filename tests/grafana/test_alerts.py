"""promtool finds nothing to say about the rules, their tests and the page that they read."""

from __future__ import annotations

from datetime import UTC, datetime

from jobserver.job.model import Ended, Priority, Status
from jobserver.server import Server
from jobserver.store.jobs import Moved
from tests.grafana.files import GRAFANA, RULES
from tests.parts import consuming, ended, submitted
from tests.pipeline.attempts import claimed
from tests.prometheus import promtool


def test_promtool_reads_the_rules() -> None:
    assert "SUCCESS: 8 rules found" in promtool("check", "rules", str(RULES))


def test_each_alert_fires_when_it_should_and_is_quiet_otherwise() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(GRAFANA / "alerts" / "tests.yml"))


async def test_promtool_has_nothing_to_say_about_the_metrics(server: Server) -> None:
    async with consuming(server):
        await ended(server, (await submitted(server)).id)
        await server.sample.step()
        telemetry = server.telemetry
        job = claimed("t", trace_context="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        telemetry.claimed(job)
        moved = Moved(job.id, 6, Status.FAILED, "default", Priority.NORMAL, "t", datetime.now(UTC))
        telemetry.ended(job, moved, Ended.FAILED, 0.25, None)
        for step in ("finish", "heartbeat"):
            telemetry.stale(job, step)
        telemetry.rejected("invalid")
        telemetry.reconciled("default", 2)
        page = telemetry.metrics.render("text/plain")[0].decode()
    assert promtool("check", "metrics", page=page) == ""
