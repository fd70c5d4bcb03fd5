"""Search: lists whose filters have no index, walked in windows of bounded size until enough is found or time is over.

A walk goes along an index that is there. Each window is a range of it, so that a walk that was broken off goes on
where the last window ended: what it leaves out of one page is in the next, whatever arrives meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa

from jobserver.job.forms import forms_of
from jobserver.job.model import TERMINAL, WAITING, Status
from jobserver.job.query import JobFilter
from jobserver.job.times import instant_us
from jobserver.store.engine import Database, OutOfTime, Select
from jobserver.store.tables import TERMINAL_SQL, WAITING_SQL, jobs

# Rows of a window: the first is small, for a page is often found in it; the others are as many as take so long.
FIRST_WINDOW: Final = 200
SMALLEST_WINDOW: Final = 10
LARGEST_WINDOW: Final = 50_000
WINDOW_SECONDS: Final = 0.1
_GROWTH: Final = 4.0
# For the smallest window, where the time was over before the first was done.
_LAST_SECONDS: Final = 1.0
# Ids are UUIDv7 by a process's measure of the database's clock: between an id and created_at lies less than this.
ID_SLACK: Final = timedelta(minutes=5)

Place = tuple[Any, ...]
Row = Mapping[str, Any]
# Looks at the rows up to a place (None: all that are left); whether it has seen enough.
Look = Callable[[Select, Place | None], Awaitable[bool]]


class Path(msgspec.Struct, frozen=True):
    """What a walk goes along: the columns that order it, the source that has them, and what holds on all its rows.

    A source that is not the table of jobs holds the ids of a few of them.
    """

    keys: tuple[sa.Column[Any], ...]
    source: sa.FromClause
    holds: tuple[sa.ColumnElement[bool], ...] = ()
    ascending: bool = False

    def between(self, after: Place | None, to: Place | None) -> list[sa.ColumnElement[bool]]:
        """The rows behind one place, up to and with another."""
        conditions = list(self.holds)
        if after is not None:
            conditions.append(self._compared(after, beyond=True))
        if to is not None:
            conditions.append(self._compared(to, beyond=False))
        return conditions

    def _compared(self, place: Place, *, beyond: bool) -> sa.ColumnElement[bool]:
        keys: Any = sa.tuple_(*self.keys) if len(self.keys) > 1 else self.keys[0]
        bound = [sa.literal(value, key.type) for value, key in zip(place, self.keys, strict=True)]
        value: Any = sa.tuple_(*bound) if len(bound) > 1 else bound[0]
        before, behind = (keys <= value, keys > value) if self.ascending else (keys >= value, keys < value)
        compared: sa.ColumnElement[bool] = behind if beyond else before
        return compared

    def place_of(self, row: Row) -> Place:
        return tuple(row[key.name] for key in self.keys)

    @property
    def order(self) -> list[sa.ColumnElement[Any]]:
        return [key.asc() if self.ascending else key.desc() for key in self.keys]


class Walk:
    """One walk along a path from a place on. `conditions` choose among its rows."""

    def __init__(
        self,
        database: Database,
        path: Path,
        conditions: Sequence[sa.ColumnElement[bool]],
        *,
        after: Place | None,
        seconds: float,
        largest: int | None = None,
    ) -> None:
        self._database = database
        self._path = path
        self._conditions = conditions
        self._seconds = seconds
        self._ends: float | None = None
        # Everything up to here was looked at.
        self.after = after
        self.is_over = False
        self.is_late = False
        # So many of those that are chosen are passed over before any is found.
        self.skip = 0
        self._size = FIRST_WINDOW
        self._largest = LARGEST_WINDOW if largest is None else min(largest, LARGEST_WINDOW)
        self._hurries = False

    async def find(self, columns: Sequence[Any], *, most: int) -> list[Row]:
        """The next rows that are chosen, `most` of them or what there was time for."""
        found: list[Row] = []
        chosen = sa.select(*columns).select_from(self._rows)

        async def look(select: Select, to: Place | None) -> bool:
            query = chosen.where(*self._path.between(self.after, to), *self._conditions)
            if self.skip:
                [counted] = await select(sa.select(sa.func.count().label("n")).select_from(query.subquery()))
                if counted["n"] <= self.skip:
                    self.skip -= counted["n"]
                    return False
            rows = await select(query.order_by(*self._path.order).offset(self.skip or None).limit(most - len(found)))
            self.skip = 0
            found.extend(rows)
            if len(found) < most:
                return False
            self.after = self._path.place_of(found[-1])
            return True

        await self._go(look)
        return found

    async def count(self, *, most: int) -> int:
        """How many are chosen, up to about `most`."""
        n = 0

        async def look(select: Select, to: Place | None) -> bool:
            nonlocal n
            query = sa.select(sa.literal(1)).select_from(self._rows)
            query = query.where(*self._path.between(self.after, to), *self._conditions).limit(most - n)
            [counted] = await select(sa.select(sa.func.count().label("n")).select_from(query.subquery()))
            n += counted["n"]
            return bool(n >= most)

        await self._go(look)
        return n

    async def gather(
        self, columns: Sequence[Any], by: Sequence[Any], into: Callable[[Sequence[Row], Place | None], None]
    ) -> None:
        """What is chosen, summed up by some columns, window by window, up to the end or as far as there was time.

        `into` hears of each window, and the place up to which it went.
        """

        async def look(select: Select, to: Place | None) -> bool:
            query = sa.select(*by, *columns).select_from(self._rows)
            rows = await select(query.where(*self._path.between(self.after, to), *self._conditions).group_by(*by))
            into(rows, to)
            return False

        await self._go(look)

    @property
    def _rows(self) -> sa.FromClause:
        source = self._path.source
        return jobs if source is jobs else source.join(jobs, jobs.c.id == source.c.id)

    async def _go(self, look: Look) -> None:
        """Look at one window after the other, until a look says that it is enough, or the end, or the time."""
        while not (self.is_over or self.is_late):
            began_at = self.after
            try:
                async with self._database.looking(self._left()) as select:
                    if self._ends is None:
                        # Waiting for a connection is not looking.
                        self._ends = time.monotonic() + self._seconds
                    while not self.is_over:
                        if self._left() <= 0:
                            raise OutOfTime("the time for a search is over")
                        if await self._window(select, look):
                            return
            except OutOfTime:
                if self.after != began_at:
                    self.is_late = True
                elif not self._hurries:
                    # Rows so large that not one window was done: a walk that gets nowhere would do so for ever.
                    self._hurries = True
                    self._size = min(self._size, SMALLEST_WINDOW)
                    self._ends = time.monotonic() + _LAST_SECONDS
                else:
                    raise

    @property
    def left_seconds(self) -> float:
        """What is left of its time, 0 if none is; waiting for a connection took none of it."""
        return max(0.0, self._left())

    def _left(self) -> float:
        return self._seconds if self._ends is None else self._ends - time.monotonic()

    async def _window(self, select: Select, look: Look) -> bool:
        began = time.monotonic()
        edge = sa.select(*self._path.keys).select_from(self._path.source).where(*self._path.between(self.after, None))
        rows = await select(edge.order_by(*self._path.order).offset(self._size - 1).limit(1))
        to = self._path.place_of(rows[0]) if rows else None
        if await look(select, to):
            return True
        if to is None:
            self.is_over = True
        else:
            self.after = to
        fits = self._size * WINDOW_SECONDS / max(time.monotonic() - began, 0.001)
        self._size = int(min(max(fits, SMALLEST_WINDOW), self._size * _GROWTH, self._largest))
        return False


# What is asked of a job.


def conditions_of(database: Database, wanted: JobFilter) -> list[sa.ColumnElement[bool]]:
    """What a filter asks of each row."""
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.statuses:
        conditions.append(status_in(wanted.statuses))
    if wanted.type is not None:
        conditions.append(jobs.c.type == wanted.type)
    if wanted.queue is not None:
        conditions.append(jobs.c.queue == wanted.queue)
    if wanted.fingerprint is not None:
        # A process of an older release queues a failed job again and leaves it its fingerprint.
        conditions.append(_as_written("jobs.status = 'failed'"))
        conditions.append(jobs.c.fingerprint == wanted.fingerprint)
    if wanted.tag is not None:
        conditions.append(_tagged(database, wanted.tag))
    if wanted.created_after is not None:
        conditions.append(jobs.c.created_at > _instant(database, wanted.created_after))
        conditions.append(jobs.c.id >= _first_id(wanted.created_after, -ID_SLACK))
    if wanted.created_before is not None:
        conditions.append(jobs.c.created_at < _instant(database, wanted.created_before))
        conditions.append(jobs.c.id < _first_id(wanted.created_before, ID_SLACK))
    if wanted.not_asked:
        conditions.append(jobs.c.cancel_requested.is_(sa.false()))
    # Last, since they cost the most.
    if wanted.error is not None:
        conditions.append(_error_says(database, wanted.error))
    if wanted.q is not None:
        conditions.append(sa.or_(*(_contains(database, jobs.c.payload, form) for form in forms_of(wanted.q))))
    return conditions


def status_in(statuses: frozenset[Status]) -> sa.ColumnElement[bool]:
    # Literals, so that the partial indexes are used.
    inline = ", ".join(f"'{status.value}'" for status in sorted(statuses))
    return _as_written(f"jobs.status IN ({inline})")


def _tagged(database: Database, tag: str) -> sa.ColumnElement[bool]:
    if database.sqlite:
        return sa.text("EXISTS (SELECT 1 FROM json_each(jobs.tags) WHERE value = :tag)").bindparams(tag=tag)  # type: ignore[return-value]
    return sa.text("CAST(jobs.tags AS jsonb) ? CAST(:tag AS text)").bindparams(tag=tag)  # type: ignore[return-value]


def _contains(database: Database, text: Any, part: str) -> sa.ColumnElement[bool]:
    """Literally: a function that finds a text knows no wildcards, and no case."""
    position = sa.func.instr(text, part) if database.sqlite else sa.func.strpos(text, part)
    found: sa.ColumnElement[bool] = position > 0
    return found


def _error_says(database: Database, part: str) -> sa.ColumnElement[bool]:
    """In its type or message alone: a traceback is not for everybody, and a search would tell of it."""
    said = jobs.c.error if database.sqlite else sa.cast(jobs.c.error, sa.JSON)
    fields = (said.op("->>")(sa.literal_column(f"'{name}'")) for name in ("type", "message"))
    return sa.case(
        # First as it is written, which is found without reading the JSON of every row.
        (
            _contains(database, jobs.c.error, _encode(part).decode()[1:-1]),
            sa.or_(*(_contains(database, field, part) for field in fields)),
        ),
        else_=sa.false(),
    )


def _instant(database: Database, moment: datetime) -> Any:
    return instant_us(moment) if database.sqlite else moment


def _first_id(moment: datetime, slack: timedelta) -> UUID:
    """The smallest UUIDv7 of a moment, moved by `slack`."""
    milliseconds = max(0, instant_us(moment) // 1000 + int(slack / timedelta(milliseconds=1)))
    return UUID(int=min(milliseconds, 2**48 - 1) << 80)


def _as_written(condition: str) -> sa.ColumnElement[bool]:
    """A condition word for word: SQLite uses a partial index only where it finds the index's own again."""
    return sa.text(condition)  # type: ignore[return-value]


