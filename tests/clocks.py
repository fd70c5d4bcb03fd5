"""Tests and time: those that the machine's clock judges, and clocks that a test puts in the place of `time`."""

from __future__ import annotations

import pytest

# What is too slow is so every time, a busy machine now and then: tried again, and the report counts it.
judged_by_the_clock = pytest.mark.flaky(reruns=2)


class Hurried:
    """A clock of a walk on which every look takes a while."""

    def __init__(self, step_seconds: float) -> None:
        self._step_seconds = step_seconds
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += self._step_seconds
        return self._now
