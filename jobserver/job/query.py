"""What may be asked of stored jobs, and the shape of what comes back: shared by the store and its readers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec

from jobserver.job.model import TERMINAL, WAITING, Job, QueueInfo, Status


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs a list shows; what is None or empty does not restrict it. Times are aware UTC.

    `created_after` and `created_before` are exclusive. `q` is a part of the payload's JSON, `error` one of the last
    error's type or message; `not_asked` leaves out what was asked to end. `dead_first` orders by the time of failure,
    newest first, where the usual order is by creation, newest first.
    """

    statuses: frozenset[Status] = frozenset()
    type: str | None = None
    queue: str | None = None
    tag: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    fingerprint: str | None = None
    q: str | None = None
    error: str | None = None
    not_asked: bool = False
    dead_first: bool = False


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a list. `total` counts the whole list, up to a cap; the last page has no `next_cursor`.

    `partial`: the time was over before the page was full, and the list goes on at the cursor.
    """

    items: list[Job]
    total: int
    total_capped: bool
    next_cursor: str | None
    partial: bool = False


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which failed jobs a command is about: of `type`, in `queue`, failed as `fingerprint` says and among `ids`, as far
    as these are given.

    With nothing given it selects all of them, and then `all` must say so.
    """

    type: str | None = None
    queue: str | None = None
    fingerprint: str | None = None
    ids: tuple[UUID, ...] = ()
    all: bool = False


Verb = Literal["cancel", "retry", "delete"]
# What a verb may be done to.
PERMITTED: Final[Mapping[Verb, frozenset[Status]]] = {
    "cancel": WAITING | {Status.RUNNING},
    "retry": frozenset({Status.FAILED, Status.CANCELED}),
    "delete": TERMINAL,
}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done to many jobs: those that `wanted` chooses, newest first, or those of `ids`.

    `limit` is for what is chosen; all of the ids are meant. `cursor` is where an order before this one
    left off. Statuses that the verb does not permit are left alone.
    """

    verb: Verb
    wanted: JobFilter = JobFilter()
    ids: tuple[UUID, ...] = ()
    limit: int = 1_000
    cursor: str | None = None
    dry_run: bool = False

    @property
    def statuses(self) -> frozenset[Status]:
        """Of the jobs that it may change."""
        permitted = PERMITTED[self.verb]
        return permitted & self.wanted.statuses if self.wanted.statuses else permitted


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an order: how many jobs it was about, and which it changed (or would).

    With a `next_cursor` not all were looked at: more may be there.
    """

    matched: int
    changed: int
    ids: list[UUID]
    next_cursor: str | None = None


class FailedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Failed jobs of one type whose errors have the same fingerprint. The error is that of the last."""

    type: str
    fingerprint: str
    error_type: str
    message: str
    count: int
    first_failed_at: datetime
    last_failed_at: datetime
    queues: tuple[str, ...]
    last_id: UUID


class FailedGroups(msgspec.Struct, frozen=True):
    """Groups, the most recently failed first. `partial`: there was no time to count all jobs."""

    items: list[FailedGroup]
    partial: bool


class Cancellation(msgspec.Struct, frozen=True):
    """What a cancel did: a job that `was_running` is asked to end, any other is canceled. `job` is as it is now."""

    job: Job
    was_running: bool


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a waiting job stands: how many due ones go before it (or more, where `capped`).

    `queued` counts the queued jobs of its queue, where that was looked at.
    """

    paused: bool
    ahead: int
    capped: bool
    queued: int | None = None


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """The whole server in numbers. `workers` counts the live ones; `oldest_waiting_seconds` is over all."""

    total: int
    by_status: dict[Status, int]
    dlq: int
    workers: int
    queues: tuple[QueueInfo, ...]
    oldest_waiting_seconds: float | None
