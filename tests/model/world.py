"""The real side of the model-based test: two engines, a clock that the test moves, and workers stepped by hand.

Time: every statement asks the database's clock, so the test moves that clock and nothing sleeps. On PostgreSQL a
schema before `pg_catalog` in the search path has a `clock_timestamp()` of its own, on SQLite the process gives the
time anyway. Shifting the instants of rows and scores instead would not do: messages carry their time, and reconcile
compares the two. It also makes a run the same each time, to the microsecond.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from uuid import UUID

import msgspec
import sqlalchemy as sa

from jobserver.builtin import builtin_handlers
from jobserver.job.model import Canceled, Delivery, Outcome, Priority, Progress, Returned, Status
from jobserver.job.times import from_us, instant_us
from jobserver.pipeline.consume import fetch_order
from jobserver.pipeline.execute import Executor, ExecutorOptions
from jobserver.pipeline.running import CancelReason, Running
from jobserver.server import Engines, Server, open_engines
from jobserver.settings import Settings
from jobserver.store import tables
from jobserver.store.engine import Clock, Database, Row
from jobserver.store.rows import PRIORITIES, STATUSES, error_of
from jobserver.stream.jobs import Stream
from jobserver.stream.keys import GROUP
from tests.conftest import Pair
from tests.engines import eventually
from tests.model.expected import (
    BACKOFF_CAP_SECONDS,
    IDEMPOTENCY_SECONDS,
    LEASE_SECONDS,
    MAX_CRASHES,
    SECOND,
    Expected,
    Past,
)
from tests.servers import settings_for

T = TypeVar("T")

QUEUES: Final = ("default", "other")
STREAMS: Final[tuple[Stream, ...]] = tuple((queue, priority) for queue in QUEUES for priority in Priority)
WORKERS: Final = 3
SLOTS: Final = 6
START_US: Final = 1_772_877_600 * SECOND
# No step takes long: this only ends one that hangs.
STEP_SECONDS: Final = 30.0

_OWN_CLOCK: Final = (
    "CREATE SCHEMA model",
    "CREATE TABLE model.clock (now timestamptz NOT NULL)",
    "INSERT INTO model.clock VALUES (pg_catalog.clock_timestamp())",
    "CREATE FUNCTION model.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE"
    " AS 'SELECT now FROM model.clock'",
    "DO $$ BEGIN EXECUTE format("
    "'ALTER DATABASE %I SET search_path = model, public, pg_catalog', current_database()); END $$",
)

# Redis measures by its own clock how long a message is pending: time goes on there too.
_AGE_PENDING: Final = """
for _, key in ipairs(KEYS) do
    local pending = redis.pcall('XPENDING', key, ARGV[1], '-', '+', 10000)
    if pending.err == nil then
        for _, each in ipairs(pending) do
            local idle = string.format('%d', each[3] + ARGV[2])
            redis.call('XCLAIM', key, ARGV[1], each[2], 0, each[1], 'IDLE', idle, 'JUSTID')
        end
    end
end
"""


class ModelClock(Clock):
    """Stands still until the test moves it. What the database answers is not measured: the test moves that as well."""

    def __init__(self) -> None:
        super().__init__()
        self.us = START_US

    def now_us(self) -> int:
        return self.us

    def measured(self, database_now: datetime, asked_ns: int, answered_ns: int) -> None:
        assert instant_us(database_now) == self.us, "two clocks"


class Hold(msgspec.Struct, frozen=True):
    """An attempt that some worker believes to be running: it may be a zombie."""

    worker: Worker
    job_id: UUID
    fence: int
    running: Running


class Seen(msgspec.Struct, frozen=True):
    """What SQL says: the jobs with their history, when their messages are from, keys, and counts kept apart."""

    jobs: dict[UUID, Expected]
    available_us: dict[UUID, int]
    keys: dict[str, UUID]
    counts: Counter[tuple[str, Status]]


class Attempts(Executor):
    """Runs no handler: an attempt ends when, and as, the test says. What follows from that is the executor's own."""

    def __init__(self, server: Server) -> None:
        super().__init__(
            builtin_handlers(allow_private_targets=False),
            ExecutorOptions(threads=1, processes=1, thread_grace_seconds=1.0, max_result_bytes=1_000),
            report_progress=server.holdings.said,
        )
        self.open: dict[tuple[UUID, int], tuple[Running, asyncio.Future[Outcome]]] = {}

    def _wants_child(self, running: Running, handler: Any) -> bool:
        """Not on the loop by itself: by way of `_outcome`."""
        return True

    async def _outcome(self, running: Running, handler: Any) -> Outcome:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.open[running.job.id, running.job.fence] = (running, future)
        return await future

    def end(self, job_id: UUID, fence: int, outcome: Outcome) -> None:
        _, future = self.open.pop((job_id, fence))
        future.set_result(outcome)


