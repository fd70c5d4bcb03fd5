"""The parts of a server whose upkeep is taken step by step."""

from collections.abc import AsyncIterator

import pytest

from jobserver.server import Server
from tests.conftest import Pair
from tests.parts import parts, writing


@pytest.fixture
async def server(pair: Pair) -> AsyncIterator[Server]:
    """Batchers and the queue to Redis run; no loop does."""
    async with parts(pair) as server, writing(server):
        yield server
