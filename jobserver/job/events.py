"""What readers of live events get: transitions of jobs as server-sent events, and the names of their places.

A place names the content of Redis that it belongs to (`feed`), the entry, and how many of the entry's events are
behind it; a reader that comes back with the last one that it saw goes on from there.
"""

from __future__ import annotations

import functools
import re
from typing import Final

import msgspec

from jobserver.job.model import TERMINAL, Progress, Status
from jobserver.job.times import from_us

DELETED: Final = "deleted"
KEEPALIVE: Final = b": keepalive\n"

_TERMINAL: Final = frozenset(status.value for status in TERMINAL)
_PLACE: Final = re.compile(r"([0-9a-f]{8})-([0-9]{1,20})-([0-9]{1,20})(?:-([0-9]{1,9}))?")
_MAX_NUMBER: Final = 2**64 - 1
_FENCE: Final = re.compile(r"(none|[0-9a-f-]{1,62})\.([0-9]{1,18})")
_encode: Final = msgspec.json.Encoder().encode


class Place(msgspec.Struct, frozen=True):
    """A place in the feed: after the first `behind` events of an entry, or after all of it."""

    feed: str
    milliseconds: int
    sequence: int
    behind: int | None = None

    @property
    def entry(self) -> str:
        """The entry's id in the stream."""
        return f"{self.milliseconds}-{self.sequence}"

    @property
    def text(self) -> str:
        text = f"{self.feed}-{self.milliseconds}-{self.sequence}"
        return text if self.behind is None else f"{text}-{self.behind}"


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One transition: what the job is since then, under which fence. `status` may also be "deleted"."""

    id: str
    type: str
    queue: str
    status: str
    attempt: int
    fence: int

    @property
    def terminal(self) -> bool:
        return self.status in _TERMINAL


class State(msgspec.Struct, frozen=True):
    """What a job is, and since when."""

    change: Change
    at: str


class JobEvent(msgspec.Struct, frozen=True):
    """The data of `event: job`."""

    id: str
    type: str
    queue: str
    status: Status
    attempt: int
    fence: int
    at: str


class ProgressEvent(msgspec.Struct, frozen=True):
    """The data of `event: progress`."""

    id: str
    progress: Progress
    at: str


def place_of(text: str) -> Place | None:
    """The place that an event's id names, None for what is none."""
    found = _PLACE.fullmatch(text)
    if found is None:
        return None
    feed, milliseconds, sequence, behind = found.groups()
    place = Place(feed, int(milliseconds), int(sequence), None if behind is None else int(behind))
    # Redis refuses larger numbers, and a reader would wait for an answer for ever.
    return place if max(place.milliseconds, place.sequence) <= _MAX_NUMBER else None


def place_and_fence_of(text: str) -> tuple[Place | None, int] | None:
    """The place and the fence that the id of an event of one job's stream names, None for what is none."""
    found = _FENCE.fullmatch(text)
    return None if found is None else (place_of(found[1]), int(found[2]))


def shown(at_us: int) -> str:
    """A moment as JSON shows it."""
    return from_us(at_us).isoformat().replace("+00:00", "Z")


@functools.lru_cache(1024)
def _quoted(name: str) -> str:
    # Most names come again and again.
    return _encode(name).decode()


def job_event(place: str, change: Change, at: str) -> str:
    """A transition as a server-sent event."""
    head = f'"id":"{change.id}","type":{_quoted(change.type)},"queue":{_quoted(change.queue)}'
    if change.status == DELETED:
        return f'id: {place}\nevent: deleted\ndata: {{{head},"fence":{change.fence},"at":"{at}"}}\n\n'
    return (
        f'id: {place}\nevent: job\ndata: {{{head},"status":"{change.status}","attempt":{change.attempt},'
        f'"fence":{change.fence},"at":"{at}"}}\n\n'
    )


def progress_event(job_id: str, progress: Progress, at: str) -> bytes:
    """What a handler said of itself, as a server-sent event. Without an id: it is not replayed."""
    return b"event: progress\ndata: %s\n\n" % _encode(ProgressEvent(job_id, progress, at))


def reset_event(place: str, reason: str) -> bytes:
    """A gap: what a reader knows may be out of date."""
    return b'id: %s\nevent: reset\ndata: {"reason":"%s"}\n\n' % (place.encode(), reason.encode())


def place_event(place: str) -> bytes:
    """Nothing but a place, from where a reader that comes back goes on."""
    return b"id: %s\n\n" % place.encode()
