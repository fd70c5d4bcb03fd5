"""Who may do what, and how often: scopes, API keys, callers, quotas. Pure, no I/O.

A key is 256 random bits, so its hash may be a fast one: there is nothing to guess that a slow hash would make
dearer, while every request pays for it. Only the hash is stored.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec

from jobserver.errors import ConfigurationError

ScopeName = Literal["read", "submit", "admin"]
# Each permits what those before it do.
SCOPES: Final[tuple[ScopeName, ...]] = ("read", "submit", "admin")
RANKS: Final[dict[str, int]] = {name: rank for rank, name in enumerate(SCOPES)}

# Scanners of code and logs find leaked keys by their beginning.
PREFIX: Final = "jsk_"
KEY_BYTES: Final = 32
# What a key of somebody else's making must look like: long enough not to be guessed.
GIVEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{32,256}", re.ASCII)
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}", re.ASCII)


def new_key() -> str:
    """A key that nobody can guess."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: bytes) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(key).digest()


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A stored key, without the key. `last_used_at` is right to half a minute."""

    id: UUID
    name: str
    scope: ScopeName
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class Caller(msgspec.Struct, frozen=True):
    """Who makes a request. `id` and `name` are None where there are no keys."""

    id: UUID | None
    name: str | None
    rank: int

    @property
    def scope(self) -> str:
        """The scope of this caller's idempotency keys: everybody has the same one while there are no API keys."""
        return "" if self.id is None else str(self.id)

    @property
    def sees_tracebacks(self) -> bool:
        return self.rank >= RANKS["admin"]


# Everybody, while no key was ever made.
ANYBODY: Final = Caller(None, None, RANKS["admin"])


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the audit log. `changed` is None when the server never came to say how many it was."""

    id: UUID
    at: datetime
    key_id: UUID | None
    key_name: str | None
    address: str | None
    action: str
    target: dict[str, object]
    changed: int | None


class ActionPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the audit log, newest first."""

    items: list[Action]
    next_cursor: str | None


class Quota(msgspec.Struct, frozen=True):
    """So many submits within a window."""

    amount: int
    window_seconds: int


class Standing(msgspec.Struct, frozen=True):
    """Where a caller stands after a submit: whether it counted, how many are left, and when there are more."""

    allowed: bool
    remaining: int
    reset_seconds: int


_UNITS: Final = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_QUOTA: Final = re.compile(r"([1-9]\d{0,8})/([1-9]\d{0,3})? ?(second|minute|hour|day)s?", re.ASCII)


def quota_of(text: str) -> Quota:
    """The quota in a text such as "10/minute" or "100/30 seconds". Raises ConfigurationError."""
    found = _QUOTA.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(
            f"--rate-limit {text!a} is none: write a number and a time, such as 10/minute or 100/30 seconds."
        )
    return Quota(int(found[1]), int(found[2] or 1) * _UNITS[found[3]])
