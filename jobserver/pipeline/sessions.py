"""Sessions: how a person signs in by an API key. The cookie is the key, so that it ends when the key does."""

from __future__ import annotations

import time
from typing import Final

from jobserver.access import RANKS, Caller, Quota
from jobserver.errors import RateLimited, Unauthorized
from jobserver.pipeline.audit import Audit
from jobserver.pipeline.credentials import Headers
from jobserver.pipeline.gate import LocalLimit
from jobserver.pipeline.keys import Keys
from jobserver.telemetry import Telemetry

# Wrong keys of an address; the right one waits too, or it would be no limit.
MISTAKES: Final = Quota(10, 60)


class Sessions:
    """Those of one process. Nothing of a session is kept: each request brings its key."""

    def __init__(self, keys: Keys, audit: Audit, telemetry: Telemetry) -> None:
        self._keys = keys
        self._audit = audit
        self._telemetry = telemetry
        self._mistakes = LocalLimit(MISTAKES, lambda: 1)

    async def whose(self, headers: Headers) -> Caller | None:
        """Who makes a request with these headers, None for nobody. While SQL is away by the keys known last."""
        return await self._keys.whose(headers)

    async def sign_in(self, key: str, address: str) -> Caller:
        """Whose key this is. Raises Unauthorized, RateLimited after too many mistakes, and DatabaseUnavailable."""
        standing = self._mistakes.standing(address, time.monotonic())
        if not standing.allowed:
            self._telemetry.refused("mistakes")
            raise RateLimited("Too many keys were not valid.", standing.reset_seconds)
        try:
            caller = await self._keys.admit(((b"authorization", b"Bearer " + key.encode()),), "read")
        except Unauthorized:
            self._mistakes.hit(address, time.monotonic())
            raise
        if caller.id is None:
            # Everybody may do everything: a key that nobody can check is no proof of anything.
            self._mistakes.hit(address, time.monotonic())
            raise Unauthorized("There is no API key yet: this server is open.", presented=True)
        if caller.rank >= RANKS["admin"]:
            async with self._audit.action(caller, address, "sign_in", {}):
                pass
        self._telemetry.note("signed_in", key=caller.name, key_id=str(caller.id), address=address)
        return caller
