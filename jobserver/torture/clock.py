"""The wall clock of a process, moved on purpose: by what the environment says, for a server and its children.

Moved is what Python code asks for the time of day: `time.time`, `time_ns`, `clock_gettime` of the real-time clock,
`gmtime`, `localtime`, and `now`, `utcnow` and `today` of datetimes and dates. Not moved are libraries in C or Rust
that ask the system themselves, the times of files, other programs, and every monotonic clock.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import time
from typing import Any, Final

OFFSET_VARIABLE: Final = "TORTURE_CLOCK_OFFSET_SECONDS"

# The right time, for the oracle: kept before anything is moved.
true_time_ns: Final = time.time_ns


def shift_as_told() -> None:
    """Move the clock by the variable of the environment, if there is one. A second call does nothing."""
    seconds = float(os.environ.get(OFFSET_VARIABLE, "0"))
    if seconds and time.time_ns is true_time_ns:
        shift(seconds)


def shift(seconds: float) -> None:
    """Move the clock of this process, for good."""
    offset_ns = int(seconds * 1e9)
    gettime_ns, gmtime, localtime = time.clock_gettime_ns, time.gmtime, time.localtime

    def moved_time_ns() -> int:
        return true_time_ns() + offset_ns

    def moved_time() -> float:
        return moved_time_ns() / 1e9

    def moved_gettime_ns(clock: int) -> int:
        return gettime_ns(clock) + (offset_ns if clock == time.CLOCK_REALTIME else 0)

    moved: dict[str, Any] = {
        "time_ns": moved_time_ns,
        "time": moved_time,
        "clock_gettime_ns": moved_gettime_ns,
        "clock_gettime": lambda clock: moved_gettime_ns(clock) / 1e9,
        "gmtime": lambda at=None: gmtime(moved_time() if at is None else at),
        "localtime": lambda at=None: localtime(moved_time() if at is None else at),
    }
    for name, function in moved.items():
        setattr(time, name, function)
    _move_datetime()


def _move_datetime() -> None:
    """`now` and `utcnow` of the one class that there is: what everybody has imported stays that class."""

    def now(cls: type[datetime.datetime], tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return cls.fromtimestamp(time.time(), tz)

    def utcnow(cls: type[datetime.datetime]) -> datetime.datetime:
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    # A class in C does not let itself be assigned to; `today` asks `time.time` by itself.
    [attributes] = [each for each in gc.get_referents(datetime.datetime.__dict__) if isinstance(each, dict)]
    attributes["now"] = classmethod(now)
    attributes["utcnow"] = classmethod(utcnow)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))
