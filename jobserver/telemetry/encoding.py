"""Spans as OTLP has them, encoded by hand: the SDK builds a message object for each attribute, at ten times the cost.

The outcome is that of the SDK's own encoder, of which a test makes sure.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, TraceState

# What a field is announced by: its number times 8, and 0 for a number, 1 for 8 bytes, 2 for a length, 5 for 4 bytes.
_FIXED: Final = struct.Struct("<Q")
_DOUBLE: Final = struct.Struct("<d")
# Whether a parent or a linked span belongs to another process is known; and that it does.
_LOCAL, _REMOTE = struct.pack("<I", 0x100), struct.pack("<I", 0x300)
_TIMES: Final = struct.Struct("<cQcQ")
_SMALL: Final = tuple(bytes([number]) for number in range(128))
_MOST_NAMES: Final = 4_096
_MOST_TEXTS: Final = 4_096
_MOST_CHARACTERS: Final = 64
_MOST_COUNTED: Final = 256
_NO_STATUS: Final = b"\x7a\x00"

# Values of these differ from span to span: nothing would be found again.
_VARYING: Final = frozenset({"messaging.message.id", "jobserver.job.due_at", "url.path"})
# Names of attributes, encoded, and names with short texts: types, queues and statements come again and again.
_names: dict[str, bytes] = {}
_texts: dict[tuple[str, str], bytes] = {}
# As well as names with small numbers: attempts, fences, sizes.
_counts: dict[tuple[str, int], bytes] = {}

Attributes = Mapping[str, Any]
# Trace, span, whether of another process, and what is said of it.
LinkTo = tuple[int, int, bool, Attributes | None]
# What, with what, and when: nanoseconds since 1970.
Happened = tuple[str, Attributes, int]


class Written:
    """A span that is encoded already: it takes no objects of the SDK's, and the thread that exports has less to do."""

    __slots__ = ("data", "instrumentation_scope", "resource")

    def __init__(self, data: bytes, resource: Resource, scope: InstrumentationScope) -> None:
        self.data = data
        self.resource = resource
        self.instrumentation_scope = scope


def write_span(
    name: str,
    trace_id: int,
    span_id: int,
    state: str,
    parent: tuple[int, bool] | None,
    kind: int,
    times_ns: tuple[int, int],
    attributes: Attributes,
    links: Sequence[LinkTo],
    events: Sequence[Happened],
    error: str | None,
    written: bytes = b"",
) -> bytes:
    """A whole span: `parent` is its id and whether it is another process's, `kind` is the SDK's; `error`: it failed.

    `written` are more attributes, from `write_attributes`.
    """
    parts = [b"\x0a\x10", trace_id.to_bytes(16, "big"), b"\x12\x08", span_id.to_bytes(8, "big")]
    if state:
        parts.append(_text(b"\x1a", state))
    flags = _LOCAL
    if parent is not None:
        parts += (b"\x22\x08", parent[0].to_bytes(8, "big"))
        flags = _REMOTE if parent[1] else _LOCAL
    parts += (
        _text(b"\x2a", name),
        b"\x30",
        _SMALL[kind + 1],
        _TIMES.pack(b"\x39", times_ns[0], b"\x41", times_ns[1]),
        written,
        _attributes(b"\x4a", attributes),
    )
    for what, said, at_ns in events:
        body = b"\x09" + _FIXED.pack(at_ns) + _text(b"\x12", what) + _attributes(b"\x1a", said)
        parts.append(_sized(b"\x5a", body))
    for link_trace_id, link_span_id, remote, said_of_it in links:
        parts.append(_linked(link_trace_id, link_span_id, _REMOTE if remote else _LOCAL, said_of_it, 0))
    if error is None:
        parts.append(_NO_STATUS)
    else:
        parts.append(_sized(b"\x7a", _text(b"\x12", error) + b"\x18\x02"))
    parts += (b"\x85\x01", flags)
    return b"".join(parts)


def write_attributes(attributes: Attributes) -> bytes:
    """Attributes of a span, for many spans that have them in common."""
    return _attributes(b"\x4a", attributes)


def encode_spans(spans: Sequence[ReadableSpan | Written]) -> ExportTraceServiceRequest:
    """The request that carries them."""
    # By identity: comparing resources costs more than encoding a few of them twice.
    groups: dict[tuple[int, int], tuple[Resource, InstrumentationScope | None, list[bytes]]] = {}
    for span in spans:
        resource, scope = span.resource, span.instrumentation_scope
        group = groups.get((id(resource), id(scope)))
        if group is None:
            group = groups[id(resource), id(scope)] = (resource, scope, [])
        group[2].append(_sized(b"\x12", span.data if isinstance(span, Written) else _span(span)))
    by_resource: dict[int, tuple[Resource, list[bytes]]] = {}
    for resource, scope, encoded in groups.values():
        of_scope = _sized(b"\x0a", _scope(scope)) + b"".join(encoded)
        if scope is not None:
            of_scope += _text(b"\x1a", scope.schema_url)
        by_resource.setdefault(id(resource), (resource, []))[1].append(_sized(b"\x12", of_scope))
    whole = [
        _sized(
            b"\x0a",
            _sized(b"\x0a", _attributes(b"\x0a", resource.attributes))
            + b"".join(scopes)
            + _text(b"\x1a", resource.schema_url),
        )
        for resource, scopes in by_resource.values()
    ]
    request: ExportTraceServiceRequest = ExportTraceServiceRequest.FromString(b"".join(whole))
    return request


