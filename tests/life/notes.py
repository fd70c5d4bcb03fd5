"""What handlers wrote down for a test, over processes: one JSON object a line, in a file that the job names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jobserver import Attempt


def write_note(file: str, attempt: Attempt, event: str) -> None:
    """Append a line; a single write, so that those of several processes do not mix."""
    note = {"event": event, "job_id": str(attempt.job_id), "fence": attempt.fence, "pid": os.getpid()}
    with open(file, "ab", buffering=0) as notes:
        notes.write(json.dumps(note).encode() + b"\n")


class Notes:
    """The file of one test, and the gate that its handlers wait for."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "notes"
        self.gate = folder / "gate"
        self.file.touch()

    @property
    def gated(self) -> dict[str, str]:
        """The payload of a job that runs until the gate opens."""
        return {"file": str(self.file), "gate": str(self.gate)}

    def open_gate(self) -> None:
        self.gate.touch()

    def of(self, job_id: str) -> list[dict[str, Any]]:
        """What was noted of a job, oldest first."""
        return [note for note in self.all() if note["job_id"] == job_id]

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    def events(self, job_id: str) -> list[str]:
        return [note["event"] for note in self.of(job_id)]
