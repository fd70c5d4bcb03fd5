"""SecretStore: what callbacks are signed with. Kept readable, since signing needs them; erased when revoked."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from jobserver.errors import Conflict, NotFound
from jobserver.store.engine import Database, Row, Session

# So many sign at the same time at the most: each adds a signature to every callback.
MAX_SIGNING: Final = 5
_PREFIX: Final = "whsec_"
_BYTES: Final = 32


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """A secret as commands show it. `secret` is None unless it was asked for, and once it is revoked."""

    id: str
    state: str
    secret: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class SecretStore:
    """Rows of the table of one database. Raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def signing(self) -> list[str]:
        """The secrets that sign now, newest first. The very first is made here, where nobody has made one."""
        async with self._database.read() as session:
            rows = await session.fetch("signing_secrets", max_rows=MAX_SIGNING)
        if not rows:
            await self._database.fetch("first_secret", secret=_drawn())
            async with self._database.read() as session:
                rows = await session.fetch("signing_secrets", max_rows=MAX_SIGNING)
        return [row["secret"] for row in rows]

    async def create(self) -> Secret:
        """One more secret, which signs beside the others. Raises Conflict when there are five."""
        async with self._database.write() as session:
            if len(await session.fetch("signing_secrets", max_rows=MAX_SIGNING)) >= MAX_SIGNING:
                raise Conflict(f"{MAX_SIGNING} secrets sign already: revoke one first")
            return await self._added(session)

    async def rotate(self, *, overlap_seconds: float) -> Secret:
        """A new secret. The others sign beside it for so long, and then no more."""
        async with self._database.write() as session:
            await session.fetch("retire_secrets", overlap_seconds=overlap_seconds)
            return await self._added(session)

    async def revoke(self, secret_id: str) -> None:
        """A secret signs no more, and is erased. Raises NotFound when there is none of that id, or no more."""
        if not await self._database.fetch("revoke_secret", id=secret_id):
            raise NotFound(f"there is no secret {secret_id!a} that is not revoked")

    async def stored(self, *, reveal: bool) -> Sequence[Secret]:
        """Every secret, newest first; with `reveal` as it is."""
        async with self._database.read() as session:
            return [self._shown(row, reveal=reveal) for row in await session.fetch("secrets")]

    async def _added(self, session: Session) -> Secret:
        [row] = await session.fetch("add_secret", id=f"cs_{secrets.token_hex(4)}", secret=_drawn())
        return self._shown(row, reveal=True)

    def _shown(self, row: Row, *, reveal: bool) -> Secret:
        instant = self._database.instant
        expires_at, revoked_at = instant(row["expires_at"]), instant(row["revoked_at"])
        now = self._database.clock.now()
        state = "signing"
        if revoked_at is not None:
            state = "revoked"
        elif expires_at is not None:
            state = "retiring" if expires_at > now else "retired"
        return Secret(
            id=row["id"],
            state=state,
            secret=row["secret"] if reveal and row["secret"] else None,
            created_at=self._database.moment(row["created_at"]),
            expires_at=expires_at,
            revoked_at=revoked_at,
        )


def _drawn() -> str:
    return _PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode()