def _span(span: ReadableSpan) -> bytes:
    context, parent = span.context, span.parent
    parts = [
        b"\x0a\x10",
        context.trace_id.to_bytes(16, "big"),
        b"\x12\x08",
        context.span_id.to_bytes(8, "big"),
    ]
    if context.trace_state:
        parts.append(_text(b"\x1a", _state(context.trace_state)))
    if parent:
        parts += (b"\x22\x08", parent.span_id.to_bytes(8, "big"))
    parts += (
        _text(b"\x2a", span.name),
        # OTLP has a kind that is none, so each is one more.
        b"\x30",
        _SMALL[span.kind.value + 1],
        _TIMES.pack(b"\x39", span.start_time or 0, b"\x41", span.end_time or 0),
        _attributes(b"\x4a", span.attributes),
        _count(b"\x50", span.dropped_attributes),
    )
    parts += [_sized(b"\x5a", _event(event)) for event in span.events]
    parts.append(_count(b"\x60", span.dropped_events))
    parts += [_link(link) for link in span.links]
    parts += (
        _count(b"\x70", span.dropped_links),
        _status(span.status),
        # Field 16 takes two bytes.
        b"\x85\x01",
        _remote(parent),
    )
    return b"".join(parts)


def _event(event: Event) -> bytes:
    return b"".join(
        (
            b"\x09",
            _FIXED.pack(event.timestamp),
            _text(b"\x12", event.name),
            _attributes(b"\x1a", event.attributes),
            _count(b"\x20", event.dropped_attributes),
        )
    )


def _link(link: Link) -> bytes:
    context = link.context
    flags = _REMOTE if context.is_remote else _LOCAL
    return _linked(context.trace_id, context.span_id, flags, link.attributes, link.dropped_attributes)


def _linked(trace_id: int, span_id: int, flags: bytes, attributes: Attributes | None, dropped: int) -> bytes:
    ids = b"\x0a\x10%b\x12\x08%b" % (trace_id.to_bytes(16, "big"), span_id.to_bytes(8, "big"))
    if attributes is None:
        # As nearly all are.
        return b"\x6a\x21%b\x35%b" % (ids, flags)
    said = _attributes(b"\x22", attributes) + _count(b"\x28", dropped)
    return _sized(b"\x6a", b"%b%b\x35%b" % (ids, said, flags))


def _status(status: Status | None) -> bytes:
    if status is None:
        return b""
    if not status.status_code.value and not status.description:
        return _NO_STATUS
    return _sized(b"\x7a", _text(b"\x12", status.description) + _count(b"\x18", status.status_code.value))


def _remote(context: SpanContext | None) -> bytes:
    return _REMOTE if context and context.is_remote else _LOCAL


def _state(state: TraceState) -> str:
    return ",".join([f"{name}={value}" for name, value in state.items()])


def _scope(scope: InstrumentationScope | None) -> bytes:
    if scope is None:
        return b""
    return _text(b"\x0a", scope.name) + _text(b"\x12", scope.version) + _attributes(b"\x1a", scope.attributes)


def _attributes(tag: bytes, attributes: Attributes | None) -> bytes:
    if not attributes:
        return b""
    pairs = []
    for name, value in attributes.items():
        if type(value) is str:
            pairs.append(_texts.get((name, value)) or _text_pair(name, value))
        elif type(value) is int and 0 <= value < _MOST_COUNTED:
            pairs.append(_counts.get((name, value)) or _count_pair(name, value))
        else:
            pairs.append(_pair(name, _value(value)))
    return tag + tag.join(pairs)


def _text_pair(name: str, value: str) -> bytes:
    pair = _pair(name, _value(value))
    if len(value) <= _MOST_CHARACTERS and name not in _VARYING:
        if len(_texts) >= _MOST_TEXTS:
            _texts.clear()
        _texts[name, value] = pair
    return pair


def _count_pair(name: str, value: int) -> bytes:
    pair = _pair(name, _value(value))
    if len(_counts) >= _MOST_TEXTS:
        _counts.clear()
    _counts[name, value] = pair
    return pair


def _pair(name: str, value: bytes) -> bytes:
    key = _names.get(name)
    if key is None:
        key = _text(b"\x0a", name)
        if len(_names) < _MOST_NAMES:
            _names[name] = key
    return _sized(b"", key + _sized(b"\x12", value))


def _value(value: Any) -> bytes:
    """An AnyValue. What the SDK does not let into an attribute is told by its text."""
    if isinstance(value, str):
        data = _utf8(value)
        return b"\x0a" + (_SMALL[len(data)] if len(data) < 128 else _number(len(data))) + data
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _number(value & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, float):
        return b"\x21" + _DOUBLE.pack(value)
    if isinstance(value, bytes):
        return _sized(b"\x3a", value)
    if value is None:
        return b""
    if isinstance(value, Sequence):
        return _sized(b"\x2a", b"".join([_sized(b"\x0a", _value(each)) for each in value]))
    if isinstance(value, Mapping):
        return _sized(b"\x32", _attributes(b"\x0a", {str(name): each for name, each in value.items()}))
    return _value(str(value))


def _text(tag: bytes, text: str | None) -> bytes:
    return _sized(tag, _utf8(text)) if text else b""


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _count(tag: bytes, count: int) -> bytes:
    return tag + _number(count) if count else b""


def _sized(tag: bytes, data: bytes) -> bytes:
    size = len(data)
    return tag + (_SMALL[size] if size < 128 else _number(size)) + data


def _number(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    if number < 128:
        return _SMALL[number]
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
