"""The queue of finished spans: bounded, counted, and waited for by nobody."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags

from jobserver.telemetry.exporting import SpanQueue
from jobserver.telemetry.otel import Queueing
from tests.clocks import judged_by_the_clock
from tests.engines import eventually

AT_ONCE = Queueing(most_waiting=10, most_at_once=4, delay_seconds=0.01)
# Nothing goes out by itself.
LATER = Queueing(most_waiting=10, most_at_once=10, delay_seconds=60.0)


class Exporter(SpanExporter):
    """Keeps the names, or fails, or does not answer until it may."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.batches: list[int] = []
        self.answer: SpanExportResult | Exception = SpanExportResult.SUCCESS
        self.gate = threading.Event()
        self.gate.set()
        self.ended = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is SpanExportResult.SUCCESS:
            self.names += [span.name for span in spans]
            self.batches.append(len(spans))
        return self.answer

    def shutdown(self) -> None:
        self.ended.set()
        self.gate.set()


def span(name: str, *, sampled: bool = True) -> ReadableSpan:
    return ReadableSpan(name, SpanContext(1, 2, False, TraceFlags(int(sampled))))


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    exporter = Exporter()
    yield exporter
    exporter.gate.set()


def counted(exporter: Exporter, queueing: Queueing) -> tuple[SpanQueue, list[int]]:
    queue = SpanQueue(exporter, queueing)
    dropped: list[int] = []
    queue.count_dropped(dropped.append)
    return queue, dropped


async def test_spans_are_exported_in_batches_and_unsampled_ones_never(exporter: Exporter) -> None:
    queue, dropped = counted(exporter, AT_ONCE)
    for number in range(10):
        queue.on_end(span(f"{number}"))
        queue.on_end(span("unsampled", sampled=False))
    await eventually(lambda: len(exporter.names) == 10)
    assert exporter.names == [f"{number}" for number in range(10)]
    assert max(exporter.batches) <= 4
    queue.close()
    assert dropped == []
    assert exporter.ended.is_set()


async def test_what_finds_no_place_is_counted_and_nobody_waits(exporter: Exporter) -> None:
    exporter.gate.clear()
    queue, dropped = counted(exporter, AT_ONCE)
    began = time.monotonic()
    for number in range(1_000):
        queue.on_end(span(f"{number}"))
    # To wait would be for ever: nothing opens the gate.
    assert time.monotonic() - began < 30
    assert queue.waiting == 10
    # One batch at the most is on its way.
    assert 1_000 - 10 - 4 <= sum(dropped) <= 1_000 - 10
    exporter.gate.set()
    await eventually(lambda: queue.waiting == 0)
    queue.close()
    assert len(exporter.names) + sum(dropped) == 1_000


@pytest.mark.parametrize("answer", [SpanExportResult.FAILURE, RuntimeError("boom")])
async def test_what_is_not_taken_is_counted_and_said_once(
    exporter: Exporter, caplog: pytest.LogCaptureFixture, answer: SpanExportResult | Exception
) -> None:
    exporter.answer = answer
    queue, dropped = counted(exporter, AT_ONCE)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            queue.on_end(span("lost"))
            await eventually(lambda: queue.waiting == 0)
        await eventually(lambda: sum(dropped) == 3)
    assert [record.message for record in caplog.records] == ["spans_not_exported"]
    exporter.answer = SpanExportResult.SUCCESS
    queue.on_end(span("kept"))
    await eventually(lambda: exporter.names == ["kept"])
    queue.close()


def test_the_end_exports_what_waits(exporter: Exporter) -> None:
    queue, dropped = counted(exporter, LATER)
    for number in range(5):
        queue.on_end(span(f"{number}"))
    assert exporter.names == []
    queue.close()
    assert (len(exporter.names), dropped) == (5, [])
    queue.on_end(span("too late"))
    assert dropped == [1]


@judged_by_the_clock
def test_the_end_waits_for_no_collector_that_hangs(exporter: Exporter) -> None:
    exporter.gate.clear()
    queue, dropped = counted(exporter, LATER)
    for number in range(10):
        queue.on_end(span(f"{number}"))
    # Ten go out, and hang; three wait.
    for number in range(3):
        queue.on_end(span(f"{number}"))
    began = time.monotonic()
    queue.close(within_seconds=0.2)
    assert 0.15 < time.monotonic() - began < 2
    assert exporter.ended.wait(5)
    assert sum(dropped) in {3, 13}


def test_a_flush_exports_what_waits(exporter: Exporter) -> None:
    queue, _ = counted(exporter, LATER)
    queue.on_end(span("now"))
    assert queue.force_flush()
    assert exporter.names == ["now"]
    exporter.gate.clear()
    queue.close(within_seconds=0.1)
