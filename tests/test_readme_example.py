"""The README's commands and its example do what the page says: taken from the page, run by a shell, on real files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.children import environment
from tests.cli.process import Serving
from tests.engines import EngineMissingError, find_redis, free_port
from tests.test_docs import README, blocks

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the page's commands use curl")

DEFAULT: Final = "http://127.0.0.1:8000"
SHELL_SECONDS: Final = 60.0
ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def block(kind: str, containing: str) -> str:
    """The one block of the page that has this in it."""
    [found] = [each for each in blocks(kind) if containing in each]
    return found


class Folder(msgspec.Struct, frozen=True):
    """A user's folder with a server in it, and a shell whose `jobserver` is ours."""

    path: Path
    url: str

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run commands of the page; what stands there for the default server means this one."""
        variables = environment(
            JOBSERVER_URL=self.url, PATH=os.pathsep.join([str(self.path / "bin"), os.environ["PATH"]])
        )
        return subprocess.run(
            ["sh", "-c", script.replace(DEFAULT, self.url)],
            cwd=self.path,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=SHELL_SECONDS,
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """A folder with the page's words.py and its texts, and the server that the page starts there."""
    try:
        find_redis("valkey")
    except EngineMissingError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("user")
    (path / "bin").mkdir()
    for name, command in (("jobserver", f"{sys.executable} -m jobserver"), ("python3", sys.executable)):
        script = path / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    (path / "words.py").write_text(block("python", "def count("), encoding="utf-8")
    user = Folder(path, f"http://127.0.0.1:{free_port()}")

    *preparations, serve = block("sh", "mkdir texts").splitlines()
    done = user.sh("set -e\n" + "\n".join(preparations))
    assert done.returncode == 0, done.stderr
    # Files that a person might have: a long one, and one whose name needs quotes.
    shutil.copy(README, path / "texts" / "a long page.md")
    shutil.copy(README.with_name("LICENSE"), path / "texts" / "license.txt")

    command, verb, *options = serve.split()
    assert (command, verb) == ("jobserver", "serve")
    port = user.url.rpartition(":")[2]
    with Serving(path, *options, "--port", port, JOBSERVER_URL=user.url):
        yield user


def words_of(file: Path) -> int:
    """Runs of letters, counted another way than the example counts them."""
    text = file.read_text(encoding="utf-8")
    return len("".join(char if char.isalpha() else " " for char in text).split())


def test_the_example_counts_the_words_of_real_files(folder: Folder) -> None:
    script = block("sh", "words.total")
    loop, then = script[: script.index("done\n") + 5], script[script.index("done\n") + 5 :]
    submitted = folder.sh(loop)
    assert submitted.returncode == 0, submitted.stderr
    ids = submitted.stdout.split()
    files = [file for file in (folder.path / "texts").iterdir() if file.suffix in (".txt", ".md")]
    assert len(ids) == len(files) == 4

    total, listed = then.strip().splitlines()
    answer = json.loads(folder.sh(total).stdout)
    assert answer == {"files": 4, "words": sum(map(words_of, files))}
    assert answer.keys() == json.loads(block("json", '"files"')).keys()

    table = folder.sh(listed).stdout
    assert sorted(ID.findall(table)) == sorted(ids)
    assert table.count("completed") == 4

    shown = [json.loads(folder.sh(f"jobserver show --json {each}").stdout) for each in ids]
    assert {job["result"]["file"]: job["result"]["words"] for job in shown} == {
        file.name: words_of(file) for file in files
    }
    assert all(job["progress"]["percent"] == 100 for job in shown)

    assert folder.sh(loop).stdout.split() == ids, "with the same keys there are no new jobs"


def test_the_example_refuses_what_the_page_says(folder: Folder) -> None:
    shown = block("console", "texts/missing.txt").strip().split("$ ")[1:]
    assert len(shown) == 3
    for each in shown:
        command, _, expected = each.partition("\n")
        done = folder.sh(command)
        assert done.returncode == 1
        assert ID.sub("ID", done.stderr) == ID.sub("ID", expected.strip() + "\n")


def test_the_client_of_the_page_prints_a_result(folder: Folder) -> None:
    script = block("python", "asyncio.run(main())").replace(DEFAULT, folder.url)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder.path,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=SHELL_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert f"'words': {words_of(folder.path / 'texts' / 'zen.txt')}" in done.stdout


def test_the_first_commands_of_the_page_run_a_job(folder: Folder) -> None:
    version = re.match(r"curl (\d+)\.(\d+)", folder.sh("curl --version").stdout)
    assert version is not None
    if (int(version[1]), int(version[2])) < (7, 82):
        pytest.skip("this curl is older than --json")
    job = json.loads(folder.sh(block("sh", "curl --json")).stdout)
    documented = json.loads(block("json", '"hello": "world"'))
    assert list(job) == list(documented)
    varying = {"id", "created_at", "updated_at", "run_at"}
    assert {name: job[name] for name in job.keys() - varying} == {
        name: documented[name] for name in documented.keys() - varying
    }

    wait, listed = block("sh", "?wait=10").replace(documented["id"], job["id"]).splitlines()
    assert json.loads(folder.sh(wait).stdout)["result"] == {"hello": "world"}
    page = json.loads(folder.sh(listed).stdout)
    assert job["id"] in [item["id"] for item in page["items"]]

    printed = folder.sh("set -e\n" + block("sh", "jobserver stats"))
    assert printed.returncode == 0, printed.stderr
    assert '"hello": "world"' in printed.stdout
