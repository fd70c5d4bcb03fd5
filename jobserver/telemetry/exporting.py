"""Finished spans on their way out: one bounded queue, one thread, and nobody who waits for either.

A collector that is slow or gone costs spans, which are counted, and never a job. Imported only where traces are on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from jobserver.telemetry.otel import Otel, Queueing

logger = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 5.0
# So often at the most a collector that takes nothing is worth a line.
SAY_SECONDS: Final = 60.0


class SpanQueue(SpanProcessor):
    """Owns the thread that exports. What finds no place, or is not taken, is counted by `on_dropped`.

    Not the SDK's own: that one neither counts what it drops nor lets a stop limit its last export, and a drop costs
    it a log record.
    """

    def __init__(self, exporter: SpanExporter, queueing: Queueing) -> None:
        self.on_dropped: Callable[[int], None] = _nobody
        self._exporter = exporter
        self._queueing = queueing
        self._waiting: deque[ReadableSpan] = deque()
        self._arrived = threading.Event()
        self._closing = False
        self._flushing = threading.Lock()
        self._failing = Seldom()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a finished span; from any thread, and without waiting."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if len(self._waiting) >= self._queueing.most_waiting or self._closing:
            self.on_dropped(1)
            return
        self._waiting.append(span)
        if len(self._waiting) == self._queueing.most_at_once:
            self._arrived.set()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what waits now. Blocks: for tests and for handlers that ask for it."""
        until = time.monotonic() + timeout_millis / 1_000
        if not self._flushing.acquire(timeout=max(0.0, timeout_millis / 1_000)):
            return False
        try:
            while self._waiting and time.monotonic() < until:
                self._export()
            return not self._waiting
        finally:
            self._flushing.release()

    def shutdown(self) -> None:
        self.close()

    def close(self, *, within_seconds: float = CLOSE_SECONDS) -> None:
        """Export what waits, as far as the time goes. What is left is dropped."""
        if self._closing:
            return
        self._closing = True
        self._arrived.set()
        self._thread.join(within_seconds)
        left = len(self._waiting)
        self._waiting.clear()
        if left:
            self.on_dropped(left)
        if self._thread.is_alive():
            # An export under way may take as long as its own time limit: its connection is closed under it.
            threading.Thread(target=self._exporter.shutdown, name="spans end", daemon=True).start()
        else:
            self._exporter.shutdown()

    def _run(self) -> None:
        # Nothing that the exporter does is worth a span.
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        while not self._closing:
            self._arrived.wait(self._queueing.delay_seconds)
            self._arrived.clear()
            with self._flushing:
                # A collector that is slow gets full batches: what came meanwhile waits for the next turn.
                more = True
                while more and self._waiting:
                    self._export()
                    more = len(self._waiting) >= self._queueing.most_at_once and not self._closing
        with self._flushing:
            while self._waiting:
                self._export()

    def _export(self) -> None:
        batch: list[ReadableSpan] = []
        while self._waiting and len(batch) < self._queueing.most_at_once:
            batch.append(self._waiting.popleft())
        if not batch:
            return
        try:
            taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception as error:
            taken = False
            if self._failing.may_speak():
                logger.warning("spans_not_exported", extra={"spans": len(batch), "error": str(error)})
        else:
            if not taken and self._failing.may_speak():
                logger.warning("spans_not_exported", extra={"spans": len(batch), "error": "the collector took none"})
        if not taken:
            self.on_dropped(len(batch))


class Seldom(logging.Filter):
    """Lets something be said once a minute. As a filter: any record of a logger."""

    def __init__(self) -> None:
        super().__init__()
        self._said = -SAY_SECONDS

    def may_speak(self) -> bool:
        now = time.monotonic()
        if now - self._said < SAY_SECONDS:
            return False
        self._said = now
        return True

    def filter(self, record: logging.LogRecord) -> bool:
        return self.may_speak()


def span_exporter(otel: Otel) -> SpanExporter:
    """The exporter that the variables ask for; it reads the rest of them itself."""
    if otel.traces == "console":
        return ConsoleSpanExporter()
    # Imported on use: gRPC takes more than a second, and the other needs none of it.
    if otel.protocols.get("TRACES") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import exporter as grpc_exporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        quiet(grpc_exporter.__name__)
        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_exporter

    quiet(http_exporter.__name__)
    return http_exporter.OTLPSpanExporter()


def quiet(name: str) -> None:
    """An exporter tells of each try that failed: once a minute is enough to know."""
    found = logging.getLogger(name)
    if not any(isinstance(each, Seldom) for each in found.filters):
        found.addFilter(Seldom())


def _nobody(_: int) -> None:
    """Nobody counts."""
