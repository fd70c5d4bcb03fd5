"""Handlers whose jobs have something to show: progress, errors that vary, waits, quick successes."""

from __future__ import annotations

import asyncio
from typing import Any

from jobserver import Attempt, Handlers, NotRetryable

handlers = Handlers()


@handlers.handler("shown.quick", queue="quick")
async def quick(number: int = 0) -> int:
    return number


@handlers.handler("shown.work", queue="slow", timeout=120)
async def work(attempt: Attempt, seconds: float = 1.0, steps: int = 10) -> dict[str, Any]:
    """Takes so long, and says how far it is."""
    for step in range(steps):
        attempt.progress(100 * step / steps, f"step {step + 1} of {steps}")
        await asyncio.sleep(seconds / steps)
    attempt.progress(100, "done")
    return {"steps": steps}


@handlers.handler("shown.fail", queue="slow", max_retries=0)
async def fail(order: int = 1, reason: str = "declined") -> None:
    """Fails for good; its message names what it was about."""
    if reason == "timeout":
        raise TimeoutError(f"no answer from gateway within {order} s")
    raise NotRetryable(f"order {order} was {reason}")


@handlers.handler("shown.flaky", queue="slow", max_retries=5)
async def flaky(attempt: Attempt, failures: int = 1) -> int:
    """Fails on its first attempts."""
    if attempt.number <= failures:
        raise ConnectionError("mail.example.com refused the connection")
    return attempt.number


@handlers.handler("shown.wait", queue="slow", timeout=600)
async def wait() -> None:
    """Until somebody cancels it."""
    await asyncio.sleep(600)
