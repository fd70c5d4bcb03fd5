"""What goes to a collector: bounded queues, a thread each, and nobody who waits for either.

A collector that is slow or gone costs spans, which are counted, and never a job. Imported only where one is in use.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Final, Generic, Protocol, TypeVar, cast

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter

from jobserver.telemetry.encoding import Written, encode_spans
from jobserver.telemetry.otel import GRACE_SECONDS, Otel, Queueing

logger = logging.getLogger(__name__)

GIVE_UP_SECONDS: Final = 0.25
CLOSE_SECONDS: Final = GRACE_SECONDS
# So often at the most a collector that takes nothing is worth a line.
SAY_SECONDS: Final = 60.0

Item = TypeVar("Item")
Sent = TypeVar("Sent", contravariant=True)


class Exporter(Protocol[Sent]):
    """What the SDK's exporters have in common. `export` blocks, and answers with something named SUCCESS or not."""

    def export(self, batch: Sequence[Sent], /) -> object: ...
    def shutdown(self) -> object: ...


class Outgoing(Generic[Item]):
    """Owns a queue and the thread that exports. What finds no place, or is not taken, is counted by `on_dropped`.

    Not the SDK's own: that one neither counts what it drops nor lets a stop limit its last export, and a drop costs
    it a log record. `on_refused` hears once a minute that a batch was not taken, and why.
    """

    def __init__(
        self, name: str, exporter: Exporter[Item], queueing: Queueing, on_refused: Callable[[int, str], None]
    ) -> None:
        self.on_dropped: Callable[[int], None] = _nobody
        self._name = name
        self._exporter = exporter
        self._queueing = queueing
        self._on_refused = on_refused
        self._waiting: deque[Item] = deque()
        self._arrived = threading.Event()
        self._closing = False
        self._flushing = threading.Lock()
        self._failing = Seldom()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def put(self, item: Item) -> None:
        """From any thread, and without waiting."""
        if len(self._waiting) >= self._queueing.most_waiting or self._closing:
            self.on_dropped(1)
            return
        self._waiting.append(item)
        # Not only when they are just as many: two threads may put theirs at once.
        if len(self._waiting) >= self._queueing.most_at_once and not self._arrived.is_set():
            self._arrived.set()

    def flush(self, *, within_seconds: float) -> bool:
        """Export what waits now, and wait for it. Whether all went out."""
        until = time.monotonic() + within_seconds
        if not self._flushing.acquire(timeout=max(0.0, within_seconds)):
            return False
        try:
            while self._waiting and time.monotonic() < until:
                self._export()
            return not self._waiting
        finally:
            self._flushing.release()

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
            threading.Thread(target=self._exporter.shutdown, name=f"{self._name} end", daemon=True).start()
            # One that only waits to try again gives up, and says so.
            self._thread.join(GIVE_UP_SECONDS)
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
        batch: list[Item] = []
        while self._waiting and len(batch) < self._queueing.most_at_once:
            batch.append(self._waiting.popleft())
        if not batch:
            return
        why: str | None = None
        try:
            if not succeeded(self._exporter.export(batch)):
                why = "the collector took none"
        except Exception as error:
            why = str(error) or type(error).__name__
        if why is not None:
            self.on_dropped(len(batch))
            if self._failing.may_speak():
                self._on_refused(len(batch), why)


class SpanQueue(SpanProcessor):
    """Finished spans on their way out."""

    def __init__(self, exporter: SpanExporter, queueing: Queueing) -> None:
        self._outgoing: Outgoing[ReadableSpan | Written] = Outgoing(
            "spans", cast(Exporter[ReadableSpan | Written], exporter), queueing, _spans_refused
        )

    @property
    def waiting(self) -> int:
        return self._outgoing.waiting

    def count_dropped(self, count: Callable[[int], None]) -> None:
        self._outgoing.on_dropped = count

    def put(self, span: ReadableSpan | Written) -> None:
        """A finished one of our own, which is sampled."""
        self._outgoing.put(span)

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._outgoing.put(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Blocks: for handlers that ask for it."""
        return self._outgoing.flush(within_seconds=timeout_millis / 1_000)

    def shutdown(self) -> None:
        self.close()

    def close(self, *, within_seconds: float = CLOSE_SECONDS) -> None:
        self._outgoing.close(within_seconds=within_seconds)


def _spans_refused(count: int, why: str) -> None:
    logger.warning("spans_not_exported", extra={"spans": count, "error": why})


def succeeded(result: object) -> bool:
    """Whether one of the SDK's results, of which each signal has its own, says so."""
    return getattr(result, "name", "") == "SUCCESS"


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


def resource_of(otel: Otel, instance: str, version: str) -> Resource:
    """Who says it. What is given here wins over the variables, which the SDK reads beside."""
    return Resource.create({"service.name": otel.service, "service.version": version, "service.instance.id": instance})


def span_exporter(otel: Otel) -> SpanExporter:
    """The exporter that the variables ask for; it reads the rest of them itself."""
    if otel.traces == "console":
        return ConsoleSpanExporter()
    # Imported on use: gRPC takes more than a second, and the other needs none of it.
    if otel.protocols.get("TRACES") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import exporter as grpc_exporter
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_traces

        quiet(grpc_exporter.__name__)
        _encode_fast(grpc_traces)
        return grpc_traces.OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_traces

    quiet(http_traces.__name__)
    _encode_fast(http_traces)
    return http_traces.OTLPSpanExporter()


def takes_written(exporter: SpanExporter) -> bool:
    """Whether its batches are encoded here, so that a span may come encoded already."""
    return getattr(sys.modules[type(exporter).__module__], "encode_spans", None) is encode_spans


def _encode_fast(traces: ModuleType) -> None:
    """The SDK offers no other way in; an exporter that asks for no such name encodes by itself."""
    if hasattr(traces, "encode_spans"):
        vars(traces)["encode_spans"] = encode_spans


def quiet(name: str) -> None:
    """An exporter tells of each try that failed: once a minute is enough to know."""
    found = logging.getLogger(name)
    if not any(isinstance(each, Seldom) for each in found.filters):
        found.addFilter(Seldom())


def _nobody(_: int) -> None:
    """Nobody counts."""
