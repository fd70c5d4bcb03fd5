"""Metrics and logs for a collector, where they are asked for: what `/metrics` shows, and what stderr says.

Imported only then. Neither holds anything up: a push has a thread and a time limit, the queue of log records a bound.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.core import Sample

from jobserver.telemetry.exporting import CLOSE_SECONDS, Exporter, Outgoing, Seldom, quiet, resource_of, succeeded
from jobserver.telemetry.logs import fields_of
from jobserver.telemetry.otel import Otel

logger = logging.getLogger(__name__)

SCOPE: Final = "jobserver"
_SEVERITIES: Final = (
    (logging.CRITICAL, SeverityNumber.FATAL),
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
)


class MetricsPush:
    """Pushes a registry. `step` is for a loop of its owner."""

    def __init__(self, registry: CollectorRegistry, otel: Otel, instance: str, version: str) -> None:
        self.interval_seconds = otel.metrics_seconds
        self._registry = registry
        self._exporter = _metric_exporter(otel)
        self._resource = resource_of(otel, instance, version)
        self._scope = InstrumentationScope(SCOPE, version)
        self._started_ns = time.time_ns()
        self._failing = Seldom()
        self._busy = threading.Lock()

    async def step(self) -> float | None:
        """Push once. What is pushed is read on the event loop, as a scrape is."""
        families = list(self._registry.collect())
        await asyncio.to_thread(self._push, families)
        return None

    async def close(self, *, within_seconds: float = CLOSE_SECONDS) -> None:
        """Push the last figures, as far as the time goes."""
        last = threading.Thread(target=self._push, args=(list(self._registry.collect()),), name="metrics", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, within_seconds)
        threading.Thread(target=self._exporter.shutdown, name="metrics end", daemon=True).start()

    def _push(self, families: Sequence[Family]) -> None:
        if not self._busy.acquire(timeout=CLOSE_SECONDS):
            return  # the push before hangs still
        try:
            taken = succeeded(self._exporter.export(self._data(families)))
        except Exception as error:
            taken = False
            logger.debug("metrics_not_pushed", extra={"error": str(error)})
        finally:
            self._busy.release()
        if not taken and self._failing.may_speak():
            logger.warning("metrics_not_pushed", extra={"error": "the collector did not take them"})

    def _data(self, families: Sequence[Family]) -> MetricsData:
        now_ns = time.time_ns()
        metrics = [metric_of(family, self._started_ns, now_ns) for family in families]
        scope = ScopeMetrics(self._scope, metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])


def metric_of(family: Family, started_ns: int, now_ns: int) -> Metric:
    """A family of the registry as OpenTelemetry has it; the name without `_total`, which a conversion back adds."""
    if family.type == "histogram":
        points = _histogram_points(family.samples, started_ns, now_ns)
        return Metric(family.name, family.documentation, "", Histogram(points, AggregationTemporality.CUMULATIVE))
    samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    numbers = [NumberDataPoint(dict(each.labels), started_ns, now_ns, float(each.value)) for each in samples]
    if family.type == "counter":
        total = Sum(numbers, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        return Metric(family.name, family.documentation, "", total)
    name = f"{family.name}_info" if family.type == "info" else family.name
    return Metric(name, family.documentation, "", Gauge(numbers))


def _histogram_points(samples: Iterable[Sample], started_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in samples:
        labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        if sample.name.endswith("_bucket"):
            buckets.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_sum"):
            sums[labels] = sample.value
    points = []
    for labels, cumulated in buckets.items():
        cumulated.sort()
        counts = [int(upto) for _, upto in cumulated]
        points.append(
            HistogramDataPoint(
                attributes=dict(labels),
                start_time_unix_nano=started_ns,
                time_unix_nano=now_ns,
                count=counts[-1],
                sum=sums.get(labels, 0.0),
                # There they are cumulated, here not.
                bucket_counts=[count - before for before, count in zip([0, *counts], counts, strict=False)],
                explicit_bounds=[bound for bound, _ in cumulated if not math.isinf(bound)],
                min=math.nan,
                max=math.nan,
            )
        )
    return points


class LogPush(logging.Handler):
    """Sends what is logged to the collector too, beside stderr."""

    def __init__(self, otel: Otel, instance: str, version: str) -> None:
        super().__init__()
        self._resource: Resource = resource_of(otel, instance, version)
        self._scope = InstrumentationScope(SCOPE, version)
        self._outgoing: Outgoing[ReadableLogRecord] = Outgoing("logs", _log_exporter(otel), otel.queueing, _refused)

    def emit(self, record: logging.LogRecord) -> None:
        # What the exporters say of themselves would go round in circles.
        if record.name.startswith(("opentelemetry", "grpc", "urllib3")):
            return
        try:
            self._outgoing.put(self._readable(record))
        except Exception:
            self.handleError(record)

    async def end(self, *, within_seconds: float = CLOSE_SECONDS) -> None:
        """Send what waits, as far as the time goes."""
        logging.getLogger().removeHandler(self)
        await asyncio.to_thread(self._outgoing.close, within_seconds=within_seconds)

    def _readable(self, record: logging.LogRecord) -> ReadableLogRecord:
        body, fields = fields_of(record)
        severity = next((number for least, number in _SEVERITIES if record.levelno >= least), SeverityNumber.DEBUG)
        attributes: dict[str, Any] = {name: _plain(value) for name, value in fields.items() if value is not None}
        said = LogRecord(
            timestamp=int(record.created * 1e9),
            context=_context(fields.get("trace_id")),
            severity_text=record.levelname,
            severity_number=severity,
            body=body,
            attributes={"logger": record.name, **attributes},
        )
        return ReadableLogRecord(said, self._resource, self._scope)


def _context(trace_id: object) -> Context:
    """A line of a job leads to its trace. Of which span it is, is not known here."""
    if not isinstance(trace_id, str):
        return Context()
    return set_span_in_context(NonRecordingSpan(SpanContext(int(trace_id, 16), 0, True, TraceFlags(1))), Context())


def _plain(value: object) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)


def _refused(count: int, why: str) -> None:
    logger.warning("logs_not_exported", extra={"records": count, "error": why})


def _metric_exporter(otel: Otel) -> Any:
    if otel.metrics == "console":
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        return ConsoleMetricExporter()
    # Imported on use, as for spans.
    if otel.protocols.get("METRICS") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import exporter as grpc_exporter
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        quiet(grpc_exporter.__name__)
        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http import metric_exporter as http_exporter

    quiet(http_exporter.__name__)
    return http_exporter.OTLPMetricExporter()


def _log_exporter(otel: Otel) -> Exporter[ReadableLogRecord]:
    if otel.logs == "console":
        from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter

        return ConsoleLogRecordExporter()
    if otel.protocols.get("LOGS") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import exporter as grpc_exporter
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter

        quiet(grpc_exporter.__name__)
        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http import _log_exporter as http_exporter

    quiet(http_exporter.__name__)
    return http_exporter.OTLPLogExporter()
