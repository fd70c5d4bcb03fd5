"""What a process knows of the API keys: nobody is let in on knowledge that is older than a few seconds.

Keys are looked up in memory, by their hash. The look at SQL once a second costs one row, unless keys were made or
revoked; where it is late, the next request looks by itself. So a key that was made or revoked is one everywhere
within FRESH_SECONDS and the time of a look, whatever holds up the upkeep of a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from typing import Final
from uuid import UUID

from jobserver.access import ANYBODY, RANKS, Caller, ScopeName, digest_of
from jobserver.errors import DatabaseUnavailable, Forbidden, Foreign, Unauthorized
from jobserver.pipeline.credentials import MAX_KEY, Headers, bearer, same_origin, session_keys
from jobserver.store.access import AccessStore, KeysState, LiveKey
from jobserver.telemetry import Telemetry

LOOK_SECONDS: Final = 1.0
FRESH_SECONDS: Final = 3.5
# So long a request waits for a look of its own; together with FRESH_SECONDS less than 5 s.
PATIENCE_SECONDS: Final = 1.0
# How often it is written when keys were last used.
USED_EVERY_SECONDS: Final = 15.0


class Keys:
    """Lives on one event loop; whoever owns it calls `look` and `close`."""

    def __init__(self, store: AccessStore, telemetry: Telemetry) -> None:
        self._store = store
        self._telemetry = telemetry
        self._clock = store.database.clock
        self._live: dict[bytes, LiveKey] = {}
        self._state = KeysState(0, 0)
        self._used: set[UUID] = set()
        self._used_written = time.monotonic()
        self._expiry: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._fresh = False
        # Whether a key was ever made. A server never opens again by itself, not even on an older copy of its database.
        self.ever = False
        # Known for sure, and for now, to be without keys: nothing of a request needs to be looked at.
        self.open = False

    @property
    def count(self) -> int:
        """Keys that are not revoked."""
        return len(self._live)

    async def look(self) -> None:
        """Ask SQL once. Raises DatabaseUnavailable, and then what is known grows old."""
        began = asyncio.get_running_loop().time()
        state = await self._store.state()
        if state != self._state:
            keys = await self._store.live()
            self._live = {key.digest: key for key in keys}
            self._state = state
            if state.made and not self.ever:
                self.ever = True
                self._telemetry.note("keys_in_use", keys=len(keys))
        self._confirmed(began)

    async def step(self) -> float | None:
        """A look, and now and then a word on which keys were used."""
        await self.look()
        await self._write_used()
        return LOOK_SECONDS

    async def close(self) -> None:
        """Write what was used, if SQL takes it."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self._used_written = float("-inf")
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._write_used()
        except (DatabaseUnavailable, TimeoutError):
            return

    async def admit(
        self, headers: Headers, needed: ScopeName, *, without_sql: bool = False, changes: bool = False
    ) -> Caller:
        """Who makes a request with these headers. `without_sql`: what was known last will do, where SQL is away.
        `changes`: the request is of a method that is not safe.

        Raises Unauthorized, Forbidden, Foreign and DatabaseUnavailable.
        """
        if not self._fresh:
            await self._refresh(without_sql)
        if not self.ever:
            return ANYBODY
        caller = self._caller(headers, changes)
        if caller.rank < RANKS[needed]:
            self._telemetry.refused("forbidden")
            raise Forbidden(f"This needs an API key with the scope {needed}.", needed)
        return caller

    async def whose(self, headers: Headers) -> Caller | None:
        """Who makes a request with these headers, by what was known last where SQL is away; None for nobody.

        ANYBODY while no key was ever made.
        """
        if not self._fresh:
            await self._refresh(without_sql=True)
        given = [value for name, value in headers if name == b"authorization"]
        key = bearer(given) if given else _only(session_keys(headers))
        return self._owner(key) if self.ever else ANYBODY

    def may_submit(self, headers: Headers) -> bool:
        """Whether a request with these headers has a key to submit by, or needs none; by what was known last.

        For refusals that need not be sure: what a session may do, or a key made just now, `admit` tells.
        """
        if not self.ever:
            return True
        given = [value for name, value in headers if name == b"authorization"]
        caller = self._owner(bearer(given)) if given else None
        return caller is not None and caller.rank >= RANKS["submit"]

    def _caller(self, headers: Headers, changes: bool) -> Caller:
        """The one place where a request proves who makes it."""
        given = [value for name, value in headers if name == b"authorization"]
        cookies = session_keys(headers) if not given else []
        if not given and not cookies:
            self._telemetry.refused("no_key")
            raise Unauthorized("This needs an API key: send `Authorization: Bearer KEY`.", presented=False)
        caller = self._owner(bearer(given) if given else _only(cookies))
        if caller is None:
            self._telemetry.refused("bad_key")
            raise Unauthorized("The API key is not valid: it is unknown, revoked or expired.", presented=True)
        if changes and not given and not same_origin(headers):
            self._telemetry.refused("foreign")
            raise Foreign("With the session of a browser only a page of this server changes anything.")
        return caller

    def _owner(self, key: bytes | None) -> Caller | None:
        """Whose a key is, while it is valid."""
        digest = digest_of(b"" if key is None else key)
        found = self._live.get(digest)
        # The hash decides the place in the table; of the key itself, time tells nothing.
        if (
            key is None
            or found is None
            or not hmac.compare_digest(found.digest, digest)
            or (found.expires_at_us is not None and found.expires_at_us <= self._clock.now_us())
        ):
            return None
        assert found.caller.id is not None
        self._used.add(found.caller.id)
        return found.caller

    def refused(self, reason: str) -> None:
        """Count a request that was refused before anybody asked who makes it."""
        self._telemetry.refused(reason)

    async def _refresh(self, without_sql: bool) -> None:
        try:
            await self._confirm()
        except DatabaseUnavailable:
            if not without_sql:
                raise

    async def _confirm(self) -> None:
        """A look for all who ask now. Raises DatabaseUnavailable."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self.look(), name="look at keys")
            # Nobody may be left to hear why it failed.
            self._looking.add_done_callback(lambda done: done.cancelled() or done.exception())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.shield(self._looking)
        # What took so long that it was old when it came is no confirmation.
        if not self._fresh:
            raise DatabaseUnavailable("SQL did not tell the keys in time")

    def _confirmed(self, began: float) -> None:
        loop = asyncio.get_running_loop()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._fresh = loop.time() < began + FRESH_SECONDS
        self.open = self._fresh and not self.ever
        if self._fresh:
            self._expiry = loop.call_at(began + FRESH_SECONDS, self._grow_old)

    def _grow_old(self) -> None:
        self._fresh = self.open = False

    async def _write_used(self) -> None:
        if not self._used or time.monotonic() - self._used_written < USED_EVERY_SECONDS:
            return
        used, self._used = self._used, set()
        try:
            await self._store.used(sorted(used))
        except BaseException:
            self._used |= used
            raise
        self._used_written = time.monotonic()


def _only(found: list[bytes]) -> bytes | None:
    """Of two cookies none counts either."""
    return found[0] if len(found) == 1 and 0 < len(found[0]) <= MAX_KEY else None