class Worker:
    """One process, as far as jobs are concerned: its real parts, and what it has in hand."""

    def __init__(self, number: int, server: Server) -> None:
        self.number = number
        self.server = server
        self.attempts = Attempts(server)
        server.consumers._executor = self.attempts
        self.fetched: list[Delivery] = []
        self.silent = False
        self._turn = 0

    def __repr__(self) -> str:
        return f"worker {self.number}"

    async def start(self) -> None:
        """Batchers run; the fetcher, the loops and the queue to Redis are stepped."""
        self.server.submitter.batcher.start()
        self.server.finisher.batcher.start()
        self.server.consumers.claims.start()
        await self.server.queues.refresh()

    async def die(self) -> None:
        """As by SIGKILL: nothing is written, what Redis was not told is forgotten."""
        await self.server.consumers.close()
        await self.attempts.__aexit__()
        await self.server.submitter.batcher.close()
        await self.server.finisher.batcher.close()

    @property
    def id(self) -> str:
        return self.server.worker_id

    @property
    def holds(self) -> list[Hold]:
        return [Hold(self, job_id, fence, running) for (job_id, fence), (running, _) in self.attempts.open.items()]

    async def tell(self) -> None:
        """Tell Redis what it was not told yet."""
        deliveries = self.server.deliveries
        while deliveries._waiting:
            batch = [deliveries._waiting.popleft() for _ in range(len(deliveries._waiting))]
            await deliveries._send(batch)

    async def fetch(self, count: int) -> list[Delivery]:
        """Read messages, as the fetcher does."""
        consumers = self.server.consumers
        streams = fetch_order(self._turn, self.server.queues.served())
        self._turn += 1
        if not streams:
            return []
        fetched = await self.server.stream.fetch(streams, self.id, count)
        if fetched.made_group:
            consumers.on_wiped()
        return fetched.deliveries

    async def claim(self, deliveries: Sequence[Delivery]) -> set[tuple[UUID, int]]:
        """Claim what the messages name. Returns the attempts that began."""
        before = set(self.attempts.open)
        self.server.consumers.take(deliveries)
        await self.quiet()
        return set(self.attempts.open) - before

    async def take_over(self) -> set[tuple[UUID, int]]:
        """XAUTOCLAIM on every stream, and claims. Returns the attempts that began."""
        before = set(self.attempts.open)
        for stream in self.server.reclaim._readable():
            await self.server.reclaim._take_over(stream, self.server.consumers)
        await self.quiet()
        return set(self.attempts.open) - before

    async def end(self, hold: Hold, outcome: Outcome) -> None:
        """The handler ends; the consumer writes what that comes to, if the job is still ours."""
        self.attempts.end(hold.job_id, hold.fence, outcome)
        await self.quiet()

    async def extend(self) -> None:
        """A heartbeat for the leases. A handler whose job was refused ends, and what it says is discarded."""
        await self.server.heartbeat.pulse.extend(self.server.store)
        await self.quiet()

    async def hear(self) -> None:
        """Cancel requests arrive, progress is stored, queues are looked at."""
        await self.server.hear.step()

    async def quiet(self) -> None:
        """Return when every slot is free or has an open attempt: no claim and no end is under way."""

        def at_rest() -> bool:
            for (job_id, fence), (running, _) in list(self.attempts.open.items()):
                if running.requested is CancelReason.LEASE_REFUSED:
                    self.attempts.end(job_id, fence, Returned(b'"too late"'))
            return self.server.consumers._open == len(self.attempts.open)

        await eventually(at_rest, every=0.0005)


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


