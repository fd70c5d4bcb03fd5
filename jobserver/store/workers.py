"""WorkerStore: the registry of processes, and with every heartbeat a measure of the database's clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from jobserver.store.engine import Database, monotonic_ns

FORGET_SECONDS: Final = 86_400.0
BEAT_LIMIT_SECONDS: Final = 2.5
_encode: Final = msgspec.json.Encoder().encode


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """What a process says of itself with every heartbeat."""

    worker_id: str
    host: str
    pid: int
    version: str
    draining: bool
    stopped: bool
    concurrency: int
    running: int
    loop_lag_seconds: float
    queues: Sequence[str] | None
    types: Sequence[str]


class Heard(msgspec.Struct, frozen=True):
    """The database's now, and whether this process holds the lock that proves that it lives."""

    now: datetime
    locked: bool


class WorkerStore:
    """Rows of the workers table of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def beat(self, beat: Beat) -> Heard:
        """Say that a process is alive (or, when it `stopped`, that it was).

        On PostgreSQL the connection also takes the lock that proves it, unless it has it. The lock belongs to
        the connection: use a Database with one.
        """
        async with self._database.within(BEAT_LIMIT_SECONDS) as session:
            asked = monotonic_ns()
            [row] = await session.fetch(
                "beat",
                id=beat.worker_id,
                host=beat.host,
                pid=beat.pid,
                version=beat.version,
                draining=beat.draining,
                stopped=beat.stopped,
                concurrency=beat.concurrency,
                running=beat.running,
                loop_lag_seconds=beat.loop_lag_seconds,
                queues=None if beat.queues is None else _encode(list(beat.queues)).decode(),
                types=_encode(list(beat.types)).decode(),
            )
            answered = monotonic_ns()
        return Heard(self._measured(row["now"], asked, answered), bool(row["locked"]))

    async def measure_clock(self) -> datetime:
        """Measure the database's clock without a heartbeat; returns its now."""
        async with self._database.read() as session:
            asked = monotonic_ns()
            [row] = await session.fetch("now")
            return self._measured(row["now"], asked, monotonic_ns())

    async def now(self) -> datetime:
        """The database's now, of which the clock of this process hears nothing."""
        async with self._database.read() as session:
            [row] = await session.fetch("now")
        return self._database.moment(row["now"])

    def _measured(self, now: object, asked_ns: int, answered_ns: int) -> datetime:
        moment = self._database.moment(now)
        if not self._database.sqlite:
            self._database.clock.measured(moment, asked_ns, answered_ns)
        return moment

    async def alive(self, *, within_seconds: float) -> list[str]:
        """The processes with a heartbeat in the last seconds."""
        async with self._database.read() as session:
            rows = await session.fetch("alive_ids", within_seconds=within_seconds)
        return [row["id"] for row in rows]

    async def silent(self, *, seconds: float) -> list[str]:
        """The processes that held their lock, were silent for so long, and have running jobs. PostgreSQL only."""
        if self._database.sqlite:
            return []
        async with self._database.read() as session:
            rows = await session.fetch("silent_workers", silent_seconds=seconds)
        return [row["id"] for row in rows]

    async def prune(self) -> None:
        """Forget processes that have been dead for a day."""
        await self._database.fetch("prune_workers", older_than_seconds=FORGET_SECONDS)
