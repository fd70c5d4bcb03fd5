"""JobStore: one method per statement of a job's life.

Every write of a worker names the status and the fence that it expects and returns the rows that it won.
A call that raises DatabaseUnavailable may or may not have committed; `repeated=True` says that it is the same
call again, and then what the first one did is recognised as ours.
"""

from __future__ import annotations

import itertools
import random
from asyncio import sleep
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from uuid_utils.compat import uuid7

from jobserver.errors import DatabaseUnavailable, KeyReused
from jobserver.job.fingerprint import fingerprint_of
from jobserver.job.lifecycle import EXPIRED, Transition
from jobserver.job.model import (
    TERMINAL,
    Claimed,
    Delivery,
    Ended,
    Job,
    Priority,
    Progress,
    Status,
    Submission,
    TypeInfo,
)
from jobserver.job.query import PERMITTED, Selection
from jobserver.job.times import EPOCH
from jobserver.store.engine import Database, Row, Session
from jobserver.store.rows import PRIORITIES, STATUSES, claimed_of, error_of, job_of, type_of

T = TypeVar("T")

ATTEMPTS_KEPT: Final = 100
ACTIVE: Final = PERMITTED["cancel"]
REPLAYABLE: Final = PERMITTED["retry"]
FAILED: Final = frozenset({Status.FAILED})
_ANY: Final[Mapping[UUID, int]] = {}
_encode: Final = msgspec.json.Encoder().encode


class Inserted(msgspec.Struct, frozen=True):
    """A stored job; `created` is false where its idempotency key was known."""

    job: Job
    created: bool


class Refusal(msgspec.Struct, frozen=True):
    """Why a claim did not win: gone, expired, paused, early, again, held, over or stale."""

    verdict: str
    due_at: datetime | None = None


class Settlement(msgspec.Struct, frozen=True):
    """The end of an attempt to be written: job, the fence that its claim gave, and what it becomes.

    `lease_over` adds the guard that the lease is over, for those who do not hold the job. `calls_back`: the job has
    a callback_url, and a terminal status stores its callback in the same transaction.
    """

    job_id: UUID
    fence: int
    transition: Transition
    progress: Progress | None = None
    lease_over: bool = False
    calls_back: bool = False


class Moved(msgspec.Struct, frozen=True):
    """A transition that was won: what the job is now, under its new fence.

    `callback_id` names the job that tells of it, under fence 0. A commit that was confirmed late leaves it out.
    """

    job_id: UUID
    fence: int
    status: Status
    queue: str
    priority: Priority
    type: str
    due_at: datetime
    ended: Ended | None = None
    callback_id: UUID | None = None
    attempt: int = 0

    @property
    def available_at(self) -> datetime:
        """A transition starts the two equal."""
        return self.due_at


class Available(msgspec.Struct, frozen=True):
    """A waiting job and the message that it should have."""

    job_id: UUID
    fence: int
    queue: str
    priority: Priority
    available_at: datetime
    type: str = ""
    trace_context: str | None = None


class Lost(msgspec.Struct, frozen=True):
    """A running job that nobody runs any more."""

    job: Claimed
    worker_id: str


class CancelResult(msgspec.Struct, frozen=True):
    """A job that was canceled, or asked to end (`status` running, by `worker_id`). `callback_id` as in Moved."""

    job_id: UUID
    status: Status
    fence: int
    queue: str
    type: str
    worker_id: str | None
    callback_id: UUID | None = None
    attempt: int = 0
    trace_context: str | None = None


class Gone(msgspec.Struct, frozen=True):
    """A job that was deleted, and the fence that a transition would have given it."""

    job_id: UUID
    type: str
    queue: str
    fence: int


# Among terminal jobs, in the order in which they ended.
Place = tuple[datetime, UUID]
FIRST_PLACE: Final[Place] = (EPOCH, UUID(int=0))


class Pruned(msgspec.Struct, frozen=True):
    """How many were deleted, and the place of the last that was looked at, if there may be more behind it."""

    deleted: int
    last: Place | None = None


Called = TypeVar("Called", Moved, CancelResult)


