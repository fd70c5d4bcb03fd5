"""echo, sleep and fail: for a first look, and for tests."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from msgspec import Meta

from jobserver.errors import NotRetryable
from jobserver.job.attempt import Attempt
from jobserver.job.handlers import Handlers
from jobserver.job.signature import Payload

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Times = Annotated[int, Meta(ge=0)]


class AskedToFailError(RuntimeError):
    """What `fail` raises."""


def add_demonstration(handlers: Handlers) -> None:
    """Declare the three types."""
    handlers.handler("echo")(echo)
    handlers.handler("sleep")(sleep)
    handlers.handler("fail")(fail)


async def echo(payload: Payload) -> Any:
    """Returns its payload, whatever JSON it is."""
    return payload


async def sleep(seconds: Seconds) -> float:
    """Takes its time and returns how much."""
    await asyncio.sleep(seconds)
    return seconds


async def fail(attempt: Attempt, times: Times | None = None, retryable: bool = True) -> dict[str, int]:
    """Raises on the first `times` attempts, or on each; with `retryable` false, for good."""
    if times is not None and attempt.number > times:
        return {"attempt": attempt.number}
    message = f"asked to fail, on attempt {attempt.number}"
    if not retryable:
        raise NotRetryable(message)
    raise AskedToFailError(message)
