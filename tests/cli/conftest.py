"""A server as a process, and its client commands run in this one."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobserver.cli import run
from tests.cli.process import Ended, Serving

HANDLERS = """
from jobserver import Handlers, Cancel

handlers = Handlers()

@handlers.handler("hostile", max_retries=0)
async def hostile(text: str) -> str:
    raise ValueError(text)

@handlers.handler("stop")
async def stop() -> None:
    raise Cancel("no")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "sample.py").write_text(HANDLERS)
    with Serving(folder, "sample:handlers", "--workers", "4", "--drain-seconds", "1") as serving:
        yield serving


class Command:
    """Runs the command in this process: many runs, each in milliseconds."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def run(self, *args: str, stdin: str = "") -> Ended:
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = run(list(args))
        return Ended(code, *self._capsys.readouterr())

    def show(self, job_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.run("show", job_id, "--json").out)
        return shown


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in an empty folder, without a server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JOBSERVER_URL", raising=False)
    return Command("", monkeypatch, capsys)


@pytest.fixture
def command(alone: Command, server: Serving, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command with the URL of a server."""
    monkeypatch.setenv("JOBSERVER_URL", server.url)
    alone.url = server.url
    return alone
