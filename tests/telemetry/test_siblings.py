"""Processes that tell each other their metrics: who does not answer, or not in time, is left out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families as plain

from jobserver.telemetry.siblings import Siblings


@pytest.fixture
def folder() -> Iterator[Path]:
    # The path of a socket is short: that of tmp_path may not be.
    with TemporaryDirectory(prefix="jobserver-") as name:
        yield Path(name)


def siblings(folder: Path, number: int, age: float) -> Siblings:
    registry = CollectorRegistry()
    Gauge("age", "Age.", registry=registry).set(age)
    return Siblings(registry, folder, number=number, processes=3)


async def samples(asked: Siblings, name: str) -> dict[str, float]:
    body, _ = await asked.page("text/plain")
    return {
        each.labels["process"]: each.value
        for family in plain(body.decode())
        if family.name == name
        for each in family.samples
    }


async def test_whoever_is_asked_tells_of_all(folder: Path) -> None:
    async with siblings(folder, 0, 10) as one, siblings(folder, 1, 11) as two, siblings(folder, 2, 12):
        for asked in (one, two):
            assert await samples(asked, "age") == {"0": 10, "1": 11, "2": 12}
            assert await samples(asked, "jobserver_process_up") == {"0": 1, "1": 1, "2": 1}


async def test_one_that_is_silent_one_that_is_gone_and_one_that_talks_nonsense(folder: Path) -> None:
    async def talk(words: bytes) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(words)
            if words:
                writer.close()
            else:
                await reader.read()
                writer.close()

        async with await asyncio.start_unix_server(answer, folder / "1"), siblings(folder, 0, 10) as one:
            began = time.monotonic()
            assert await samples(one, "age") == {"0": 10}
            assert await samples(one, "jobserver_process_up") == {"0": 1, "1": 0, "2": 0}
            assert time.monotonic() - began < 5
        (folder / "1").unlink(missing_ok=True)

    await talk(b"")
    await talk(b"nonsense")


async def test_a_successor_takes_the_number_over_also_where_its_predecessor_is_asked(folder: Path) -> None:
    async with siblings(folder, 0, 10) as old, siblings(folder, 1, 11) as other:
        async with siblings(folder, 0, 20):
            assert (await samples(other, "age"))["0"] == 20
            old.replaced = True
            assert (await samples(old, "age"))["0"] == 20
        assert await samples(other, "jobserver_process_up") == {"0": 0, "1": 1, "2": 0}
