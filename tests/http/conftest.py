"""A real server for the tests that speak HTTP to one."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Pair
from tests.servers import running


@pytest.fixture
async def server(pair: Pair) -> AsyncIterator[str]:
    """The base URL of a fresh server on each pair of engines."""
    async with running(pair) as started:
        yield started.url
