"""A process whose clock is moved: what it takes for the time, and what stays right."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from jobserver.torture.clock import OFFSET_VARIABLE
from tests.children import environment

# Names taken before the clock is moved have to be moved too, as far as they are those of a class.
ASK = """
import datetime, json, time
from datetime import date, datetime as early
from jobserver.torture import clock
clock.shift_as_told()
clock.shift_as_told()
from time import time as late
import msgspec
class Own(early): pass
utc = datetime.UTC
print(json.dumps({
    "time": late(),
    "time_ns": time.time_ns() / 1e9,
    "clock_gettime": time.clock_gettime(time.CLOCK_REALTIME),
    "clock_gettime_ns": time.clock_gettime_ns(time.CLOCK_REALTIME) / 1e9,
    "gmtime": __import__("calendar").timegm(time.gmtime()),
    "localtime": time.mktime(time.localtime()),
    "now": early.now().timestamp(),
    "now(UTC)": early.now(utc).timestamp(),
    "utcnow": early.utcnow().replace(tzinfo=utc).timestamp(),
    "today": early.today().timestamp(),
    "subclass": Own.now(tz=utc).timestamp(),
    "right": clock.true_time_ns() / 1e9,
    "monotonic": time.monotonic(),
    "gmtime of a moment": time.gmtime(0).tm_year,
    "date": (date.today() - date.fromtimestamp(late())).days,
    "encoded": msgspec.json.encode(early.now(utc)).decode(),
}))
"""
RIGHT = ("right", "monotonic", "gmtime of a moment", "date", "encoded")


@pytest.mark.parametrize("hours", [1, -1])
def test_every_question_for_the_time_of_day_is_answered_with_the_offset(hours: int) -> None:
    told = json.loads(asked(str(hours * 3600.0)))
    moved = {name: round((at - told["right"]) / 60) for name, at in told.items() if name not in RIGHT}
    assert moved == dict.fromkeys(moved, hours * 60)
    assert len(moved) == 11
    assert abs(told["right"] - time.time()) < 60
    assert abs(told["monotonic"] - time.monotonic()) < 60
    assert (told["gmtime of a moment"], told["date"]) == (1970, 0)
    assert told["encoded"].endswith('Z"')


def test_nothing_is_moved_unless_it_is_told() -> None:
    told = json.loads(asked(None))
    assert abs(told["time"] - told["right"]) < 1


def asked(offset: str | None) -> str:
    variables = {} if offset is None else {OFFSET_VARIABLE: offset}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_the_command_starts_on_a_moved_clock_as_on_any_other() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobserver.torture.moved", "--version"],
        env=environment(**{OFFSET_VARIABLE: "3600"}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("jobserver ")
