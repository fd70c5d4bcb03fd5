"""API keys for tests, made as the command makes them."""

from __future__ import annotations

from uuid import uuid4

from jobserver.access import ScopeName, digest_of, new_key
from jobserver.server import Server


async def made(
    server: Server, scope: ScopeName, *, name: str | None = None, lifetime_seconds: float | None = None
) -> str:
    """A key with this scope, which the server knows of."""
    key = new_key()
    stored = await server.access_store.create(
        uuid4(), name or f"{scope}-{uuid4().hex[:8]}", scope, digest_of(key.encode()), lifetime_seconds=lifetime_seconds
    )
    assert stored is not None
    await server.keys.look()
    return key


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
