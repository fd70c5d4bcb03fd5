"""Telemetry: the domain's verbs. Each is a log line and the metrics of one fact."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol
from uuid import UUID

import structlog
from prometheus_client import Counter

from jobserver.job.model import TERMINAL, Claimed, Ended, Job, JobError, Status
from jobserver.telemetry.metrics import BoundedLabel, Metrics

# Names of types and queues that are not bounded yet: more of them than labels.
MAX_KNOWN: Final = 5_000
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


def trace_id(context: str | None) -> str | None:
    """The trace id of a W3C traceparent, as stored with a job."""
    return None if context is None else context[3:35]


class Telemetry:
    """Counters move by rows won in SQL, so that they equal it while no process dies."""

    def __init__(self, version: str, worker_id: str) -> None:
        self.metrics = Metrics(version)
        self._worker_id = worker_id
        self._log: Any = structlog.get_logger("jobserver.life")
        self._stdlib = logging.getLogger("jobserver.life")
        self._type = BoundedLabel()
        self._queue = BoundedLabel()
        self._known: dict[tuple[Any, ...], Any] = {}

    def submitted(self, jobs: Sequence[Job]) -> None:
        """Jobs are committed."""
        for job in jobs:
            self._count(self.metrics.created, job.type, job.queue)
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

    def deduplicated(self, count: int) -> None:
        """Submits were answered with the job of their idempotency key."""
        self.metrics.deduplicated.inc(count)

    def rejected(self, reason: str) -> None:
        """A submit was refused; `reason` is one of a few words."""
        self.metrics.rejected.labels(reason).inc()

    def claimed(self, job: Claimed) -> None:
        """A job is ours, under its new fence."""
        waited = (job.started_at - job.due_at).total_seconds()
        key = (self.metrics.wait_seconds, job.queue)
        child = self._known.get(key) or self._bind(key, self._queue(job.queue))
        child.observe(max(0.0, waited))
        if self._stdlib.isEnabledFor(logging.INFO):
            self._log.info("job_claimed", **self._fields(job))

    def ended(self, job: Claimed, moved: MovedJob, ended: Ended, seconds: float, error: JobError | None) -> None:
        """An attempt of this process ended, and its transition was won. `seconds` is how long it ran."""
        self._count_end(ended, moved.status, job.type, job.queue)
        key: tuple[Any, ...] = (self.metrics.attempt_seconds, job.type, ended)
        child = self._known.get(key) or self._bind(key, self._type(job.type), ended.value)
        child.observe(seconds)
        if moved.status in TERMINAL:
            age = (job.started_at - job.created_at).total_seconds() + seconds
            key = (self.metrics.end_to_end_seconds, job.type)
            child = self._known.get(key) or self._bind(key, self._type(job.type))
            child.observe(max(0.0, age))
        level = logging.WARNING if ended in {Ended.FAILED, Ended.LEASE_LOST} else logging.INFO
        if self._stdlib.isEnabledFor(level):
            fields = self._fields(job) | {"status": moved.status.value, "seconds": round(seconds, 6)}
            if error is not None:
                fields |= {"error_type": error.type, "error": error.message[:500]}
            self._log.log(level, _EVENTS[ended], **fields)

    def reclaimed(self, job: Claimed, moved: MovedJob, lost_by: str) -> None:
        """A job whose lease was lost was taken back."""
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
        self.metrics.stale.labels(step).inc()
        self._log.warning("stale_write_rejected", **self._fields(job), step=step)

    def reconciled(self, queue: str, count: int) -> None:
        """Jobs whose messages were lost are published again."""
        self.metrics.reconciled.labels(self._queue(queue)).inc(count)
        self._log.warning("jobs_reconciled", queue=queue, count=count)

    def abandoned(self, job: Claimed) -> None:
        """A handler did not end when it was told to, and was given up."""
        self.metrics.abandoned.labels(self._type(job.type)).inc()
        self._log.error("attempt_abandoned", **self._fields(job))

    def loop_blocked(self, kind: str, job_id: str | None, at: str, seconds: float) -> None:
        """The event loop does not answer. `kind`: the type of the job whose handler runs, "" when none does."""
        self.metrics.loop_blocked.labels(self._type(kind) if kind else "").inc()
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
        self.metrics.dropped.inc(count)

    def connections_rebuilt(self) -> None:
        """Work waited and nothing was read: the connections to Redis are new."""
        self.metrics.rebuilt.inc()
        self._log.warning("connections_rebuilt", worker_id=self._worker_id)

    def flushed(self, batcher: str, items: int, seconds: float) -> None:
        """A batcher wrote."""
        self.metrics.batch_size.labels(batcher).observe(items)
        self.metrics.flush_seconds.labels(batcher).observe(seconds)

    def note(self, event: str, **fields: Any) -> None:
        """Something about the process itself, worth a line."""
        self._log.info(event, worker_id=self._worker_id, **fields)

    def warn(self, event: str, **fields: Any) -> None:
        """Something about the process itself that somebody should look at."""
        self._log.warning(event, worker_id=self._worker_id, **fields)

    def _count_end(self, ended: Ended, status: Status, kind: str, queue: str) -> None:
        metrics = self.metrics
        if status is Status.COMPLETED:
            self._count(metrics.completed, kind, queue)
        elif ended is Ended.SNOOZED:
            self._count(metrics.snoozed, kind, queue)
        elif ended is Ended.HANDED_BACK:
            self._count(metrics.handed_back, kind, queue)
        elif status is Status.RETRYING:
            self._count(metrics.retried, kind, queue)
        elif status is Status.CANCELED:
            self._count(metrics.canceled, kind, queue)
        elif status is Status.FAILED:
            self._count(metrics.failed, kind, queue)
            if ended is Ended.LEASE_LOST:
                self._count(metrics.crashed, kind, queue)

    def _count(self, counter: Counter, kind: str, queue: str, n: int = 1) -> None:
        key = (counter, kind, queue)
        child = self._known.get(key) or self._bind(key, self._type(kind), self._queue(queue))
        child.inc(n)

    def _bind(self, key: tuple[Any, ...], *labels: str) -> Any:
        """The child of a metric for these labels. Finding one costs more than counting: it is remembered."""
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        child = self._known[key] = key[0].labels(*labels)
        return child

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
