"""Submit: validate -> dedupe -> insert (durable) -> publish. When it returns, the job is committed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from jobserver.errors import DatabaseUnavailable, Invalid, KeyReused, Overloaded, Refused, Unavailable
from jobserver.job.model import Priority, Status, Submission, TypeInfo
from jobserver.job.times import instant_us
from jobserver.job.wire import PRIORITIES, SubmitBody, fingerprint
from jobserver.pipeline.batch import Batcher, Observe
from jobserver.pipeline.deliver import Deliveries
from jobserver.pipeline.ids import Ids
from jobserver.pipeline.known import Queues, Types
from jobserver.pipeline.patience import Patience
from jobserver.store.jobs import Inserted, JobStore
from jobserver.stream.jobs import Message
from jobserver.telemetry import Telemetry

_REPEATS_SECONDS: Final = (0.05, 0.25, 1.0)
_PATIENCE_SECONDS: Final = 2.0
_UNKNOWN_SECONDS: Final = 1.0
# So long a client waits at the most: a database that hangs is as good as one that is gone.
ANSWER_SECONDS: Final = 5.0
# In units of a job or of 4 KiB of its payload: 2,000 small jobs, or 8 MiB.
MAX_FLUSH: Final = 2_000
MAX_WAITING: Final = 20_000
_REASONS: Final = {Invalid: "invalid", KeyReused: "key_reused", Overloaded: "overloaded"}

Group = tuple[Submission, ...]


def _weight(group: Group) -> int:
    return sum(1 + len(job.payload) // 4_096 for job in group)


def _contexts(groups: Sequence[Group], _: Sequence[object]) -> list[str | None]:
    return [job.trace_context for group in groups for job in group]


class SubmitOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`accept_unknown_types`: jobs of a type that nobody registered get the global defaults."""

    max_retries: int
    timeout_seconds: float
    max_payload_bytes: int
    accept_unknown_types: bool


