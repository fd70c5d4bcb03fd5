"""Connections to Redis and Valkey: pools, scripts, time limits, and one exception for "it does not answer"."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from jobserver.errors import ConfigurationError, StreamUnavailable
from jobserver.stream.lines import Lines, Script

COMMAND_SECONDS: Final = 2.0
# With what it may wait for a place in the pool.
CALL_SECONDS: Final = COMMAND_SECONDS + 0.5
# What a call may take while a client waits for its answer: nothing that a client is told depends on Redis.
REQUEST_SECONDS: Final = 0.1
BLOCK_MILLISECONDS: Final = 1_000
READ_SECONDS: Final = BLOCK_MILLISECONDS / 1000 + COMMAND_SECONDS
MINIMUM_VERSION: Final = (6, 2)
CLOSED: Final = "the handler is closed"

SCRIPTS: Final = ("apply", "fetch", "promote", "watermark", "incarnation", "forget_consumers", "sizes", "feed")


class StreamClient:
    """Three pools on one server: short commands, reads that block, and scripts.

    A server that does not know a script gets it with the call.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.commands: Any = _client(url, connections=8, seconds=COMMAND_SECONDS)
        self.reader: Any = _client(url, connections=3, seconds=READ_SECONDS)
        # Without a time limit of its own, which would cost a task a call: `available` has one.
        self._pool: Any = _client(url, connections=8, seconds=None).connection_pool
        self._lines = Lines(self._pool)
        folder = resources.files("jobserver.stream") / "scripts"
        self._scripts = {name: Script((folder / f"{name}.lua").read_text(encoding="utf-8")) for name in SCRIPTS}

    async def script(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script of `scripts/`. Raises StreamUnavailable."""
        async with available(CALL_SECONDS):
            return await self._lines.run(self._scripts[name], keys, args)

    async def version(self) -> str:
        """Such as "Valkey 9.1.2"."""
        async with available(CALL_SECONDS):
            info: dict[str, Any] = await self.commands.info("server")
        name = str(info.get("server_name", "redis")).capitalize()
        return f"{name} {info.get('valkey_version') or info['redis_version']}"

    async def ping(self) -> None:
        """Ask whether Redis answers at once: on the path of a request."""
        async with available(REQUEST_SECONDS):
            await self.commands.ping()

    async def rebuild(self) -> None:
        """Make new connections in place of all that there are, once a new one was answered.

        Raises StreamUnavailable while none is answered, and then leaves everything as it was.
        """
        probe: Any = _client(self._url, connections=1, seconds=COMMAND_SECONDS)
        try:
            async with available(CALL_SECONDS):
                await probe.ping()
        finally:
            await _disconnect(probe.connection_pool)
        # A command under way has a limit of its own, and its connection is not used again.
        for pool in (self.commands.connection_pool, self._pool):
            await pool.update_active_connections_for_reconnect()
            await _disconnect(pool, in_use=False)
        await self._lines.hang_up()
        # Who reads may wait for as long as the connection lasts: that ends it.
        await _disconnect(self.reader.connection_pool)

    async def close(self) -> None:
        await self._lines.hang_up()
        await _disconnect(self._pool)
        for client in (self.commands, self.reader):
            await client.aclose()
            await _disconnect(client.connection_pool)


@asynccontextmanager
async def available(seconds: float | None = None) -> AsyncIterator[None]:
    """Whatever says "Redis is away" or "Redis will not" becomes StreamUnavailable; so does taking longer."""
    task = asyncio.current_task()
    asked = 0 if task is None else task.cancelling()
    try:
        async with asyncio.timeout(seconds):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        _heed_cancel(task, asked)
        raise StreamUnavailable(str(error) or type(error).__name__) from error
    except RuntimeError as error:
        # What uvloop raises for a write to a connection that the other side has just reset.
        if CLOSED not in str(error):
            raise
        _heed_cancel(task, asked)
        raise StreamUnavailable("the connection is closed") from error
    _heed_cancel(task, asked)


def _heed_cancel(task: asyncio.Task[Any] | None, asked: int) -> None:
    # redis-py sends under `asyncio.wait_for`, which before Python 3.12 loses a cancel that comes in the turn of its
    # result: a loop that was told to end would go on.
    if task is not None and task.cancelling() > asked:
        raise asyncio.CancelledError


async def _disconnect(pool: Any, *, in_use: bool = True) -> None:
    """Close what is open, without a word to a server that may not answer."""
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(COMMAND_SECONDS):
            await pool.disconnect(inuse_connections=in_use)


def _client(url: str, *, connections: int, seconds: float | None) -> Redis:
    options: dict[str, Any] = {
        "max_connections": connections,
        "timeout": COMMAND_SECONDS,
        "socket_timeout": seconds,
        "socket_connect_timeout": COMMAND_SECONDS,
        "health_check_interval": 15,
        "protocol": 2,
        # A repeated XADD is a duplicate message, and those are harmless: the fence decides. A server that took too
        # long is not asked again: the time is used up.
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.02), 1, supported_errors=(RedisConnectionError,)),
        # With notifications an idle connection that the server closed surfaces as an error of the next command
        # (redis-py issue 4252).
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    try:
        return Redis(connection_pool=BlockingConnectionPool.from_url(url, **options))
    except ValueError as error:
        raise ConfigurationError(
            "The Redis URL is not readable: it should look like redis://host:6379/0 or unix:///path/to/socket."
        ) from error


def shown(url: str) -> str:
    """The URL without its user and password, for messages."""
    scheme, separator, rest = url.partition("://")
    place, mark, query = rest.partition("?")
    # They may stand before the host or, for this client, in the query.
    kept = [(name, value) for name, value in parse_qsl(query) if name.lower() not in {"username", "password"}]
    return f"{scheme}{separator}{place.rpartition('@')[2]}{mark if kept else ''}{urlencode(kept)}"


async def check_reachable(url: str) -> str:
    """The server's name and version for the banner; ConfigurationError with one sentence when it cannot be used."""
    client = StreamClient(url)
    try:
        version = await client.version()
    except StreamUnavailable as error:
        raise ConfigurationError(f"Redis at {shown(url)} cannot be used: {str(error).rstrip('.')}.") from error
    finally:
        await client.close()
    number = version.partition(" ")[2].split(".")
    if version.startswith("Redis") and tuple(int(part) for part in number[:2]) < MINIMUM_VERSION:
        raise ConfigurationError(f"Redis at {shown(url)} is {version}: at least 6.2 is needed.")
    return version