class JobStore:
    """The statements of a job's life on one database."""

    def __init__(
        self, database: Database, *, idempotency_ttl_seconds: float = 86_400.0, callback_retries: int = 16
    ) -> None:
        self.database = database
        self._ttl_seconds = idempotency_ttl_seconds
        self._callback_retries = callback_retries

    async def insert(self, groups: Sequence[Sequence[Submission]]) -> list[list[Inserted] | KeyReused]:
        """Store groups of jobs in one transaction; a group is stored whole or not at all.

        Safe to repeat with the same ids. A group that names a known key with another body gets KeyReused.
        """
        if not any(job.idempotency_key is not None for group in groups for job in group):
            return await self._insert_unkeyed(groups)
        async with self.database.write() as session:
            answers, deferred = await self._insert_keyed(session, groups)
        if deferred:
            # They wanted a key that a refused group of this flush had taken first; it is free now.
            later = await self.insert([groups[index] for index in deferred])
            for index, answer in zip(deferred, later, strict=True):
                answers[index] = answer
        return [answer for answer in answers if answer is not None]

    async def _insert_unkeyed(self, groups: Sequence[Sequence[Submission]]) -> list[list[Inserted] | KeyReused]:
        submissions = [job for group in groups for job in group]
        statement, columns = self._insert_statement(submissions)
        rows = await self.database.fetch(statement, columns)
        # Of one kind, and stored by one statement, all are alike but for their ids and their payloads.
        if len(rows) == len(submissions) and len(columns["type"]) == 1:
            one = self._created(submissions[0], rows[0])
            return [[Inserted(_like(one, job), created=True) for job in group] for group in groups]
        new = {self.database.uuid(row["id"]): row for row in rows}
        missing = [job.id for job in submissions if job.id not in new]
        stored: dict[UUID, Job] = {}
        if missing:
            async with self.database.read() as session:
                stored = await self._stored(session, missing)
        alike: dict[int, Job] = {}
        made: list[Inserted] = []
        for job, kind in zip(submissions, columns.get("kind", range(len(submissions))), strict=True):
            if job.id not in new:
                made.append(Inserted(stored[job.id], created=True))
            elif (like := alike.get(kind)) is not None:
                made.append(Inserted(_like(like, job), created=True))
            else:
                like = alike[kind] = self._created(job, new[job.id])
                made.append(Inserted(like, created=True))
        each = iter(made)
        return [list(itertools.islice(each, len(group))) for group in groups]

    def _insert_statement(self, jobs: Sequence[Submission]) -> tuple[str, dict[str, Sequence[Any]]]:
        """The statement that stores these jobs, and its columns."""
        statement = "insert_jobs"
        kinds = [_kind_of(job) for job in jobs]
        columns: dict[str, Sequence[Any]] = {
            "id": [job.id for job in jobs],
            "payload": [job.payload.decode() for job in jobs],
        }
        if not self.database.sqlite:
            numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds), 1)}
            if len(numbers) > MAX_KINDS:
                statement = "insert_unlike_jobs"
            else:
                columns["kind"] = [numbers[kind] for kind in kinds]
                kinds = list(numbers)
        return statement, columns | dict(zip(_KIND, zip(*kinds, strict=True), strict=True))

    async def _insert_keyed(
        self, session: Session, groups: Sequence[Sequence[Submission]]
    ) -> tuple[list[list[Inserted] | KeyReused | None], list[int]]:
        first: dict[tuple[str, str], tuple[int, Submission]] = {}
        for index, group in enumerate(groups):
            for job in group:
                if job.idempotency_key is not None:
                    first.setdefault((job.scope, job.idempotency_key), (index, job))
        takers = [job for _, (_, job) in sorted(first.items())]
        taken = await session.fetch(
            "take_keys",
            {
                "scope": [job.scope for job in takers],
                "key": [job.idempotency_key for job in takers],
                "job_id": [job.id for job in takers],
                "fingerprint": [job.fingerprint.hex() for job in takers],
            },
            ttl_seconds=self._ttl_seconds,
        )
        owners = {(row["scope"], row["key"]): (self.database.uuid(row["job_id"]), row["fingerprint"]) for row in taken}
        answers: list[list[Inserted] | KeyReused | None] = [None] * len(groups)
        refused: set[int] = set()
        deferred: list[int] = []
        creating: dict[UUID, Submission] = {}
        known: set[UUID] = set()
        places: list[tuple[int, list[UUID]]] = []
        for index, group in enumerate(groups):
            keyed = [
                (place, (job.scope, job.idempotency_key)) for place, job in enumerate(group) if job.idempotency_key
            ]
            if any(first[key][0] in refused for _, key in keyed):
                deferred.append(index)
                refused.add(index)
                continue
            reused = next((place for place, key in keyed if owners[key][1] != group[place].fingerprint.hex()), None)
            if reused is not None:
                refused.add(index)
                answers[index] = KeyReused("The idempotency key was used before, with another body", index=reused)
                continue
            ids = []
            for job in group:
                owner = job.id if job.idempotency_key is None else owners[job.scope, job.idempotency_key][0]
                if owner == job.id:
                    creating[job.id] = job
                else:
                    known.add(owner)
                ids.append(owner)
            places.append((index, ids))
        released = [job.id for index in sorted(refused) for job in groups[index] if job.idempotency_key is not None]
        if released:
            await session.fetch("release_keys", {"job_id": released})
        new: dict[UUID, Row] = {}
        if creating:
            rows = await session.fetch(*self._insert_statement(list(creating.values())))
            new = {self.database.uuid(row["id"]): row for row in rows}
        wanted = (known | set(creating)) - set(new)
        stored = await self._stored(session, sorted(wanted)) if wanted else {}
        for index, ids in places:
            answers[index] = [
                Inserted(
                    self._created(creating[owner], new[owner]) if owner in new else stored[owner],
                    created=owner == job.id,
                )
                for job, owner in zip(groups[index], ids, strict=True)
            ]
        return answers, deferred

    async def knows_key(self, scope: str, key: str) -> bool:
        """Whether an idempotency key has an owner."""
        async with self.database.look() as session:
            return bool(await session.fetch("known_key", scope=scope, key=key))

    async def _stored(self, session: Session, ids: Sequence[UUID]) -> dict[UUID, Job]:
        rows = await session.fetch("submitted_jobs", ids=list(ids))
        jobs = (job_of(self.database, row) for row in rows)
        return {job.id: job for job in jobs}

    def _created(self, job: Submission, row: Row) -> Job:
        created_at = self.database.moment(row["created_at"])
        due_at = self.database.moment(row["due_at"])
        return Job(
            id=job.id,
            type=job.type,
            queue=job.queue,
            priority=job.priority,
            status=STATUSES[row["status"]],
            payload=job.payload,
            result=None,
            error=None,
            attempt=0,
            retry_count=0,
            max_retries=job.max_retries,
            crashes=0,
            fence=0,
            timeout_seconds=job.timeout_seconds,
            idempotency_key=job.idempotency_key,
            tags=job.tags,
            progress=None,
            callback_url=job.callback_url,
            created_at=created_at,
            updated_at=created_at,
            run_at=due_at,
            started_at=None,
            finished_at=None,
            expires_at=job.expires_at,
            due_at=due_at,
            worker_id=None,
            lease_expires_at=None,
            cancel_requested=False,
            trace_context=job.trace_context,
        )

    async def claim(
        self,
        deliveries: Sequence[Delivery],
        *,
        worker_id: str,
        token: UUID,
        lease_seconds: float,
        repeated: bool = False,
    ) -> list[Claimed | Refusal]:
        """Claim delivered jobs. The answers stand in the order of the deliveries.

        Of two deliveries of the same job under the same fence the first is claimed and the other held.
        """
        # Statements lock rows in the order of ids, whatever the order here.
        unique = dict.fromkeys((delivery.job_id, delivery.fence) for delivery in deliveries)
        rows = await self.database.fetch(
            "claim",
            {"id": [job_id for job_id, _ in unique], "fence": [fence for _, fence in unique]},
            worker_id=worker_id,
            token=token,
            lease_seconds=lease_seconds,
        )
        won = [claimed_of(self.database, row) for row in rows]
        claimed: dict[tuple[UUID, int], Claimed | None] = {(job.id, job.fence - 1): job for job in won}
        refusals: dict[tuple[UUID, int], Refusal] = {}
        if len(claimed) < len(unique):
            refused = [claim for claim in unique if claim not in claimed]
            async with self.database.read() as session:
                refusals = await self._why(session, refused, token)
                if repeated:
                    ours = [job_id for (job_id, _), why in refusals.items() if why.verdict == "ours"]
                    for row in await session.fetch("claimed_by", ids=ours, token=token):
                        job = claimed_of(self.database, row)
                        claimed[job.id, job.fence - 1] = job
        answers: list[Claimed | Refusal] = []
        for delivery in deliveries:
            claim = (delivery.job_id, delivery.fence)
            answers.append(claimed.pop(claim, None) or refusals.get(claim, _HELD))
        return answers

    async def _why(
        self, session: Session, refused: Sequence[tuple[UUID, int]], token: UUID
    ) -> dict[tuple[UUID, int], Refusal]:
        rows = await session.fetch(
            "why_refused",
            {"id": [job_id for job_id, _ in refused], "fence": [fence for _, fence in refused]},
            token=token,
        )
        return {
            (self.database.uuid(row["id"]), row["fence"]): Refusal(row["verdict"], self.database.instant(row["due_at"]))
            for row in rows
        }

    async def settle(self, settlements: Sequence[Settlement], *, repeated: bool = False) -> list[Moved | None]:
        """End attempts. None where the fence has moved on: somebody else has decided about that job.

        A claim (job and fence) that is named twice is settled once.
        """
        claims = [(each.job_id, each.fence) for each in settlements]
        unique = dict(zip(reversed(claims), reversed(settlements), strict=True))
        ordered = list(unique.values())
        moved: dict[tuple[UUID, int], Moved] = {}
        if self.database.sqlite:
            async with self.database.write() as session:
                rows = await session.fetch("settle", _settle_columns(ordered))
                for row in rows:
                    won = self._moved(row, unique[self.database.uuid(row["id"]), row["fence"] - 1].transition)
                    moved[won.job_id, won.fence - 1] = won
                if rows:
                    await session.fetch("record_attempts", self._history(rows, unique, moved))
                ends = [won for claim, won in moved.items() if unique[claim].calls_back and won.status in TERMINAL]
                for won in await self._call_back(session, ends):
                    moved[won.job_id, won.fence - 1] = won
        else:
            moved = await self._settle_postgres(ordered)
        if repeated and len(moved) < len(ordered):
            await self._settled_before(ordered, moved)
        await self._trim([won.job_id for won in moved.values() if won.fence > 2 * ATTEMPTS_KEPT])
        # Each is won by the first that named it.
        return [moved.pop(claim, None) for claim in claims]

    async def _settle_postgres(self, ordered: Sequence[Settlement]) -> dict[tuple[UUID, int], Moved]:
        """Most batches hold plain ends only: they say less, and take less of both sides' time.

        One statement in either case: a transaction of two would hold its rows while a handler blocks the loop.
        """
        if all(_is_plain(each) for each in ordered):
            return self._completed(await self.database.fetch("complete", _complete_columns(ordered)))
        return await self._settle_on(self.database, ordered)

    async def _settle_on(self, on: Database | Session, ordered: Sequence[Settlement]) -> dict[tuple[UUID, int], Moved]:
        """Settle on PostgreSQL. Batches without a callback pay nothing for those that have one: not even a look."""
        columns = _settle_columns(ordered)
        if not any(each.calls_back for each in ordered):
            return self._moved_by_claim(await on.fetch("settle", columns))
        rows = await on.fetch("settle_calling", columns, callback_retries=self._callback_retries)
        callbacks = {row["id"]: row["callback_id"] for row in rows}
        return {
            claim: msgspec.structs.replace(won, callback_id=callbacks[won.job_id])
            for claim, won in self._moved_by_claim(rows).items()
        }

    async def _call_back(self, session: Session, ends: Sequence[Called]) -> list[Called]:
        """Store the callbacks of jobs that ended in this transaction, and name them. SQLite only."""
        if not ends:
            return []
        told = [msgspec.structs.replace(each, callback_id=uuid7()) for each in ends]
        await session.fetch(
            "call_back",
            {
                "callback_id": [each.callback_id for each in told],
                "id": [each.job_id for each in told],
                "fence": [each.fence for each in told],
            },
            callback_retries=self._callback_retries,
        )
        return told

    def _completed(self, rows: Sequence[Row]) -> dict[tuple[UUID, int], Moved]:
        now = self.database.clock.now()
        return {
            (job_id, fence - 1): Moved(
                job_id, fence, Status.COMPLETED, queue, PRIORITIES[priority], kind, now, Ended.COMPLETED
            )
            for job_id, fence, queue, priority, kind in rows
        }

    def _moved_by_claim(self, rows: Sequence[Row]) -> dict[tuple[UUID, int], Moved]:
        moves = (_moved(self.database, row) for row in rows)
        return {(won.job_id, won.fence - 1): won for won in moves}

    def _moved(self, row: Row, transition: Transition) -> Moved:
        status = STATUSES[row["status"]]
        ended = Ended.CANCELED if status is Status.CANCELED else transition.ended
        return _moved(self.database, row, ended)

    def _history(
        self, rows: Sequence[Row], asked: dict[tuple[UUID, int], Settlement], moved: dict[tuple[UUID, int], Moved]
    ) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {name: [] for name in _HISTORY}
        for row in rows:
            job_id = self.database.uuid(row["id"])
            transition = asked[job_id, row["fence"] - 1].transition
            ended = moved[job_id, row["fence"] - 1].ended
            values = (
                job_id,
                row["fence"] - 1,
                row["attempt"] - transition.attempt_delta,
                row["started_at"],
                row["updated_at"],
                ended,
                None if transition.error is None else _encode(transition.error).decode(),
                row["worker_id"],
            )
            for name, value in zip(_HISTORY, values, strict=True):
                columns[name].append(value)
        return columns

    async def _settled_before(self, ordered: Sequence[Settlement], moved: dict[tuple[UUID, int], Moved]) -> None:
        """Add what an earlier call, whose commit was not confirmed, has won: its history row tells."""
        missing = [each for each in ordered if (each.job_id, each.fence) not in moved]
        async with self.database.read() as session:
            rows = await session.fetch(
                "settled_before",
                {"id": [each.job_id for each in missing], "fence": [each.fence for each in missing]},
            )
        expected = {(each.job_id, each.fence): each.transition.ended for each in missing}
        for row in rows:
            key = (self.database.uuid(row["job_id"]), row["fence"])
            ended = Ended(row["outcome"])
            ours = ended == expected[key] or ended is Ended.CANCELED
            if ours and row["status"] is not None and row["fence_now"] == row["fence"] + 1:
                moved[key] = Moved(
                    job_id=key[0],
                    fence=row["fence_now"],
                    status=STATUSES[row["status"]],
                    queue=row["queue"],
                    priority=PRIORITIES[row["priority"]],
                    type=row["type"],
                    due_at=self.database.moment(row["due_at"]),
                    ended=ended,
                )

    async def _trim(self, ids: Sequence[UUID]) -> None:
        if ids:
            # What ended has ended, and its callbacks have been named: that must be told. The next end trims again.
            with suppress(DatabaseUnavailable):
                await self.database.fetch("trim_attempts", {"id": list(ids)}, keep=ATTEMPTS_KEPT)

    async def extend_leases(self, held: Sequence[tuple[UUID, int]], *, lease_seconds: float) -> frozenset[UUID]:
        """Extend the leases of these (job, fence), within a third of a lease; returns the jobs that are still ours."""
        ordered = sorted(held)
        async with self.database.within(lease_seconds / 3) as session:
            rows = await session.fetch(
                "extend_leases",
                {"id": [job_id for job_id, _ in ordered], "fence": [fence for _, fence in ordered]},
                lease_seconds=lease_seconds,
            )
        return frozenset(self.database.uuid(row["id"]) for row in rows)

    async def save_progress(self, said: Sequence[tuple[UUID, int, Progress]]) -> None:
        """Store what running handlers last said. A job that is no longer ours is left alone."""
        ordered = sorted(said, key=lambda each: each[0])
        await self.database.fetch(
            "save_progress",
            {
                "id": [job_id for job_id, _, _ in ordered],
                "fence": [fence for _, fence, _ in ordered],
                "progress": [_encode(progress).decode() for _, _, progress in ordered],
            },
        )

    async def cancel_requests(self, worker_id: str) -> list[tuple[UUID, int]]:
        """The (job, fence) that this process runs and whose cancel was requested."""
        async with self.database.read() as session:
            rows = await session.fetch("cancel_requests", worker_id=worker_id)
        return [(self.database.uuid(row["id"]), row["fence"]) for row in rows]

    async def cancel(self, ids: Sequence[UUID], *, statuses: Collection[Status] = ACTIVE) -> list[CancelResult]:
        """Cancel waiting jobs, ask running ones to end, as far as they are in one of `statuses` still.

        Terminal or unknown ones are not in the answer.
        """

        def result_of(row: Row) -> CancelResult:
            return CancelResult(
                job_id=self.database.uuid(row["id"]),
                status=STATUSES[row["status"]],
                fence=row["fence"],
                queue=row["queue"],
                type=row["type"],
                worker_id=row["worker_id"],
                attempt=row["attempt"],
                trace_context=row["trace_context"],
            )

        return await self._ended("cancel", result_of, ids=sorted(ids), statuses=_values(statuses))

    async def _ended(self, statement: str, result_of: Callable[[Row], Called], **scalars: Any) -> list[Called]:
        """What a statement made of waiting jobs; the callbacks of those that are terminal now are stored with it."""
        if self.database.sqlite:
            async with self.database.write() as session:
                rows = [(row, result_of(row)) for row in await session.fetch(statement, **scalars)]
                ends = [won for row, won in rows if row["callback_url"] is not None and won.status in TERMINAL]
                told = {won.job_id: won for won in await self._call_back(session, ends)}
            return [told.get(won.job_id, won) for _, won in rows]
        found = await _without_deadlock(
            lambda: self.database.fetch(statement, **scalars, callback_retries=self._callback_retries)
        )
        return [msgspec.structs.replace(result_of(row), callback_id=row["callback_id"]) for row in found]

    async def replay(
        self, ids: Sequence[UUID], *, statuses: Collection[Status] = FAILED, fences: Mapping[UUID, int] = _ANY
    ) -> list[Available]:
        """Queue jobs again that are failed or canceled, and so in one of `statuses`; returns those that were.

        Where `fences` names a job, it is left alone if anything has happened to it since it had that fence.
        """
        columns = _under(ids, fences)
        rows = await _without_deadlock(lambda: self.database.fetch("replay", columns, statuses=_values(statuses)))
        return [
            msgspec.structs.replace(
                self._available(row, "due_at"), type=row["type"], trace_context=row["trace_context"]
            )
            for row in rows
        ]

    async def among(
        self, ids: Sequence[UUID], selection: Selection, *, statuses: Collection[Status], not_asked: bool, limit: int
    ) -> dict[UUID, int]:
        """Which of some jobs are in one of these statuses, and what a selection asks for but its ids; their fences.

        The oldest end comes first.
        """
        async with self.database.read() as session:
            rows = await session.fetch(
                "among",
                ids=list(ids),
                statuses=_values(statuses),
                type=selection.type,
                queue=selection.queue,
                fingerprint=selection.fingerprint,
                not_asked=not_asked,
                max_rows=limit,
            )
        return {self.database.uuid(row["id"]): row["fence"] for row in rows}

    async def save_fingerprints(self, *, limit: int) -> int:
        """Give failed jobs a fingerprint that have none, for they failed under an older release. Returns how many."""
        async with self.database.read() as session:
            rows = await session.fetch("without_fingerprint", max_rows=limit)
        if rows:
            columns = {
                "id": [self.database.uuid(row["id"]) for row in rows],
                "fence": [row["fence"] for row in rows],
                "fingerprint": [fingerprint_of(error_of(row["error"])) for row in rows],
            }
            await _without_deadlock(lambda: self.database.fetch("save_fingerprints", columns))
        return len(rows)

    async def delete(
        self, ids: Sequence[UUID], *, statuses: Collection[Status] = FAILED, fences: Mapping[UUID, int] = _ANY
    ) -> list[Gone]:
        """Delete terminal jobs in one of `statuses` with their history and keys; returns those that are gone.

        A key goes before its time: the next submit that brings it makes a new job.
        Where `fences` names a job, it is left alone if anything has happened to it since it had that fence.
        """
        columns = _under(ids, fences)

        async def delete() -> list[Gone]:
            async with self.database.write() as session:
                rows = await session.fetch("delete_jobs", columns, statuses=_values(statuses))
                gone = [
                    Gone(self.database.uuid(row["id"]), row["type"], row["queue"], row["fence"] + 1) for row in rows
                ]
                await _forget(session, [each.job_id for each in gone])
            return gone

        return await _without_deadlock(delete)

    async def find_lost(self, *, limit: int) -> list[Lost]:
        """Running jobs whose lease is over."""
        async with self.database.read() as session:
            rows = await session.fetch("find_lost", max_rows=limit)
        return [Lost(claimed_of(self.database, row), row["worker_id"]) for row in rows]

    async def find_orphans(self, worker_id: str, *, limit: int) -> list[Lost]:
        """Running jobs of any other process, for one that knows that it is alone."""
        async with self.database.read() as session:
            rows = await session.fetch("find_orphans", worker_id=worker_id, max_rows=limit)
        return [Lost(claimed_of(self.database, row), row["worker_id"]) for row in rows]

    async def take_from_dead(
        self, worker_id: str, settlement_of: Callable[[Lost], Settlement], *, silent_seconds: float, limit: int
    ) -> list[tuple[Lost, Moved]]:
        """Take back jobs of a process that is dead: its lock is free, and it is silent still. PostgreSQL only.

        All in one transaction: a process that comes back meanwhile finds its lock taken and its row held, and so
        says that it lives, and claims, after this.
        """
        async with self.database.write() as session:
            [lock] = await session.fetch("lock_of_dead", worker_id=worker_id)
            if not lock["taken"]:
                return []
            if not await session.fetch("still_silent", worker_id=worker_id, silent_seconds=silent_seconds):
                return []
            rows = await session.fetch("running_of", worker_id=worker_id, max_rows=limit)
            lost = [Lost(claimed_of(self.database, row), row["worker_id"]) for row in rows]
            if not lost:
                return []
            # In the order of ids, as they were read.
            moved = await self._settle_on(session, [settlement_of(each) for each in lost])
        await self._trim([won.job_id for won in moved.values() if won.fence > 2 * ATTEMPTS_KEPT])
        claims = ((each, (each.job.id, each.job.fence)) for each in lost)
        return [(each, moved[claim]) for each, claim in claims if claim in moved]

    async def expire(self, *, limit: int) -> list[Moved]:
        """Fail waiting jobs whose `expires_at` is over."""

        def moved_of(row: Row) -> Moved:
            return Moved(
                job_id=self.database.uuid(row["id"]),
                fence=row["fence"],
                status=Status.FAILED,
                queue=row["queue"],
                priority=PRIORITIES[row["priority"]],
                type=row["type"],
                due_at=self.database.clock.now(),
                attempt=row["attempt"],
            )

        return await self._ended(
            "expire",
            moved_of,
            error=_encode(EXPIRED).decode(),
            fingerprint=fingerprint_of(EXPIRED),
            max_rows=limit,
        )

    async def bump_overtaken(
        self, watermarks: Sequence[tuple[str, Priority, datetime]], *, limit: int
    ) -> list[Available]:
        """Find waiting jobs with `available_at` before the watermark of their stream, and bump them to now."""
        ordered = sorted(watermarks)
        rows = await self.database.fetch(
            "bump_overtaken",
            {
                "queue": [queue for queue, _, _ in ordered],
                "priority": [int(priority) for _, priority, _ in ordered],
                "before": [before for _, _, before in ordered],
            },
            max_rows=limit,
        )
        found = [self._available(row, "available_at") for row in rows]
        return sorted(found, key=lambda each: each.available_at)

    async def near_horizon(
        self,
        streams: Sequence[tuple[str, Priority]],
        *,
        after: datetime,
        until: datetime,
        limit: int,
        after_id: UUID | None = None,
    ) -> list[Available]:
        """Waiting jobs that become available after `after` and not later than `until`, in order.

        With `after_id`, also those of the moment `after` whose id is greater: a page follows its predecessor.
        """
        async with self.database.read() as session:
            rows = await session.fetch(
                "near_horizon",
                {
                    "queue": [queue for queue, _ in streams],
                    "priority": [int(priority) for _, priority in streams],
                },
                after=after,
                after_id=_LAST_ID if after_id is None else after_id,
                until=until,
                max_rows=limit,
            )
        return [self._available(row, "available_at") for row in rows]

    async def work_waits(
        self, streams: Sequence[tuple[str, Priority]], types: Sequence[str], *, for_seconds: float
    ) -> bool:
        """Whether a job of one of these types has been waiting in these streams for so long, and is not expired."""
        async with self.database.read() as session:
            rows = await session.fetch(
                "work_waits",
                {
                    "queue": [queue for queue, _ in streams],
                    "priority": [int(priority) for _, priority in streams],
                },
                types=list(types),
                for_seconds=for_seconds,
            )
        return bool(rows)

    async def recently_failed(self, *, limit: int) -> list[tuple[UUID, int, str]]:
        """The newest failed jobs, newest first: (id, fence, type)."""
        async with self.database.read() as session:
            rows = await session.fetch("recently_failed", max_rows=limit)
        return [(self.database.uuid(row["id"]), row["fence"], row["type"]) for row in rows]

    async def prune(
        self, status: Status, *, older_than_seconds: float, limit: int, after: Place = FIRST_PLACE
    ) -> Pruned:
        """Of the `limit` oldest terminal jobs of one status behind a place, delete those that are old enough.

        Their history and keys go with them. A job whose idempotency key is known still stays.
        """
        moment, job_id = after
        async with self.database.read() as session:
            rows = await session.fetch(
                "old_jobs",
                status=status.value,
                older_than_seconds=older_than_seconds,
                after=moment,
                after_id=job_id,
                max_rows=limit,
            )
        old = [(self.database.moment(row["finished_at"]), self.database.uuid(row["id"])) for row in rows]
        if not old:
            return Pruned(0)

        async def delete() -> int:
            async with self.database.write() as session:
                rows = await session.fetch(
                    "prune_jobs",
                    ids=[job_id for _, job_id in old],
                    status=status.value,
                    older_than_seconds=older_than_seconds,
                )
                gone = [self.database.uuid(row["id"]) for row in rows]
                await _forget(session, gone)
            return len(gone)

        return Pruned(await _without_deadlock(delete), old[-1] if len(old) >= limit else None)

    async def prune_keys(self, *, limit: int) -> int:
        """Forget idempotency keys whose time is over. Returns how many."""
        return len(await _without_deadlock(lambda: self.database.fetch("prune_keys", max_rows=limit)))

    async def fold_counts(self, *, limit: int = 10_000) -> int:
        """Fold the deltas of the counts. Returns how many there were (SQLite keeps its counts at once)."""
        if self.database.sqlite:
            return 0
        rows = await _without_deadlock(lambda: self.database.fetch("fold_counts", max_rows=limit))
        return int(rows[0]["n"])

    async def register_types(self, types: Sequence[TypeInfo]) -> None:
        """Make types, their defaults and schemas known to every process."""
        async with self.database.write() as session:
            for info in sorted(types, key=lambda each: each.type):
                await session.fetch(
                    "register_type",
                    type=info.type,
                    queue=info.queue,
                    priority=int(info.priority),
                    max_retries=info.max_retries,
                    timeout_seconds=info.timeout_seconds,
                    schema=_encode(info.schema).decode(),
                )

    async def types_since(self, since: datetime) -> list[tuple[TypeInfo, datetime]]:
        """Types registered anew after a moment, and when."""
        async with self.database.read() as session:
            rows = await session.fetch("types_since", since=since)
        return [(type_of(row), self.database.moment(row["updated_at"])) for row in rows]

    async def queues(self) -> dict[str, bool]:
        """Every queue, and whether it is paused."""
        async with self.database.read() as session:
            return {row["name"]: bool(row["paused"]) for row in await session.fetch("queues")}

    async def add_queue(self, name: str) -> None:
        await self.database.fetch("add_queue", name=name)

    async def set_paused(self, name: str, paused: bool) -> None:
        """Pause or resume a queue; it may be new."""
        await self.database.fetch("pause_queue", name=name, paused=paused)

    def _available(self, row: Row, moment: str) -> Available:
        return Available(
            job_id=self.database.uuid(row["id"]),
            fence=row["fence"],
            queue=row["queue"],
            priority=PRIORITIES[row["priority"]],
            available_at=self.database.moment(row[moment]),
        )


