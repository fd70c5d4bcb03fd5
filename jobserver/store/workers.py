"""WorkerStore: the registry of processes, and with every heartbeat a measure of the database's clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from jobserver.store.engine import Database, monotonic_ns

FORGET_SECONDS: Final = 86_400.0
_encode: Final = msgspec.json.Encoder().encode


class WorkerStore:
    """Rows of the workers table of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def beat(
        self,
        worker_id: str,
        *,
        host: str,
        pid: int,
        version: str,
        draining: bool,
        stopped: bool,
        concurrency: int,
        running: int,
        loop_lag_seconds: float,
        queues: Sequence[str] | None,
        types: Sequence[str],
    ) -> datetime:
        """Say that a process is alive (or, with `stopped`, that it was). Returns the database's now."""
        async with self._database.write() as session:
            asked = monotonic_ns()
            [row] = await session.fetch(
                "beat",
                id=worker_id,
                host=host,
                pid=pid,
                version=version,
                draining=draining,
                stopped=stopped,
                concurrency=concurrency,
                running=running,
                loop_lag_seconds=loop_lag_seconds,
                queues=None if queues is None else _encode(list(queues)).decode(),
                types=_encode(list(types)).decode(),
            )
            answered = monotonic_ns()
        return self._measured(row["now"], asked, answered)

    async def measure_clock(self) -> datetime:
        """Measure the database's clock without a heartbeat; returns its now."""
        async with self._database.read() as session:
            asked = monotonic_ns()
            [row] = await session.fetch("now")
            return self._measured(row["now"], asked, monotonic_ns())

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

    async def prune(self) -> None:
        """Forget processes that have been dead for a day."""
        await self._database.fetch("prune_workers", older_than_seconds=FORGET_SECONDS)
