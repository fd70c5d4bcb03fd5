"""Spans encoded by hand, against the encoder of the SDK."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.attributes import BoundedAttributes  # type: ignore[attr-defined,unused-ignore]
from opentelemetry.exporter.otlp.proto.common import trace_encoder
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from jobserver.telemetry.encoding import Written, encode_spans, write_attributes, write_span

RESOURCE = Resource({"service.name": "jobserver", "process.pid": 7}, "https://example.org/schema")
OTHER = Resource({"service.name": "other"})
SCOPE = InstrumentationScope("jobserver", "1.2", "https://example.org/scope", {"of": "scope"})
HERE = SpanContext(1 << 127, 1 << 63, False, TraceFlags(1), TraceState([("congo", "t61"), ("rojo", "00")]))
THERE = SpanContext(3, 5, True, TraceFlags(3))
VALUES: dict[str, Any] = {
    "text": "a",
    "empty": "",
    "ünï": "çödé 🎉",
    "long": "x" * 20_000,
    "x" * 300: "a long name",
    "127": "x" * 127,
    "128": "x" * 128,
    "yes": True,
    "no": False,
    "zero": 0,
    "one": 1,
    "256": 256,
    "127 too": 127,
    "128 too": 128,
    "big": (1 << 63) - 1,
    "negative": -1,
    "least": -(1 << 63),
    "half": 0.5,
    "nothing at all": 0.0,
    "bytes": b"\x00\xff",
    "none": None,
    "list": ["a", "", "b"],
    "numbers": (1, -2, 300),
    "mixed": [1.5, True, "x"],
    "mapping": {"a": 1, "b": ["c"]},
    "no list": [],
}


def span(**given: Any) -> ReadableSpan:
    whole: dict[str, Any] = {
        "name": "process default",
        "context": HERE,
        "resource": RESOURCE,
        "start_time": 1_700_000_000_000_000_000,
        "end_time": 1_700_000_000_000_000_001,
        "instrumentation_scope": SCOPE,
    }
    return ReadableSpan(**{**whole, **given})


def of_sdk() -> ReadableSpan:
    """One that has dropped of everything."""
    limits = SpanLimits(max_span_attributes=1, max_events=1, max_links=1, max_event_attributes=1, max_link_attributes=1)
    tracer = TracerProvider(span_limits=limits, resource=OTHER, shutdown_on_exit=False).get_tracer("of a handler")
    two = {"a": 1, "b": 2}
    made = tracer.start_span("limited", attributes=two, links=[Link(THERE, two), Link(THERE)])
    made.add_event("first", two)
    made.add_event("second", two)
    made.record_exception(ValueError("why"))
    made.set_status(StatusCode.OK)
    made.end()
    assert isinstance(made, ReadableSpan)
    return made


@pytest.mark.parametrize(
    "spans",
    [
        [],
        [span()],
        [span(kind=kind) for kind in SpanKind],
        [span(name="", context=THERE, start_time=None, end_time=None, instrumentation_scope=None)],
        [span(parent=HERE), span(parent=THERE)],
        [span(status=Status(StatusCode.ERROR, "it said why")), span(status=Status(StatusCode.OK)), span(status=None)],
        [span(status=Status(StatusCode.ERROR))],
        *([span(attributes={name: value})] for name, value in VALUES.items()),
        [span(attributes=VALUES, events=[Event("each", VALUES, 5)], links=[Link(HERE, VALUES), Link(THERE)])],
        [span(attributes=BoundedAttributes(1, {"a": 1, "b": 2}))],
        [span(events=[Event("one", None, 1), Event("", {}, 1 << 63)])],
        [of_sdk()],
        [span(resource=resource) for resource in (RESOURCE, OTHER, RESOURCE)] + [of_sdk(), span()],
    ],
)
def test_it_is_what_the_sdk_makes_of_it(spans: list[ReadableSpan]) -> None:
    assert encode_spans(spans) == trace_encoder.encode_spans(spans)


def test_what_no_attribute_can_be_harms_nothing_else() -> None:
    lone = "\ud800"
    request = encode_spans([span(attributes={"set": {1}, "lone": lone, lone: 1, "huge": 1 << 80, "kept": 1})])
    [encoded] = request.resource_spans[0].scope_spans[0].spans
    assert {pair.key: pair.value.string_value or pair.value.int_value for pair in encoded.attributes} == {
        "set": "{1}",
        "lone": "?",
        "?": 1,
        "huge": 0,
        "kept": 1,
    }


@pytest.mark.parametrize("error", [None, "", "it said why"])
@pytest.mark.parametrize("parent", [None, (5, False), (1 << 63, True)])
@pytest.mark.parametrize("state", ["", "congo=t61,rojo=00"])
def test_a_span_that_is_written_at_once_is_what_the_sdk_makes_of_it(
    state: str, parent: tuple[int, bool] | None, error: str | None
) -> None:
    trace_id, here = 1 << 127, TraceState.from_header([state])
    events = [("queue wait", {"seconds": 0.5}, 5), ("settled", {}, 1 << 63)]
    links = [(3, 5, True, None), (trace_id, 6, False, {"outcome": "snoozed", "attempt": 3})]
    same = {"messaging.destination.name": "default", "jobserver.job.attempt": 1}
    for _ in range(2):  # the second time from what is kept
        data = write_span(
            "process default",
            trace_id,
            7,
            state,
            parent,
            SpanKind.CONSUMER.value,
            (11, 12),
            VALUES,
            links,
            events,
            error,
            write_attributes(same),
        )
        of_sdk = span(
            context=SpanContext(trace_id, 7, False, TraceFlags(1), here),
            parent=None if parent is None else SpanContext(trace_id, parent[0], parent[1], TraceFlags(1)),
            kind=SpanKind.CONSUMER,
            start_time=11,
            end_time=12,
            attributes={**same, **VALUES},
            links=[Link(SpanContext(ids[0], ids[1], ids[2]), ids[3]) for ids in links],
            events=[Event(*event) for event in events],
            status=Status(StatusCode.UNSET) if error is None else Status(StatusCode.ERROR, error or None),
        )
        assert encode_spans([Written(data, RESOURCE, SCOPE), of_sdk]) == trace_encoder.encode_spans([of_sdk, of_sdk])