_HELD: Final = Refusal("held")
_LAST_ID: Final = UUID(int=2**128 - 1)
_HISTORY: Final = ("job_id", "fence", "number", "started_at", "ended_at", "outcome", "error", "worker_id")


def _moved(database: Database, row: Row, ended: Ended | None = None) -> Moved:
    return Moved(
        job_id=database.uuid(row["id"]),
        fence=row["fence"],
        status=STATUSES[row["status"]],
        queue=row["queue"],
        priority=PRIORITIES[row["priority"]],
        type=row["type"],
        due_at=database.moment(row["due_at"]),
        ended=Ended(row["ended"]) if ended is None else ended,
    )


async def _forget(session: Session, gone: Sequence[UUID]) -> None:
    if gone:
        await session.fetch("forget_attempts", ids=list(gone))
        await session.fetch("forget_keys", ids=list(gone))


async def _without_deadlock(call: Callable[[], Awaitable[T]]) -> T:
    """Commands of users lock rows in no particular order: repeat the one that PostgreSQL picks as the victim."""
    for delay in (0.01, 0.05, 0.2):
        try:
            return await call()
        except DatabaseUnavailable as error:
            if not isinstance(error.__cause__, asyncpg.DeadlockDetectedError):
                raise
        await sleep(delay * (0.5 + random.random()))  # noqa: S311 - spreads retries
    return await call()


