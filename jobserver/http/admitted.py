"""Whoever is let in for longer than a moment is asked again: a key that is lost ends what it began."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from litestar.types import HTTPScope, Scope

from jobserver.access import ScopeName
from jobserver.errors import Forbidden, Unauthorized
from jobserver.http.api import Access

T = TypeVar("T")

# So often; what is known of the keys is at most a few seconds old itself.
KEY_SECONDS: Final = 1.0


async def loss_of_key(access: Access, scope: Scope, needed: ScopeName) -> Unauthorized | Forbidden:
    """Returns when a request's key is not good any more. While SQL is away the keys that were known last are good."""
    while True:
        await asyncio.sleep(KEY_SECONDS)
        if access.open:
            continue
        try:
            await access.admit(scope["headers"], needed, without_sql=True)
        except (Unauthorized, Forbidden) as error:
            return error


async def while_admitted(work: Awaitable[T], access: Access, scope: HTTPScope, needed: ScopeName) -> T:
    """What `work` returns. Raises Unauthorized or Forbidden, and cancels it, when the request's key is lost."""
    lost = asyncio.create_task(loss_of_key(access, scope, needed), name="key of a request")
    try:
        async with asyncio.timeout(None) as limit:

            def end(_: object) -> None:
                limit.reschedule(0)

            lost.add_done_callback(end)
            try:
                return await work
            finally:
                # The limit is over by the time that a task which is cancelled has ended.
                lost.remove_done_callback(end)
    except TimeoutError:
        # Of the work itself, unless it was this that ended it.
        if limit.expired() and not lost.cancelled():
            raise lost.result() from None
        raise
    finally:
        lost.cancel()
