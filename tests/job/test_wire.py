"""What goes over the wire: digests that tell bodies apart, times in UTC, jobs as JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobserver.errors import Invalid
from jobserver.job.model import Job, JobError, Priority, Progress, Status
from jobserver.job.wire import (
    PRIORITIES,
    JobView,
    SubmitBody,
    encode_job,
    fingerprint,
    normalized,
    trace_id,
)

NOW = datetime(2026, 3, 7, 10, 0, 0, 123456, tzinfo=UTC)


def body(data: str | bytes) -> SubmitBody:
    return normalized(msgspec.json.decode(data, type=SubmitBody))


def job(**changes: Any) -> Job:
    return Job(
        **{
            "id": uuid4(),
            "type": "echo",
            "queue": "default",
            "priority": Priority.HIGH,
            "status": Status.QUEUED,
            "payload": b"null",
            "result": None,
            "error": None,
            "attempt": 0,
            "retry_count": 0,
            "max_retries": 3,
            "crashes": 0,
            "fence": 0,
            "timeout_seconds": 60.0,
            "idempotency_key": None,
            "tags": (),
            "progress": None,
            "callback_url": None,
            "created_at": NOW,
            "updated_at": NOW,
            "run_at": NOW,
            "started_at": None,
            "finished_at": None,
            "expires_at": None,
            "due_at": NOW,
            "worker_id": None,
            "lease_expires_at": None,
            "cancel_requested": False,
            "trace_context": None,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"type":"a","queue":"q"}', '{ "queue" : "q", "type" : "a" }'),
        ('{"type":"a","payload":{"x":1,"y":[{"b":1,"a":2}]}}', '{"type":"a","payload":{"y":[{"a":2,"b":1}],"x":1}}'),
        ('{"type":"a","idempotency_key":"k"}', '{"type":"a","idempotency_key":"other"}'),
        ('{"type":"a"}', '{"type":"a","queue":null,"payload":null,"tags":[]}'),
        ('{"type":"a","delay":1}', '{"type":"a","delay":1.0}'),
        ('{"type":"a","payload":"\\u0061"}', '{"type":"a","payload":"a"}'),
        (
            '{"type":"a","run_at":"2030-01-01T01:00:00+01:00"}',
            '{"type":"a","run_at":"2030-01-01T00:00:00.000Z"}',
        ),
    ],
)
def test_bodies_that_mean_the_same_have_one_fingerprint(one: str, other: str) -> None:
    assert fingerprint(body(one)) == fingerprint(body(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"type":"a"}', '{"type":"b"}'),
        ('{"type":"a","payload":{"x":1}}', '{"type":"a","payload":{"x":2}}'),
        ('{"type":"a","payload":[1,2]}', '{"type":"a","payload":[2,1]}'),
        ('{"type":"a","payload":"1"}', '{"type":"a","payload":1}'),
        ('{"type":"a","payload":[]}', '{"type":"a","payload":null}'),
        ('{"type":"a","tags":["x","y"]}', '{"type":"a","tags":["y","x"]}'),
        ('{"type":"a","queue":"q"}', '{"type":"a","priority":"low"}'),
        ('{"type":"a","delay":0}', '{"type":"a"}'),
        (
            '{"type":"a","payload":123456789012345678901234567890}',
            '{"type":"a","payload":123456789012345678901234567891}',
        ),
    ],
)
def test_bodies_that_differ_have_two_fingerprints(one: str, other: str) -> None:
    assert fingerprint(body(one)) != fingerprint(body(other))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_a_payload_comes_back_equal(payload: Any) -> None:
    sent = msgspec.json.encode({"type": "a", "payload": payload})
    received = body(sent)
    shown = encode_job(job(payload=bytes(received.payload)))
    assert msgspec.json.decode(shown)["payload"] == payload
    assert fingerprint(received) == fingerprint(body(msgspec.json.encode(received)))


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (SubmitBody(type="a", run_at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23)))), "run_at"),
        (
            SubmitBody(type="a", expires_at=datetime(9999, 12, 31, 23, 59, tzinfo=timezone(-timedelta(hours=1)))),
            "expires_at",
        ),
    ],
)
def test_a_time_that_utc_cannot_express_is_invalid(sent: SubmitBody, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        normalized(sent, "$.jobs[2]")
    assert caught.value.path == f"$.jobs[2].{field}"


def test_times_are_in_utc() -> None:
    changed = body('{"type":"a","run_at":"2030-01-01T01:30:00+01:30","expires_at":"2031-01-01T00:00:00Z"}')
    assert changed.run_at == datetime(2030, 1, 1, tzinfo=UTC)
    assert changed.run_at.tzinfo is UTC


def test_a_client_writes_only_what_it_was_given() -> None:
    assert msgspec.json.encode(SubmitBody(type="a", queue="q")) == b'{"type":"a","payload":null,"queue":"q"}'


def test_a_job_is_read_as_it_was_written() -> None:
    written = job(
        payload=b'{"b": 1, "a": 1e2}',
        result=b"12345678901234567890123",
        error=JobError("ValueError", "no", None, retryable=False),
        progress=Progress(50.0, "half"),
        tags=("x",),
        finished_at=NOW,
        trace_context="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    read = msgspec.json.decode(encode_job(written), type=JobView)
    assert bytes(read.payload) == written.payload
    assert bytes(read.result) == written.result
    assert (read.id, read.error, read.progress, read.tags) == (
        written.id,
        written.error,
        written.progress,
        written.tags,
    )
    assert read.finished_at == NOW
    assert read.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("context", [None, "", "00-4bf92f", "not a context"])
def test_without_a_trace_there_is_no_trace_id(context: str | None) -> None:
    assert trace_id(context) is None


def test_every_priority_has_a_name() -> None:
    assert {name: priority.value for name, priority in PRIORITIES.items()} == {"high": 0, "normal": 1, "low": 2}
    for priority in Priority:
        assert PRIORITIES[msgspec.json.decode(encode_job(job(priority=priority)))["priority"]] is priority
