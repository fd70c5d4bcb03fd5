"""Clocks that a test puts in the place of the module `time`."""

from __future__ import annotations


class Hurried:
    """A clock of a walk on which every look takes a while."""

    def __init__(self, step_seconds: float) -> None:
        self._step_seconds = step_seconds
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += self._step_seconds
        return self._now