# Of more kinds than this, PostgreSQL is told everything of every job: to look for one's kind among theirs would take
# longer: measured, 30 kinds in a flush of 64 and 70 in one of 1,000 cost as much.
MAX_KINDS: Final = 50

# What the jobs of a flush have in common more often than not.
_KIND: Final = (
    "type",
    "queue",
    "priority",
    "max_retries",
    "timeout_seconds",
    "delay_seconds",
    "run_at",
    "expires_at",
    "idempotency_key",
    "tags",
    "callback_url",
    "trace_context",
)


def _like(job: Job, submission: Submission) -> Job:
    """What a submission of the same kind became in the same statement."""
    return msgspec.structs.replace(job, id=submission.id, payload=submission.payload)


def _kind_of(job: Submission) -> tuple[Any, ...]:
    """What is stored of a job but its id and its payload, in the order of `_KIND`."""
    return (
        job.type,
        job.queue,
        int(job.priority),
        job.max_retries,
        job.timeout_seconds,
        job.delay_seconds,
        job.run_at,
        job.expires_at,
        job.idempotency_key,
        _encode(job.tags).decode() if job.tags else None,
        job.callback_url,
        job.trace_context,
    )


def _is_plain(settlement: Settlement) -> bool:
    transition = settlement.transition
    return (
        transition.status is Status.COMPLETED
        and transition.error is None
        and settlement.progress is None
        and not settlement.lease_over
        and not settlement.calls_back
    )


