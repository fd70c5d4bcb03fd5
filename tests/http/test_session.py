"""Signing in by an API key: what the cookie is, what it is good for, and what it is not."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from structlog.testing import capture_logs

import jobserver
from jobserver.access import Quota, digest_of
from jobserver.errors import ConfigurationError, DatabaseUnavailable
from jobserver.pipeline.gate import LocalLimit
from jobserver.pipeline.sessions import MISTAKES
from jobserver.server import Server
from jobserver.settings import Settings
from tests.conftest import Pair
from tests.keys import bearer, made
from tests.servers import running

WRONG: Final = "jsk_" + "W" * 43
SUBMIT: Final = {"type": "echo"}


@pytest.fixture
async def server(pair: Pair) -> AsyncIterator[Server]:
    template = "http://localhost:16686/trace/{trace_id}"
    async with running(pair, workers=1, trace_url_template=template, max_payload_bytes=1_000) as started:
        yield started


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as web:
        yield web


def cookie_of(answer: httpx.Response) -> dict[str, str | None]:
    [header] = answer.headers.get_list("set-cookie")
    pairs = [part.strip().partition("=") for part in header.split(";")]
    return {name: value if separator else None for name, separator, value in pairs}


async def test_while_there_are_no_keys_everybody_is_admin(server: Server, client: httpx.AsyncClient) -> None:
    assert (await client.get("/session")).json() == {
        "open": True,
        "name": None,
        "scope": "admin",
        "signed_in": False,
        "version": jobserver.__version__,
        "trace_url_template": "http://localhost:16686/trace/{trace_id}",
        "max_payload_bytes": 1_000,
    }
    # There is nothing that a key could be checked against.
    assert (await client.post("/session", json={"key": WRONG})).status_code == 401


async def test_a_key_signs_in_and_out(server: Server, client: httpx.AsyncClient) -> None:
    key = await made(server, "submit", name="ann")
    nobody = (await client.get("/session")).json()
    assert nobody == {
        "open": False,
        "name": None,
        "scope": None,
        "signed_in": False,
        # It is nobody's business who is not let in.
        "version": None,
        "trace_url_template": None,
        "max_payload_bytes": 1_000,
    }
    answer = await client.post("/session", json={"key": f" {key}\n"})
    assert answer.status_code == 200
    assert cookie_of(answer) == {"jobserver_session": key, "HttpOnly": None, "SameSite": "Strict", "Path": "/"}
    assert key not in answer.text
    somebody = (await client.get("/session")).json()
    assert somebody == answer.json()
    assert (somebody["open"], somebody["name"], somebody["scope"], somebody["signed_in"]) == (
        *(False, "ann", "submit", True),
    )
    assert somebody["version"] == jobserver.__version__
    assert "{trace_id}" in somebody["trace_url_template"]
    assert (await client.get("/jobs")).status_code == 200
    assert (await client.get("/audit")).status_code == 403
    gone = await client.delete("/session")
    assert gone.status_code == 204
    assert cookie_of(gone) == {
        "jobserver_session": "",
        "HttpOnly": None,
        "SameSite": "Strict",
        "Path": "/",
        "Max-Age": "0",
    }
    assert (await client.get("/jobs")).status_code == 401
    assert (await client.get("/session")).json() == nobody
    # It was the browser that forgot it.
    assert (await client.get("/session", headers=bearer(key))).json()["name"] == "ann"


async def test_over_tls_the_cookie_is_for_tls_alone(pair: Pair) -> None:
    """Here by what a trusted proxy says; the certificate's own tests are elsewhere."""
    async with running(pair, trusted_proxies=("127.0.0.1",)) as server, httpx.AsyncClient() as web:
        key = await made(server, "read")
        forwarded = {"x-forwarded-proto": "https", "x-forwarded-for": "198.51.100.1"}
        answer = await web.post(f"{server.url}/session", json={"key": key}, headers=forwarded)
        assert "Secure" in cookie_of(answer)


async def test_a_key_that_was_made_elsewhere_fits_a_cookie(server: Server, client: httpx.AsyncClient) -> None:
    key = "aZ09._~+/=-" * 4
    await server.access_store.create(uuid4(), "given", "read", digest_of(key.encode()), lifetime_seconds=None)
    await server.keys.look()
    assert (await client.post("/session", json={"key": key})).status_code == 200
    assert (await client.get("/session")).json()["name"] == "given"


