"""The benchmarks' own parts: what is measured in turn, and what is made of the results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from bench import record, table
from bench.record import Options, Part


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
