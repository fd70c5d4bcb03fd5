"""The environment of the processes that tests start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[1]
# Found first, and refuse: see what is in there.
_UNINSTALLED: Final = PROJECT / "tests" / "uninstalled"
_OURS: Final = ("JOBSERVER_", "OTEL_", "PYTHONDONTWRITEBYTECODE", "PYTEST_")


def environment(**variables: str) -> dict[str, str]:
    """This process's, as a user would have it: none of our variables, and .pyc files are written."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**inherited, "PYTHONPATH": f"{_UNINSTALLED}{os.pathsep}{PROJECT}", **variables}
