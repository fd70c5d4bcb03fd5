"""The files of the web page: who may have them, what they may do, and what a browser may keep."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from jobserver.dashboard import FOLDER, MEDIA_TYPES, read_assets
from jobserver.http.page import POLICY
from tests.http.canned import Canned, client_of

ASSETS = read_assets()


async def test_the_page_and_its_files_are_sent_as_what_they_are() -> None:
    async with client_of(Canned()) as client:
        page = await client.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert page.content == ASSETS["index.html"].body
        for name, asset in ASSETS.items():
            answer = await client.get(f"/assets/{name}")
            assert answer.status_code == 200, name
            assert answer.headers["content-type"] == MEDIA_TYPES["." + name.rpartition(".")[2]]
            assert answer.headers["content-security-policy"] == POLICY
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.content == asset.body


async def test_a_copy_that_is_the_file_is_not_sent_again() -> None:
    """RFC 9110, sections 13.1.2 and 15.4.5: any of the tags, weak ones too; no body, no length; the same headers."""
    async with client_of(Canned()) as client:
        for path in ("/", "/assets/main.js"):
            whole = await client.get(path)
            etag = whole.headers["etag"]
            assert re.fullmatch(r'"[0-9a-f]{32}"', etag)
            for tags in (etag, f"W/{etag}", f'"other", {etag}', "*"):
                again = await client.get(path, headers={"if-none-match": tags})
                assert (again.status_code, again.content) == (304, b"")
                assert again.headers["etag"] == etag
                assert again.headers["content-security-policy"] == POLICY
                assert "content-length" not in again.headers
            for tags in ('"other"', etag.strip('"'), ""):
                assert (await client.get(path, headers={"if-none-match": tags})).status_code == 200


async def test_head_is_get_without_the_file() -> None:
    async with client_of(Canned()) as client:
        for path in ("/", "/assets/main.js"):
            whole, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert dict(head.headers) == dict(whole.headers)


@pytest.mark.parametrize(
    "name", ["nothing.js", "__init__.py", "..%2f__init__.py", "%2e%2e", "main.js%00", "", "Main.js", "."]
)
async def test_nothing_else_of_the_disk_is_sent(name: str) -> None:
    async with client_of(Canned()) as client:
        answer = await client.get(f"/assets/{name}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


def test_what_is_no_file_of_a_page_is_left_out(tmp_path: Path) -> None:
    for name in ("index.html", "main.js", "main.js~", ".hidden.js", "notes.md", "main.py"):
        (tmp_path / name).write_text("x")
    (tmp_path / "deeper.js").mkdir()
    assert set(read_assets(tmp_path)) == {"index.html", "main.js"}
    (tmp_path / "index.html").unlink()
    with pytest.raises(FileNotFoundError):
        read_assets(tmp_path)


def test_every_file_that_is_named_is_there() -> None:
    """In the page and in its modules; and nothing leads out of the server."""
    text = "\n".join(asset.body.decode() for name, asset in ASSETS.items() if name.endswith((".html", ".css", ".js")))
    named = set(re.findall(r"/assets/([\w.-]+)", text)) | set(re.findall(r"""from\s+["']\./([\w.-]+)["']""", text))
    assert named
    assert named <= set(ASSETS)
    assert {path.name for path in FOLDER.iterdir()} == set(ASSETS)


def test_the_page_obeys_its_own_policy() -> None:
    page = ASSETS["index.html"].body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", page)
    # What is within the page stays within the origin.
    assert all(link.startswith(("/", "#")) for link in re.findall(r'(?:src|href)="([^"]*)"', page))


async def test_the_files_are_in_the_wheel(tmp_path: Path) -> None:
    builder = WheelBuilder(str(FOLDER.parents[2]))
    [wheel] = builder.build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.rpartition("/")[2] for name in names if "/dashboard/assets/" in name} == set(ASSETS)
    # Without it no type checker looks at an installed package.
    assert "jobserver/py.typed" in names
