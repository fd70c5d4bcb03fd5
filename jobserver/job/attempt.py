"""What a handler receives: one run of a job. Knows no I/O; whoever runs the handler gives it its callables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from jobserver.job.model import Claimed, Progress, bounded

MAX_PROGRESS_MESSAGE: Final = 1_000


class Attempt:
    """One run of a job, as its handler sees it.

    Works alike in tasks, threads and child processes: `progress` may be awaited or not. `report` and
    `cancel_requested` are given by whoever runs the handler; `deadline` is a time of `clock`, in seconds.
    """

    __slots__ = (
        "_cancel_requested",
        "_clock",
        "_deadline",
        "_job",
        "_logger",
        "_payload",
        "_report",
        "_span",
        "_tracer",
    )

    def __init__(
        self,
        job: Claimed,
        *,
        report: Callable[[Progress], None],
        cancel_requested: Callable[[], bool],
        clock: Callable[[], float],
        deadline: float,
        span: Any = None,
        tracer: Any = None,
    ) -> None:
        self._job = job
        self._report = report
        self._cancel_requested = cancel_requested
        self._clock = clock
        self._deadline = deadline
        self._span = span
        self._tracer = tracer
        self._payload: Any = msgspec.UNSET
        self._logger: AttemptLogger | None = None

    @property
    def job_id(self) -> UUID:
        return self._job.id

    @property
    def number(self) -> int:
        """1 for the first run; snoozes and hand-backs do not count."""
        return self._job.attempt

    @property
    def fence(self) -> int:
        """Goes up with every run and is never reset: downstream systems can refuse a lower one."""
        return self._job.fence

    @property
    def type(self) -> str:
        return self._job.type

    @property
    def queue(self) -> str:
        return self._job.queue

    @property
    def tags(self) -> tuple[str, ...]:
        return self._job.tags

    @property
    def trace_context(self) -> str | None:
        """A W3C traceparent to pass on, and a tracestate on a second line, if there is one. None: no trace."""
        stored = self._job.trace_context
        if self._span is None or stored is None:
            return stored
        # What is called from here hangs below this attempt.
        return f"{stored[:36]}{self._span.get_span_context().span_id:016x}{stored[52:]}"

    @property
    def tracer(self) -> Tracer:
        """An OpenTelemetry tracer, whose spans hang below this attempt. It does nothing while traces are off."""
        if self._tracer is None:
            # Imported on use: clients know this class too, and need none of it.
            from opentelemetry.trace import NoOpTracer

            self._tracer = NoOpTracer()
        tracer: Tracer = self._tracer
        return tracer

    @property
    def payload_json(self) -> bytes:
        """The payload as it was submitted."""
        return self._job.payload

    @property
    def payload(self) -> Any:
        """The payload, decoded."""
        if self._payload is msgspec.UNSET:
            self._payload = msgspec.json.decode(self._job.payload)
        return self._payload

    @property
    def logger(self) -> AttemptLogger:
        """A standard logger whose records carry job_id, type, queue and attempt."""
        if self._logger is None:
            self._logger = AttemptLogger(_HANDLER_LOGGER, log_fields(self._job))
        return self._logger

    @property
    def seconds_left(self) -> float:
        """Until the attempt times out; 0 when it has."""
        return max(0.0, self._deadline - self._clock())

    @property
    def cancel_requested(self) -> bool:
        """Whether the attempt should end: canceled, timed out or shutting down.

        Tasks are cancelled; a plain function cannot be, so a long one looks here now and then.
        """
        return self._cancel_requested()

    def progress(self, percent: float, message: str | None = None) -> Reported:
        """Say how far the job is: 0 to 100, and a message, shortened to 1,000 characters. Raises ValueError."""
        if isinstance(percent, bool) or not isinstance(percent, int | float):
            raise ValueError("percent must be a number between 0 and 100")
        if not 0 <= percent <= 100:
            raise ValueError(f"percent must be between 0 and 100, not {percent}")
        if message is not None:
            message = bounded(str(message), MAX_PROGRESS_MESSAGE)
        self._report(Progress(percent=float(percent), message=message))
        return _REPORTED


class Reported:
    """What `progress` returns: may be awaited, and need not be."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


_REPORTED: Final = Reported()
_HANDLER_LOGGER: Final = logging.getLogger("jobserver.handler")

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    _LoggerAdapter = logging.LoggerAdapter[logging.Logger]
else:
    _LoggerAdapter = logging.LoggerAdapter


class AttemptLogger(_LoggerAdapter):
    """Adds the job's fields to every record, beside those that the caller gives as `extra`."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


# The job whose handler runs in this context: log lines carry its ids.
CURRENT: Final[ContextVar[Claimed | None]] = ContextVar("jobserver_current_job", default=None)


def log_fields(job: Claimed) -> dict[str, object]:
    """The fields that every log line of an attempt carries."""
    fields: dict[str, object] = {"job_id": str(job.id), "type": job.type, "queue": job.queue, "attempt": job.attempt}
    if job.trace_context is not None:
        fields["trace_id"] = job.trace_context[3:35]
    return fields
