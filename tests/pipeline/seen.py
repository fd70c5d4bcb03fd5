"""What a child process is told to call before it imports handlers."""

from __future__ import annotations

import sys
from pathlib import Path


def note_modules(file: str) -> None:
    """Write down what is imported so far."""
    Path(file).write_text("\n".join(sys.modules), encoding="utf-8")
