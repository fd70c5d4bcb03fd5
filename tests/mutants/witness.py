"""A plugin of pytest, for runs on a copy of the tree: they must import the copy, and no installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

import jobserver
import tests


def pytest_configure(config: pytest.Config) -> None:
    for package in (jobserver, tests):
        if not Path(str(package.__file__)).resolve().is_relative_to(Path.cwd().resolve()):
            raise pytest.UsageError(f"{package.__file__} is not of the copy in {Path.cwd()}")
