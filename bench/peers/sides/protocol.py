"""What every side does alike: commands in, one JSON object out, and the marks that handlers leave.

    python <peer>_side.py setup | submit FIRST COUNT | bulk FIRST COUNT | latency FIRST COUNT | worker | server

Runs in the peer's own environment, so it needs the standard library alone. The environment says where things are:
BENCH_REDIS and BENCH_POSTGRES (URLs), BENCH_MARKS (a file), BENCH_CONCURRENCY, BENCH_PORT (of a server).
Where recovery is measured, BENCH_RECOVERY is set too, and BENCH_HOLD in the worker that is to be killed.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REDIS_URL = os.environ.get("BENCH_REDIS", "")
POSTGRES_URL = os.environ.get("BENCH_POSTGRES", "")
CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "100"))
PORT = int(os.environ.get("BENCH_PORT", "0"))
# Jobs run for long, and their worker may be killed: a side turns on what its documents offer for that.
RECOVERY = bool(os.environ.get("BENCH_RECOVERY"))
HOLD_SECONDS = float(os.environ.get("BENCH_HOLD", "0"))

BULK = 1_000
# With a small number beside it, a payload of about 100 bytes.
TEXT = "x" * 80
MARK = struct.Struct("<dq")
MARK_SECONDS = 30.0
POLL_SECONDS = 0.0005


def mark(number: int) -> None:
    """Called by a handler first: this job has started now, by the clock that all processes of the machine share."""
    # One small write is never mixed with another process's.
    os.write(_marks(), MARK.pack(time.monotonic(), number))


async def hold() -> None:
    """Called by a handler after its mark: go on for as long as this worker is told to, usually not at all."""
    if HOLD_SECONDS:
        await asyncio.sleep(HOLD_SECONDS)


def hold_thread() -> None:
    """As `hold`, for handlers that are no coroutines."""
    if HOLD_SECONDS:
        time.sleep(HOLD_SECONDS)


@functools.cache
def _marks() -> int:
    return os.open(os.environ["BENCH_MARKS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def program(name: str) -> str:
    """A command of this environment."""
    return str(Path(sys.executable).with_name(name))


class Side:
    """One peer: how its users prepare it, submit to it and run its worker."""

    bulks = False
    # How often its worker looks, where it is not told of new jobs.
    poll_seconds = 0.0

    async def setup(self) -> None:
        """Make what the peer needs in an empty database."""

    async def __aenter__(self) -> Side:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close what submitting has opened."""

    async def submit(self, number: int) -> None:
        """Submit one job, and return when the peer says that it has it."""
        raise NotImplementedError

    async def submit_bulk(self, numbers: Sequence[int]) -> None:
        """Submit many jobs at once; only where the peer has a call for that (`bulks`)."""
        raise NotImplementedError

    def worker(self) -> list[str]:
        """The command that runs the peer's worker, as its documents say."""
        raise NotImplementedError

    def server(self) -> list[str]:
        """The command that serves HTTP at PORT, where submitting goes through HTTP."""
        raise NotImplementedError


def main(side: Side) -> None:
    command, *numbers = sys.argv[1:]
    if command in ("worker", "server"):
        words = side.worker() if command == "worker" else side.server()
        # The peer's own program takes this process over: its signals, its event loop.
        os.execv(words[0], words)
    print(json.dumps(asyncio.run(_answer(side, command, *map(int, numbers)))))


async def _answer(side: Side, command: str, first: int = 0, count: int = 0) -> dict[str, Any]:
    if command == "setup":
        await side.setup()
        return {"bulks": side.bulks}
    async with side:
        if command == "submit":
            return {"seconds": await _submit(side, range(first, first + count))}
        if command == "bulk":
            return {"seconds": await _submit_bulk(side, range(first, first + count))}
        if command == "latency":
            return {"milliseconds": await _latency(side, range(first, first + count))}
    raise SystemExit(f"no such command: {command}")


async def _submit(side: Side, numbers: range) -> float:
    started = time.perf_counter()
    for number in numbers:
        await side.submit(number)
    return time.perf_counter() - started


async def _submit_bulk(side: Side, numbers: range) -> float:
    started = time.perf_counter()
    for start in range(numbers.start, numbers.stop, BULK):
        await side.submit_bulk(range(start, min(start + BULK, numbers.stop)))
    return time.perf_counter() - started


async def _latency(side: Side, numbers: range) -> list[float]:
    """One job at a time to an idle worker: from the call that submits until its handler starts."""
    taken = []
    marks = Marks(Path(os.environ["BENCH_MARKS"]))
    for number in numbers:
        # Anywhere between two looks of a worker that polls, not always just after one.
        await asyncio.sleep(random.uniform(0.01, 0.03 + side.poll_seconds))
        submitted = time.monotonic()
        await side.submit(number)
        started = await marks.of(number, submitted + MARK_SECONDS)
        taken.append((started - submitted) * 1_000)
    return taken


class Marks:
    """Reads the file of marks as it grows."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("rb", buffering=0)
        self._at: dict[int, float] = {}
        self._file.seek(0, os.SEEK_END)

    async def of(self, number: int, deadline: float) -> float:
        """When the job started first. Raises TimeoutError."""
        while number not in self._at:
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {number} did not start")
            data = self._file.read(MARK.size * 1_024) or b""
            for at, marked in MARK.iter_unpack(data):
                self._at.setdefault(marked, at)
            if not data:
                await asyncio.sleep(POLL_SECONDS)
        return self._at.pop(number)
