"""Traces: one a job, from its request to its end; batches of many jobs have traces of their own, with links.

Whether a trace is recorded is decided once, where it begins, and stored with the job: an unsampled job makes no span
anywhere. The span of an attempt has an id that follows from its job and its fence, so that every process can name
it: the next attempt, whoever runs it, and who takes the job back from a process that died. Imported only where
traces are on.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from hashlib import blake2b
from itertools import islice
from typing import Any, Final, Protocol, Self, TypeVar
from uuid import UUID

import msgspec
from opentelemetry.context import Context, attach
from opentelemetry.sdk.trace import (
    Event,
    ReadableSpan,
    Span,
    SynchronousMultiSpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
    set_tracer_provider,
)
from opentelemetry.trace import Span as AnySpan

from jobserver.errors import ConfigurationError
from jobserver.job.attempt import CURRENT
from jobserver.job.model import WAITING, AttemptRecord, Claimed, Ended, Job, JobError, Submission
from jobserver.job.model import Status as JobStatus
from jobserver.telemetry.encoding import Happened, LinkTo, Written, write_attributes, write_span
from jobserver.telemetry.exporting import CLOSE_SECONDS, SpanQueue, resource_of, span_exporter, takes_written
from jobserver.telemetry.otel import Otel, Sampling

MAX_LINKS: Final = 128
# Calls below one batch or request: a database that is away is asked again and again.
MAX_CALLS: Final = 128
# Sampled jobs whose message is about to be sent.
MAX_SENDING: Final = 8_192
MAX_LOOKING: Final = 64
# Queues with types whose attributes are kept.
MAX_SAMES: Final = 1_024
LOOK_SECONDS: Final = 2.0
MAX_DESCRIPTION: Final = 500
SYSTEM: Final = "jobserver"

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Stored = TypeVar("Stored", bound="Kept")
Result = TypeVar("Result")
Attributes = dict[str, Any]

_LOW_HALF: Final = (1 << 64) - 1
_ODD: Final = frozenset("13579bdf")
_UNSET: Final = Status(StatusCode.UNSET)
# Ends that an operator looks for; a snooze and a hand-back are none.
_BAD: Final = frozenset({Ended.RETRYING, Ended.FAILED, Ended.LEASE_LOST})


class Kept(Protocol):
    """A submit's answer."""

    @property
    def job(self) -> Job: ...
    @property
    def created(self) -> bool: ...


class Settled(Protocol):
    """What a transition made of a job."""

    @property
    def status(self) -> Any: ...
    @property
    def due_at(self) -> datetime: ...


