"""`jobserver keys` as a process: beside a running server, before any, and what it says."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from secrets import token_bytes
from uuid import uuid4

import httpx

from jobserver.access import GIVEN
from jobserver.store.access import AccessStore
from jobserver.store.engine import Database, migrate
from tests.cli.process import Serving, jobserver
from tests.conftest import Pair
from tests.keys import bearer


def status(url: str, key: str | None = None) -> int:
    return httpx.get(f"{url}/jobs", headers={} if key is None else bearer(key), timeout=10).status_code


def within_five_seconds(url: str, key: str | None, expected: int) -> None:
    deadline = time.monotonic() + 5.0
    while status(url, key) != expected:
        assert time.monotonic() < deadline, "not within 5 s"
        time.sleep(0.05)


def test_a_key_is_made_used_and_revoked_beside_a_running_embedded_server(tmp_path: Path) -> None:
    with Serving(tmp_path, "--workers", "1") as server:
        assert status(server.url) == 200
        made = jobserver("keys", "create", "ci", "--scope", "read", cwd=tmp_path)
        assert (made.code, made.err) == (0, "")
        key = made.out.strip()
        assert re.fullmatch(r"jsk_[A-Za-z0-9_-]{43}", key)
        within_five_seconds(server.url, None, 401)
        assert status(server.url, key) == 200
        # Its name is taken, and a name says no more than a name.
        again = jobserver("keys", "create", "ci", "--scope", "admin", cwd=tmp_path)
        assert (again.code, again.out) == (1, "")
        assert again.err.startswith("jobserver: There is a key in use with the name ci")
        # The key itself, pasted in a hurry, is neither echoed nor kept.
        pasted = jobserver("keys", "revoke", key, cwd=tmp_path)
        assert (pasted.code, pasted.out) == (1, "")
        assert key not in pasted.err
        for wrong in (("far", "--expires", "9999999d"), ("jsk_name",)):
            assert jobserver("keys", "create", *wrong, "--scope", "read", cwd=tmp_path).code == 2
        revoked = jobserver("keys", "revoke", "ci", cwd=tmp_path)
        assert (revoked.code, revoked.out) == (0, "")
        within_five_seconds(server.url, key, 401)
        assert status(server.url) == 401
        gone = jobserver("keys", "revoke", "ci", cwd=tmp_path)
        assert gone.code == 1
        assert gone.err.count("\n") == 1


def test_json_is_that_of_the_contract_and_says_what_became_of_keys(pair: Pair, tmp_path: Path) -> None:
    where = ("--database-url", pair.database_url)
    made = json.loads(
        jobserver("keys", "create", "a", "--scope", "submit", "--expires", "90d", "--json", *where, cwd=tmp_path).out
    )
    assert list(made) == ["id", "name", "scope", "key", "created_at", "expires_at"]
    assert made["expires_at"] > made["created_at"]
    assert (
        json.loads(jobserver("keys", "create", "b", "--scope", "read", "--json", *where, cwd=tmp_path).out)[
            "expires_at"
        ]
        is None
    )
    assert jobserver("keys", "revoke", made["id"], *where, cwd=tmp_path).code == 0
    listed = json.loads(jobserver("keys", "list", "--json", *where, cwd=tmp_path).out)["items"]
    assert [(each["name"], each["revoked_at"] is None, each["last_used_at"]) for each in listed] == [
        ("a", False, None),
        ("b", True, None),
    ]
    text = jobserver("keys", "list", *where, cwd=tmp_path).out
    assert "submit" in text
    assert made["key"] not in text


def test_json_is_whole_however_many_keys_there_are(pair: Pair, tmp_path: Path) -> None:
    async def make() -> None:
        await migrate(pair.database_url)
        database = Database(pair.database_url)
        store = AccessStore(database)
        for number in range(120):
            made = await store.create(uuid4(), f"k{number}", "read", token_bytes(32), lifetime_seconds=None)
            assert made is not None
        await database.close()

    asyncio.run(make())
    listed = jobserver("keys", "list", "--json", "--database-url", pair.database_url, cwd=tmp_path)
    assert len({each["name"] for each in json.loads(listed.out)["items"]}) == 120


def test_a_server_beyond_loopback_wants_a_key_first(tmp_path: Path) -> None:
    refused = jobserver("serve", "--host", "0.0.0.0", "--port", "0", cwd=tmp_path)
    assert refused.code == 2
    assert "jobserver keys create NAME --scope admin" in refused.err
    assert refused.err.count("\n") == 1
    key = jobserver("keys", "create", "me", "--scope", "admin", cwd=tmp_path).out.strip()
    with Serving(tmp_path, "--host", "0.0.0.0", "--workers", "1") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert (status(url), status(url, key)) == (401, 200)
        actions = httpx.get(f"{url}/audit", headers=bearer(key), timeout=10).json()["items"]
        assert [(each["action"], each["target"], each["changed"]) for each in actions] == [
            ("create key", {"name": "me", "scope": "admin"}, 1)
        ]
        assert actions[0]["key_name"].startswith("command line: ")


def test_a_key_of_ones_own_must_be_long_and_is_not_repeated(tmp_path: Path) -> None:
    own = ("keys", "create", "x", "--scope", "read", "--from-environment", "MINE")
    short = jobserver(*own, cwd=tmp_path, MINE="guessable")
    assert (short.code, short.out) == (2, "")
    assert "guessable" not in short.err
    key = "0123456789abcdef" * 3
    assert GIVEN.fullmatch(key)
    for expected in ("is stored", "is there already"):
        done = jobserver(*own, cwd=tmp_path, MINE=key)
        assert (done.code, done.out) == (0, "")
        assert expected in done.err
        assert key not in done.err
    # The same key under another name or scope is another wish.
    other = jobserver("keys", "create", "y", "--scope", "admin", "--from-environment", "MINE", cwd=tmp_path, MINE=key)
    assert other.code == 1


def test_a_key_of_ones_own_that_is_of_no_use_is_not_said_to_be_there(tmp_path: Path) -> None:
    own = ("keys", "create", "x", "--scope", "read", "--from-environment", "MINE")
    over, revoked = "over0123456789abcdef" * 2, "gone0123456789abcdef" * 2
    assert jobserver(*own, "--expires", "0.001s", cwd=tmp_path, MINE=over).code == 0
    assert jobserver("keys", "create", "y", *own[3:], cwd=tmp_path, MINE=revoked).code == 0
    assert jobserver("keys", "revoke", "y", cwd=tmp_path).code == 0
    for key, said in ((over, "name x before, and has expired"), (revoked, "name y before, and was revoked")):
        done = jobserver(*own, cwd=tmp_path, MINE=key)
        assert (done.code, done.out) == (1, "")
        assert said in done.err
        assert key not in done.err


def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    for arguments in (
        ("create", "a b", "--scope", "read"),
        ("create", "a"),
        ("create", "a", "--scope", "root"),
        ("create", "a", "--scope", "read", "--expires", "0"),
        ("create", "a", "--scope", "read", "--database-url", "postgresql://u:s3cret@127.0.0.1:1/x"),
    ):
        done = jobserver("keys", *arguments, cwd=tmp_path)
        assert (done.code, done.out) == (2, ""), arguments
        assert done.err.count("\n") == 1
        assert "s3cret" not in done.err
