"""Fixtures for pytest, in every project that has jobserver installed; they import nothing until they are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from jobserver.job.handlers import Handlers
    from jobserver.testing import Sandbox


@pytest.fixture
def jobserver_handlers() -> Handlers | None:
    """The handlers of `jobserver_sandbox`: override it in your conftest.py. None: every type, and none is run."""
    return None


@pytest.fixture
def jobserver_sandbox(jobserver_handlers: Handlers | None) -> Iterator[Sandbox]:
    """A `jobserver.testing.Sandbox`, to which every Client talks that the test makes."""
    from jobserver.testing import Sandbox

    with Sandbox(jobserver_handlers).capture() as sandbox:
        yield sandbox