class World:
    """Owns the event loop and the engines. Between two examples everything is empty again."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._examples = 0
        self._settings: Settings
        self._engines: Engines
        self._errors = _Errors()
        self.clock = ModelClock()
        self.workers: list[Worker] = []

    def __enter__(self) -> Self:
        logging.getLogger("jobserver").addHandler(self._errors)
        try:
            self.run(self._open())
        except BaseException:
            self._runner.close()
            logging.getLogger("jobserver").removeHandler(self._errors)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run(self._stack.aclose())
        finally:
            self._runner.close()
            logging.getLogger("jobserver").removeHandler(self._errors)

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(_within(step))

    @property
    def now_us(self) -> int:
        return self.clock.us

    @property
    def errors(self) -> list[str]:
        """What was logged as an error, of which no rule gives a reason."""
        return self._errors.texts

    @property
    def holds(self) -> list[Hold]:
        return [hold for worker in self.workers for hold in worker.holds]

    @property
    def _database(self) -> Database:
        return self._engines.database

    @property
    def _redis(self) -> Any:
        return self._engines.client.commands

    async def _open(self) -> None:
        if self._pair.name == "postgresql":
            database = Database(self._pair.database_url)
            async with database._writer.begin() as connection:
                for statement in _OWN_CLOCK:
                    await connection.execute(sa.text(statement))
            await database.close()
        self._settings = settings_for(
            self._pair,
            workers=SLOTS,
            lease_seconds=LEASE_SECONDS,
            idempotency_ttl=IDEMPOTENCY_SECONDS,
            backoff_cap=BACKOFF_CAP_SECONDS,
            max_crashes=MAX_CRASHES,
        )
        self._engines = await self._stack.enter_async_context(open_engines(self._settings))
        self._database.clock = self.clock

    # An example.

    async def begin(self) -> None:
        self._examples += 1
        self._settings = msgspec.structs.replace(
            self._settings, redis_prefix=f"{self._pair.redis_prefix}-{self._examples}"
        )
        self._errors.texts.clear()
        self.clock.us = START_US
        await self.advance(0)
        self.workers = []
        for number in range(WORKERS):
            self.workers.append(await self._worker(number))
        await self.workers[0].server.queues.ensure(QUEUES)
        for worker in self.workers:
            await worker.server.queues.refresh()

    async def end(self) -> None:
        for worker in self.workers:
            await worker.die()
        await self.wipe()
        async with self._database._writer.begin() as connection:
            names = [table.name for table in tables.metadata.sorted_tables]
            if not self._database.sqlite:
                await connection.execute(sa.text(f"TRUNCATE {', '.join(names)}"))
            else:
                # The triggers of the first fill the table of counts.
                for name in sorted(names, key=lambda name: name != "jobs"):
                    await connection.execute(sa.text(f"DELETE FROM {name}"))

    async def _worker(self, number: int) -> Worker:
        server = Server(self._settings)
        server._build(self._engines)
        worker = Worker(number, server)
        await worker.start()
        return worker

    async def replace(self, worker: Worker) -> None:
        """The process dies, and another takes its place."""
        await worker.die()
        self.workers[worker.number] = await self._worker(worker.number)

    # Time.

    async def advance(self, us: int) -> None:
        """Move the time of SQL, of the processes and of Redis."""
        self.clock.us += us
        if not self._database.sqlite:
            async with self._database._session(self._database._writer) as (_, driver):
                await driver.execute("UPDATE model.clock SET now = $1", from_us(self.clock.us))
        if us >= SECOND:
            for worker in self.workers:
                worker.server.promote._refilled -= us / SECOND
                worker.server.reconcile._fed -= us / SECOND
            await self._redis.eval(_AGE_PENDING, len(STREAMS), *self._job_keys(), GROUP, us // 1000)

    # What happens to SQL.

    async def end_lease(self, job_id: UUID) -> int:
        """Let the lease of a running job be over; returns since when."""
        lease_us = self.now_us - SECOND
        value = lease_us if self._database.sqlite else from_us(lease_us)
        async with self._database._writer.begin() as connection:
            id_ = str(job_id) if self._database.sqlite else job_id
            await connection.execute(
                sa.text("UPDATE jobs SET lease_expires_at = :lease WHERE id = :id"), {"lease": value, "id": id_}
            )
        return lease_us

    async def look(self) -> Seen:
        """Everything that SQL says."""
        instant = self._us
        histories: dict[UUID, list[Past]] = {}
        jobs, attempts, keys, counts = await self._rows()
        for row in attempts:
            past = Past(row["fence"], row["number"], row["outcome"], row["worker_id"])
            histories.setdefault(self._database.uuid(row["job_id"]), []).append(past)
        found: dict[UUID, Expected] = {}
        available: dict[UUID, int] = {}
        for row in jobs:
            job_id = self._database.uuid(row["id"])
            error = error_of(row["error"])
            found[job_id] = Expected(
                id=job_id,
                queue=row["queue"],
                priority=PRIORITIES[row["priority"]],
                status=STATUSES[row["status"]],
                max_retries=row["max_retries"],
                due_us=instant(row["due_at"]) or 0,
                expires_us=instant(row["expires_at"]),
                fence=row["fence"],
                attempt=row["attempt"],
                retry_count=row["retry_count"],
                crashes=row["crashes"],
                cancel_requested=bool(row["cancel_requested"]),
                lease_us=instant(row["lease_expires_at"]),
                worker_id=row["worker_id"],
                percent=None if row["progress"] is None else _percent(row["progress"]),
                result=row["result"],
                error=None if error is None else error.type,
                finished=row["finished_at"] is not None,
                history=tuple(sorted(histories.pop(job_id, ()), key=lambda past: past.fence)),
            )
            available[job_id] = instant(row["available_at"]) or 0
        assert not histories, f"attempts of jobs that do not exist: {histories}"
        return Seen(
            found,
            available,
            {row["key"]: self._database.uuid(row["job_id"]) for row in keys},
            Counter({(row["queue"], STATUSES[row["status"]]): int(row["n"]) for row in counts}),
        )

    async def _rows(self) -> list[Sequence[Row]]:
        """Jobs, attempts, keys and counts, over one connection."""
        database = self._database
        texts = [f"SELECT * FROM {table.name}" for table in (tables.jobs, tables.attempts, tables.idempotency_keys)]
        async with database._session(database._reader) as (session, driver):
            ask = driver.execute_fetchall if database.sqlite else driver.fetch
            return [*[await ask(text) for text in texts], await session.fetch("counts")]

    def _us(self, value: Any) -> int | None:
        moment = self._database.instant(value)
        return None if moment is None else instant_us(moment)

    # What happens to Redis.

    async def wipe(self) -> None:
        """FLUSHALL, as far as this example is concerned: other tests share the server."""
        keys = self.workers[0].server.stream.keys
        delayed = [keys.delayed(*stream) for stream in STREAMS]
        await self._redis.delete(*self._job_keys(), *delayed, keys.dlq, keys.incarnation)

    async def destroy_groups(self) -> None:
        for key in self._job_keys():
            if await self._redis.exists(key):
                await self._redis.xgroup_destroy(key, GROUP)

    async def lose(self, which: int) -> None:
        """Lose one message, or one member of a delayed set, if there is any."""
        keys = self.workers[0].server.stream.keys
        places: list[tuple[str, str, bytes]] = []
        for stream in STREAMS:
            key = keys.jobs(*stream)
            places += [("XDEL", key, entry) for entry, _ in await self._redis.xrange(key)]
            key = keys.delayed(*stream)
            places += [("ZREM", key, member) for member in await self._redis.zrange(key, 0, -1)]
        if places:
            await self._redis.execute_command(*places[which % len(places)])

    def _job_keys(self) -> list[str]:
        keys = self.workers[0].server.stream.keys
        return [keys.jobs(*stream) for stream in STREAMS]


async def _within(step: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(STEP_SECONDS):
        return await step


def _percent(text: str) -> float:
    return msgspec.json.decode(text, type=Progress).percent


def effective(running: Running, outcome: Outcome) -> Outcome:
    """What an attempt comes to that had heard of its cancel: it returned first, or it is canceled."""
    if running.requested is CancelReason.REQUESTED and not isinstance(outcome, Returned | Canceled):
        return Canceled("cancel requested")
    return outcome
