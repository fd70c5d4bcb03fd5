"""What a parent and its processes say to each other, over a socket pair that ends with either of them.

Down: one line, the `Task`; then orders of one byte each. Up: one line, `Told`, once the process has started or cannot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from jobserver.settings import Settings

# Another process accepts from the same listener: accept nothing more, drain, and end.
RETIRE: Final = b"r"
# Drain and end.
DRAIN: Final = b"d"
# Give up the drain.
NOW: Final = b"n"

MAX_LINE: Final = 1_048_576


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is to be. It goes over the socket, not the command line: it has the engines' passwords."""

    settings: Settings
    number: int
    # Where the processes find each other.
    folder: str


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """That a process has started: where, and what people want to know of it; or why it cannot."""

    url: str | None = None
    rows: tuple[tuple[str, str], ...] = ()
    refused: str | None = None


def encode(line: Task | Told) -> bytes:
    return msgspec.json.encode(line, enc_hook=str) + b"\n"


def decode_task(line: bytes) -> Task:
    return msgspec.json.decode(line, type=Task, dec_hook=_read)


def decode_told(line: bytes) -> Told:
    """Raises msgspec.MsgspecError."""
    return msgspec.json.decode(line, type=Told)


def _read(kind: type[Any], value: Any) -> Any:
    return Path(value) if kind is Path else value
