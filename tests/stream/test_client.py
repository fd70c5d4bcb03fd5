"""Connections: what is said when a server is not there, and what is never said."""

from __future__ import annotations

import pytest

from jobserver.errors import ConfigurationError, StreamUnavailable
from jobserver.stream.client import StreamClient, available, check_reachable, shown
from tests.engines import RedisServer, free_port


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:s3cret@localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://user:s3cret@localhost:6379/0", "redis://localhost:6379/0"),
        ("rediss://user:s3%40cret@redis.example:6380/2", "rediss://redis.example:6380/2"),
        ("redis://user:with@s3cret@localhost/0", "redis://localhost/0"),
        ("redis://localhost/0?password=s3cret&db=1", "redis://localhost/0?db=1"),
        ("redis://localhost/0?username=s3cret", "redis://localhost/0"),
        ("unix://user:s3cret@/run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, expected: str) -> None:
    assert shown(url) == expected


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost", "postgresql://localhost", "redis://h:port"])
async def test_a_url_that_is_not_one_is_refused_in_one_sentence(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        await check_reachable(url)
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


async def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="cannot be used") as refused:
        await check_reachable(f"redis://user:s3cret@127.0.0.1:{free_port()}/0")
    assert "s3cret" not in str(refused.value)


async def test_a_wrong_password_is_said_and_not_shown(redis_server: RedisServer) -> None:
    client = StreamClient(redis_server.url)
    await client.commands.config_set("requirepass", "right-s3cret")
    await client.close()
    for password in ("wrong-s3cret@", ""):
        secret = f":{password}" if password else ""
        with pytest.raises(ConfigurationError) as refused:
            await check_reachable(redis_server.url.replace("redis://", f"redis://{secret}"))
        assert "s3cret" not in str(refused.value)
    assert await check_reachable(redis_server.url.replace("redis://", "redis://:right-s3cret@"))


async def test_the_version_names_the_server(redis_server: RedisServer) -> None:
    name = {"valkey": "Valkey ", "redis6": "Redis 6.2", "redis7": "Redis 7."}[redis_server.name]
    assert (await check_reachable(redis_server.url)).startswith(name)


async def test_a_write_to_a_connection_that_was_reset_is_an_outage_and_other_faults_are_not() -> None:
    # The words are those of uvloop for a transport that was closed under a writer.
    with pytest.raises(StreamUnavailable):
        async with available():
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
    with pytest.raises(RuntimeError, match="a fault of ours"):
        async with available():
            raise RuntimeError("a fault of ours")
