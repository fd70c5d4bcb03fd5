"""Submit: validate -> dedupe -> insert (durable) -> publish. When it returns, the job is committed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from jobserver.egress import TargetRefused, Targets
from jobserver.errors import DatabaseUnavailable, Invalid, KeyReused, Overloaded, Refused, Unavailable
from jobserver.job.model import CALLBACK, Priority, Status, Submission, TypeInfo
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
# Requests that may wait for their commit. More would only wait longer.
MAX_UNDER_WAY: Final = 1_000
_WAITING: Final = frozenset({Status.QUEUED, Status.SCHEDULED})
# So few fill the flights, however long they wait.
MIN_UNDER_WAY: Final = 100
# Where they wait for longer than this, fewer are let in, down to that.
WAIT_SECONDS: Final = 0.05
_FEWER: Final = 0.8
_MORE: Final = 1.05
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
    allow_private_targets: bool = False


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
        # Requests that may wait for now. A burst finds room; what goes on for longer than it can be served does not.
        self._room = float(MAX_UNDER_WAY)
        # Those that were let in during this turn of the event loop, and have not come here yet.
        self._arriving = 0
        self._targets = Targets(allow_private=options.allow_private_targets)
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

    @property
    def full(self) -> bool:
        """Whether a submit would only wait, and make the others wait longer."""
        return self._is_full(arriving=0)

    def _is_full(self, arriving: int) -> bool:
        return self._patience.waiting + arriving >= self._room or self.batcher.waiting_weight >= MAX_WAITING

    def arrive(self) -> bool:
        """Whether there is room for one more whose request is about to be read. Those of this turn are counted."""
        if self._is_full(self._arriving):
            return False
        if self._arriving == 0:
            # Runs after the turn's requests have been read, as they come first.
            asyncio.get_running_loop().call_soon(self._arrived)
        self._arriving += 1
        return True

    def _arrived(self) -> None:
        self._arriving = 0

    async def submit(self, body: SubmitBody, *, scope: str, trace_context: str | None) -> Inserted:
        """Store one job. Raises Invalid, KeyReused, Overloaded and DatabaseUnavailable."""
        [inserted] = await self._store_all([body], _alone, scope, trace_context)
        return inserted

    async def submit_many(
        self, bodies: Sequence[SubmitBody], *, scope: str, trace_context: str | None
    ) -> list[Inserted]:
        """Store jobs together or not at all, in order. Paths of Invalid start at the request: `$.jobs[3].type`."""
        return await self._store_all(bodies, _in_batch, scope, trace_context)

    async def _store_all(
        self, bodies: Sequence[SubmitBody], at: Callable[[int], str], scope: str, trace_context: str | None
    ) -> list[Inserted]:
        """The bodies of a request, whose paths `at` gives, as one group; in time, and every refusal counted."""
        try:
            group = await self._accepted(bodies, at, scope, trace_context)
            # The gate saw only those who waited then: bodies come after it, and many may have come at once.
            if self.full:
                raise Overloaded("too many submits are under way")
            if self._telemetry.tracing is not None:
                return await self._telemetry.tracing.create(group, self._write)
            return await self._patience.wait(self.batcher.put(group))
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
        self, bodies: Sequence[SubmitBody], at: Callable[[int], str], scope: str, trace_context: str | None
    ) -> Group:
        """The jobs of these bodies, or why one is none. Asks SQL, in time, only for what is not known here."""
        deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS
        ids = [self._ids.next()] if len(bodies) == 1 else self._ids.many(len(bodies))
        types: dict[str, tuple[TypeInfo, bool]] = {}
        group: list[Submission] = []
        for index, (job_id, body) in enumerate(zip(ids, bodies, strict=True)):
            info, registered = types.get(body.type) or types.setdefault(
                body.type, await self._type(body.type, at(index), deadline)
            )
            payload = bytes(body.payload)
            if len(payload) > self._options.max_payload_bytes:
                raise Invalid(f"{at(index)}.payload", f"larger than {self._options.max_payload_bytes} bytes")
            if registered:
                try:
                    self._types.check(body.type, payload)
                except Invalid as error:
                    raise Invalid(at(index) + error.path.removeprefix("$"), error.message) from None
            if body.expires_at is not None or body.callback_url is not None:
                refusal = await self._outdated(body, at(index), deadline)
                if refusal is not None and not await self._is_repeat(body, scope, deadline):
                    raise refusal
            queue = body.queue or info.queue
            if queue not in self._queues.paused:
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._queues.ensure([queue])
                except Invalid as error:
                    raise Invalid(at(index) + error.path.removeprefix("$"), error.message) from None
            group.append(
                Submission(
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
                    callback_url=body.callback_url,
                    trace_context=trace_context,
                )
            )
        return tuple(group)

    async def _type(self, name: str, at: str, deadline: float) -> tuple[TypeInfo, bool]:
        """What holds for jobs of this type, and whether a worker has registered it."""
        if name == CALLBACK:
            raise Invalid(f"{at}.type", f"{CALLBACK!r} is reserved: give a job a callback_url")
        # Before a job is refused for its type, SQL is asked; where it is taken anyway, a second's delay does no harm.
        patience = _UNKNOWN_SECONDS if self._options.accept_unknown_types else 0.0
        info = self._types.get(name)
        if info is None and not self._types.looked(within_seconds=patience):
            async with asyncio.timeout_at(deadline):
                info = await self._types.find(name, within_seconds=patience)
        return (self._unknown(name, at), False) if info is None else (info, True)

    async def _outdated(self, body: SubmitBody, at: str, deadline: float) -> Invalid | None:
        """Why a body is refused that may have been taken before: by the clock, or by what a name leads to now."""
        if body.expires_at is not None and body.expires_at <= self._clock.now():
            return Invalid(f"{at}.expires_at", "is in the past")
        if body.callback_url is not None:
            try:
                await self._targets.check(body.callback_url, until=deadline)
            except TargetRefused as error:
                return Invalid(f"{at}.callback_url", str(error))
        return None

    async def _is_repeat(self, body: SubmitBody, scope: str, deadline: float) -> bool:
        """Whether its key is known: the insert answers with the owner, or that the body is another."""
        if body.idempotency_key is None:
            return False
        async with asyncio.timeout_at(deadline):
            return await self._store.knows_key(scope, body.idempotency_key)

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
        self._make_room(self._patience.longest)
        created = [
            inserted.job
            for answer in answers
            if not isinstance(answer, KeyReused)
            for inserted in answer
            if inserted.created and inserted.job.status in _WAITING
        ]
        # Before the messages: nobody claims a job of which readers have not been told.
        if self._deliveries.announcer is not None:
            self._deliveries.announcer.submitted(created)
        self._deliveries.publish(
            Message(job.id, job.fence, job.queue, job.priority, instant_us(job.due_at)) for job in created
        )
        self._telemetry.submitted(created)
        known = sum(len(answer) for answer in answers if not isinstance(answer, KeyReused)) - len(created)
        if known:
            self._telemetry.deduplicated(known)
        return answers

    def _make_room(self, waited_seconds: float) -> None:
        """For more or fewer, by how long the first of a flush had to wait."""
        if waited_seconds < WAIT_SECONDS:
            self._room = min(MAX_UNDER_WAY, self._room * _MORE)
        elif self._patience.waiting > self._room / 2:
            # It is their number that makes them wait. What holds up a few is something else.
            self._room = max(MIN_UNDER_WAY, self._room * _FEWER)

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


def _alone(_index: int) -> str:
    """Where the body of a request is that has one."""
    return "$"


def _in_batch(index: int) -> str:
    return f"$.jobs[{index}]"