@pytest.mark.parametrize("body", [{}, {"key": 5}, {"key": ""}, {"key": "k" * 513}, {"key": WRONG, "more": 1}, []])
async def test_what_is_no_key_is_invalid(client: httpx.AsyncClient, body: Any) -> None:
    answer = await client.post("/session", json=body)
    assert answer.status_code == 422
    assert WRONG not in answer.text


async def test_keys_that_are_not_valid_do_not_sign_in(server: Server, client: httpx.AsyncClient) -> None:
    revoked = await made(server, "admin", name="gone")
    expired = await made(server, "admin", lifetime_seconds=0.001)
    await server.access_store.revoke("gone")
    await server.keys.look()
    for key in (revoked, expired, WRONG, WRONG + "é", revoked.lower(), f"Bearer {revoked}", "k" * 512):
        answer = await client.post("/session", json={"key": key})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert key not in answer.text


# What a cookie may do.

SAME: Final = ({"sec-fetch-site": "same-origin"}, {"origin": "OWN"}, {"sec-fetch-site": "Same-Origin", "origin": "OWN"})
FOREIGN: Final[tuple[dict[str, str], ...]] = (
    {},
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "same-site", "origin": "OWN"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": ""},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"origin": "http://app.example"},
    {"sec-fetch-site": "same-origin", "origin": "http://evil.example"},
)


