"""What a process and its children say to each other: msgpack structs, each behind its length in four bytes.

With the template, which forks the children, it exchanges orders and notices of a fixed size.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final

import msgspec

from jobserver.job.model import Canceled, Claimed, HandedBack, LeaseLost, Outcome, Progress, Raised, Returned, Snoozed
from jobserver.pipeline.running import CancelReason
from jobserver.settings import MEBIBYTE

# Payloads and results are at most 64 MiB by the settings; one of them fits into a frame, with its surroundings.
MAX_FRAME_BYTES: Final = 65 * MEBIBYTE
_LENGTH_BYTES: Final = 4

# To the template: what, and which child. With FORK comes the descriptor of the new child's stream.
ORDER: Final = struct.Struct("!ci")
FORK: Final = b"F"
KILL: Final = b"K"
# From the template: what, which child, and its exit status (negative: the signal), or why there is none (errno).
NOTICE: Final = struct.Struct("!cii")
READY: Final = b"R"
BORN: Final = b"B"
BARREN: Final = b"X"
ENDED: Final = b"E"


class Setup(msgspec.Struct, frozen=True, tag=True):
    """To a child, first: where to import from, and what. `call` runs before, with its keyword arguments."""

    path: list[str]
    references: tuple[str, ...]
    max_result_bytes: int
    call: str | None
    call_arguments: dict[str, Any]


class Run(msgspec.Struct, frozen=True, tag=True):
    """To a child: run this job."""

    job: Claimed


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To a child: ask the running attempt to end."""

    reason: CancelReason


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a child: it takes jobs, unless `error` says why not."""

    error: str | None


class Started(msgspec.Struct, frozen=True, tag=True):
    """From a child: the handler is about to run."""


class Reported(msgspec.Struct, frozen=True, tag=True):
    """From a child: progress."""

    progress: Progress


class Ended(msgspec.Struct, frozen=True, tag=True):
    """From a child: the attempt is over. `kind` names the outcome's struct."""

    kind: str
    outcome: msgspec.Raw


ToChild = Setup | Run | Stop
FromChild = Ready | Started | Reported | Ended

_encode: Final = msgspec.msgpack.Encoder().encode
_OUTCOMES: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    kind.__name__: msgspec.msgpack.Decoder(kind)
    for kind in (Returned, Raised, Snoozed, Canceled, HandedBack, LeaseLost)
}
to_child: Final = msgspec.msgpack.Decoder(ToChild)
from_child: Final = msgspec.msgpack.Decoder(FromChild)


class FrameError(ValueError):
    """What came is not a frame."""


def ended(outcome: Outcome) -> Ended:
    return Ended(type(outcome).__name__, msgspec.Raw(_encode(outcome)))


def outcome_of(frame: Ended) -> Outcome:
    """Raises FrameError."""
    decoder = _OUTCOMES.get(frame.kind)
    if decoder is None:
        raise FrameError(f"unknown outcome {frame.kind!r}")
    try:
        outcome: Outcome = decoder.decode(frame.outcome)
    except msgspec.MsgspecError as error:
        raise FrameError(str(error)) from None
    return outcome


def encode_frame(frame: ToChild | FromChild) -> bytes:
    """Raises FrameError for a frame that is too large to be read."""
    body = _encode(frame)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


async def read_frame(reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[Any]) -> Any:
    """The next frame; None at the end of the stream, however it ended. Raises FrameError."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        if length > MAX_FRAME_BYTES:
            raise FrameError(f"a frame of {length} bytes")
        body = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError):
        return None
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FrameError(str(error)) from None
