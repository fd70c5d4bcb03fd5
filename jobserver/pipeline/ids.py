"""Ids of jobs: UUIDv7 by the database's clock, so that they follow `created_at` on every process.

Time-ordered within a process even inside a millisecond (RFC 9562, section 6.2, method 3), which the libraries
that take a time as an argument do not give.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

import msgspec

_RANDOM_BITS: Final = 62
# A call of the system each 512 ids, not one each.
_CHUNK: Final = 512 * 8


class Ids:
    """`now_us` gives microseconds since 1970."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._last = 0
        self._random: Iterator[tuple[int]] = iter(())

    def next(self) -> UUID:
        return UUID(int=self._number(self._stamps(1)[0]))

    def many(self, count: int) -> list[UUID]:
        """So many ids, in order, of one reading of the clock."""
        halves = [0] * (2 * count)
        halves[::2] = [(stamp >> 12) << 16 | 7 << 12 | stamp & 0xFFF for stamp in self._stamps(count)]
        halves[1::2] = [0b10 << 62 | bits >> 2 for bits in struct.unpack(f"={count}Q", os.urandom(8 * count))]
        digits = struct.pack(f">{2 * count}Q", *halves).hex()
        # Made by msgspec in C: UUID() takes ten times that.
        return msgspec.convert([digits[at : at + 32] for at in range(0, 32 * count, 32)], list[UUID])

    def _stamps(self, count: int) -> range:
        """Milliseconds and 12 bits of the fraction of one, each higher than all before."""
        milliseconds, rest_us = divmod(self._now_us(), 1000)
        first = max((milliseconds << 12) | (rest_us * 4096 // 1000), self._last + 1)
        self._last = first + count - 1
        return range(first, first + count)

    def _number(self, stamp: int) -> int:
        """Version, variant and random bits in their places."""
        return (stamp >> 12) << 80 | 7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | self._bits()

    def _bits(self) -> int:
        drawn = next(self._random, None)
        if drawn is None:
            self._random = struct.iter_unpack("=Q", os.urandom(_CHUNK))
            drawn = next(self._random)
        return drawn[0] >> (64 - _RANDOM_BITS)
