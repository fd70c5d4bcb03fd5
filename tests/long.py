"""Tests that take a minute, and tell little that others do not: `just full` runs them too."""

from __future__ import annotations

import os
from typing import Final

import pytest

VARIABLE: Final = "JOBSERVER_TEST_LONG"
LONG: Final = pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"long: run by `just full` ({VARIABLE}=1)")
