"""Handlers that say when they started, in a file outside of the system: the jobs of `bench.recovery`."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from pathlib import Path

from jobserver import Attempt, Handlers

handlers = Handlers()

POLL_SECONDS = 0.05


@handlers.handler("bench.noted")
async def noted(attempt: Attempt, file: str, seconds: float = 0.0) -> None:
    """Takes so long."""
    _note(attempt, file)
    await asyncio.sleep(seconds)


@handlers.handler("bench.gated")
async def gated(attempt: Attempt, file: str, gate: str) -> None:
    """Runs until the gate is there."""
    _note(attempt, file)
    # A file, since it opens for all processes at once.
    while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(POLL_SECONDS)


def _note(attempt: Attempt, file: str) -> None:
    # One write a line, so that those of several processes do not mix. All processes share the clock.
    line = f"{attempt.job_id} {os.getpid()} {time.monotonic()}\n"
    os.write(_opened(file, os.getpid()), line.encode())


@functools.lru_cache(maxsize=8)
def _opened(file: str, pid: int) -> int:
    """Open for good: a few files a process."""
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
