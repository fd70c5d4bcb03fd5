"""Tasks that last as long as their owner: one that ends though nobody told it to is logged, and begun again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

logger = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 0.5


async def lasting(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """The body of a task: `work` until it returns, begun again when it is ended by an exception.

    A CancelledError is one too, unless it is the task itself that was cancelled: one that leaks out of what is
    awaited would end the task as silently as a cancel does.
    """
    task = asyncio.current_task()
    while True:
        try:
            await work()
        except asyncio.CancelledError:
            if task is None or task.cancelling():
                raise
            logger.exception("task_restarted", extra={"task": name})
        except Exception:
            logger.exception("task_restarted", extra={"task": name})
        else:
            return
        await asyncio.sleep(AGAIN_SECONDS)