async def test_a_cookie_changes_something_for_pages_of_this_server_alone(pair: Pair) -> None:
    async with (
        # Its pages may read what they like with a key of their own, and still not use the session of another page.
        running(pair, workers=1, cors_origins=("http://app.example",)) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        key = await made(server, "admin")
        cookie = {"cookie": f"a=1; jobserver_session={key}; b=2"}
        for headers in FOREIGN:
            own = {name: value.replace("OWN", server.url) for name, value in headers.items()}
            for method, path in (("POST", "/jobs"), ("POST", "/queues/q/pause"), ("DELETE", "/dlq?all=true")):
                body = SUBMIT if path == "/jobs" else None
                answer = await client.request(method, path, json=body, headers={**cookie, **own})
                assert answer.status_code == 403, (method, path, headers)
                assert "insufficient_scope" not in answer.headers.get("www-authenticate", "")
            # Reading is no harm: no other origin sees the answer.
            assert (await client.get("/jobs", headers={**cookie, **own})).status_code == 200
        assert (await client.get("/admin/stats", headers=cookie)).json()["total"] == 0
        for headers in SAME:
            own = {name: value.replace("OWN", server.url) for name, value in headers.items()}
            assert (await client.post("/jobs", json=SUBMIT, headers={**cookie, **own})).status_code == 201, headers


async def test_of_two_cookies_none_counts(server: Server, client: httpx.AsyncClient) -> None:
    one, two = await made(server, "admin"), await made(server, "read")
    for cookies in (
        f"jobserver_session={one}; jobserver_session={two}",
        f"jobserver_session={two};jobserver_session={one}",
        f"jobserver_session={one}; jobserver_session={one}",
        f"jobserver_session={one}; jobserver_session=",
        *("jobserver_session=", "jobserver_session", f'jobserver_session="{one}"', f"jobserver_session= {one}"),
        *(f"Jobserver_Session={one}", f"xjobserver_session={one}", f"jobserver_session={one}x"),
        f"jobserver_session={'k' * 600}",
    ):
        answer = await client.get("/jobs", headers={"cookie": cookies})
        assert answer.status_code == 401, cookies
        assert (await client.get("/session", headers={"cookie": cookies})).json()["signed_in"] is False


async def test_a_key_in_the_header_is_stronger_than_the_cookie(server: Server, client: httpx.AsyncClient) -> None:
    """A program with a jar of cookies is a program; and a wrong key is not mended by a cookie."""
    admin, reading = await made(server, "admin"), await made(server, "read")
    cookie = {"cookie": f"jobserver_session={admin}"}
    assert (await client.get("/audit", headers={**cookie, **bearer(reading)})).status_code == 403
    assert (await client.get("/jobs", headers={**cookie, **bearer(WRONG)})).status_code == 401
    assert (await client.post("/jobs", json=SUBMIT, headers={**cookie, **bearer(admin)})).status_code == 201


async def test_a_stream_of_events_takes_the_cookie_and_ends_with_its_key(
    server: Server, client: httpx.AsyncClient
) -> None:
    key = await made(server, "read", name="streams")
    assert (await client.post("/session", json={"key": key})).status_code == 200
    async with client.stream("GET", "/events") as answer:
        assert answer.status_code == 200
        await server.access_store.revoke("streams")
        async with asyncio.timeout(6):
            async for _ in answer.aiter_bytes():
                pass
    assert (await client.get("/jobs")).status_code == 401
    assert (await client.get("/session")).json()["signed_in"] is False


# Guessing, and what is written down.


async def test_too_many_wrong_keys_of_an_address_wait(server: Server, client: httpx.AsyncClient) -> None:
    key = await made(server, "read")
    for _ in range(MISTAKES.amount):
        assert (await client.post("/session", json={"key": key})).status_code == 200
        assert (await client.post("/session", json={"key": WRONG})).status_code == 401
    for tried in (WRONG, key):
        answer = await client.post("/session", json={"key": tried})
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= MISTAKES.window_seconds
    # Who is signed in goes on.
    assert (await client.get("/session", headers=bearer(key))).json()["signed_in"] is True


def test_mistakes_are_counted_for_each_address_and_forgotten() -> None:
    limit = LocalLimit(Quota(2, 60), lambda: 1)
    assert limit.standing("a", 0.0).allowed
    assert limit.standing("a", 0.0).remaining == 1
    limit.hit("a", 0.0)
    limit.hit("a", 1.0)
    assert not limit.standing("a", 2.0).allowed
    assert limit.standing("b", 2.0).allowed
    assert limit.standing("a", 60.0).allowed


async def test_signing_in_is_noted_and_the_key_is_not(
    server: Server, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    admin, reading = await made(server, "admin", name="root"), await made(server, "read", name="eye")
    with capture_logs() as logged:
        for key in (admin, reading, WRONG):
            await client.post("/session", json={"key": key})
        await client.post("/session", content=b'{"key": "%s"' % WRONG.encode())
    assert [(each["event"], each["key"]) for each in logged] == [
        *(("admin_action", "root"), ("signed_in", "root"), ("signed_in", "eye")),
    ]
    log = (await client.get("/audit", headers=bearer(admin))).json()["items"]
    assert [(each["action"], each["key_name"], each["address"]) for each in log] == [("sign_in", "root", "127.0.0.1")]
    metrics = (await client.get("/metrics", headers=bearer(admin))).text
    # The client's own libraries tell what they send and get.
    heard = [each.getMessage() for each in caplog.records if not each.name.startswith("http")]
    said = str(logged) + str(heard) + json.dumps(log) + metrics
    assert not any(key in said for key in (admin, reading, WRONG))


async def test_who_is_signed_in_is_told_while_sql_is_away(
    server: Server, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page stays, and says that the database is gone; nobody new comes in."""
    key = await made(server, "read", name="eye")

    async def away() -> Any:
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(server.access_store, "state", away)
    server.keys._grow_old()
    assert (await client.get("/session", headers=bearer(key))).json()["name"] == "eye"
    assert (await client.get("/session")).json()["signed_in"] is False
    assert (await client.post("/session", json={"key": key})).status_code == 503


# Where traces are.


@pytest.mark.parametrize(
    "template",
    [
        "http://localhost:16686/trace/{trace_id}",
        "https://jaeger.example.com/ui/trace/{trace_id}?uiFind=x#span",
        "https://[::1]:3000/explore?left=%7B%22query%22:%22{trace_id}%22%7D",
        "HTTPS://tempo.example.com/{trace_id}",
    ],
)
def test_a_template_of_a_trace_is_taken(template: str) -> None:
    assert Settings(trace_url_template=template).trace_url_template == template


@pytest.mark.parametrize(
    "template",
    [
        "",
        "http://localhost/trace/",
        "http://localhost/{trace_id}/{trace_id}",
        "http://localhost/{trace_id}/{span_id}",
        "http://{trace_id}.example.com/",
        "http://localhost{trace_id}",
        "javascript:alert('{trace_id}')",
        "//localhost/{trace_id}",
        "ftp://localhost/{trace_id}",
        "http://user:password@localhost/{trace_id}",
        "http://localhost/{trace_id} x",
        'http://localhost/{trace_id}"',
        "http://localhost/{trace_id}\n",
        "http://localhost/" + "a" * 2_048 + "{trace_id}",
    ],
)
def test_a_template_that_leads_to_no_trace_is_refused(template: str) -> None:
    with pytest.raises(ConfigurationError, match="--trace-url-template"):
        Settings(trace_url_template=template)