class Submitter:
    """Takes jobs in. Each group (a single job, or a batch) is stored whole or not at all."""

    def __init__(
        self,
        store: JobStore,
        deliveries: Deliveries,
        types: Types,
        queues: Queues,
        options: SubmitOptions,
        telemetry: Telemetry,
        *,
        observe: Observe | None = None,
    ) -> None:
        self._store = store
        self._deliveries = deliveries
        self._types = types
        self._queues = queues
        self._options = options
        self._telemetry = telemetry
        self._clock = store.database.clock
        self._ids = Ids(self._clock.now_us)
        self._patience = Patience(ANSWER_SECONDS)
        self.batcher: Batcher[Group, list[Inserted]] = Batcher(
            "submit",
            telemetry.batch("insert", "create", self._flush, _contexts),
            # SQLite has one writer; on PostgreSQL a second flight fills the time of the first one's commit.
            flights=1 if store.database.sqlite else 2,
            max_weight=MAX_FLUSH,
            max_waiting=MAX_WAITING,
            weigh=_weight,
            observe=observe,
        )

    async def close(self) -> None:
        """Write what is waiting, and stop."""
        await self.batcher.close()
        self._patience.close()

    async def submit(self, body: SubmitBody, *, scope: str, trace_context: str | None) -> Inserted:
        """Store one job. Raises Invalid, KeyReused, Overloaded and DatabaseUnavailable."""
        [inserted] = await self._store_all([(body, "$")], scope, trace_context)
        return inserted

    async def submit_many(
        self, bodies: Sequence[SubmitBody], *, scope: str, trace_context: str | None
    ) -> list[Inserted]:
        """Store jobs together or not at all, in order. Paths of Invalid start at the request: `$.jobs[3].type`."""
        placed = [(body, f"$.jobs[{index}]") for index, body in enumerate(bodies)]
        return await self._store_all(placed, scope, trace_context)

    async def _store_all(
        self, placed: Sequence[tuple[SubmitBody, str]], scope: str, trace_context: str | None
    ) -> list[Inserted]:
        """The bodies of a request, each with its path, as one group; in time, and every refusal counted."""
        deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS
        try:
            ids = [self._ids.next()] if len(placed) == 1 else self._ids.many(len(placed))
            group = [
                await self._accepted(job_id, body, at, scope, trace_context, deadline)
                for job_id, (body, at) in zip(ids, placed, strict=True)
            ]
            if self._telemetry.tracing is not None:
                return await self._telemetry.tracing.create(tuple(group), self._write)
            return await self._patience.wait(self.batcher.put(tuple(group)))
        except TimeoutError as error:
            raise self._too_late() from error
        except (Refused, Unavailable) as error:
            self._count(error)
            raise

    async def _write(self, group: Group) -> list[Inserted]:
        return await self._patience.wait(self.batcher.put(group))

    def _too_late(self) -> DatabaseUnavailable:
        """What is given up here may still be stored: it is not acknowledged."""
        error = DatabaseUnavailable("SQL did not take the job in time")
        self._count(error)
        return error

    def _count(self, refusal: Exception) -> None:
        self._telemetry.rejected(_REASONS.get(type(refusal), "unavailable"))

    async def _accepted(
        self, job_id: UUID, body: SubmitBody, at: str, scope: str, trace_context: str | None, deadline: float
    ) -> Submission:
        """The job of a body, or why there is none. Asks SQL, until the deadline, only for what is not known here."""
        # Before a job is refused for its type, SQL is asked; where it is taken anyway, a second's delay does no harm.
        patience = _UNKNOWN_SECONDS if self._options.accept_unknown_types else 0.0
        info = self._types.get(body.type)
        if info is None and not self._types.looked(within_seconds=patience):
            async with asyncio.timeout_at(deadline):
                info = await self._types.find(body.type, within_seconds=patience)
        payload = bytes(body.payload)
        if len(payload) > self._options.max_payload_bytes:
            raise Invalid(f"{at}.payload", f"larger than {self._options.max_payload_bytes} bytes")
        if info is None:
            info = self._unknown(body.type, at)
        else:
            try:
                self._types.check(body.type, payload)
            except Invalid as error:
                raise Invalid(at + error.path.removeprefix("$"), error.message) from None
        if body.expires_at is not None and body.expires_at <= self._clock.now():
            raise Invalid(f"{at}.expires_at", "is in the past")
        queue = body.queue or info.queue
        if queue not in self._queues.paused:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._queues.ensure([queue])
            except Invalid as error:
                raise Invalid(at + error.path.removeprefix("$"), error.message) from None
        return Submission(
            id=job_id,
            type=body.type,
            queue=queue,
            priority=info.priority if body.priority is None else PRIORITIES[body.priority],
            payload=payload,
            max_retries=info.max_retries if body.max_retries is None else body.max_retries,
            timeout_seconds=info.timeout_seconds if body.timeout is None else body.timeout,
            delay_seconds=body.delay or 0.0,
            run_at=body.run_at,
            expires_at=body.expires_at,
            idempotency_key=body.idempotency_key,
            fingerprint=b"" if body.idempotency_key is None else fingerprint(body),
            scope=scope,
            tags=body.tags,
            trace_context=trace_context,
        )

    def _unknown(self, name: str, at: str) -> TypeInfo:
        if self._options.accept_unknown_types:
            return TypeInfo(
                type=name,
                queue="default",
                priority=Priority.NORMAL,
                max_retries=self._options.max_retries,
                timeout_seconds=self._options.timeout_seconds,
                schema={},
            )
        near = self._types.near(name)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise Invalid(f"{at}.type", f"no worker has registered the type {name!r}{hint}")

    async def _flush(self, groups: Sequence[Group]) -> Sequence[list[Inserted] | KeyReused]:
        answers = await self._insert(groups)
        created = [
            inserted.job
            for answer in answers
            if not isinstance(answer, KeyReused)
            for inserted in answer
            if inserted.created and inserted.job.status in {Status.QUEUED, Status.SCHEDULED}
        ]
        self._deliveries.publish(
            Message(job.id, job.fence, job.queue, job.priority, instant_us(job.due_at)) for job in created
        )
        self._telemetry.submitted(created)
        known = sum(len(answer) for answer in answers if not isinstance(answer, KeyReused)) - len(created)
        if known:
            self._telemetry.deduplicated(known)
        return answers

    async def _insert(self, groups: Sequence[Group]) -> list[list[Inserted] | KeyReused]:
        # The ids are ours, so an insert whose commit was not confirmed may be repeated.
        started = time.monotonic()
        for delay in _REPEATS_SECONDS:
            try:
                return await self._store.insert(groups)
            except DatabaseUnavailable:
                if time.monotonic() - started > _PATIENCE_SECONDS:
                    raise
            await asyncio.sleep(delay)
        return await self._store.insert(groups)
