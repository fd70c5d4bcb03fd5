"""AccessStore: API keys and the audit log of one database. A key itself is never stored, its hash is."""

from __future__ import annotations

import base64
import binascii
from typing import Final
from uuid import UUID

import msgspec

from jobserver.access import RANKS, Action, ActionPage, ApiKey, Caller, ScopeName
from jobserver.errors import Invalid
from jobserver.store.engine import Database, Row

MAX_LIVE_KEYS: Final = 1_000
MAX_TARGET_BYTES: Final = 4_096
_LAST: Final = UUID(int=2**128 - 1)
_encode: Final = msgspec.json.Encoder().encode
_decode_target: Final = msgspec.json.Decoder(dict[str, object]).decode


class LiveKey(msgspec.Struct, frozen=True):
    """What a process must know of a key to let its caller in. `expires_at_us` by the database's clock."""

    digest: bytes
    caller: Caller
    expires_at_us: int | None


class Holder(msgspec.Struct, frozen=True):
    """Whose a key is, and whether it lets anybody in."""

    name: str
    scope: ScopeName
    revoked: bool
    expired: bool


class KeysState(msgspec.Struct, frozen=True):
    """How many keys were ever made, and revoked. Neither goes down."""

    made: int
    revoked: int


class AccessStore:
    """Rows of api_keys and audit. Every call may raise DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # keys

    async def state(self) -> KeysState:
        """Whether anything has changed since the last look, for one row."""
        async with self.database.read() as session:
            [row] = await session.fetch("keys_state")
        return KeysState(row["made"], row["revoked"])

    async def live(self) -> list[LiveKey]:
        """The keys that were not revoked, those that have expired among them."""
        async with self.database.read() as session:
            rows = await session.fetch("live_keys")
        return [
            LiveKey(
                bytes.fromhex(row["digest"]),
                Caller(self.database.uuid(row["id"]), row["name"], RANKS[row["scope"]]),
                None if row["expires_at"] is None else _us(self.database, row["expires_at"]),
            )
            for row in rows
        ]

    async def create(
        self, key_id: UUID, name: str, scope: ScopeName, digest: bytes, *, lifetime_seconds: float | None
    ) -> ApiKey | None:
        """Store a key by its hash. None: a key that is not revoked has this name, or there is this key already.

        Raises Invalid when there are too many.
        """
        if len(await self.live()) >= MAX_LIVE_KEYS:
            raise Invalid("$.name", f"there are {MAX_LIVE_KEYS} keys that were not revoked: revoke some")
        rows = await self.database.fetch(
            "create_key", id=key_id, name=name, scope=scope, digest=digest.hex(), lifetime_seconds=lifetime_seconds
        )
        if not rows:
            return None
        moment = self.database.moment
        return ApiKey(
            id=key_id,
            name=name,
            scope=scope,
            created_at=moment(rows[0]["created_at"]),
            expires_at=None if rows[0]["expires_at"] is None else moment(rows[0]["expires_at"]),
            revoked_at=None,
            last_used_at=None,
        )

    async def holder(self, digest: bytes) -> Holder | None:
        """Whose key has this hash, also one that is of no use any more."""
        async with self.database.read() as session:
            rows = await session.fetch("key_of_digest", digest=digest.hex())
        for row in rows:
            return Holder(row["name"], row["scope"], bool(row["revoked"]), bool(row["expired"]))
        return None

    async def keys(self) -> list[ApiKey]:
        """Every key there ever was, oldest first."""
        async with self.database.look() as session:
            return [self._key(row) for row in await session.fetch("list_keys")]

    async def revoke(self, key: str) -> tuple[UUID, str] | None:
        """Revoke a key by its name or id: which it was, None when no key that is in use has it."""
        rows = await self.database.fetch("revoke_key", key=key)
        return (self.database.uuid(rows[0]["id"]), rows[0]["name"]) if rows else None

    async def used(self, ids: list[UUID]) -> None:
        """Note that keys were used just now."""
        await self.database.fetch("keys_used", ids=ids)

    def _key(self, row: Row) -> ApiKey:
        def moment(name: str) -> object:
            return None if row[name] is None else self.database.moment(row[name])

        return msgspec.convert(
            {
                "id": self.database.uuid(row["id"]),
                "name": row["name"],
                "scope": row["scope"],
                **{name: moment(name) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")},
            },
            ApiKey,
        )

    # audit

    async def begin_action(
        self, action_id: UUID, caller: Caller, address: str | None, action: str, target: dict[str, object]
    ) -> None:
        """Note what is about to be done. `target` is shortened where it is long."""
        await self.database.fetch(
            "begin_action",
            id=action_id,
            key_id=caller.id,
            key_name=caller.name,
            address=address,
            action=action,
            target=_shortened(target),
        )

    async def end_action(self, action_id: UUID, changed: int) -> None:
        """Note how many it has changed."""
        await self.database.fetch("end_action", id=action_id, changed=changed)

    async def actions(self, *, limit: int, cursor: str | None) -> ActionPage:
        """A page of the log, newest first. Raises Invalid for a cursor that is none."""
        before = _LAST if cursor is None else _parse_cursor(cursor)
        async with self.database.look() as session:
            rows = await session.fetch("actions", before=before, max_rows=limit + 1)
        items = [self._action(row) for row in rows[:limit]]
        return ActionPage(items=items, next_cursor=_cursor(items[-1].id) if len(rows) > limit else None)

    async def prune_audit(self, *, older_than_seconds: float, limit: int) -> int:
        """Forget the oldest entries; how many."""
        first = max(0, self.database.clock.now_us() - int(older_than_seconds * 1_000_000)) // 1_000
        rows = await self.database.fetch("prune_audit", before=UUID(int=first << 80), max_rows=limit)
        return len(rows)

    def _action(self, row: Row) -> Action:
        return Action(
            id=self.database.uuid(row["id"]),
            at=self.database.moment(row["at"]),
            key_id=None if row["key_id"] is None else self.database.uuid(row["key_id"]),
            key_name=row["key_name"],
            address=row["address"],
            action=row["action"],
            target=_decode_target(row["target"]),
            changed=row["changed"],
        )


def _us(database: Database, value: object) -> int:
    moment = database.moment(value)
    return int(moment.timestamp() * 1_000_000)


def _shortened(target: dict[str, object]) -> str:
    """As JSON; lists of ids end early where it would be long, and say how many there were."""
    encoded = _encode(target)
    if len(encoded) > MAX_TARGET_BYTES:
        short: dict[str, object] = {}
        for name, value in target.items():
            if isinstance(value, list):
                short |= {name: value[:50], f"{name}_count": len(value)}
            else:
                short[name] = value
        encoded = _encode(short)
    return encoded.decode()


def _cursor(action_id: UUID) -> str:
    return base64.urlsafe_b64encode(action_id.bytes).decode().rstrip("=")


def _parse_cursor(cursor: str) -> UUID:
    try:
        return UUID(bytes=base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error) as error:
        raise Invalid("$.query.cursor", "not a cursor of this list") from error
