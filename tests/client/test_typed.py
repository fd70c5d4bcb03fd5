"""Submits are checked by the handler's own signature, before anything runs."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

SAMPLE = Path(__file__).with_name("typed.py")
PROJECT = Path(__file__).parents[2]


def test_the_package_says_that_it_is_typed() -> None:
    assert files("jobserver").joinpath("py.typed").is_file()


def test_a_checker_refuses_what_does_not_fit_and_nothing_else() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", str(SAMPLE)]
    # Its cache is that of the project: the second time takes a second.
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=110)
    found = {
        (int(line), code)
        for line, code in re.findall(rf"{SAMPLE.name}:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    }
    expected = {
        (number, code)
        for number, line in enumerate(SAMPLE.read_text().splitlines(), start=1)
        for code in re.findall(r"# refused: ([\w-]+)", line)
    }
    assert found == expected, done.stdout + done.stderr
    assert len(expected) >= 10
