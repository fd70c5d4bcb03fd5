"""`jobserver secrets`: on a database of its own URL, in a data folder, and beside a running server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.process import Serving, jobserver
from tests.conftest import Pair


def test_secrets_are_made_rotated_listed_and_revoked(pair: Pair, tmp_path: Path) -> None:
    where = ("--database-url", pair.database_url)
    made = jobserver("secrets", "create", *where, cwd=tmp_path)
    assert (made.code, made.err) == (0, "")
    assert made.out.startswith("whsec_")
    rotated = jobserver("secrets", "rotate", "--overlap", "2h", "--json", *where, cwd=tmp_path)
    new = json.loads(rotated.out)
    assert (new["state"], new["expires_at"]) == ("signing", None)
    hidden = jobserver("secrets", *where, cwd=tmp_path)
    assert hidden.code == 0
    assert "whsec_" not in hidden.out
    shown = json.loads(jobserver("secrets", "list", "--reveal", "--json", *where, cwd=tmp_path).out)["items"]
    assert [each["secret"] for each in shown] == [new["secret"], made.out.strip()]
    assert [each["state"] for each in shown] == ["signing", "retiring"]
    assert jobserver("secrets", "revoke", shown[1]["id"], *where, cwd=tmp_path).code == 0
    again = jobserver("secrets", "revoke", shown[1]["id"], *where, cwd=tmp_path)
    assert (again.code, again.out) == (1, "")
    assert again.err.startswith("jobserver: there is no secret")
    table = jobserver("secrets", "list", "--reveal", *where, cwd=tmp_path).out
    assert "revoked" in table
    assert new["secret"] in table
    assert made.out.strip() not in table


def test_secrets_are_made_beside_a_running_server_and_before_there_is_one(tmp_path: Path) -> None:
    first = jobserver("secrets", "create", cwd=tmp_path)
    assert (first.code, first.err) == (0, "")
    with Serving(tmp_path, "--workers", "1"):
        assert jobserver("secrets", "create", cwd=tmp_path).code == 0
    listed = json.loads(jobserver("secrets", "--json", cwd=tmp_path).out)["items"]
    assert [each["state"] for each in listed] == ["signing", "signing"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("revoke",),
        ("create", "cs_1"),
        ("list", "cs_1"),
        ("create", "--reveal"),
        ("create", "--overlap", "1h"),
        ("rotate", "--overlap", "soon"),
        ("burn",),
        ("list", "--database-url", "sqlite+aiosqlite:////nowhere/at/all.db"),
    ],
)
def test_what_is_asked_wrongly_is_one_sentence(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ended = jobserver("secrets", *arguments, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("jobserver: ")
    assert ended.err.count("\n") == 1
