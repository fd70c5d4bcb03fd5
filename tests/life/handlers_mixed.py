"""Handlers that end in every way there is."""

from __future__ import annotations

import asyncio

from jobserver import Attempt, Handlers, NotRetryable, Snooze

handlers = Handlers()


@handlers.handler("mixed.complete", queue="plain")
async def complete(number: int) -> int:
    return number


@handlers.handler("mixed.fail", queue="plain")
async def fail() -> None:
    raise NotRetryable("never")


@handlers.handler("mixed.retry", queue="again", max_retries=2)
async def retry(attempt: Attempt, times: int) -> None:
    """Fails on its first `times` attempts."""
    await asyncio.sleep(0.001)
    if attempt.number <= times:
        raise ValueError("not yet")


@handlers.handler("mixed.snooze", queue="again")
async def snooze(attempt: Attempt) -> None:
    """Snoozes once."""
    if attempt.fence == 1:
        raise Snooze(seconds=0.05)


@handlers.handler("mixed.long", queue="plain")
async def long() -> None:
    """Until somebody cancels it."""
    await asyncio.sleep(3_600)
