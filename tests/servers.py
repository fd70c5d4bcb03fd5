"""Servers in this process, on the engines of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from jobserver.job.handlers import Handlers
from jobserver.server import Server
from jobserver.settings import Settings
from tests.conftest import Pair


def settings_for(pair: Pair, **options: Any) -> Settings:
    """Settings on the engines of a test, on a free port, with few consumers."""
    defaults: dict[str, Any] = {
        "port": 0,
        "workers": 8,
        "database_url": pair.database_url,
        "redis_url": pair.redis_url,
        "redis_prefix": pair.redis_prefix,
        "lease_seconds": 5.0,
        "drain_seconds": 5.0,
    }
    return Settings(**(defaults | options))


@asynccontextmanager
async def running(pair: Pair, handlers: Handlers | None = None, **options: Any) -> AsyncIterator[Server]:
    """A server that runs, and is drained at the end."""
    async with Server(settings_for(pair, **options), handlers=handlers) as server:
        yield server