def _complete_columns(settlements: Sequence[Settlement]) -> dict[str, list[Any]]:
    results = [each.transition.result for each in settlements]
    return {
        "id": [each.job_id for each in settlements],
        "fence": [each.fence for each in settlements],
        "result": [None if result is None else result.decode() for result in results],
    }


def _settle_columns(settlements: Sequence[Settlement]) -> dict[str, list[Any]]:
    moves = [each.transition for each in settlements]
    return {
        "id": [each.job_id for each in settlements],
        "fence": [each.fence for each in settlements],
        "status": [move.status.value for move in moves],
        "ended": [move.ended.value for move in moves],
        "delay_seconds": [move.delay_seconds for move in moves],
        "attempt_delta": [move.attempt_delta for move in moves],
        "retry_delta": [move.retry_delta for move in moves],
        "crash_delta": [move.crash_delta for move in moves],
        "result": [None if move.result is None else move.result.decode() for move in moves],
        "error": [None if move.error is None else _encode(move.error).decode() for move in moves],
        "fingerprint": [_fingerprint(move) for move in moves],
        "progress": [None if each.progress is None else _encode(each.progress).decode() for each in settlements],
        "lease_over": [each.lease_over for each in settlements],
    }


def _fingerprint(move: Transition) -> str | None:
    """Of what failed for good, and of nothing else: it is taken where it is known, once."""
    return fingerprint_of(move.error) if move.status is Status.FAILED else None


def _under(ids: Sequence[UUID], fences: Mapping[UUID, int]) -> dict[str, list[Any]]:
    ordered = sorted(ids)
    return {"id": ordered, "fence": [fences.get(job_id) for job_id in ordered]}


def _values(statuses: Collection[Status]) -> list[str]:
    return sorted(status.value for status in statuses)
