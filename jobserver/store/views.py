"""Views: lists, counts and single rows for the API. Reads only; what has to scan is bounded in time."""

from __future__ import annotations

import base64
import binascii
import heapq
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa

from jobserver.errors import Invalid
from jobserver.job.events import Change, State, shown
from jobserver.job.model import (
    CALLBACK_QUEUE,
    AttemptRecord,
    Job,
    Priority,
    QueueInfo,
    Status,
    TypeInfo,
    WorkerInfo,
)
from jobserver.job.query import FailedGroup, FailedGroups, JobFilter, Page, Standing, Stats
from jobserver.job.times import from_us, instant_us
from jobserver.store.engine import Database, OutOfTime, Row
from jobserver.store.rows import STATUSES, attempt_of, error_of, job_of, names_of, type_of
from jobserver.store.search import BY_FINGERPRINT, BY_ID, Place, Walk, conditions_of, failed_path, few_path
from jobserver.store.tables import jobs

TOTAL_CAP: Final = 10_000
# As far as the statements count jobs before another, or after it.
STANDING_CAP: Final = 10_000
# As many jobs a list may pass over.
MAX_OFFSET: Final = 1_000_000_000
_SKIP_BYTES: Final = 4
ALIVE_SECONDS: Final = 5.0
# So long a page is looked for, and what it is a page of is counted; so long jobs for a command are.
LIST_SECONDS: Final = 2.0
COUNT_SECONDS: Final = 0.5
SELECT_SECONDS: Final = 5.0
COUNT_CAP: Final = 2**31
# So many jobs are gathered and put in order: with more of them, every so many rows in that order is one.
FEW: Final = 10_000
# Each row of a window may be a group of its own, and what is done with them holds up all else.
GROUPS_WINDOW: Final = 2_000


class Selected(msgspec.Struct, frozen=True):
    """Jobs for a command with the fences that they had, and where to go on if not all were looked at."""

    fences: dict[UUID, int]
    next_cursor: str | None


class _Sum:
    """A group as far as it was counted."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Any = None
        self.last: Any = None
        self.queues: set[str] = set()

    def add(self, row: Mapping[str, Any]) -> None:
        self.count += row["n"]
        self.first = row["first"] if self.first is None else min(self.first, row["first"])
        self.last = row["last"] if self.last is None else max(self.last, row["last"])
        self.queues.add(row["queue"])


class _Groups:
    """The groups that failed last, of any number: a walk forgets others once it is past their fingerprint."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.sums: dict[tuple[str, str], _Sum] = {}

    def add(self, rows: Sequence[Mapping[str, Any]], to: Place | None) -> None:
        """What a window has, that goes up to a place; the next window may go on with the same fingerprint."""
        for row in rows:
            self.sums.setdefault((row["fingerprint"], row["type"]), _Sum()).add(row)
        if to is None or len(self.sums) > self._limit:
            over = {key: each for key, each in self.sums.items() if to is None or key[0] != to[0]}
            kept = heapq.nlargest(self._limit, over.items(), key=lambda item: item[1].last)
            self.sums = dict(kept) | {key: each for key, each in self.sums.items() if key not in over}

    def last(self) -> list[tuple[tuple[str, str], _Sum]]:
        """The groups that failed last, the last first."""
        return heapq.nlargest(self._limit, self.sums.items(), key=lambda item: item[1].last)


class Failed(msgspec.Struct, frozen=True):
    """A failed job under the fence of its end."""

    job_id: UUID
    fence: int


class Oldest(msgspec.Struct, frozen=True):
    """Failed jobs, and the place in the order of failures from which to go on: None where no more are there."""

    jobs: list[Failed]
    after: Place | None


