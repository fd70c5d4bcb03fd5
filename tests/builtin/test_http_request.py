"""http.request against a real server: what completes, what is retried and when, what is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest

from jobserver.builtin import builtin_handlers, reference
from jobserver.errors import Invalid
from jobserver.job.handlers import load_handlers
from jobserver.job.model import Outcome, Raised, Returned
from jobserver.pipeline.execute import Executor, ExecutorOptions
from jobserver.pipeline.running import Running
from tests.pipeline.attempts import claimed, error_of
from tests.web import WebServer, response

OPTIONS = ExecutorOptions(threads=1, processes=1, thread_grace_seconds=0, max_result_bytes=2_000_000)


async def run(
    payload: dict[str, Any], *, allow_private_targets: bool = True, trace_context: str | None = None
) -> Outcome:
    handlers = builtin_handlers(allow_private_targets=allow_private_targets)
    async with Executor(handlers, OPTIONS, report_progress=lambda job, progress: None) as executor:
        job = msgspec.structs.replace(claimed("http.request", payload), trace_context=trace_context)
        return await executor.run(Running(job))


def result_of(outcome: Outcome) -> Any:
    assert isinstance(outcome, Returned), outcome
    return msgspec.json.decode(outcome.result)


async def test_a_2xx_completes_with_status_headers_and_body() -> None:
    async with WebServer(lambda head, body: response(201, b'{"a": 1}', Content_Type="application/json")) as server:
        result = result_of(
            await run({"url": server.url("/x"), "method": "POST", "json": {"b": None}, "headers": {"X-Key": "k"}})
        )
    assert result == {
        "status": 201,
        "headers": {"content-length": "8", "content-type": "application/json"},
        "body": {"a": 1},
    }
    [(head, body)] = server.requests
    assert head.startswith("POST /x HTTP/1.1")
    assert "X-Key: k" in head
    assert "Content-Type: application/json" in head
    assert body == b'{"b":null}'


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/plain; charset=latin-1", b"\xe4", "ä"),
        ("text/plain; charset=nonsense", b"a", "a"),
        ("application/json", b"{broken", "{broken"),
        ("application/problem+json", b"[1]", [1]),
        ("application/octet-stream", b"\xff\x00", "\ufffd\x00"),
    ],
)
async def test_a_body_is_json_when_it_says_so_else_text(content_type: str, body: bytes, expected: Any) -> None:
    async with WebServer(lambda head, sent: response(200, body, Content_Type=content_type)) as server:
        assert result_of(await run({"url": server.url()}))["body"] == expected


async def test_null_is_a_body_and_no_json_is_none() -> None:
    async with WebServer(lambda head, body: response(204)) as server:
        await run({"url": server.url(), "method": "PUT", "json": None})
        await run({"url": server.url(), "method": "PUT"})
    assert [body for _, body in server.requests] == [b"null", b""]


async def test_the_expected_statuses_complete_and_no_others() -> None:
    async with WebServer(lambda head, body: response(404)) as server:
        assert result_of(await run({"url": server.url(), "expect": [404, 410]}))["status"] == 404
    async with WebServer(lambda head, body: response(200)) as server:
        assert error_of(await run({"url": server.url(), "expect": [404]})) == ("NotRetryable", False)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_failures_that_pass_are_retried(status: int) -> None:
    async with WebServer(lambda head, body: response(status, b"busy", Retry_After="7")) as server:
        outcome = await run({"url": server.url()})
    assert error_of(outcome) == ("Retry", True)
    assert isinstance(outcome, Raised)
    assert outcome.error.message == f"answered {status}: busy"
    # A floor beside the backoff, which goes on to grow.
    assert (outcome.after_seconds, outcome.at_least_seconds) == (None, 7)


@pytest.mark.parametrize("status", [301, 302, 400, 401, 403, 404, 409, 410, 422])
async def test_failures_that_stay_are_not_retried(status: int) -> None:
    async with WebServer(lambda head, body: response(status, Location="http://127.0.0.1:1/")) as server:
        assert error_of(await run({"url": server.url()})) == ("NotRetryable", False)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("0", 0, 0),
        ("99999999999999999999", 86_400, 86_400),
        (timedelta(seconds=3_000), 2_800, 3_000),
        (timedelta(days=400), 86_400, 86_400),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
)
async def test_retry_after_is_seconds_or_a_date_and_at_most_a_day(
    value: str | timedelta, low: float, high: float
) -> None:
    text = format_datetime(datetime.now(UTC) + value, usegmt=True) if isinstance(value, timedelta) else value
    async with WebServer(lambda head, body: response(503, Retry_After=text)) as server:
        outcome = await run({"url": server.url()})
    assert isinstance(outcome, Raised)
    assert outcome.after_seconds is None
    assert low <= outcome.at_least_seconds <= high


@pytest.mark.parametrize("value", ["soon", "-1", "", "1.5", "Wed, 99 Oct 2015 99:99:99 GMT"])
async def test_an_unreadable_retry_after_leaves_the_usual_backoff(value: str) -> None:
    async with WebServer(lambda head, body: response(503, Retry_After=value)) as server:
        outcome = await run({"url": server.url()})
    assert isinstance(outcome, Raised)
    assert (outcome.after_seconds, outcome.at_least_seconds) == (None, 0)


@pytest.mark.parametrize("answer", [None, b"not http at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"])
async def test_network_errors_are_retried(answer: bytes | None) -> None:
    async with WebServer(lambda head, body: answer) as server:
        assert error_of(await run({"url": server.url()})) == ("Retry", True)


async def test_nobody_listening_and_unknown_names_are_retried() -> None:
    async with WebServer(lambda head, body: None) as server:
        url = server.url()
    assert error_of(await run({"url": url})) == ("Retry", True)
    assert error_of(await run({"url": "http://does-not-exist.invalid/"})) == ("Retry", True)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://169.254.169.254/", "http://[::1]:{port}/"]
)
async def test_private_targets_are_refused_for_good(url: str) -> None:
    async with WebServer(lambda head, body: response(200)) as server:
        outcome = await run({"url": url.format(port=server.port)}, allow_private_targets=False)
    assert error_of(outcome) == ("NotRetryable", False)
    assert server.requests == []


async def test_a_response_over_1_mib_fails_for_good() -> None:
    async with WebServer(lambda head, body: response(200, b"x" * 1_048_577)) as server:
        assert error_of(await run({"url": server.url()})) == ("NotRetryable", False)


async def test_the_endpoint_continues_the_trace_of_the_job() -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    async with WebServer(lambda head, body: response(200)) as server:
        await run({"url": server.url()})
        await run({"url": server.url()}, trace_context=f"{parent}\ncongo=t61")
        await run({"url": server.url(), "headers": {"Traceparent": "mine"}}, trace_context=f"{parent}\ncongo=t61")
    none, passed, own = [head.lower() for head, _ in server.requests]
    assert "traceparent" not in none
    assert f"traceparent: {parent}\r\n" in passed
    assert "tracestate: congo=t61\r\n" in passed
    assert "traceparent: mine\r\n" in own
    assert "congo" not in own


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding"])
async def test_headers_of_the_connection_cannot_be_set(name: str) -> None:
    async with WebServer(lambda head, body: response(200)) as server:
        outcome = await run({"url": server.url(), "headers": {name: "internal"}})
    assert error_of(outcome) == ("NotRetryable", False)
    assert server.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "ftp://example.org/"},
        {"url": "file:///etc/passwd"},
        {"url": "http://a\nb/"},
        {"method": "CONNECT"},
        {"method": "GET / HTTP/1.1\r\nX: y"},
        {"headers": {"a b": "c"}},
        {"headers": {"a": "b\r\nc: d"}},
        {"headers": {"a": 1}},
        {"timeout": 0},
        {"expect": []},
        {"expect": [99]},
        {"data": "x"},
    ],
)
def test_wrong_arguments_are_refused_at_submit(fields: dict[str, Any]) -> None:
    handler = builtin_handlers().get("http.request")
    assert handler is not None
    with pytest.raises(Invalid):
        handler.decode(msgspec.json.encode({"url": "http://example.org/"} | fields))


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://a:99999/", "http://\u2603\u200d.example/", "http://a..b/"]
)
async def test_a_url_that_means_nothing_does_not_harm(url: str) -> None:
    kind, _ = error_of(await run({"url": url}))
    assert kind in ("NotRetryable", "Retry", "InvalidPayload")


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_child_process_keeps_to_what_the_server_allows(allowed: bool) -> None:
    name = reference(allow_private_targets=allowed)
    assert "http.request" in load_handlers(name)
    options = msgspec.structs.replace(OPTIONS, references=(name,))
    async with (
        WebServer(lambda head, body: response(200)) as server,
        Executor(builtin_handlers(), options, report_progress=lambda job, progress: None) as executor,
    ):
        outcome = await executor.run(Running(claimed("http.request", {"url": server.url()}, crashes=1)))
    assert isinstance(outcome, Returned) == allowed
