"""Telemetry: the domain's verbs. Each is a log line and the metrics of one fact."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from uuid import UUID

import structlog

from jobserver.job.model import CALLBACK, CALLBACK_QUEUE, TERMINAL, Claimed, Ended, Job, JobError, Status
from jobserver.telemetry.metrics import LOST, RESETS, BoundedLabel, Count, Counter, Distribution, Metrics

if TYPE_CHECKING:  # it imports the SDK, which is for those who have a collector
    from jobserver.telemetry.tracing import Tracing

Item = TypeVar("Item")
Answer = TypeVar("Answer")

# Pairs of a type and a queue that have series of their own; the rest are "other".
MAX_PAIRS: Final = 1_000
# Names of types and queues that are not bounded yet: more of them than labels.
MAX_KNOWN: Final = 5_000
_SAMPLED: Final = frozenset("13579bdf")
_LOUD: Final = frozenset({Ended.FAILED, Ended.LEASE_LOST})
_EVENTS: Final = {
    Ended.COMPLETED: "job_completed",
    Ended.RETRYING: "job_retry_scheduled",
    Ended.FAILED: "job_failed",
    Ended.SNOOZED: "job_snoozed",
    Ended.HANDED_BACK: "job_handed_back",
    Ended.LEASE_LOST: "job_crashed",
    Ended.CANCELED: "job_canceled",
}


class MovedJob(Protocol):
    """A transition that was won."""

    @property
    def job_id(self) -> UUID: ...
    @property
    def fence(self) -> int: ...
    @property
    def status(self) -> Status: ...
    @property
    def queue(self) -> str: ...
    @property
    def type(self) -> str: ...


class SettledJob(MovedJob, Protocol):
    """An attempt's end that was won."""

    @property
    def due_at(self) -> datetime: ...


def trace_id(context: str | None) -> str | None:
    """The trace id of a W3C traceparent, as stored with a job."""
    return None if context is None else context[3:35]


def _sampled(context: str | None) -> str | None:
    """The trace id, when the trace is kept: the last digit of the flags is odd."""
    return context[3:35] if context and context[-1] in _SAMPLED else None


class _End:
    """What moves when an attempt ends in one way: found once, counted often."""

    __slots__ = ("age", "counts", "duration", "level")

    def __init__(self, counts: tuple[Count, ...], duration: Distribution, age: Distribution | None, level: int) -> None:
        self.counts = counts
        self.duration = duration
        self.age = age
        self.level = level


class _Kind:
    """The jobs of one type in one queue: their labels, and the series that the life of each one moves."""

    __slots__ = ("created", "ends", "labels", "wait")

    def __init__(self, labels: tuple[str, str], created: Count, wait: Distribution) -> None:
        self.labels = labels
        self.created = created
        self.wait = wait
        self.ends: dict[tuple[Ended, Status], _End] = {}


