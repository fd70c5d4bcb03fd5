"""A JobStream on a server of each test's own, of every kind that this machine has."""

from collections.abc import AsyncIterator

import pytest

from jobserver.stream.client import StreamClient
from jobserver.stream.jobs import JobStream
from tests.engines import RedisServer


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[StreamClient]:
    client = StreamClient(redis_server.url)
    yield client
    await client.close()


@pytest.fixture
def stream(client: StreamClient, redis_prefix: str) -> JobStream:
    return JobStream(client, redis_prefix)
