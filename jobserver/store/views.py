"""Views: lists, counts and single rows for the API. Reads only; no answer scans the table of jobs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from jobserver.errors import Invalid
from jobserver.job.model import (
    AttemptRecord,
    Job,
    Priority,
    QueueInfo,
    Status,
    TypeInfo,
    WorkerInfo,
)
from jobserver.job.query import JobFilter, Page, Stats
from jobserver.job.times import from_us, instant_us
from jobserver.store.engine import Database
from jobserver.store.rows import STATUSES, attempt_of, job_of, names_of, type_of
from jobserver.store.tables import jobs

TOTAL_CAP: Final = 10_000
ALIVE_SECONDS: Final = 5.0
# Ids are UUIDv7 by a process's measure of the database's clock: between an id and created_at lies less than this.
ID_SLACK: Final = timedelta(minutes=5)


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

    async def jobs(self, wanted: JobFilter, *, limit: int, offset: int, cursor: str | None) -> Page:
        """A page of jobs: newest first, or with `dead_first` most recently failed first."""
        conditions = self._conditions(wanted)
        order: tuple[sa.ColumnElement[Any], ...] = (jobs.c.id.desc(),)
        if wanted.dead_first:
            order = (jobs.c.finished_at.desc(), jobs.c.id.desc())
        query = sa.select(jobs).where(*conditions).order_by(*order).limit(limit + 1)
        if cursor is not None:
            query = query.where(self._after(cursor, wanted.dead_first))
        elif offset:
            query = query.offset(offset)
        rows = await self._database.select(query)
        items = [job_of(self._database, row) for row in rows[:limit]]
        total = await self._total(wanted, conditions)
        return Page(
            items=items,
            total=min(total, TOTAL_CAP),
            total_capped=total > TOTAL_CAP,
            next_cursor=_cursor(items[-1], wanted.dead_first) if len(rows) > limit else None,
        )

    def _conditions(self, wanted: JobFilter) -> list[sa.ColumnElement[bool]]:
        conditions: list[sa.ColumnElement[bool]] = []
        if wanted.statuses:
            conditions.append(_status_in(wanted.statuses))
        if wanted.type is not None:
            conditions.append(jobs.c.type == wanted.type)
        if wanted.queue is not None:
            conditions.append(jobs.c.queue == wanted.queue)
        if wanted.tag is not None:
            conditions.append(self._tagged(wanted.tag))
        if wanted.created_after is not None:
            conditions.append(jobs.c.created_at > self._instant(wanted.created_after))
            conditions.append(jobs.c.id >= self._id(_first_id(wanted.created_after, -ID_SLACK)))
        if wanted.created_before is not None:
            conditions.append(jobs.c.created_at < self._instant(wanted.created_before))
            conditions.append(jobs.c.id < self._id(_first_id(wanted.created_before, ID_SLACK)))
        return conditions

    def _tagged(self, tag: str) -> sa.ColumnElement[bool]:
        if self._database.sqlite:
            return sa.text("EXISTS (SELECT 1 FROM json_each(jobs.tags) WHERE value = :tag)").bindparams(tag=tag)  # type: ignore[return-value]
        return sa.text("CAST(jobs.tags AS jsonb) ? CAST(:tag AS text)").bindparams(tag=tag)  # type: ignore[return-value]

    async def _total(self, wanted: JobFilter, conditions: Sequence[sa.ColumnElement[bool]]) -> int:
        plain = not (wanted.type or wanted.tag or wanted.created_after or wanted.created_before)
        if plain:
            # The kept counts answer this without a look at the jobs.
            return sum(
                n
                for (queue, status), n in (await self._counts()).items()
                if (not wanted.statuses or status in wanted.statuses) and wanted.queue in (None, queue)
            )
        capped = sa.select(sa.literal(1)).select_from(jobs).where(*conditions).limit(TOTAL_CAP + 1)
        rows = await self._database.select(sa.select(sa.func.count().label("n")).select_from(capped.subquery()))
        return int(rows[0]["n"])

    def _after(self, cursor: str, dead_first: bool) -> sa.ColumnElement[bool]:
        finished_at, last = _parse_cursor(cursor, dead_first)
        if finished_at is None:
            before: sa.ColumnElement[bool] = jobs.c.id < self._id(last)
            return before
        older: sa.ColumnElement[bool] = sa.tuple_(jobs.c.finished_at, jobs.c.id) < sa.tuple_(
            sa.literal(self._instant(finished_at), jobs.c.finished_at.type),
            sa.literal(self._id(last), jobs.c.id.type),
        )
        return older

    def _instant(self, moment: datetime) -> Any:
        return instant_us(moment) if self._database.sqlite else moment

    def _id(self, job_id: UUID) -> Any:
        return job_id

    async def _counts(self) -> dict[tuple[str, Status], int]:
        async with self._database.look() as session:
            rows = await session.fetch("counts")
        return {(row["queue"], STATUSES[row["status"]]): int(row["n"]) for row in rows}

    async def queues(self) -> list[QueueInfo]:
        """Every queue by name, its counts and the age of its oldest due job."""
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
        return next((queue for queue in await self.queues() if queue.name == name), None)

    async def workers(self) -> list[WorkerInfo]:
        """Every process of the last day, newest first. Alive: a heartbeat within 5 s, and not stopped."""
        async with self._database.look() as session:
            rows = await session.fetch("workers")
        now = self._database.clock.now()
        found = []
        for row in rows:
            heartbeat_at = self._database.moment(row["heartbeat_at"])
            fresh = (now - heartbeat_at).total_seconds() < ALIVE_SECONDS
            found.append(
                WorkerInfo(
                    id=row["id"],
                    host=row["host"],
                    pid=row["pid"],
                    version=row["version"],
                    started_at=self._database.moment(row["started_at"]),
                    heartbeat_at=heartbeat_at,
                    alive=fresh and not row["stopped"],
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


def _status_in(statuses: frozenset[Status]) -> sa.ColumnElement[bool]:
    # Literals, so that the partial indexes are used.
    inline = ", ".join(f"'{status.value}'" for status in sorted(statuses))
    return sa.literal_column(f"jobs.status IN ({inline})", sa.Boolean)


def _first_id(moment: datetime, slack: timedelta) -> UUID:
    """The smallest UUIDv7 of a moment, moved by `slack`."""
    milliseconds = max(0, instant_us(moment) // 1000 + int(slack / timedelta(milliseconds=1)))
    return UUID(int=min(milliseconds, 2**48 - 1) << 80)


def _cursor(last: Job, dead_first: bool) -> str:
    raw = last.id.bytes
    if dead_first and last.finished_at is not None:
        raw = instant_us(last.finished_at).to_bytes(8, "big") + raw
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _parse_cursor(cursor: str, dead_first: bool) -> tuple[datetime | None, UUID]:
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        if len(raw) != (24 if dead_first else 16):
            raise ValueError
        moment = from_us(int.from_bytes(raw[:8], "big")) if dead_first else None
        return moment, UUID(bytes=raw[-16:])
    except (ValueError, OverflowError, binascii.Error) as error:
        raise Invalid("$.query.cursor", "not a cursor of this list") from error
