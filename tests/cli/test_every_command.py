"""What holds for every command: help with examples, completion by the shell, an answer at once."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from jobserver.cli import COMMANDS, group, run
from tests.children import environment
from tests.cli.conftest import Command
from tests.cli.process import COMMAND, Serving
from tests.clocks import judged_by_the_clock

# Of a command that talks to a server, its own start included, on a machine to whose Python the yardstick takes so long.
FIRST_ANSWER_SECONDS = 0.3
YARDSTICK_SECONDS = 0.15
YARDSTICK = [
    sys.executable,
    "-I",
    "-c",
    """
import asyncio, concurrent.futures.process, ctypes, email.message, http.cookiejar, logging.config, multiprocessing.pool
import pydoc, sqlite3, tarfile, unittest.mock, urllib.request, xml.dom.minidom, xmlrpc.client
""",
]
RUNS = 5


def every_command() -> Iterator[list[str]]:
    for name in COMMANDS:
        yield [name]
        found = group.get_command(click.Context(group), name)
        if isinstance(found, click.Group):
            yield from ([name, sub] for sub in found.commands)


@pytest.mark.parametrize("words", list(every_command()), ids=" ".join)
def test_every_command_has_help_with_examples_that_are_right(alone: Command, words: list[str]) -> None:
    help_ = alone.run(*words, "--help")
    assert (help_.code, help_.err) == (0, "")
    _, _, after = help_.out.partition("Examples:\n")
    examples = re.findall(r"jobserver ([^\n\"|<>)#]+)", after.partition("\n\n")[0])
    assert any(example.split()[: len(words)] == words for example in examples), help_.out
    known = {flag for parameter in command_of(words).params for flag in (*parameter.opts, *parameter.secondary_opts)}
    if not isinstance(command_of(words), click.Group):
        assert set(re.findall(r"(?<!\S)--[a-z-]+", after.partition("\n\n")[0])) <= known


def command_of(words: list[str]) -> click.Command:
    found = group.get_command(click.Context(group), words[0])
    for word in words[1:]:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    assert found is not None
    return found


def complete(line: str, url: str = "http://127.0.0.1:1") -> list[str]:
    """What bash is told about this line."""
    words = line.split(" ")
    variables = {
        "_JOBSERVER_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "JOBSERVER_URL": url,
    }
    done = subprocess.run(
        [*COMMAND], env=environment(**variables), capture_output=True, text=True, timeout=30, check=True
    )
    return [found.partition(",")[2] for found in done.stdout.split()]


def test_the_shell_completes_commands_options_and_names(server: Serving) -> None:
    assert complete("jobserver su") == ["submit"]
    assert complete("jobserver dlq re") == ["replay"]
    assert "--file" in complete("jobserver submit --f")
    assert complete("jobserver list --status c") == ["completed", "canceled"]
    assert complete("jobserver submit ho", server.url) == ["hostile"]
    assert complete("jobserver queues pause de", server.url) == ["default"]
    assert complete("jobserver submit ho") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_accepted_by_their_shells(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capfd.readouterr().out
    assert "_JOBSERVER_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} on this machine to read its script")
    subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=30)


def test_bash_completes_by_the_script(server: Serving, tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash on this machine")
    program = tmp_path / "jobserver"
    program.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(jobserver completion bash)"
        COMP_WORDS=(jobserver submit ho) COMP_CWORD=2
        _jobserver_completion jobserver ho submit
        echo "${COMPREPLY[@]}"
    """
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        env=environment(PATH=path, JOBSERVER_URL=server.url),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.strip() == "hostile", done.stderr


def cpu_seconds(command: list[str], **options: Any) -> float:
    """What it takes of the machine: the time of a process that shares no core."""
    before = os.times()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=30, **options)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


# The table needs more than the bytes of --json.
@judged_by_the_clock
@pytest.mark.parametrize("args", [["stats", "--json"], ["stats"], ["submit", "echo"], ["list"]], ids=" ".join)
def test_a_client_command_answers_at_once(server: Serving, tmp_path: Path, args: list[str]) -> None:
    def ours() -> float:
        return cpu_seconds([*COMMAND, *args], cwd=tmp_path, env=environment(JOBSERVER_URL=server.url))

    ours()
    # Next to each other: how slow the machine is at the moment, others on it included, is in both.
    found = [(ours(), cpu_seconds(YARDSTICK)) for _ in range(RUNS)]
    answer = statistics.median(seconds for seconds, _ in found)
    slowness = max(1.0, statistics.median(yard for _, yard in found) / YARDSTICK_SECONDS)
    assert answer <= FIRST_ANSWER_SECONDS * slowness, found
