"""What may be asked of stored jobs, and the shape of what comes back: shared by the store and its readers."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from jobserver.job.model import Job, QueueInfo, Status


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs a list shows; what is None or empty does not restrict it. Times are aware UTC.

    `created_after` and `created_before` are exclusive. `dead_first` orders by the time of failure, newest
    first, where the usual order is by creation, newest first.
    """

    statuses: frozenset[Status] = frozenset()
    type: str | None = None
    queue: str | None = None
    tag: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    dead_first: bool = False


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a list. `total` counts the whole list, up to a cap; the last page has no `next_cursor`."""

    items: list[Job]
    total: int
    total_capped: bool
    next_cursor: str | None


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which failed jobs a command is about: of `type`, in `queue` and among `ids`, as far as these are given.

    With nothing given it selects all of them, and then `all` must say so.
    """

    type: str | None = None
    queue: str | None = None
    ids: tuple[UUID, ...] = ()
    all: bool = False


class Cancellation(msgspec.Struct, frozen=True):
    """What a cancel did: a job that `was_running` is asked to end, any other is canceled. `job` is as it is now."""

    job: Job
    was_running: bool


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """The whole server in numbers. `workers` counts the live ones; `oldest_waiting_seconds` is over all."""

    total: int
    by_status: dict[Status, int]
    dlq: int
    workers: int
    queues: tuple[QueueInfo, ...]
    oldest_waiting_seconds: float | None
