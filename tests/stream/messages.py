"""Messages for tests, and what Redis says of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import uuid_utils.compat

from jobserver.job.model import Delivery, Priority
from jobserver.stream.client import StreamClient
from jobserver.stream.jobs import Batch, JobStream, Message, Stream
from jobserver.stream.keys import GROUP

NORMAL: Final[Stream] = ("default", Priority.NORMAL)
HIGH: Final[Stream] = ("default", Priority.HIGH)
LOW: Final[Stream] = ("default", Priority.LOW)
ME: Final = "worker-me"


def message(stream: Stream = NORMAL, *, fence: int = 0, available_at_us: int = 1_000) -> Message:
    queue, priority = stream
    return Message(uuid_utils.compat.uuid7(), fence, queue, priority, available_at_us)


async def published(stream: JobStream, messages: Sequence[Message]) -> list[UUID]:
    assert await stream.apply(Batch(adds=messages)) is None
    return [each.job_id for each in messages]


def ids(deliveries: Sequence[Delivery]) -> list[UUID]:
    return [each.job_id for each in deliveries]


async def pending(client: StreamClient, stream: JobStream, name: Stream = NORMAL) -> int:
    """How many entries of a stream were delivered and not acknowledged."""
    summary: dict[str, int] = await client.commands.xpending(stream.keys.jobs(*name), GROUP)
    return summary["pending"]


async def length(client: StreamClient, stream: JobStream, name: Stream = NORMAL) -> int:
    return int(await client.commands.execute_command("XLEN", stream.keys.jobs(*name)))


async def consumers(client: StreamClient, stream: JobStream, name: Stream = NORMAL) -> set[str]:
    """The names of the consumers of a stream."""
    found: list[dict[str, bytes]] = await client.commands.xinfo_consumers(stream.keys.jobs(*name), GROUP)
    return {each["name"].decode() for each in found}