# Paths.

BY_ID: Final = Path((jobs.c.id,), jobs)


def failed_path(wanted: JobFilter, *, ascending: bool = False) -> Path:
    """By the time of their failure."""
    holds: list[sa.ColumnElement[bool]] = [status_in(frozenset({Status.FAILED}))]
    if wanted.fingerprint is None:
        holds.append(_as_written(TERMINAL_SQL))
    else:
        holds = [_as_written("jobs.status = 'failed'"), jobs.c.fingerprint == wanted.fingerprint]
    return Path((jobs.c.finished_at, jobs.c.id), jobs, tuple(holds), ascending)


# Along the groups of alike failures, all of which stands in its index.
BY_FINGERPRINT: Final = Path(
    (jobs.c.fingerprint, jobs.c.finished_at, jobs.c.id),
    jobs,
    (_as_written("jobs.status = 'failed'"), jobs.c.fingerprint.is_not(None)),
    ascending=True,
)


def few_path(wanted: JobFilter) -> Path:
    """By id, along the few jobs of these statuses, or of this fingerprint."""
    if wanted.fingerprint is not None:
        alike = _as_written("jobs.status = 'failed'")
        chosen: Any = sa.select(jobs.c.id).where(alike, jobs.c.fingerprint == wanted.fingerprint)
    else:
        # Each by its partial index: SQLite wants its condition word for word.
        parts = [
            sa.select(jobs.c.id).where(status_in(statuses), _as_written(condition))
            for statuses, condition in (
                (wanted.statuses & WAITING, WAITING_SQL),
                (wanted.statuses & {Status.RUNNING}, "status = 'running'"),
                (wanted.statuses & TERMINAL, TERMINAL_SQL),
            )
            if statuses
        ]
        chosen = parts[0] if len(parts) == 1 else sa.union_all(*parts)
    few = chosen.cte("few").prefix_with("MATERIALIZED")
    return Path((few.c.id,), few)


_encode: Final = msgspec.json.Encoder().encode