class Views:
    """What the API shows of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def job(self, job_id: UUID) -> Job | None:
        async with self._database.look() as session:
            rows = await session.fetch("job", id=job_id)
        return job_of(self._database, rows[0]) if rows else None

    async def statuses(self, ids: Sequence[UUID]) -> dict[UUID, Status]:
        """Where some jobs are; those that do not exist are left out."""
        async with self._database.look() as session:
            rows = await session.fetch("statuses", ids=list(ids))
        return {self._database.uuid(row["id"]): STATUSES[row["status"]] for row in rows}

    async def states(self, ids: Sequence[UUID]) -> dict[UUID, State]:
        """Where some jobs are, as events tell it; those that do not exist are left out."""
        async with self._database.look() as session:
            rows = await session.fetch("states", ids=list(ids))
        return {
            (job_id := self._database.uuid(row["id"])): State(
                Change(str(job_id), row["type"], row["queue"], row["status"], row["attempt"], row["fence"]),
                shown(instant_us(self._database.moment(row["updated_at"]))),
            )
            for row in rows
        }

    async def attempts(self, job_id: UUID) -> list[AttemptRecord] | None:
        """The history of a job, oldest first, the running attempt last; None when there is no such job."""
        async with self._database.look() as session:
            rows = await session.fetch("job", id=job_id)
            if not rows:
                return None
            job = job_of(self._database, rows[0])
            history = await session.fetch("attempts", id=job_id)
        records = [attempt_of(self._database, row) for row in history]
        ended = {record.fence for record in records}
        # The job and its history are read one after the other: an attempt may have ended in between.
        if job.status is Status.RUNNING and job.started_at is not None and job.fence not in ended:
            records.append(
                AttemptRecord(
                    number=job.attempt,
                    fence=job.fence,
                    started_at=job.started_at,
                    ended_at=None,
                    outcome="running",
                    error=None,
                    worker_id=job.worker_id,
                )
            )
        return records

    async def standing(self, job: Job, *, due: bool) -> Standing:
        """Where a waiting job stands in its queue; that is counted only of one that is `due`.

        With a long backlog on both sides of it the count is capped. With a short one behind it, which is where new jobs
        are, it is what the kept counts say less those behind: due jobs of another status than queued are left out.
        """
        async with self._database.look() as session:
            rows = await session.fetch("jobs_ahead", id=job.id, due=due)
            paused, ahead = (bool(rows[0]["paused"]), rows[0]["ahead"]) if rows else (False, 0)
            if ahead < STANDING_CAP:
                return Standing(paused=paused, ahead=ahead, capped=False)
            found = await session.fetch("jobs_behind", id=job.id)
        behind = found[0] if found else {"behind": 0, "queued": 0}
        queued = (await self._counts()).get((job.queue, Status.QUEUED), 0)
        if behind["behind"] >= STANDING_CAP:
            return Standing(paused=paused, ahead=ahead, capped=True, queued=queued)
        known = queued - int(behind["queued"]) - (job.status is Status.QUEUED)
        return Standing(paused=paused, ahead=max(ahead, known), capped=False, queued=queued)

    async def jobs(self, wanted: JobFilter, *, limit: int, offset: int, cursor: str | None) -> Page:
        """A page of jobs: newest first, or with `dead_first` most recently failed first.

        What no index answers is looked for during two seconds; then the page is what was found, and partial.
        """
        after, skip = (None, offset) if cursor is None else self._place(cursor, wanted.dead_first)
        if _is_ordered(wanted):
            walk = None
            path = failed_path(wanted) if wanted.dead_first else BY_ID
            query = sa.select(jobs).where(*conditions_of(self._database, wanted)).order_by(*path.order)
            if after is not None:
                query = query.where(*path.between(after, None))
            rows = await self._database.select(query.limit(limit + 1).offset(skip or None))
        else:
            walk = await self._walk(wanted, after, LIST_SECONDS)
            walk.skip = skip
            rows = await walk.find((jobs,), most=limit + 1)
        items = [job_of(self._database, row) for row in rows[:limit]]
        partial = walk is not None and walk.is_late
        next_cursor = None
        if len(rows) > limit:
            next_cursor = _cursor(items[-1].id, items[-1].finished_at if wanted.dead_first else None)
        elif walk is not None and walk.after is not None and partial:
            next_cursor = self._cursor_at(walk.after, walk.skip)
        total, capped = await self._total(
            wanted, len(items), seen_all=cursor is None and not offset and not partial and next_cursor is None
        )
        return Page(items=items, total=total, total_capped=capped, next_cursor=next_cursor, partial=partial)

    async def _walk(self, wanted: JobFilter, after: Place | None, seconds: float, *, ascending: bool = False) -> Walk:
        if wanted.dead_first:
            path = failed_path(wanted, ascending=ascending)
        elif wanted.fingerprint is not None:
            alike = Walk(self._database, few_path(wanted), (), after=None, seconds=seconds)
            path = few_path(wanted) if await alike.count(most=FEW + 1) <= FEW else BY_ID
            seconds = alike.left_seconds
        else:
            path = BY_ID
            if wanted.statuses and await self._counted(JobFilter(statuses=wanted.statuses)) <= FEW:
                path = few_path(wanted)
        return Walk(self._database, path, conditions_of(self._database, wanted), after=after, seconds=seconds)

    async def select(self, wanted: JobFilter, *, limit: int, cursor: str | None) -> Selected:
        """Jobs in the order of a list, behind a cursor of the request's body."""
        after, skip = (None, 0) if cursor is None else self._place(cursor, wanted.dead_first, "$.cursor")
        walk = await self._walk(wanted, after, SELECT_SECONDS)
        walk.skip = skip
        rows = await walk.find((jobs.c.id, jobs.c.fence), most=limit)
        return Selected(
            fences={self._database.uuid(row["id"]): row["fence"] for row in rows},
            next_cursor=None if walk.is_over or walk.after is None else self._cursor_at(walk.after, walk.skip),
        )

    async def oldest_failed(self, wanted: JobFilter, *, limit: int, after: Place | None = None) -> Oldest:
        """Failed jobs, the oldest failure first; fewer than `limit`, or none, where it took too long to find them."""
        walk = await self._walk(msgspec.structs.replace(wanted, dead_first=True), after, SELECT_SECONDS, ascending=True)
        rows = await walk.find((jobs.c.finished_at, jobs.c.id, jobs.c.fence), most=limit)
        found = [Failed(self._database.uuid(row["id"]), row["fence"]) for row in rows]
        return Oldest(found, None if walk.is_over else walk.after)

    async def count_failed(self, wanted: JobFilter) -> int:
        """How many failed jobs there are of these."""
        n = 0
        after: Place | None = None
        while True:
            walk = await self._walk(msgspec.structs.replace(wanted, dead_first=True), after, SELECT_SECONDS)
            n += await walk.count(most=COUNT_CAP)
            if walk.is_over:
                return n
            after = walk.after

    async def failed_groups(self, *, type: str | None, queue: str | None, limit: int) -> FailedGroups:  # noqa: A002
        """Failed jobs by type and fingerprint, the groups that failed most recently first."""
        conditions = conditions_of(self._database, JobFilter(type=type, queue=queue))
        walk = Walk(self._database, BY_FINGERPRINT, conditions, after=None, seconds=LIST_SECONDS, largest=GROUPS_WINDOW)
        finished_at = jobs.c.finished_at
        found = _Groups(limit)
        await walk.gather(
            (
                sa.func.count().label("n"),
                sa.func.min(finished_at).label("first"),
                sa.func.max(finished_at).label("last"),
            ),
            by=(jobs.c.type, jobs.c.fingerprint, jobs.c.queue),
            into=found.add,
        )
        chosen = found.last()
        async with self._database.look() as session:
            columns = {
                "fingerprint": [fingerprint for (fingerprint, _), _ in chosen],
                "type": [kind for (_, kind), _ in chosen],
                "finished_at": [each.last for _, each in chosen],
            }
            last = {(row["fingerprint"], row["type"]): row for row in await session.fetch("last_failed", columns)}
            waiting = await session.fetch("without_fingerprint", max_rows=1)
        # One that has none any more was replayed or deleted meanwhile.
        items = [self._group(key, each, last[key]) for key, each in chosen if key in last]
        return FailedGroups(items, partial=walk.is_late or bool(waiting))

    def _group(self, key: tuple[str, str], found: _Sum, last: Row) -> FailedGroup:
        error = error_of(last["error"])
        return FailedGroup(
            type=key[1],
            fingerprint=key[0],
            error_type="" if error is None else error.type,
            message="" if error is None else error.message,
            count=found.count,
            first_failed_at=self._database.moment(found.first),
            last_failed_at=self._database.moment(found.last),
            queues=tuple(sorted(found.queues)),
            last_id=self._database.uuid(last["id"]),
        )

    async def _total(self, wanted: JobFilter, found: int, *, seen_all: bool) -> tuple[int, bool]:
        """How many jobs the whole list has, and whether there may be more."""
        if seen_all:
            return found, False
        if wanted.q is not None or wanted.error is not None:
            return found, True
        if not (wanted.type or wanted.tag or wanted.created_after or wanted.created_before or wanted.fingerprint):
            # The kept counts answer this without a look at the jobs.
            total = await self._counted(wanted)
            return min(total, TOTAL_CAP), total > TOTAL_CAP
        walk = await self._walk(wanted, None, COUNT_SECONDS)
        try:
            total = await walk.count(most=TOTAL_CAP + 1)
        except OutOfTime:
            return found, True
        return min(total, TOTAL_CAP), total > TOTAL_CAP or walk.is_late

    async def _counted(self, wanted: JobFilter) -> int:
        return sum(
            n
            for (queue, status), n in (await self._counts()).items()
            if (not wanted.statuses or status in wanted.statuses) and wanted.queue in (None, queue)
        )

    def _place(self, cursor: str, dead_first: bool, path: str = "$.query.cursor") -> tuple[Place, int]:
        """Where a list goes on, and how many jobs are passed over there."""
        finished_at, last, skip = _parse_cursor(cursor, dead_first, path)
        if finished_at is None:
            return (last,), skip
        return (instant_us(finished_at) if self._database.sqlite else finished_at, last), skip

    def _cursor_at(self, place: Place, skip: int) -> str:
        finished_at = self._database.instant(place[0]) if len(place) > 1 else None
        return _cursor(self._database.uuid(place[-1]), finished_at, skip)

    async def _counts(self) -> dict[tuple[str, Status], int]:
        async with self._database.look() as session:
            rows = await session.fetch("counts")
        return {(row["queue"], STATUSES[row["status"]]): int(row["n"]) for row in rows}

    async def by_status(self) -> dict[Status, int]:
        """How many jobs there are, from the kept counts."""
        found = dict.fromkeys(Status, 0)
        for (_, status), n in (await self._counts()).items():
            found[status] += n
        return found

    async def queues(self) -> list[QueueInfo]:
        """Every queue by name, its counts and the age of its oldest due job; that of callbacks once there was one."""
        return [
            each
            for each in await self._queues()
            if each.name != CALLBACK_QUEUE or each.paused or any(each.counts.values())
        ]

    async def _queues(self) -> list[QueueInfo]:
        async with self._database.look() as session:
            known = {row["name"]: bool(row["paused"]) for row in await session.fetch("queues")}
            streams = [(name, priority) for name in known for priority in Priority]
            ages = await session.fetch(
                "oldest_waiting",
                {"queue": [name for name, _ in streams], "priority": [int(priority) for _, priority in streams]},
            )
        oldest: dict[str, float] = {}
        for row in ages:
            oldest[row["queue"]] = max(0.0, row["seconds"], oldest.get(row["queue"], 0.0))
        counts: dict[str, dict[Status, int]] = {name: dict.fromkeys(Status, 0) for name in known}
        for (name, status), n in (await self._counts()).items():
            counts.setdefault(name, dict.fromkeys(Status, 0))[status] = n
        return [
            QueueInfo(
                name=name,
                paused=known.get(name, False),
                counts=counts[name],
                oldest_waiting_seconds=oldest.get(name),
            )
            for name in sorted(counts)
        ]

    async def queue(self, name: str) -> QueueInfo | None:
        return next((queue for queue in await self._queues() if queue.name == name), None)

    async def workers(self) -> list[WorkerInfo]:
        """Processes of the last day, newest first; of more than a thousand those that are alive are never left out for
        others. Alive: a heartbeat within 5 s, and not stopped.
        """
        async with self._database.look() as session:
            alive_since = self._database.clock.now() - timedelta(seconds=ALIVE_SECONDS)
            rows = await session.fetch("workers", alive_since=alive_since)
        found = []
        for row in rows:
            heartbeat_at = self._database.moment(row["heartbeat_at"])
            found.append(
                WorkerInfo(
                    id=row["id"],
                    host=row["host"],
                    pid=row["pid"],
                    version=row["version"],
                    started_at=self._database.moment(row["started_at"]),
                    heartbeat_at=heartbeat_at,
                    alive=heartbeat_at > alive_since and not row["stopped"],
                    draining=bool(row["draining"]),
                    concurrency=row["concurrency"],
                    running=row["running"],
                    loop_lag_seconds=row["loop_lag_seconds"],
                    queues=None if row["queues"] is None else names_of(row["queues"]),
                    types=names_of(row["types"]),
                )
            )
        return found

    async def types(self) -> list[TypeInfo]:
        async with self._database.look() as session:
            return [type_of(row) for row in await session.fetch("types")]

    async def stats(self) -> Stats:
        """The whole server in numbers."""
        queues = await self.queues()
        async with self._database.look() as session:
            alive = await session.fetch("alive_ids", within_seconds=ALIVE_SECONDS)
        by_status = {status: sum(queue.counts[status] for queue in queues) for status in Status}
        ages = [queue.oldest_waiting_seconds for queue in queues if queue.oldest_waiting_seconds is not None]
        return Stats(
            total=sum(by_status.values()),
            by_status=by_status,
            dlq=by_status[Status.FAILED],
            workers=len(alive),
            queues=tuple(queues),
            oldest_waiting_seconds=max(ages, default=None),
        )


def _is_ordered(wanted: JobFilter) -> bool:
    """Whether every row in the order of the list is one of it, so that a page is the next rows."""
    some = msgspec.structs.replace(wanted, dead_first=False, statuses=frozenset())
    return some == JobFilter() and (not wanted.statuses or wanted.dead_first)


def _cursor(job_id: UUID, finished_at: datetime | None, skip: int = 0) -> str:
    raw = job_id.bytes
    if skip:
        # The rest of an offset that time was not enough for.
        raw += skip.to_bytes(_SKIP_BYTES, "big")
    if finished_at is not None:
        raw = instant_us(finished_at).to_bytes(8, "big") + raw
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _parse_cursor(cursor: str, dead_first: bool, path: str) -> tuple[datetime | None, UUID, int]:
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        ends = 24 if dead_first else 16
        skip = int.from_bytes(raw[ends:], "big")
        if len(raw) not in (ends, ends + _SKIP_BYTES) or skip > MAX_OFFSET:
            raise ValueError
        moment = from_us(int.from_bytes(raw[:8], "big")) if dead_first else None
        return moment, UUID(bytes=raw[ends - 16 : ends]), skip
    except (ValueError, OverflowError, binascii.Error) as error:
        raise Invalid(path, "not a cursor of this list") from error
