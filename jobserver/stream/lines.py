"""Lines: connections that stay with the callers of scripts, of which there are a few a batch of jobs.

A pool's bookkeeping, a task for each write and a command joined in Python cost as much as the work of fifty jobs;
here a call is one write and one read. Time limits are the caller's.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any, Final

import hiredis
from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError


class Script:
    """A text, and the name by which a server that has seen it knows it."""

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self.sha: Final = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Lines:
    """Takes connections from a pool and keeps those that are in good order."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool: Any = pool
        self._kept: list[Any] = []

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """The answer to a script. Raises what redis-py raises."""
        try:
            return await self._call("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            # A server that was started anew or flushed. This loads it too.
            return await self._call("EVAL", script.text, len(keys), *keys, *args)

    async def _call(self, *words: Any) -> Any:
        command = hiredis.pack_command(words)
        kept = bool(self._kept)
        try:
            return await self._ask(command)
        except RedisConnectionError:
            # The server may have closed one that was idle. A repeated script adds duplicates, and those are harmless.
            if not kept:
                raise
            await self.hang_up()
            return await self._ask(command)

    async def _ask(self, command: bytes) -> Any:
        line = self._kept.pop() if self._kept else await self._pool.get_connection()
        in_order = False
        try:
            await line.send_packed_command(command)
            answer = await line.read_response(disable_decoding=True)
            in_order = not line.should_reconnect()
        except RedisError as error:
            # The server's refusal is an answer like others; after anything else the connection is closed already.
            in_order = line.is_connected and not isinstance(error, RedisConnectionError)
            raise
        finally:
            if in_order:
                self._kept.append(line)
            else:
                await self._give_back(line)
        return answer

    async def hang_up(self) -> None:
        """Close what is kept and not in use; later calls get new connections."""
        while self._kept:
            await self._give_back(self._kept.pop())

    async def _give_back(self, line: Any) -> None:
        # Of any state: the next who takes it connects anew.
        with contextlib.suppress(RedisError, OSError):
            await line.disconnect(nowait=True)
        await self._pool.release(line)
