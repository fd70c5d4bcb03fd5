"""The benchmarks' own parts: what is measured in turn, and what is made of the results."""

from __future__ import annotations

import asyncio
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest

from bench import record, table
from bench.ablated import LEVERS
from bench.peers import recovery
from bench.peers.contenders import OURS, SIDES, Contender
from bench.record import Options, Part
from bench.served import ROOT
from tests.engines import eventually


def wanted(folder: Path, **changes: object) -> Options:
    return msgspec.structs.replace(Options(quick=True, runs=2, only=(), folder=folder), **changes)


def result(medians: dict[str, float], shares: dict[str, float] | None = None) -> table.Result:
    return table.Result(medians, {}, {}, {}, "", "", True, shares or {})


async def test_parts_are_measured_in_turn(tmp_path: Path) -> None:
    order: list[str] = []

    def part(name: str) -> Part:
        async def measure() -> Mapping[str, float]:
            order.append(name)
            return {"rate": float(len(order))}

        return measure

    figures = await record.interleaved({"a": part("a"), "b": part("b")}, wanted(tmp_path))
    assert order == ["a", "b", "a", "b"]
    assert figures == {"a.rate": [1.0, 3.0], "b.rate": [2.0, 4.0]}


def test_results_are_written_with_what_they_were_measured_on(tmp_path: Path) -> None:
    record.write("throughput", wanted(tmp_path), {"a.rate": [1.0, 5.0, 3.0]}, {"valkey": "9"})
    read = table.read(tmp_path)["throughput"]
    assert (read.medians, read.runs) == ({"a.rate": 3.0}, {"a.rate": [1.0, 5.0, 3.0]})
    assert read.versions["valkey"] == "9"
    assert "cpus" in read.machine
    assert read.persistence


def test_results_name_no_folder_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--runs", "3", "--cache", "/home/me", "--into=/home/me", "--quick"])
    record.write("peers", wanted(tmp_path), {"a.rate": [1.0]}, {})
    assert table.read(tmp_path)["peers"].command == "python -m bench.peers --runs 3 --quick"


def test_results_of_some_parts_alone_are_not_written(tmp_path: Path) -> None:
    record.write("throughput", wanted(tmp_path, only=("a",)), {"a.rate": [1.0]}, {})
    assert list(tmp_path.iterdir()) == []


def test_ours_is_placed_among_the_peers_by_what_it_did_beside_them() -> None:
    medians = {
        "slow.drain_per_second": 100.0,
        "slow.ours.drain_per_second": 300.0,
        "fast.drain_per_second": 500.0,
        "fast.ours.drain_per_second": 400.0,
    }
    found = table.peer_figures(medians, "drain_per_second")
    assert [(name, figures["drain_per_second"]) for name, figures in found] == [
        ("fast", 500.0),
        ("jobserver", 350.0),
        ("slow", 100.0),
    ]
    shown = table.peers({"peers": result(medians)})
    assert "| **jobserver** | – | – | 350/s |" in shown


def test_what_was_not_recovered_from_within_the_limit_is_said_so_and_comes_last() -> None:
    runs = {"slow.seconds": [9.0, 180.0, 180.0], "jobserver.seconds": [3.0, 2.5, 4.0], "never.seconds": [180.0]}
    medians = {name: statistics.median(values) for name, values in runs.items()}
    said = {name: table.Peer(recovery=f"how {name} does") for name in ("slow", "jobserver", "never")}
    found = msgspec.structs.replace(result(medians), runs=runs, peers=said, limit_seconds=180.0)
    lines = table.peer_recovery({"peer_recovery": found}).splitlines()[2:]
    assert lines == [
        "| **jobserver** | 3.0 s | 2.5 s .. 4.0 s | how jobserver does |",
        "| never | not within 180 s | not within 180 s | how never does |",
        "| slow | not within 180 s | 9.0 s .. not within 180 s | how slow does |",
    ]
    assert recovery.table(runs, 180.0).splitlines()[0].split() == [
        "jobserver",
        "3.0",
        "s",
        "[3.0",
        "s,",
        "2.5",
        "s,",
        "4.0",
        "s]",
    ]


@pytest.mark.parametrize("contender", [OURS, *recovery.QUEUES], ids=lambda each: each.name)
def test_each_side_says_what_it_persists_and_how_it_recovers(contender: Contender) -> None:
    assert contender.persists.endswith(".")
    assert contender.recovery.endswith(".")
    assert not any(word in contender.persists + contender.recovery for word in ("Persists:", "Recovery:", "Settings:"))


def test_a_handler_holds_only_where_it_is_told_to() -> None:
    """In a process of its own: a side is told by its environment."""
    script = "import asyncio, protocol; asyncio.run(protocol.hold()); protocol.hold_thread(); print(protocol.RECOVERY)"
    took: dict[str, float] = {}
    for hold in ("", "0.3"):
        began = time.monotonic()
        told = {"BENCH_HOLD": hold, "BENCH_RECOVERY": "1"} if hold else {}
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONPATH": str(SIDES), **told},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        took[hold] = time.monotonic() - began
        assert done.stdout.strip() == str(bool(hold))
    assert took["0.3"] >= 0.6


async def test_a_worker_is_killed_with_what_it_has_started() -> None:
    script = "sleep 60 & echo $!; wait"
    worker = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", script, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert worker.stdout is not None
    child = int(await worker.stdout.readline())
    await recovery.slay(worker)
    assert worker.returncode == -signal.SIGKILL
    await eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
    # Once more does nothing.
    await recovery.slay(worker)


@pytest.mark.parametrize("name", ["ablations", "ceilings"])
def test_a_plot_is_the_same_for_the_same_results_and_loads_nothing(name: str) -> None:
    medians = {"ours.post_per_second": 1.0, "litestar.post_per_second": 2.0}
    shares = {
        "ablations": {"batching.post_per_second": 0.25, "batching.drain_per_second": 0.5},
        "ceilings": {"ours.post_per_second of litestar.post_per_second": 0.5},
    }[name]
    results = {name: result(medians, shares)}
    [(file, picture)] = table.plots(results).items()
    assert file == f"{name}.svg"
    assert table.plots(results)[file] == picture
    ElementTree.fromstring(picture)
    assert "50 %" in picture
    assert not any(word in picture for word in ("href", "url(", "@import", "<script"))


@pytest.mark.parametrize("lever", LEVERS)
def test_each_lever_is_where_the_ablation_takes_it_away(lever: str) -> None:
    """In a process of its own, which is ablated."""
    code = (
        f"from bench.ablated import LEVERS; LEVERS[{lever!r}]();"
        "from jobserver.store.engine import Statement;"
        "[Statement.load(name, 'postgresql') for name in ('claim', 'complete')]"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
