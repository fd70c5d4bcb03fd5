"""Who is measured, and how each one is run. What one persists, and when, is said by its side's docstring."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import msgspec

SIDES: Final = Path(__file__).parent / "sides"


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """One system. A glue is submitted to over HTTP and judged by its rows; the others by what handlers mark."""

    name: str
    # At least this version.
    python: tuple[int, int] = (3, 11)
    node: bool = False
    postgres: bool = False
    glue: bool = False
    # Submits go over HTTP.
    serves: bool = False
    # The worker takes them itself, so that it needs no second process.
    worker_serves: bool = False

    @property
    def script(self) -> Path:
        return SIDES / f"{self.name}_side.{'cjs' if self.node else 'py'}"

    @property
    def persists(self) -> str:
        """Its side's word."""
        return self._says("Persists", "what it persists")

    @property
    def recovery(self) -> str:
        """What finds the job of a worker that was killed: its side's word."""
        return self._says("Recovery", "how it recovers")

    def _says(self, section: str, what: str) -> str:
        source = self.script.read_text(encoding="utf-8")
        text = source.partition("*/")[0] if self.node else ast.get_docstring(ast.parse(source)) or ""
        found = re.search(rf"^{section}: (.*?)(?=^(?:Recovery|Settings): |\Z)", text, re.MULTILINE | re.DOTALL)
        if found is None:
            raise ValueError(f"{self.script.name} does not say {what}")
        return " ".join(found[1].split())


OURS: Final = Contender(name="jobserver", postgres=True, serves=True, worker_serves=True)

PEERS: Final = (
    Contender(name="pgqueuer", postgres=True),
    Contender(name="ardiq", python=(3, 12)),
    Contender(name="bullmq", node=True),
    Contender(name="dramatiq"),
    Contender(name="oban", postgres=True, python=(3, 12)),
    Contender(name="taskiq_redis"),
    Contender(name="saq"),
    Contender(name="arq"),
    Contender(name="celery"),
    Contender(name="streaq"),
    Contender(name="procrastinate", postgres=True),
    Contender(name="glue_celery", postgres=True, glue=True, serves=True),
    Contender(name="glue_arq", postgres=True, glue=True, serves=True),
    Contender(name="glue_saq", postgres=True, glue=True, serves=True),
)
