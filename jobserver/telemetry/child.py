"""Telemetry of a child process: logs like the parent's, and the spans of handlers, exported from here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from jobserver.job.model import Claimed
from jobserver.telemetry.logs import LogFormat, configure_logs
from jobserver.telemetry.otel import Otel, read_otel

if TYPE_CHECKING:  # imported with the first job whose trace is recorded: it takes a while
    from jobserver.telemetry.tracing import Provider

# The parent gives a child two seconds to end.
CLOSE_SECONDS: Final = 1.0
# A child may be killed when its job is canceled: spans do not wait here for long.
DELAY_SECONDS: Final = 0.5


def set_up(format_: LogFormat, level: str, *, instance: str | None, version: str) -> ChildTracing | None:
    """Called first in a child. `instance` names the parent where traces are on."""
    configure_logs(format_, level)
    # The variables are those of the parent, which has found them good.
    otel = None if instance is None else read_otel(os.environ)
    return None if otel is None or instance is None else ChildTracing(otel, instance, version)


class ChildTracing:
    """The attempt's span is the parent's; what its handler does below it is told by this process."""

    def __init__(self, otel: Otel, instance: str, version: str) -> None:
        queueing = msgspec.structs.replace(otel.queueing, delay_seconds=DELAY_SECONDS)
        self._otel = msgspec.structs.replace(otel, queueing=queueing)
        self._instance = instance
        self._version = version
        self._provider: Provider | None = None

    @property
    def tracer(self) -> Any:
        return None if self._provider is None else self._provider.tracer

    def enter(self, job: Claimed) -> None:
        """Let what the handler does hang below the attempt, whose context comes with the job."""
        if job.trace_context is None:
            return
        from opentelemetry.context import Context, attach
        from opentelemetry.trace import NonRecordingSpan, set_span_in_context

        from jobserver.telemetry.tracing import Provider, TraceContext

        context = TraceContext.read(job.trace_context)
        if self._provider is None and context.sampled:
            self._provider = Provider(self._otel, f"{self._instance}-{os.getpid()}", self._version)
            self._provider.make_global()
        attach(set_span_in_context(NonRecordingSpan(context.of_sdk(remote=True)), Context()))

    def close(self) -> None:
        """Export what waits, within a second."""
        if self._provider is not None:
            self._provider.queue.close(within_seconds=CLOSE_SECONDS)
