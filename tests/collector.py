"""A real OpenTelemetry collector (rotel), and the small sink behind it that keeps what it passes on."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import msgspec
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.engines import EngineError, EngineMissingError, free_port

START_SECONDS: Final = 20.0
KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUSES: Final = ("UNSET", "OK", "ERROR")


class Event(msgspec.Struct, frozen=True):
    name: str
    at_ns: int
    attributes: dict[str, Any]


class Link(msgspec.Struct, frozen=True):
    trace_id: str
    span_id: str
    attributes: dict[str, Any]


class Span(msgspec.Struct, frozen=True):
    """A span as the sink got it."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    start_ns: int
    end_ns: int
    status: str
    message: str
    state: str
    attributes: dict[str, Any]
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    resource: dict[str, Any]

    def event(self, name: str) -> Event:
        """The one event of this name."""
        [found] = [event for event in self.events if event.name == name]
        return found


class Sink:
    """Takes OTLP over HTTP, in a thread. What has arrived is in `spans`, `metrics` and `logs`."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: list[Any] = []
        self.logs: list[Any] = []
        # What each process has pushed last, by its instance and the metric's name.
        self.latest: dict[str, dict[str, Any]] = {}
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                sink.take(self.path, gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            self.spans += _spans(ExportTraceServiceRequest.FromString(body))
        elif path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                metrics = [metric for scope in resource.scope_metrics for metric in scope.metrics]
                self.metrics += metrics
                instance = _attributes(resource.resource.attributes)["service.instance.id"]
                self.latest.setdefault(instance, {}).update({metric.name: metric for metric in metrics})
        elif path == "/v1/logs":
            for logs in ExportLogsServiceRequest.FromString(body).resource_logs:
                self.logs += [record for scope in logs.scope_logs for record in scope.log_records]

    def of_trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace, by their start, each once: an export that was answered late comes again."""
        found = {span.span_id: span for span in list(self.spans) if span.trace_id == trace_id}
        return sorted(found.values(), key=lambda each: each.start_ns)

    def named(self, name: str) -> list[Span]:
        return [span for span in list(self.spans) if span.name == name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Collector:
    """A rotel that takes OTLP by gRPC and by HTTP, and passes it on to a sink, or forgets it."""

    def __init__(self, sink: Sink | None) -> None:
        self.grpc_port: Final = free_port()
        self.http_port: Final = free_port()
        self._process = subprocess.Popen(
            [
                str(find_rotel()),
                *("start", "--disable-batching"),
                *(("--exporter", "blackhole") if sink is None else _to(sink)),
                *("--otlp-grpc-endpoint", f"127.0.0.1:{self.grpc_port}"),
                *("--otlp-http-endpoint", f"127.0.0.1:{self.http_port}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for port in (self.grpc_port, self.http_port):
                _wait_for(port)
        except BaseException:
            self.close()
            raise

    def variables(self, protocol: str = "http/protobuf") -> dict[str, str]:
        """What a server needs to send its traces here, without waiting for long."""
        port = self.grpc_port if protocol == "grpc" else self.http_port
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def suspend(self) -> None:
        """From now on it takes connections, and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def find_rotel() -> Path:
    """The collector's program, from its wheel. Raises EngineMissingError."""
    found = importlib.util.find_spec("rotel")
    places: Sequence[str] = (
        () if found is None or found.submodule_search_locations is None else (found.submodule_search_locations)
    )
    for place in places:
        program = Path(place) / "rotel-agent"
        if program.is_file():
            return program
    raise EngineMissingError("no rotel: its wheel is not for this system")


@contextmanager
def collector() -> Iterator[tuple[Collector, Sink]]:
    with contextlib.closing(Sink()) as sink, contextlib.closing(Collector(sink)) as found:
        yield found, sink


def _to(sink: Sink) -> Sequence[str]:
    return ("--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", sink.url)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise EngineError(f"rotel does not listen on port {port}") from error
            time.sleep(0.02)
        else:
            return


def _spans(request: Any) -> list[Span]:
    spans = []
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope in resource_spans.scope_spans:
            spans += [_span(each, resource) for each in scope.spans]
    return spans


def _span(each: Any, resource: dict[str, Any]) -> Span:
    return Span(
        trace_id=each.trace_id.hex(),
        span_id=each.span_id.hex(),
        parent_id=each.parent_span_id.hex() or None,
        name=each.name,
        kind=KINDS[each.kind],
        start_ns=each.start_time_unix_nano,
        end_ns=each.end_time_unix_nano,
        status=STATUSES[each.status.code],
        message=each.status.message,
        state=each.trace_state,
        attributes=_attributes(each.attributes),
        events=tuple(Event(event.name, event.time_unix_nano, _attributes(event.attributes)) for event in each.events),
        links=tuple(Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in each.links),
        resource=resource,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
