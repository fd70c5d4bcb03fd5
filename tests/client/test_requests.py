"""What goes over the wire: behind a proxy that loses answers at random every submit is one job; keys; traces."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from jobserver import Client, ConfigurationError, JobRequest, RequestRefused, SyncClient
from tests.conftest import Pair
from tests.servers import running
from tests.web import WebServer, response

T = TypeVar("T")
JOBS = 60


class Lossy:
    """Passes requests on and, by its dice, loses the request, or the answer, or answers with a gateway's error."""

    def __init__(self, target: str, seed: int) -> None:
        self._http = httpx.AsyncClient(base_url=target)
        self._dice = random.Random(seed)
        self.lost = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server, self._http:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *headers = head.split("\r\n")
                method, path, _ = line.split()
                length = [
                    int(header.split(":")[1]) for header in headers if header.lower().startswith("content-length")
                ]
                body = await reader.readexactly(sum(length))
                fate = self._dice.choice(["pass", "pass", "request", "answer", "gateway"])
                if fate != "pass":
                    self.lost += 1
                if fate == "request":
                    break
                there = await self._http.request(
                    method, path, content=body, headers={"content-type": "application/json"} if body else None
                )
                if fate == "answer":
                    break
                if fate == "gateway":
                    writer.write(response(502, b"gone"))
                else:
                    writer.write(response(there.status_code, there.content, content_type=there.headers["content-type"]))
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_no_lost_answer_doubles_a_job_or_loses_one(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    # The backoff is tested elsewhere; here only that there is a repeat.
    monkeypatch.setattr("jobserver.client.calls.BACKOFF_FIRST_SECONDS", 0.001)
    monkeypatch.setattr("jobserver.client.calls.BACKOFF_CAP_SECONDS", 0.005)
    async with running(pair) as server:
        proxy = Lossy(server.url, seed=7)
        async with proxy.serving() as url:

            def submit_without_loop() -> list[str]:
                with SyncClient(url, retries=30) as client:
                    return [str(client.submit("echo", n, tags=("sync",), delay=3_600).id) for n in range(JOBS)]

            async with Client(url, retries=30) as client:
                one_by_one = [
                    str((await client.submit("echo", n, tags=("async",), delay=3_600)).id) for n in range(JOBS)
                ]
                many = []
                for start in range(0, JOBS, 10):
                    requests = [
                        JobRequest(type="echo", payload=start + n, tags=("many",), delay=3_600) for n in range(10)
                    ]
                    many += [str(item.id) for item in await client.submit_many(requests)]
            without_loop = await asyncio.to_thread(submit_without_loop)
        assert proxy.lost > JOBS / 2
        async with Client(server.url) as client:
            for tag, ids in (("async", one_by_one), ("many", many), ("sync", without_loop)):
                stored = [job async for job in client.list(tag=tag)]
                assert sorted(str(job.id) for job in stored) == sorted(ids), tag
                assert sorted(job.payload for job in stored) == list(range(JOBS)), tag


# What goes with every request.

STATS = b'{"items": []}'


def header(head: str, name: str) -> str | None:
    found = [line.split(": ", 1)[1] for line in head.splitlines() if line.lower().startswith(f"{name}: ")]
    return found[0] if found else None


def blocking(url: str, call: Callable[[SyncClient], T]) -> T:
    with SyncClient(url, api_key="js_secret") as client:
        return call(client)


async def test_the_key_is_sent_as_a_bearer_and_nowhere_shown() -> None:
    async with WebServer(lambda head, body: response(200, STATS)) as web:
        async with Client(f"http://user:pass@127.0.0.1:{web.port}", api_key="js_secret") as client:
            await client.queues()
            assert "js_secret" not in repr(client) + repr(vars(client))
        await asyncio.to_thread(blocking, web.url(""), lambda client: client.queues())
        async with Client(web.url("")) as client:
            await client.queues()
    sent = [header(head, "authorization") for head, _ in web.requests]
    assert sent == ["Bearer js_secret", "Bearer js_secret", None]


@pytest.mark.parametrize("key", ["", "a b", "key\r\nx: y", "schlüssel", "k" * 600])
@pytest.mark.parametrize("kind", [Client, SyncClient])
def test_what_cannot_be_a_key_is_refused_without_showing_it(kind: type[Client] | type[SyncClient], key: str) -> None:
    with pytest.raises(ConfigurationError, match="The API key is none") as error:
        kind(api_key=key)
    assert not key or key not in str(error.value)


async def test_a_redirect_is_not_followed_with_the_key() -> None:
    found = response(302, b"", location="http://127.0.0.1:1/")
    async with WebServer(lambda head, body: found) as web, Client(web.url(""), api_key="k", retries=0) as client:
        with pytest.raises(RequestRefused, match="302 Found"):
            await client.queues()
    assert len(web.requests) == 1


async def test_the_current_span_goes_with_a_request() -> None:
    tracer = TracerProvider().get_tracer("test")
    async with WebServer(lambda head, body: response(200, STATS)) as web, Client(web.url("")) as client:
        await client.queues()
        with tracer.start_as_current_span("caller") as span:
            await client.queues()
            context = trace.get_current_span().get_span_context()
            assert span.get_span_context() == context
    sent = [header(head, "traceparent") for head, _ in web.requests]
    assert sent == [None, f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"]
    assert "opentelemetry.trace" in sys.modules


async def test_the_trace_of_a_submit_is_that_of_its_job(pair: Pair) -> None:
    tracer = TracerProvider().get_tracer("test")
    async with running(pair) as server, Client(server.url) as client:
        with tracer.start_as_current_span("caller") as span:
            job = await client.submit("echo")
            [item] = await client.submit_many([JobRequest(type="echo")])
        expected = f"{span.get_span_context().trace_id:032x}"
        assert (job.trace_id, (await client.get(item.id)).trace_id) == (expected, expected)


async def test_the_audit_log_is_read_over_pages() -> None:
    pages = [
        b'{"items":[{"at":"2026-03-07T10:00:00Z","action":"replay","key_name":"ci","target":{"all":true},"changed":3}],'
        b'"limit":100,"next_cursor":"c1"}',
        b'{"items":[{"at":"2026-03-07T09:00:00Z","action":"pause","key_name":null,"changed":1}],"next_cursor":null}',
    ]

    def answer(head: str, body: bytes) -> bytes:
        return response(200, pages[1] if "cursor=c1" in head else pages[0])

    async with WebServer(answer) as web, Client(web.url("")) as client:
        found = [(each.action, each.key_name, each.changed) async for each in client.audit()]
        assert found == [("replay", "ci", 3), ("pause", None, 1)]
        assert [each.action async for each in client.audit(limit=1)] == ["replay"]
        again = await asyncio.to_thread(blocking, web.url(""), lambda client: list(client.audit()))
        assert [each.action for each in again] == ["replay", "pause"]
