"""The headers of a submit: idempotency keys in both forms, trace contexts by the grammar of the W3C."""

from __future__ import annotations

from typing import Any

import pytest

from jobserver.http.headers import SubmitHeaders, submit_headers

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def read(*headers: tuple[str, str]) -> SubmitHeaders:
    scope: Any = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers]}
    return submit_headers(scope)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("order-42", "order-42"),
        ('"order-42"', "order-42"),
        ("  order-42 ", "order-42"),
        ('"a b"', "a b"),
        (r'"a\"b\\c"', r'a"b\c'),
        ('a"b', 'a"b'),
        ("k" * 255, "k" * 255),
    ],
)
def test_a_key_is_bare_or_quoted(value: str, key: str) -> None:
    assert read(("idempotency-key", value)).idempotency_key == key


def test_without_headers_there_is_nothing() -> None:
    assert read(("accept", "*/*")) == SubmitHeaders(None, None)


def test_a_trace_context_is_kept() -> None:
    assert read(("traceparent", PARENT)).trace_context == PARENT


def test_the_trace_state_is_a_second_line() -> None:
    context = read(("traceparent", PARENT), ("tracestate", "a=1, b@v=x y"), ("tracestate", "c=3"))
    assert context.trace_context == f"{PARENT}\na=1,b@v=x y,c=3"


def test_a_later_version_is_continued_in_this_one() -> None:
    later = "cc" + PARENT[2:] + "-what-else"
    assert read(("traceparent", later)).trace_context == PARENT


@pytest.mark.parametrize(
    "value",
    [
        "",
        "ff" + PARENT[2:],
        PARENT + "-more",
        PARENT.upper(),
        PARENT[:-1],
        "00-" + "0" * 32 + PARENT[35:],
        PARENT[:36] + "0" * 16 + "-01",
        PARENT.replace("4bf9", "xxxx"),
    ],
)
def test_an_invalid_trace_parent_is_ignored(value: str) -> None:
    assert read(("traceparent", value), ("tracestate", "a=1")).trace_context is None


def test_two_trace_parents_are_none() -> None:
    assert read(("traceparent", PARENT), ("traceparent", PARENT)).trace_context is None


@pytest.mark.parametrize(
    "value", ["", "A=1", "a", "a=1,,=2", "a=" + "x" * 257, "a=\x01", ",".join(f"k{n}=1" for n in range(33))]
)
def test_an_invalid_trace_state_is_left_out(value: str) -> None:
    assert read(("traceparent", PARENT), ("tracestate", value)).trace_context == PARENT
