"""What the clients' calls exchange with whoever does the I/O. Times are in seconds."""

from __future__ import annotations

from collections.abc import Generator
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Send this. `seconds` is how long the whole exchange may take."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    seconds: float
    # Repeating it changes nothing: it may be sent again even where the first one may have arrived.
    repeatable: bool = True
    # Done in several steps: some of them may be done where the rest is refused.
    in_steps: bool = False
    # Statuses beside 2xx whose body is an answer and not a problem.
    answers: tuple[int, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


class Pause(msgspec.Struct, frozen=True):
    """Wait this long."""

    seconds: float


class Response(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    body: bytes
    retry_after: str | None = None
    # The time by which a Retry-After that is a date is meant.
    date: str | None = None


class Lost(msgspec.Struct, frozen=True):
    """Nothing came back. `sent` is whether the request may have arrived."""

    reason: str
    sent: bool


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """A decoded answer, and the bytes of which it was made."""

    value: T
    body: bytes


# A conversation: yields what to do next, is sent what came of it, returns its result.
Steps = Generator[Request | Pause, Response | Lost | None, T]
