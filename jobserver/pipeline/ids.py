"""Ids of jobs: UUIDv7 by the database's clock, so that they follow `created_at` on every process.

Time-ordered within a process even inside a millisecond (RFC 9562, section 6.2, method 3), which the libraries
that take a time as an argument do not give.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from uuid import UUID


class Ids:
    """`now_us` gives microseconds since 1970."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._last = 0

    def next(self) -> UUID:
        now_us = self._now_us()
        milliseconds, rest_us = divmod(now_us, 1000)
        # 12 bits hold the fraction of the millisecond.
        stamp = (milliseconds << 12) | (rest_us * 4096 // 1000)
        self._last = stamp = max(stamp, self._last + 1)
        milliseconds, fraction = stamp >> 12, stamp & 0xFFF
        return UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62))
