"""The parts of a server whose upkeep is taken step by step."""

from collections.abc import AsyncIterator

import pytest

from jobserver.server import Server
from tests.conftest import Pair
from tests.parts import consuming, parts, writing
from tests.upkeep.gates import Gate


@pytest.fixture
async def server(pair: Pair) -> AsyncIterator[Server]:
    """Batchers and the queue to Redis run; no loop does."""
    async with parts(pair) as server, writing(server):
        yield server


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def consumer(pair: Pair, gate: Gate) -> AsyncIterator[Server]:
    """A server that consumes, and whose handlers wait for the gate; no loop of upkeep runs."""
    async with parts(pair, gate.handlers, workers=2) as server, consuming(server):
        yield server
