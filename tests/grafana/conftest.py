"""A server whose page promtool reads."""

from collections.abc import AsyncIterator

import pytest

from jobserver.server import Server
from tests.conftest import Pair
from tests.parts import parts


@pytest.fixture
async def server(sqlite_url: str, redis_url: str, redis_prefix: str) -> AsyncIterator[Server]:
    """Everything that a server has; nothing runs."""
    async with parts(Pair("sqlite", sqlite_url, redis_url, redis_prefix)) as server:
        yield server