class Telemetry:
    """Counters move by rows won in SQL, so that they equal it while no process dies."""

    def __init__(self, version: str, worker_id: str, tracing: Tracing | None = None) -> None:
        self.metrics = Metrics(version)
        # None: no traces, and whoever asks for them pays for the question alone.
        self.tracing = tracing
        self._dropping = threading.Lock()
        if tracing is not None:
            tracing.queue.count_dropped(self._spans_dropped)
        self._worker_id = worker_id
        self._log: Any = structlog.get_logger("jobserver.life")
        self._stdlib = logging.getLogger("jobserver.life")
        self._type = BoundedLabel()
        self._queue = BoundedLabel()
        self._pairs: set[tuple[str, str]] = set()
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._flushes: dict[str, tuple[Distribution, Distribution]] = {}

    def submitted(self, jobs: Sequence[Job]) -> None:
        """Jobs are committed."""
        for job in jobs:
            (self._kinds.get((job.type, job.queue)) or self._kind(job.type, job.queue)).created.value += 1
        if self.tracing is not None:
            self.tracing.submitted(jobs)
        if self._stdlib.isEnabledFor(logging.INFO):
            for job in jobs:
                self._log.info(
                    "job_submitted",
                    job_id=str(job.id),
                    type=job.type,
                    queue=job.queue,
                    status=job.status.value,
                    trace_id=trace_id(job.trace_context),
                )

    def called_back(self, count: int) -> None:
        """Jobs that want a callback have ended: the callbacks are committed."""
        self._kind(CALLBACK, CALLBACK_QUEUE).created.value += count

    def callback_delivered(self) -> None:
        """A receiver took a callback."""
        self.metrics.callbacks_delivered.of().value += 1

    def callback_failed(self, reason: str) -> None:
        """A receiver did not take a callback this time; `reason` is one of a few words."""
        self.metrics.callbacks_failed.of(reason).value += 1

    def deduplicated(self, count: int) -> None:
        """Submits were answered with the job of their idempotency key."""
        self.metrics.deduplicated.of().value += count

    def rejected(self, reason: str) -> None:
        """A submit was refused; `reason` is one of a few words."""
        self.metrics.rejected.of(reason).value += 1

    def refused(self, reason: str) -> None:
        """A request was refused for who makes it; `reason` is one of a few words."""
        self.metrics.refused.of(reason).value += 1

    def acted(
        self,
        action: str,
        target: dict[str, object],
        changed: int | None,
        *,
        key: str | None,
        key_id: UUID | None,
        address: str | None,
    ) -> None:
        """A person did something that needs the scope admin. `changed`: None when nobody knows how many it was."""
        self._log.info(
            "admin_action",
            action=action,
            target=target,
            changed=changed,
            key=key,
            key_id=None if key_id is None else str(key_id),
            address=address,
        )

    def claimed(self, job: Claimed) -> None:
        """A job is ours, under its new fence."""
        if self.tracing is not None:
            self.tracing.claimed(job)
        waited = (job.started_at - job.due_at).total_seconds()
        kind = self._kinds.get((job.type, job.queue)) or self._kind(job.type, job.queue)
        kind.wait.observe(waited if waited > 0.0 else 0.0, _sampled(job.trace_context))
        if self._stdlib.isEnabledFor(logging.INFO):
            self._log.info("job_claimed", **self._fields(job))

    def ended(self, job: Claimed, moved: SettledJob, ended: Ended, seconds: float, error: JobError | None) -> None:
        """An attempt of this process ended, and its transition was won. `seconds` is how long it ran."""
        if self.tracing is not None:
            self.tracing.ended(job, moved, ended, error)
        kind = self._kinds.get((job.type, job.queue)) or self._kind(job.type, job.queue)
        end = kind.ends.get((ended, moved.status)) or self._end(kind, ended, moved.status)
        for count in end.counts:
            count.value += 1
        trace = _sampled(job.trace_context)
        end.duration.observe(seconds, trace)
        if end.age is not None:
            age = (job.started_at - job.created_at).total_seconds() + seconds
            end.age.observe(age if age > 0.0 else 0.0, trace)
        if self._stdlib.isEnabledFor(end.level):
            fields = self._fields(job) | {"status": moved.status.value, "seconds": round(seconds, 6)}
            if error is not None:
                fields |= {"error_type": error.type, "error": error.message[:500]}
            self._log.log(end.level, _EVENTS[ended], **fields)

    def reclaimed(self, job: Claimed, moved: SettledJob, lost_by: str) -> None:
        """A job whose lease was lost was taken back."""
        if self.tracing is not None:
            self.tracing.reclaimed(job, moved, lost_by)
        self._count(self.metrics.reclaimed, job.type, job.queue)
        if moved.status is Status.FAILED:
            self._count(self.metrics.crashed, job.type, job.queue)
            self._count(self.metrics.failed, job.type, job.queue)
        elif moved.status is Status.CANCELED:
            self._count(self.metrics.canceled, job.type, job.queue)
        self._log.warning(
            "job_reclaimed", **self._fields(job), status=moved.status.value, lost_by=lost_by, crashes=job.crashes + 1
        )

    def canceled(self, moved: MovedJob) -> None:
        """A waiting job was canceled."""
        self._count(self.metrics.canceled, moved.type, moved.queue)
        self._log.info("job_canceled", job_id=str(moved.job_id), type=moved.type, queue=moved.queue)

    def cancel_requested(self, job_id: UUID, worker_id: str | None) -> None:
        """A running job was asked to end."""
        self._log.info("job_cancel_requested", job_id=str(job_id), runs_on=worker_id)

    def replayed(self, job_id: UUID, kind: str, queue: str) -> None:
        """A failed or canceled job is queued again."""
        self._count(self.metrics.replayed, kind, queue)
        self._log.info("job_replayed", job_id=str(job_id), type=kind, queue=queue)

    def expired(self, moved: MovedJob) -> None:
        """A waiting job's time was over."""
        self._count(self.metrics.expired, moved.type, moved.queue)
        self._count(self.metrics.failed, moved.type, moved.queue)
        self._log.warning("job_expired", job_id=str(moved.job_id), type=moved.type, queue=moved.queue)

    def stale(self, job: Claimed, step: str) -> None:
        """A write of ours was refused: somebody else has decided about the job."""
        self.metrics.stale.of(step).value += 1
        self._log.warning("stale_write_rejected", **self._fields(job), step=step)

    def reconciled(self, queue: str, count: int) -> None:
        """Jobs whose messages were lost are published again."""
        self.metrics.reconciled.of(self._queue(queue)).value += count
        self._log.warning("jobs_reconciled", queue=queue, count=count)

    def abandoned(self, job: Claimed) -> None:
        """A handler did not end when it was told to, and was given up."""
        self.metrics.abandoned.of(self._type(job.type)).value += 1
        self._log.error("attempt_abandoned", **self._fields(job))

    def loop_blocked(self, kind: str, job_id: str | None, at: str, seconds: float) -> None:
        """The event loop does not answer. `kind`: the type of the job whose handler runs, "" when none does."""
        self.metrics.loop_blocked.of(self._type(kind) if kind else "").value += 1
        self._log.warning("event_loop_blocked", **self._blocked(kind, job_id, at, seconds))

    def loop_free(self, kind: str, job_id: str | None, at: str, seconds: float) -> None:
        """The event loop, which was blocked, answers again."""
        self._log.warning("event_loop_free", **self._blocked(kind, job_id, at, seconds))

    def _blocked(self, kind: str, job_id: str | None, at: str, seconds: float) -> dict[str, Any]:
        return {
            "type": kind or None,
            "job_id": job_id,
            "at": at,
            "seconds": round(seconds, 3),
            "worker_id": self._worker_id,
        }

    def dropped(self, count: int) -> None:
        """Messages for Redis found no place in the queue; reconcile will mend it."""
        self.metrics.dropped.of().value += count

    def events_sent(self, count: int) -> None:
        """Readers of live events were given some."""
        self.metrics.events_sent.of().value += count

    def events_lost(self, reason: str, count: int) -> None:
        """Redis was not, or may not have been, told of transitions; readers get a reset."""
        if reason in LOST:
            # Of what a process that died had to tell, nobody knows how much there was.
            self.metrics.events_lost.of(reason).value += count
            self._log.warning("events_lost", reason=reason, count=count, worker_id=self._worker_id)

    def event_reset(self, reason: str) -> None:
        """A reader was told of a gap. Reasons of unknown processes count as missed."""
        self.metrics.events_reset.of(reason if reason in RESETS else "missed").value += 1

    def event_reader_cut_off(self, behind: int) -> None:
        """A reader was cut off because it was so many bytes behind."""
        self.metrics.events_cut.of().value += 1
        self._log.warning("event_reader_cut_off", behind_bytes=behind, worker_id=self._worker_id)

    def connections_rebuilt(self) -> None:
        """Work waited and nothing was read: the connections to Redis are new."""
        self.metrics.rebuilt.of().value += 1
        self._log.warning("connections_rebuilt", worker_id=self._worker_id)

    def flushed(self, batcher: str, items: int, seconds: float) -> None:
        """A batcher wrote."""
        found = self._flushes.get(batcher)
        if found is None:
            metrics = self.metrics
            found = self._flushes[batcher] = (metrics.batch_size.of(batcher), metrics.flush_seconds.of(batcher))
        size, duration = found
        size.observe(items)
        duration.observe(seconds)

    def _spans_dropped(self, count: int) -> None:
        # Said by any thread, unlike everything else here.
        with self._dropping:
            self.metrics.spans_dropped.of().value += count

    def batch(
        self,
        operation: str,
        kind: str,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        contexts: Callable[[Sequence[Item], Sequence[Any]], Iterable[str | None]],
    ) -> Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]]:
        """`flush` as it is traced; itself where nothing is. `contexts` are those of its items' jobs."""
        return flush if self.tracing is None else self.tracing.batch(operation, kind, flush, contexts)

    def note(self, event: str, **fields: Any) -> None:
        """Something about the process itself, worth a line."""
        self._log.info(event, worker_id=self._worker_id, **fields)

    def warn(self, event: str, **fields: Any) -> None:
        """Something about the process itself that somebody should look at."""
        self._log.warning(event, worker_id=self._worker_id, **fields)

    def expect(self, name: str, queue: str) -> None:
        """Jobs of this type may come: what is counted of them is shown from now on."""
        self._kind(name, queue)

    def queue_label(self, queue: str) -> str:
        """The name of a queue as labels show it: itself, or "other"."""
        return self._queue(queue)

    def _kind(self, name: str, queue: str) -> _Kind:
        """The series of a type and queue. Finding them costs more than counting: they are remembered."""
        metrics = self.metrics
        labels = (self._type(name), self._queue(queue))
        if labels not in self._pairs:
            if len(self._pairs) >= MAX_PAIRS:
                labels = ("other", "other")
            self._pairs.add(labels)
        # From zero on: an increase from nothing to 1 is none to a query.
        for counter in metrics.of_jobs:
            counter.of(*labels)
        for counter in (metrics.abandoned, metrics.loop_blocked):
            counter.of(labels[0])
        metrics.reconciled.of(labels[1])
        if len(self._kinds) > MAX_KNOWN:
            self._kinds.clear()
        kind = _Kind(labels, metrics.created.of(*labels), metrics.wait_seconds.of(labels[1]))
        self._kinds[name, queue] = kind
        return kind

    def _end(self, kind: _Kind, ended: Ended, status: Status) -> _End:
        metrics, labels = self.metrics, kind.labels
        end = kind.ends[ended, status] = _End(
            tuple(counter.of(*labels) for counter in self._counters(ended, status)),
            metrics.attempt_seconds.of(labels[0], ended.value),
            metrics.end_to_end_seconds.of(labels[0]) if status in TERMINAL else None,
            logging.WARNING if ended in _LOUD else logging.INFO,
        )
        return end

    def _counters(self, ended: Ended, status: Status) -> tuple[Counter, ...]:
        """What an attempt that ended so, in a job that is so now, counts as."""
        metrics = self.metrics
        if status is Status.FAILED:
            return (metrics.failed, metrics.crashed) if ended is Ended.LEASE_LOST else (metrics.failed,)
        by_end = {Ended.SNOOZED: metrics.snoozed, Ended.HANDED_BACK: metrics.handed_back}
        by_status = {
            Status.COMPLETED: metrics.completed,
            Status.RETRYING: metrics.retried,
            Status.CANCELED: metrics.canceled,
        }
        found = by_status.get(status) or by_end.get(ended)
        return () if found is None else (found,)

    def _count(self, counter: Counter, name: str, queue: str) -> None:
        kind = self._kinds.get((name, queue)) or self._kind(name, queue)
        counter.of(*kind.labels).value += 1

    def _fields(self, job: Claimed) -> dict[str, Any]:
        return {
            "job_id": str(job.id),
            "type": job.type,
            "queue": job.queue,
            "attempt": job.attempt,
            "fence": job.fence,
            "worker_id": self._worker_id,
            "trace_id": trace_id(job.trace_context),
        }
