"""Handlers of the executor's tests. A module, so that child processes can import it by name."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from typing import Any

from jobserver.errors import Cancel, NotRetryable, Retry, Snooze
from jobserver.job.attempt import CURRENT, Attempt, log_fields
from jobserver.job.handlers import Handlers
from jobserver.job.signature import Payload

handlers = Handlers()


def log_context() -> dict[str, object]:
    """What a log line from here would carry."""
    job = CURRENT.get()
    return {} if job is None else log_fields(job)


SETUP: dict[str, Any] = {}


def set_up(**arguments: Any) -> None:
    """What a child is told to call first."""
    SETUP.update(arguments)


# Signals that the tests of this process wait for; a child has its own.
release = threading.Event()


@handlers.handler("echo")
async def echo(payload: Payload) -> Any:
    return payload


@handlers.handler("context")
async def context() -> dict[str, Any]:
    return log_context()


@handlers.handler("context.thread")
def context_of_thread() -> dict[str, Any]:
    return {**log_context(), "thread": threading.current_thread().name}


@handlers.handler("progress")
async def progress(attempt: Attempt) -> str:
    await attempt.progress(10, "awaited")
    attempt.progress(20)
    return "done"


@handlers.handler("progress.thread")
def progress_of_thread(attempt: Attempt) -> str:
    attempt.progress(30, "from a thread")
    return "done"


@handlers.handler("raise")
async def raise_(attempt: Attempt, what: str) -> None:
    _raise(what)


@handlers.handler("raise.thread")
def raise_in_thread(attempt: Attempt, what: str) -> None:
    _raise(what)


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class ExitingError(Exception):
    def __str__(self) -> str:
        raise SystemExit


class Throttled(Retry):
    """What it inherits is not set: that is easily forgotten."""

    def __init__(self, until: str) -> None:
        self.until = until


class Sleeping(Snooze):
    def __init__(self, seconds: object) -> None:
        self.seconds = seconds  # type: ignore[assignment]


class Guessing(Retry):
    @property
    def after(self) -> float | None:
        raise RuntimeError("nobody knows")

    @after.setter
    def after(self, after: float | None) -> None: ...


def _raise(what: str) -> None:
    errors: dict[str, BaseException] = {
        "value": ValueError("not good"),
        "retry": Retry("later", after=7),
        "snooze": Snooze(seconds=3),
        "cancel": Cancel("not needed"),
        "notretryable": NotRetryable("never"),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "cancelled": asyncio.CancelledError(),
        "memory": MemoryError(),
        "generator": GeneratorExit(),
        "unprintable": UnprintableError(),
        "exiting": ExitingError(),
        "throttled": Throttled("noon"),
        "asleep": Sleeping("until noon"),
        "asleep for ever": Sleeping(float("inf")),
        "asleep not at all": Sleeping(-1),
        "guessing": Guessing(),
        "surrogate": ValueError("\ud800\x00"),
    }
    if what == "recursion":
        _raise(what)
    raise errors[what]


@handlers.handler("return")
async def return_(what: str) -> Any:
    return _value(what)


@handlers.handler("return.thread")
def return_from_thread(what: str) -> Any:
    return _value(what)


def _value(what: str) -> Any:
    loop: list[Any] = []
    loop.append(loop)
    values: dict[str, Any] = {
        "nan": float("nan"),
        "nested nan": {"a": [1.0, {"b": float("-inf")}]},
        "object": object(),
        "surrogate": {"a": "\ud800"},
        "cycle": loop,
        "large": "x" * 2_000_000,
        "tuple key": {(1, 2): 3},
    }
    if what == "coroutine":
        return context.function()
    return values[what]


@handlers.handler("sleep")
async def sleep(seconds: float = 60) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@handlers.handler("returns.anyway")
async def returns_anyway() -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return "returned all the same"
    return "slept"


@handlers.handler("cleanup.fails")
async def cleanup_fails() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        raise RuntimeError("cleanup failed")


@handlers.handler("snoozes.instead")
async def snoozes_instead() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise Snooze(seconds=5) from None


@handlers.handler("refuses")
async def refuses() -> None:
    while not release.is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue


@handlers.handler("blocks.thread")
def blocks_thread() -> str:
    release.wait(60)
    return "released"


@handlers.handler("cooperates.thread")
def cooperates(attempt: Attempt) -> str:
    while not attempt.cancel_requested:
        time.sleep(0.005)
    return "stopped"


@handlers.handler("cooperates.process", executor="process")
def cooperates_in_process(attempt: Attempt) -> str:
    attempt.progress(1, "running")
    while not attempt.cancel_requested:
        time.sleep(0.005)
    return "stopped"


@handlers.handler("process", executor="process")
def process(attempt: Attempt, text: str = "") -> dict[str, Any]:
    attempt.progress(50, "half")
    return {
        "pid": os.getpid(),
        "text": text,
        "attempt": attempt.number,
        "left": attempt.seconds_left,
        "context": log_context(),
        "setup": SETUP,
    }


@handlers.handler("process.async", executor="process")
async def process_async(attempt: Attempt, seconds: float = 0) -> dict[str, Any]:
    await attempt.progress(50, "half")
    await asyncio.sleep(seconds)
    return {"pid": os.getpid()}


@handlers.handler("process.stubborn", executor="process")
def process_stubborn(attempt: Attempt) -> None:
    attempt.progress(1, "running")
    time.sleep(60)


@handlers.handler("process.dies", executor="process")
def process_dies(how: str) -> None:
    if how == "exit":
        os._exit(3)
    if how == "abort":
        os.abort()
    if how == "throttled":
        raise Throttled("noon")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(how)


@handlers.handler("process.garbage", executor="process")
def process_garbage() -> None:
    """Writes into whatever socket it finds, as a confused handler may."""
    for fd in range(3, 64):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                os.write(fd, b"\xff" * 64)
        except OSError:
            continue
    time.sleep(60)


@handlers.handler("suspect")
async def suspect() -> int:
    return os.getpid()


@handlers.handler("suspect.dies")
async def suspect_dies() -> None:
    os._exit(9)
