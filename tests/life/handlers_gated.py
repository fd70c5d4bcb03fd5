"""Handlers that say what happens to them, and run until a test opens their gate."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from jobserver import Attempt, Handlers
from tests.life.notes import write_note

handlers = Handlers()

POLL_SECONDS = 0.02


@handlers.handler("gated")
async def gated(attempt: Attempt, file: str, gate: str) -> int:
    """Runs until the gate is open; says so when it is cancelled instead."""
    write_note(file, attempt, "started")
    try:
        while not Path(gate).exists():
            await asyncio.sleep(POLL_SECONDS)
    except asyncio.CancelledError:
        write_note(file, attempt, "cancelled")
        raise
    write_note(file, attempt, "returned")
    return os.getpid()


@handlers.handler("stubborn")
async def stubborn(attempt: Attempt, file: str) -> None:
    """Never ends, whoever cancels it."""
    write_note(file, attempt, "started")
    while True:
        try:
            await asyncio.sleep(POLL_SECONDS)
        except asyncio.CancelledError:
            write_note(file, attempt, "cancelled")


@handlers.handler("to_thread")
async def to_thread(attempt: Attempt, file: str, gate: str) -> int:
    """Leaves a thread of its own behind when it is cancelled."""
    return await asyncio.to_thread(_wait, attempt, file, gate)


@handlers.handler("gated.thread")
def gated_thread(attempt: Attempt, file: str, gate: str) -> int:
    """The same in a thread, deaf to whoever asks it to stop."""
    return _wait(attempt, file, gate)


@handlers.handler("gated.process", executor="process")
def gated_process(attempt: Attempt, file: str, gate: str) -> int:
    """The same in a child process."""
    return _wait(attempt, file, gate)


@handlers.handler("poison")
async def poison(attempt: Attempt, file: str) -> None:
    """Takes the process with it in which it runs."""
    write_note(file, attempt, "started")
    os.kill(os.getpid(), signal.SIGKILL)


def _wait(attempt: Attempt, file: str, gate: str) -> int:
    write_note(file, attempt, "started")
    while not Path(gate).exists():
        time.sleep(POLL_SECONDS)
    write_note(file, attempt, "returned")
    return os.getpid()