class Commanded(Protocol):
    """A job that a person did something to."""

    @property
    def type(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def fence(self) -> int: ...
    @property
    def trace_context(self) -> str | None: ...


class Again(Commanded, Protocol):
    """A job that was queued again, or canceled, as the statement returned it."""

    @property
    def job_id(self) -> UUID: ...


class TraceContext(msgspec.Struct, frozen=True):
    """A W3C trace context, as it is stored with a job: a traceparent, and a tracestate on a second line."""

    trace_id: int
    span_id: int
    flags: int = 0
    state: str = ""

    @classmethod
    def read(cls, text: str) -> Self:
        """`text` was checked where it came in."""
        return cls(int(text[3:35], 16), int(text[36:52], 16), int(text[53:55], 16), text[56:])

    @property
    def sampled(self) -> bool:
        return bool(self.flags & 1)

    def text(self) -> str:
        parent = f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"
        return f"{parent}\n{self.state}" if self.state else parent

    def sibling(self) -> TraceContext:
        """Another span of the same trace."""
        return TraceContext(self.trace_id, _new_span_id(), self.flags, self.state)

    def of_attempt(self, job: Claimed) -> TraceContext:
        """The span of this attempt of the job that was created here."""
        return TraceContext(self.trace_id, attempt_span_id(job.id, job.fence), self.flags, self.state)

    def of_sdk(self, *, remote: bool = False) -> SpanContext:
        state = TraceState.from_header([self.state]) if self.state else None
        return SpanContext(self.trace_id, self.span_id, remote, TraceFlags(self.flags), state)


def is_sampled(context: str | None) -> bool:
    """Whether a stored context says that its trace is recorded."""
    return context is not None and context[54] in _ODD


def attempt_span_id(job_id: UUID, fence: int) -> int:
    """The id of the span of an attempt."""
    digest = blake2b(job_id.bytes + fence.to_bytes(8, "big"), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1


class Work:
    """A request or a flush under way: what is called meanwhile belongs below it."""

    __slots__ = ("calls", "context", "parent", "records", "start_ns")

    def __init__(self, context: TraceContext, parent: TraceContext | None, *, records: bool) -> None:
        self.context = context
        self.parent = parent
        self.records = records
        self.start_ns = time.time_ns()
        self.calls: list[tuple[str, str, int, int, str | None]] = []


# Held for as long as it takes to make a span of the SDK's: a handler may touch its own from several threads.
_TOUCHING: Final = threading.Lock()
_WORK: Final[ContextVar[Work | None]] = ContextVar("jobserver_traced_work", default=None)


class _Same(msgspec.Struct, frozen=True):
    """What all attempts of a type and a queue say alike, and that encoded."""

    attributes: Attributes
    written: bytes


class _Ids(RandomIdGenerator):
    """Random ids, but for the one span whose id is known beforehand."""

    def __init__(self) -> None:
        self._next = threading.local()

    def announce(self, span_id: int) -> None:
        """The next span of this thread has this id."""
        self._next.span_id = span_id

    def generate_span_id(self) -> int:
        span_id: int | None = getattr(self._next, "span_id", None)
        if span_id is None:
            return super().generate_span_id()
        self._next.span_id = None
        return span_id


class _Unsampled(NonRecordingSpan):
    """Stands for the attempt that runs in this context, and is made once for all of them."""

    def __init__(self) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)

    def get_span_context(self) -> SpanContext:
        job = CURRENT.get()
        if job is None or job.trace_context is None:
            return INVALID_SPAN_CONTEXT
        return TraceContext.read(job.trace_context).of_sdk(remote=True)


class Provider:
    """The SDK of this process: a provider for handlers, one for the spans of attempts, one queue for both."""

    def __init__(self, otel: Otel, instance: str, version: str) -> None:
        """Raises ConfigurationError where the exporter does not take its variables."""
        try:
            exporter = span_exporter(otel)
            resource = resource_of(otel, instance, version)
        except Exception as error:
            raise ConfigurationError(f"The OTEL_ variables are not understood: {error}.") from error
        self.queue = SpanQueue(exporter, otel.queueing)
        self.writes = takes_written(exporter)
        self.processor = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
        self.processor.add_span_processor(self.queue)
        self.resource = resource
        self.ids = _Ids()
        self.of_handlers = TracerProvider(
            sampler=_sampler(otel.sampling),
            resource=resource,
            shutdown_on_exit=False,
            active_span_processor=self.processor,
        )
        own = TracerProvider(
            # Decided already, and stored with the job.
            sampler=ALWAYS_ON,
            resource=resource,
            shutdown_on_exit=False,
            active_span_processor=self.processor,
            id_generator=self.ids,
        )
        self.tracer_of_attempts = own.get_tracer(SYSTEM, version)
        # What `attempt.tracer` is.
        self.tracer: Tracer = self.of_handlers.get_tracer(f"{SYSTEM}.handler", version)

    def make_global(self) -> None:
        """Let `opentelemetry.trace.get_tracer` of handlers and of their libraries lead here. Once a process."""
        set_tracer_provider(self.of_handlers)


class AttemptSpan(AnySpan):
    """The span of an attempt under way. One that its handler touches becomes the SDK's, with its checks and bounds.

    The others are made at their end, whole, at a fraction of the cost.
    """

    def __init__(self, tracing: Tracing, job: Claimed) -> None:
        self.job = job
        self.created = _read(job)
        self.start_ns = time.time_ns()
        self._tracing = tracing
        self._context: SpanContext | None = None
        self._touched: Span | None = None
        self._over = False

    def close(self) -> Span | None:
        """It has ended: the SDK's span, if it became one, to be ended by the caller."""
        with _TOUCHING:
            self._over = True
            return self._touched

    def get_span_context(self) -> SpanContext:
        if self._context is None:
            self._context = self.created.of_attempt(self.job).of_sdk()
        return self._context

    def is_recording(self) -> bool:
        return not self._over and (self._touched is None or self._touched.is_recording())

    def end(self, end_time: int | None = None) -> None:
        self._of_sdk().end(end_time)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self._of_sdk().set_attributes(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        self._of_sdk().set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        self._of_sdk().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        self._of_sdk().add_link(context, attributes)

    def update_name(self, name: str) -> None:
        self._of_sdk().update_name(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._of_sdk().set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        self._of_sdk().record_exception(exception, attributes, timestamp, escaped)

    def _of_sdk(self) -> AnySpan:
        with _TOUCHING:
            if self._touched is None:
                if self._over:
                    return INVALID_SPAN
                self._touched = self._tracing.begin_attempt(self.job, self.start_ns)
            return self._touched


class Tracing:
    """The spans of one server. Lives on its event loop; `history` tells the attempts of a job."""

    def __init__(self, otel: Otel, worker_id: str, version: str) -> None:
        self.provider = Provider(otel, worker_id, version)
        self.tracer = self.provider.tracer
        self.queue = self.provider.queue
        self.history: Callable[[UUID], Awaitable[Sequence[AttemptRecord] | None]] | None = None
        self._worker_id = worker_id
        self._parent_based = otel.sampling.parent_based
        self._bound = otel.sampling.bound
        self._scope = InstrumentationScope(SYSTEM, version)
        self._live: dict[tuple[UUID, int], AttemptSpan] = {}
        self._looking: dict[tuple[UUID, int], asyncio.Task[None]] = {}
        self._sending: dict[UUID, str] = {}
        self._sames: dict[tuple[str, str, str], _Same] = {}
        self._no_span = set_span_in_context(_Unsampled(), Context())

    async def close(self, *, within_seconds: float = CLOSE_SECONDS) -> None:
        """Export what waits, as far as the time goes."""
        tasks = list(self._looking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.to_thread(self.queue.close, within_seconds=within_seconds)

    # A request.

    def begin_request(self, caller: str | None) -> tuple[Work, Any]:
        """A request has come in, with this trace context. What it returns is for `end_request`."""
        work = self._begin(caller)
        return work, _WORK.set(work)

    def end_request(self, begun: tuple[Work, Any], method: str, route: str, path: str, status: int) -> None:
        work, token = begun
        _WORK.reset(token)
        if not work.records:
            return
        attributes: Attributes = {
            "http.request.method": method,
            "http.route": route,
            "url.path": path,
            "url.scheme": "http",
            "http.response.status_code": status,
        }
        if status >= 500:
            attributes["error.type"] = str(status)
        self._end(work, f"{method} {route}", SpanKind.SERVER, attributes, bad=status >= 500)

    # Creation.

    async def create(
        self, group: tuple[Submission, ...], submit: Callable[[tuple[Submission, ...]], Awaitable[list[Stored]]]
    ) -> list[Stored]:
        """Give each job of a request its trace context, and store them.

        A batch without a trace of its caller's gives each job a trace of its own, linked to the request.
        """
        request = _WORK.get()
        apart = len(group) > 1 and group[0].trace_context is None
        works: list[Work | None] = []
        jobs = []
        for job in group:
            work, text = self._creation(job.trace_context, None if apart else request)
            works.append(work)
            jobs.append(job if text is job.trace_context else msgspec.structs.replace(job, trace_context=text))
        try:
            stored = await submit(tuple(jobs))
        except BaseException as error:
            for job, work in zip(jobs, works, strict=True):
                if work is not None:
                    self._end_creation(work, job, None, request if apart else None, type(error).__name__)
            raise
        for job, work, kept in zip(jobs, works, stored, strict=True):
            if work is not None:
                self._end_creation(work, job, kept, request if apart else None, None)
        return stored

    def _creation(self, caller: str | None, request: Work | None) -> tuple[Work | None, str | None]:
        """The span to be, where there is one, and the context to store."""
        if request is None:
            work = self._begin(caller)
        elif request.records:
            work = Work(request.context.sibling(), request.context, records=True)
        else:
            work = request
        if work.records:
            return work, work.context.text()
        # No span of ours stands between the caller's and the handler's.
        return None, work.context.text() if caller is None or not self._parent_based else caller

    def _end_creation(
        self, work: Work, job: Submission, kept: Kept | None, request: Work | None, error: str | None
    ) -> None:
        attributes = _messaging("create", "create", job.queue) | {
            "messaging.message.id": str(job.id if kept is None else kept.job.id),
            "messaging.message.body.size": len(job.payload),
            "jobserver.job.type": job.type,
        }
        links: list[LinkTo] = []
        if kept is not None and not kept.created:
            # The key was known: the job of then has the context of then.
            attributes["jobserver.job.deduplicated"] = True
            if kept.job.trace_context is not None:
                links.append(_link(TraceContext.read(kept.job.trace_context), remote=True))
        if request is not None and request.records:
            links.append(_link(request.context))
        if error is not None:
            attributes["error.type"] = error
        self._end(work, f"create {job.queue}", SpanKind.PRODUCER, attributes, links=links, bad=error is not None)

    # Batches and calls.

    def batch(
        self,
        operation: str,
        kind: str,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        contexts: Callable[[Sequence[Item], Sequence[Answer]], Iterable[str | None]],
    ) -> Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]]:
        """`flush` with a span, wherever `contexts` of its items or answers says that one of them is recorded."""

        async def traced(items: Sequence[Item]) -> Sequence[Answer]:
            work, token = self._begin_batch()
            answers: Sequence[Answer] = ()
            error: str | None = None
            try:
                answers = await flush(items)
            except BaseException as failure:
                error = type(failure).__name__
                raise
            finally:
                _WORK.reset(token)
                self._end_batch(work, operation, kind, contexts(items, answers), len(items), error)
            return answers

        return traced

    async def send(self, ids: Iterable[UUID], count: int, apply: Awaitable[Result | None]) -> Result | None:
        """Tell Redis of messages of these jobs."""
        contexts = [context for job_id in ids if (context := self._sending.pop(job_id, None)) is not None]
        if not contexts:
            return await apply
        work, token = self._begin_batch()
        error: str | None = None
        try:
            refused = await apply
            error = None if refused is None else "refused"
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            _WORK.reset(token)
            self._end_batch(work, "send", "send", contexts, count, error)
        return refused

    async def call(self, system: str, name: str, answer: Awaitable[Result]) -> Result:
        """A call of an engine: a span where it happens below a request or a batch. `name` is that of a statement."""
        work = _WORK.get()
        if work is None or not work.records or len(work.calls) >= MAX_CALLS:
            return await answer
        start_ns = time.time_ns()
        error: str | None = None
        try:
            return await answer
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            work.calls.append((system, name, start_ns, time.time_ns(), error))

    def _begin_batch(self) -> tuple[Work, Any]:
        work = Work(TraceContext(_new_trace_id(), _new_span_id(), 1), None, records=True)
        return work, _WORK.set(work)

    def _end_batch(
        self, work: Work, operation: str, kind: str, contexts: Iterable[str | None], count: int, error: str | None
    ) -> None:
        sampled = (context for context in contexts if context is not None and context[54] in _ODD)
        links: list[LinkTo] = [
            (int(context[3:35], 16), int(context[36:52], 16), True, None) for context in islice(sampled, MAX_LINKS)
        ]
        if not links:
            return
        attributes: Attributes = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": operation,
            "messaging.operation.type": kind,
            "messaging.batch.message_count": count,
            "messaging.client.id": self._worker_id,
        }
        if error is not None:
            attributes["error.type"] = error
        self._end(work, operation, SpanKind.CLIENT, attributes, links=links, bad=error is not None)

    # Attempts.

    def submitted(self, jobs: Sequence[Job]) -> None:
        """Jobs are committed, and their messages about to be sent."""
        for job in jobs:
            if job.trace_context is not None and job.trace_context[54] in _ODD:
                self._remember(job.id, job.trace_context)

    def claimed(self, job: Claimed) -> None:
        """A job is ours: its attempt has a span from now on."""
        if job.trace_context is None or job.trace_context[54] not in _ODD:
            return
        key = (job.id, job.fence)
        span = self._live[key] = AttemptSpan(self, job)
        if job.fence > 1 and not _follows(job) and self.history is not None and len(self._looking) < MAX_LOOKING:
            task = asyncio.create_task(self._look_back(job, span), name=f"history of {job.id}")
            self._looking[key] = task
            task.add_done_callback(lambda _: self._looking.pop(key, None))

    def begin_attempt(self, job: Claimed, start_ns: int) -> Span:
        """The span of an attempt as the SDK has it. From any thread."""
        created = _read(job)
        self.provider.ids.announce(attempt_span_id(job.id, job.fence))
        span = self.provider.tracer_of_attempts.start_span(
            f"process {job.queue}",
            set_span_in_context(NonRecordingSpan(created.of_sdk(remote=True)), Context()),
            SpanKind.CONSUMER,
            self._same(job, self._worker_id).attributes | _of_attempt(job),
            [_link_of_sdk(link) for link in self._previous(job, created)],
            start_ns,
        )
        assert isinstance(span, Span)
        span.add_event(*_wait(job, start_ns))
        return span

    def enter(self, job: Claimed) -> AttemptSpan | None:
        """Make the attempt's span the current one of this task. None: it is not recorded."""
        span = self._live.get((job.id, job.fence)) if is_sampled(job.trace_context) else None
        attach(self._no_span if span is None else set_span_in_context(span, Context()))
        return span

    def ended(self, job: Claimed, moved: Settled, ended: Ended, error: JobError | None) -> None:
        """The attempt's end is committed."""
        if job.trace_context is None or job.trace_context[54] not in _ODD:
            return
        if moved.status in WAITING:
            self._remember(job.id, job.trace_context)
        key = (job.id, job.fence)
        span = self._live.pop(key, None)
        if span is None:
            return
        attributes, events, bad = _end_of(moved, ended, error)
        end_ns = time.time_ns()
        looking = self._looking.get(key)
        if looking is None:
            self._end_attempt(span, attributes, events, bad, end_ns)
        else:
            # The link to the attempt before is on its way; the end is that of now all the same.
            looking.add_done_callback(lambda _: self._end_attempt(span, attributes, events, bad, end_ns))

    def _end_attempt(
        self, span: AttemptSpan, attributes: Attributes, events: list[Happened], bad: str | None, end_ns: int
    ) -> None:
        touched = span.close()
        if touched is None:
            job, created = span.job, span.created
            self._finished(
                f"process {job.queue}",
                created.of_attempt(job),
                created,
                SpanKind.CONSUMER,
                _of_attempt(job) | attributes,
                (span.start_ns, end_ns),
                same=self._same(job, self._worker_id),
                remote=True,
                links=self._previous(job, created),
                events=[_wait(job, span.start_ns), *events],
                error=bad,
            )
            return
        touched.set_attributes(attributes)
        for event in events:
            touched.add_event(*event)
        touched.set_status(_status(bad))
        touched.end(end_ns)

    def released(self, job: Claimed) -> None:
        """The job is not held any more. An attempt whose end was not ours to write is told by who wrote it."""
        if is_sampled(job.trace_context):
            self._live.pop((job.id, job.fence), None)

    def reclaimed(self, job: Claimed, moved: Settled, lost_by: str) -> None:
        """The attempt of another process, which will not tell of it any more."""
        if job.trace_context is None or job.trace_context[54] not in _ODD:
            return
        created = _read(job)
        if moved.status in WAITING:
            self._remember(job.id, job.trace_context)
        error = JobError("LeaseLost", f"the process {lost_by} did not end it")
        attributes, events, bad = _end_of(moved, Ended.LEASE_LOST, error)
        work = Work(created.of_attempt(job), created, records=True)
        work.start_ns = min(work.start_ns, int(job.started_at.timestamp() * 1e9))
        self._end(
            work,
            f"process {job.queue}",
            SpanKind.CONSUMER,
            self._same(job, lost_by).attributes
            | _of_attempt(job)
            | attributes
            | {"jobserver.reclaimed_by": self._worker_id},
            links=self._previous(job, created),
            events=events,
            error=bad,
            remote=True,
        )

    def canceled(self, job: Again, status: JobStatus) -> None:
        """Somebody canceled a job, or asked it to end: its trace says so."""
        self._commanded("cancel", job.job_id, job, status)

    def replayed(self, jobs: Sequence[Again]) -> None:
        """Somebody queued jobs again, and their messages are about to be sent: the trace of each says so."""
        for job in jobs:
            if job.trace_context is not None and is_sampled(job.trace_context):
                self._remember(job.job_id, job.trace_context)
                self._commanded("replay", job.job_id, job, JobStatus.QUEUED)

    def _commanded(self, verb: str, job_id: UUID, job: Commanded, status: JobStatus) -> None:
        if job.trace_context is None or job.trace_context[54] not in _ODD:
            return
        created = TraceContext.read(job.trace_context)
        request = _WORK.get()
        links = [] if request is None or not request.records else [_link(request.context)]
        attributes: Attributes = {
            "messaging.message.id": str(job_id),
            "jobserver.job.type": job.type,
            "jobserver.job.fence": job.fence,
            "jobserver.job.status": status.value,
        }
        work = Work(created.sibling(), created, records=True)
        self._end(work, f"{verb} {job.queue}", SpanKind.INTERNAL, attributes, links=links, remote=True)

    def _same(self, job: Claimed, worker_id: str) -> _Same:
        key = (job.queue, job.type, worker_id)
        same = self._sames.get(key)
        if same is None:
            if len(self._sames) >= MAX_SAMES:
                self._sames.clear()
            attributes = _messaging("process", "process", job.queue) | {
                "messaging.client.id": worker_id,
                "jobserver.job.type": job.type,
            }
            same = self._sames[key] = _Same(attributes, write_attributes(attributes))
        return same

    def _previous(self, job: Claimed, created: TraceContext) -> list[LinkTo]:
        return [(created.trace_id, attempt_span_id(job.id, job.fence - 2), True, None)] if _follows(job) else []

    async def _look_back(self, job: Claimed, span: AttemptSpan) -> None:
        """Snoozes, hand-backs and replays leave no count in the row: the history knows the attempt before."""
        assert self.history is not None
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                records = await self.history(job.id) or ()
        except Exception:
            return  # a link less
        earlier = [record for record in records if record.fence < job.fence]
        if earlier:
            previous = max(earlier, key=lambda record: record.fence)
            created = span.created
            context = SpanContext(
                created.trace_id, attempt_span_id(job.id, previous.fence), True, TraceFlags(created.flags)
            )
            span.add_link(context, {"jobserver.job.outcome": previous.outcome})
            if previous.outcome in {Ended.COMPLETED, Ended.FAILED, Ended.CANCELED} or previous.fence < job.fence - 2:
                span.add_event("replayed")

    def _remember(self, job_id: UUID, context: str) -> None:
        if len(self._sending) >= MAX_SENDING:
            del self._sending[next(iter(self._sending))]
        self._sending[job_id] = context

    # Either way.

    def _begin(self, caller: str | None) -> Work:
        """A span of a caller's trace or of a new one, recorded or not."""
        if caller is None:
            trace_id = _new_trace_id()
            records = (trace_id & _LOW_HALF) < self._bound
            return Work(TraceContext(trace_id, _new_span_id(), int(records)), None, records=records)
        parent = TraceContext.read(caller)
        records = parent.sampled if self._parent_based else (parent.trace_id & _LOW_HALF) < self._bound
        # Of the flags, whether the id is random is the caller's to say.
        flags = (parent.flags & 2) | records
        # Without a span of ours, what follows hangs below the caller's.
        span_id = _new_span_id() if records else parent.span_id
        return Work(TraceContext(parent.trace_id, span_id, flags, parent.state), parent, records=records)

    def _end(
        self,
        work: Work,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        *,
        links: Sequence[LinkTo] = (),
        events: Sequence[Happened] = (),
        bad: bool = False,
        error: str | None = None,
        remote: bool = False,
    ) -> None:
        """A span whole, at its end, and the calls below it."""
        context = work.context
        remote = remote or kind is SpanKind.SERVER or (work.parent is not None and kind is SpanKind.PRODUCER)
        self._finished(
            name,
            context,
            work.parent,
            kind,
            attributes,
            (work.start_ns, time.time_ns()),
            remote=remote,
            links=links,
            events=events,
            error="" if bad else error,
        )
        for system, called, start_ns, end_ns, failure in work.calls:
            self._finished(
                called,
                context.sibling(),
                context,
                SpanKind.CLIENT,
                _call(system, called, failure),
                (start_ns, end_ns),
                error=None if failure is None else "",
            )

    def _finished(
        self,
        name: str,
        context: TraceContext,
        parent: TraceContext | None,
        kind: SpanKind,
        attributes: Attributes,
        times_ns: tuple[int, int],
        *,
        same: _Same | None = None,
        remote: bool = False,
        links: Sequence[LinkTo] = (),
        events: Sequence[Happened] = (),
        error: str | None = None,
    ) -> None:
        """A span in one go, at a tenth of the cost of one that the SDK begins and ends. `remote`: its parent is."""
        start_ns, end_ns = times_ns
        end_ns = max(start_ns, end_ns)
        if self.provider.writes:
            data = write_span(
                name,
                context.trace_id,
                context.span_id,
                context.state,
                None if parent is None else (parent.span_id, remote),
                kind.value,
                (start_ns, end_ns),
                attributes,
                links,
                events,
                error,
                b"" if same is None else same.written,
            )
            self.queue.put(Written(data, self.provider.resource, self._scope))
            return
        self.queue.put(
            ReadableSpan(
                name=name,
                context=context.of_sdk(),
                parent=None if parent is None else parent.of_sdk(remote=remote),
                resource=self.provider.resource,
                attributes=attributes if same is None else same.attributes | attributes,
                events=[Event(*event) for event in events],
                links=[_link_of_sdk(link) for link in links],
                kind=kind,
                status=_status(error),
                start_time=start_ns,
                end_time=end_ns,
                instrumentation_scope=self._scope,
            )
        )


def _read(job: Claimed) -> TraceContext:
    """The creation of a job that has one."""
    assert job.trace_context is not None
    return TraceContext.read(job.trace_context)


def _of_attempt(job: Claimed) -> Attributes:
    return {
        "messaging.message.id": str(job.id),
        "messaging.message.body.size": len(job.payload),
        "jobserver.job.attempt": job.attempt,
        "jobserver.job.fence": job.fence,
        "jobserver.job.retry_count": job.retry_count,
        "jobserver.job.crashes": job.crashes,
    }


def _wait(job: Claimed, at_ns: int) -> Happened:
    waited = max(0.0, (job.started_at - job.due_at).total_seconds())
    return "queue wait", {"jobserver.wait.seconds": waited}, at_ns


def _follows(job: Claimed) -> bool:
    """Whether an attempt since the last replay came right before: a claim and an end, two fences."""
    return job.attempt > 1 or job.retry_count > 0 or job.crashes > 0


def _link(context: TraceContext, *, remote: bool = False) -> LinkTo:
    return context.trace_id, context.span_id, remote, None


def _link_of_sdk(link: LinkTo) -> Link:
    trace_id, span_id, remote, attributes = link
    return Link(SpanContext(trace_id, span_id, remote, TraceFlags(TraceFlags.SAMPLED)), attributes)


def _status(error: str | None) -> Status:
    return _UNSET if error is None else Status(StatusCode.ERROR, error or None)


def _end_of(moved: Settled, ended: Ended, error: JobError | None) -> tuple[Attributes, list[Happened], str | None]:
    """What the end of an attempt adds to its span; the text is that of its error, where it is one to look for."""
    now_ns = time.time_ns()
    attributes: Attributes = {"jobserver.job.outcome": ended.value}
    events: list[Happened] = []
    bad: str | None = None
    if error is not None:
        attributes["error.type"] = error.type
        said = {"exception.type": error.type, "exception.message": error.message}
        if error.traceback is not None:
            said["exception.stacktrace"] = error.traceback
        events.append(("exception", said, now_ns))
    if ended in _BAD:
        bad = "" if error is None else f"{error.type}: {error.message}"[:MAX_DESCRIPTION]
    if ended is Ended.LEASE_LOST:
        events.append(("lease lost", {}, now_ns))
    settled = {"jobserver.job.status": moved.status.value}
    if moved.status in WAITING:
        settled["jobserver.job.due_at"] = _iso(moved.due_at)
    events.append(("settled", settled, now_ns))
    return attributes, events, bad


def _messaging(operation: str, kind: str, queue: str) -> Attributes:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": queue,
    }


def _call(system: str, name: str, error: str | None) -> Attributes:
    attributes: Attributes = {"db.system.name": system, "db.operation.name": name, "db.query.summary": name}
    if error is not None:
        attributes["error.type"] = error
    return attributes


def _sampler(sampling: Sampling) -> Sampler:
    root = TraceIdRatioBased(sampling.ratio)
    return ParentBased(root) if sampling.parent_based else root


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _new_trace_id() -> int:
    return random.getrandbits(128) or 1


def _new_span_id() -> int:
    return random.getrandbits(64) or 1
