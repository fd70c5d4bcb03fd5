"""ActivityStream: what the counters of each process grew by, an entry a process and five seconds, capped by number.

Every call may raise StreamUnavailable.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from jobserver.job.activity import Grown
from jobserver.stream.client import CALL_SECONDS, StreamClient, available
from jobserver.stream.keys import Keys

logger = logging.getLogger(__name__)

# An hour of 27 processes; of more, less than that. About 200 bytes each.
MAX_ENTRIES: Final = 20_000
PAGE_ENTRIES: Final = 500

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Grown).decode


class ActivityStream:
    """The activity below one prefix."""

    def __init__(self, client: StreamClient, prefix: str) -> None:
        self._client = client
        self._key = Keys(prefix).activity

    async def tell(self, growths: Sequence[Grown], *, within_seconds: float = CALL_SECONDS) -> None:
        """Append these, in order. A call that failed may have appended some: their numbers tell."""
        async with available(within_seconds):
            pipeline = self._client.commands.pipeline(transaction=False)
            for grown in growths:
                pipeline.execute_command("XADD", self._key, "MAXLEN", "~", MAX_ENTRIES, "*", "g", _encode(grown))
            await pipeline.execute()

    async def after(self, last: str) -> list[tuple[str, Grown | None]]:
        """Entries that follow this one, at most `PAGE_ENTRIES`. An entry of somebody else says nothing."""
        async with available(CALL_SECONDS):
            found = await self._client.commands.execute_command(
                "XRANGE", self._key, f"({last}", "+", "COUNT", PAGE_ENTRIES
            )
        return [(name.decode(), _grown(name, fields)) for name, fields in found]


def _grown(name: bytes, fields: Any) -> Grown | None:
    flat = [part for pair in fields.items() for part in pair] if isinstance(fields, dict) else fields
    try:
        return _decode(flat[1]) if flat[0] == b"g" else None
    except (IndexError, ValueError) as error:
        logger.warning("activity_unreadable", extra={"entry": name.decode(), "error": str(error)})
        return None
