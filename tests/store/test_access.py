"""Keys and audit in SQL, on both engines: names and hashes are unique, a revoked key stays so, pages have no gaps."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from jobserver.access import ANYBODY, Caller, digest_of
from jobserver.errors import Invalid
from jobserver.store import access
from jobserver.store.access import AccessStore, Holder, KeysState
from jobserver.store.engine import Database


@pytest.fixture
def keys(database: Database) -> AccessStore:
    return AccessStore(database)


async def create(keys: AccessStore, name: str, key: str) -> UUID | None:
    made = await keys.create(uuid4(), name, "read", digest_of(key.encode()), lifetime_seconds=None)
    return None if made is None else made.id


async def test_a_name_is_of_one_key_in_use_and_a_key_has_one_name(keys: AccessStore) -> None:
    assert await create(keys, "a", "1") is not None
    assert await create(keys, "a", "2") is None
    assert await create(keys, "b", "1") is None
    assert await keys.revoke("a") is not None
    assert await create(keys, "a", "2") is not None
    # Not even a revoked key comes back.
    assert await create(keys, "c", "1") is None
    assert await keys.state() == KeysState(2, 1)
    assert [each.caller.name for each in await keys.live()] == ["a"]


async def test_a_key_is_revoked_once_by_name_or_id(keys: AccessStore) -> None:
    first = await create(keys, "a", "1")
    assert first is not None
    assert await keys.revoke(str(first)) == (first, "a")
    [revoked] = await keys.keys()
    assert await keys.revoke(str(first)) is None
    assert await keys.revoke("a") is None
    assert await keys.keys() == [revoked]
    assert await keys.holder(digest_of(b"1")) == Holder("a", "read", revoked=True, expired=False)


async def test_whose_a_key_is_is_told_of_every_key(keys: AccessStore) -> None:
    await create(keys, "a", "1")
    await keys.create(uuid4(), "b", "admin", digest_of(b"2"), lifetime_seconds=0.001)
    await asyncio.sleep(0.01)
    assert await keys.holder(digest_of(b"1")) == Holder("a", "read", revoked=False, expired=False)
    assert await keys.holder(digest_of(b"2")) == Holder("b", "admin", revoked=False, expired=True)
    assert await keys.holder(digest_of(b"3")) is None


async def test_there_is_a_bound_on_keys(keys: AccessStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_LIVE_KEYS", 2)
    await create(keys, "a", "1")
    await create(keys, "b", "2")
    with pytest.raises(Invalid, match="revoke some"):
        await create(keys, "c", "3")


async def test_pages_of_the_audit_log_are_whole_and_in_order(keys: AccessStore) -> None:
    ids = [UUID(int=n + 1) for n in range(7)]
    for number, action_id in enumerate(ids):
        caller = Caller(uuid4(), "me", 2) if number % 2 else ANYBODY
        await keys.begin_action(action_id, caller, "127.0.0.1", "pause", {"queue": f"q{number}"})
        if number != 3:
            await keys.end_action(action_id, number)
    seen = []
    cursor = None
    while True:
        page = await keys.actions(limit=3, cursor=cursor)
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [each.id for each in seen] == ids[::-1]
    assert [each.changed for each in seen] == [6, 5, 4, None, 2, 1, 0]
    assert [each.key_name for each in seen[:2]] == [None, "me"]


async def test_a_long_target_is_shortened_and_says_so(keys: AccessStore) -> None:
    ids = [str(uuid4()) for _ in range(1_000)]
    await keys.begin_action(uuid4(), ANYBODY, None, "replay", {"ids": ids, "type": "t"})
    [action] = (await keys.actions(limit=1, cursor=None)).items
    assert action.target == {"ids": ids[:50], "ids_count": 1_000, "type": "t"}
