"""Who may call what: each route with no key, with each scope, with keys that are not valid, and by tricks."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

import httpx
import msgspec
import pytest

from jobserver.access import ScopeName, digest_of, new_key
from jobserver.errors import DatabaseUnavailable
from jobserver.http.app import OPERATIONS
from jobserver.pipeline import keys as known
from jobserver.server import Server
from jobserver.store.engine import Database
from tests.conftest import Pair
from tests.engines import eventually
from tests.http.cases import UNKNOWN_ID
from tests.keys import bearer, made
from tests.servers import running

# The contract, by hand: what each route needs.
NEEDED: Final[dict[tuple[str, str], str]] = {
    ("POST", "/jobs"): "submit",
    ("POST", "/jobs/batch"): "submit",
    ("GET", "/jobs"): "read",
    ("GET", "/jobs/{job_id}"): "read",
    ("GET", "/jobs/{job_id}/attempts"): "read",
    ("GET", "/jobs/{job_id}/why"): "read",
    ("POST", "/jobs/{job_id}/cancel"): "submit",
    ("POST", "/jobs/{job_id}/retry"): "admin",
    ("GET", "/jobs/{job_id}/events"): "read",
    ("GET", "/events"): "read",
    ("GET", "/dlq"): "read",
    ("GET", "/dlq/groups"): "read",
    ("POST", "/jobs/actions"): "admin",
    ("POST", "/dlq/{job_id}/replay"): "admin",
    ("POST", "/dlq/replay"): "admin",
    ("DELETE", "/dlq/{job_id}"): "admin",
    ("DELETE", "/dlq"): "admin",
    ("GET", "/queues"): "read",
    ("POST", "/queues/{name}/pause"): "admin",
    ("POST", "/queues/{name}/resume"): "admin",
    ("GET", "/workers"): "read",
    ("GET", "/types"): "read",
    ("GET", "/admin/stats"): "read",
    ("GET", "/admin/activity"): "read",
    ("GET", "/audit"): "admin",
    ("GET", "/metrics"): "read",
    ("GET", "/schema"): "read",
    ("GET", "/schema/openapi.json"): "read",
    ("GET", "/health"): "open",
    ("GET", "/health/ready"): "open",
    ("GET", "/"): "open",
    ("GET", "/assets/{name}"): "open",
    ("GET", "/session"): "open",
    ("POST", "/session"): "open",
    ("DELETE", "/session"): "open",
}
RANKS: Final = ("open", "read", "submit", "admin")


class House(msgspec.Struct, frozen=True):
    """A server with keys of every kind, and a client without any."""

    server: Server
    client: httpx.AsyncClient
    keys: dict[str, str]
    bad: dict[str, str]

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        target = path.format(job_id=UNKNOWN_ID, name="q")
        async with self.client.stream(method, target, **options) as answer:
            # An event stream does not end by itself.
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                await answer.aread()
            return answer


@pytest.fixture
async def house(pair: Pair) -> AsyncIterator[House]:
    async with running(pair, workers=1) as server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        scopes: tuple[ScopeName, ...] = ("read", "submit", "admin")
        keys = {scope: await made(server, scope) for scope in scopes}
        bad = {
            "revoked": await made(server, "admin", name="revoked"),
            "expired": await made(server, "admin", name="expired", lifetime_seconds=0.001),
            "unknown": "jsk_" + "A" * 43,
        }
        await server.access_store.revoke("revoked")
        await server.keys.look()
        yield House(server, client, keys, bad)


def test_the_table_has_every_route() -> None:
    assert set(NEEDED) == {(each.method, each.path) for each in OPERATIONS}


def malformed(key: str) -> list[str]:
    """Authorization headers around a key that is valid by itself."""
    return [
        *("", "Bearer", "Bearer ", f"Bearer{key}", key, f"Basic {key}", f"Bearer {key}x", f"Bearer {key[:-1]}"),
        *(f"Bearer {key} {key}", f"Bearer {key},Bearer {key}", f'Bearer "{key}"', f"Bearer\t{key}", f"Token {key}"),
        *(f"Bearer {key.lower()}", f"Bearer {key.swapcase()}", "Bearer " + "x" * 5_000, f"Bearer {key}\xe9"),
    ]


async def test_each_route_lets_in_whom_it_should(house: House) -> None:
    wrong = []
    for (method, path), needed in NEEDED.items():
        answer = await house.ask(method, path)
        if (answer.status_code == 401) != (needed != "open"):
            wrong.append((method, path, "no key", answer.status_code))
        for scope, key in house.keys.items():
            answer = await house.ask(method, path, headers=bearer(key))
            refused = RANKS.index(scope) < RANKS.index(needed)
            if (answer.status_code == 403) != refused or answer.status_code in (401, 500):
                wrong.append((method, path, scope, answer.status_code))
        for name, key in house.bad.items():
            answer = await house.ask(method, path, headers=bearer(key))
            if (answer.status_code == 401) != (needed != "open"):
                wrong.append((method, path, name, answer.status_code))
        for header in malformed(house.keys["admin"]):
            target = path.format(job_id=UNKNOWN_ID, name="q")
            headers = (("Host", "localhost"), ("Authorization", header))
            status = status_of(await raw(house.server, request_of(method, target, *headers)))
            if (status == 401) != (needed != "open"):
                wrong.append((method, path, header, status))
    assert wrong == []
    stats = (await house.ask("GET", "/admin/stats", headers=bearer(house.keys["read"]))).json()
    assert stats["total"] == 0


async def test_the_scheme_is_read_in_any_case_and_the_challenge_says_what_is_wrong(house: House) -> None:
    """RFC 6750, section 3: no error where no key came along; invalid_token; insufficient_scope and which."""
    key = house.keys["read"]
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert (await house.ask("GET", "/jobs", headers={"authorization": f"{scheme} {key}"})).status_code == 200
    without = await house.ask("GET", "/jobs")
    assert without.headers["www-authenticate"] == 'Bearer realm="jobserver"'
    assert without.headers["content-type"] == "application/problem+json"
    bad = await house.ask("GET", "/jobs", headers=bearer("nonsense"))
    assert bad.headers["www-authenticate"] == 'Bearer realm="jobserver", error="invalid_token"'
    narrow = await house.ask("GET", "/audit", headers=bearer(key))
    assert narrow.headers["www-authenticate"].endswith('error="insufficient_scope", scope="admin"')
    # Nobody learns which keys there were.
    assert len({(await house.ask("GET", "/jobs", headers=bearer(each))).text for each in house.bad.values()}) == 1


# Spellings of paths that need a key, as bytes of a request's target.
SPELLINGS: Final = (
    *("/jobs/", "//jobs", "/jobs//", "/./jobs", "/x/../jobs", "/%6aobs", "/jobs%2f", "/jobs%00", "/JOBS", "/Jobs"),
    *("/jobs;x=1", "/jobs?x", "/jobs#x", "/jobs%3fstatus=failed", "/jobs%20", "/jobs.json", "/health/../jobs"),
    *("/health/%2e%2e/jobs", "/health;/../jobs", "/health//jobs", "http://localhost/jobs", "http://evil.example/jobs"),
    *("/%2fjobs", "/jobs/%2e", "/jobs/.", "/\\jobs", "/jobs\\", "/admin/stats/", "/metrics/", "//metrics", "/audit/"),
    *("/schema/", "/schema/openapi.json/", "/schema/openapi.yaml", "/schema/swagger", "/health/../audit", "/%61udit"),
)
# Headers by which other servers were talked into another path, method, address or user.
TRICKS: Final[tuple[tuple[str, str], ...]] = (
    *(("X-HTTP-Method-Override", "GET"), ("X-HTTP-Method", "GET"), ("X-Method-Override", "HEAD")),
    *(("X-Original-URL", "/health"), ("X-Rewrite-URL", "/health"), ("X-Forwarded-For", "127.0.0.1")),
    *(("X-Forwarded-Host", "localhost"), ("X-Real-IP", "127.0.0.1"), ("Forwarded", "for=127.0.0.1;host=localhost")),
    *(("X-Forwarded-User", "admin"), ("X-Remote-User", "admin"), ("Remote-User", "admin"), ("Cookie", "session=1")),
    *(("X-Api-Key", "admin"), ("Proxy-Authorization", "Bearer x"), ("X-Forwarded-Proto", "https")),
)


async def raw(server: Server, request: bytes) -> bytes:
    """What a server answers to these bytes, until it closes."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def request_of(method: str, target: str, *headers: tuple[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def status_of(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert found is not None, answer[:200]
    return int(found[1])


SUBMIT: Final = b'{"type": "echo"}'


async def test_no_spelling_of_a_path_goes_around_a_key(house: House) -> None:
    for target in SPELLINGS:
        for method, body in (("GET", b""), ("POST", SUBMIT), ("DELETE", b""), ("HEAD", b"")):
            answer = await raw(house.server, request_of(method, target, ("Host", "localhost"), body=body))
            assert status_of(answer) in (400, 401, 404, 405), (method, target, answer[:100])
    for method in ("get", "PUT", "PATCH", "TRACE", "CONNECT", "PROPFIND", "OPTIONS", "BREW", "POST\tx"):
        answer = await raw(house.server, request_of(method, "/jobs", ("Host", "localhost"), body=SUBMIT))
        assert status_of(answer) in (204, 400, 401, 404, 405), (method, answer[:100])
    stats = (await house.ask("GET", "/admin/stats", headers=bearer(house.keys["read"]))).json()
    assert stats["total"] == 0


async def test_no_header_takes_the_place_of_a_key(house: House) -> None:
    reading = house.keys["read"]
    for trick in TRICKS:
        for method, path, body in (("POST", "/jobs", SUBMIT), ("GET", "/audit", b""), ("GET", "/metrics", b"")):
            answer = await raw(house.server, request_of(method, path, ("Host", "localhost"), trick, body=body))
            assert status_of(answer) == 401, (trick, path)
        headers = (("Host", "localhost"), ("Authorization", f"Bearer {reading}"), trick)
        assert status_of(await raw(house.server, request_of("POST", "/queues/q/pause", *headers))) == 403, trick


async def test_of_two_keys_none_counts(house: House) -> None:
    admin, reading = (("Authorization", f"Bearer {house.keys[scope]}") for scope in ("admin", "read"))
    for pair in (
        (admin, reading),
        (reading, admin),
        (admin, admin),
        (admin, ("Authorization", "")),
        (reading, reading),
    ):
        answer = await raw(house.server, request_of("GET", "/jobs", ("Host", "localhost"), *pair))
        assert status_of(answer) == 401, pair
    folded = f"Host: localhost\r\nAuthorization: Bearer\r\n {house.keys['admin']}".split(": ", 1)
    answer = await raw(house.server, request_of("GET", "/jobs", (folded[0], folded[1])))
    assert status_of(answer) in (400, 401)


HOSTS: Final = (
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "[::1",
    "",
    "*",
)


async def test_with_keys_any_host_leads_here_and_none_lets_in(house: House) -> None:
    key = ("Authorization", f"Bearer {house.keys['read']}")
    for host in HOSTS:
        assert status_of(await raw(house.server, request_of("GET", "/jobs", ("Host", host)))) == 401
        assert status_of(await raw(house.server, request_of("GET", "/jobs", ("Host", host), key))) == 200


async def test_pages_of_other_sites_change_nothing_with_keys_either(house: House) -> None:
    key = bearer(house.keys["submit"])
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "Cross-Site"},
    ):
        answer = await house.ask("POST", "/jobs", headers={**headers, **key}, content=SUBMIT)
        assert answer.status_code == 403, headers
        assert (await house.ask("GET", "/jobs", headers={**headers, **key})).status_code == 200
    same = {"origin": house.server.url, "sec-fetch-site": "same-origin"}
    assert (await house.ask("POST", "/jobs", headers={**same, **key}, content=SUBMIT)).status_code == 201


async def test_open_mode_answers_to_its_own_address_alone(pair: Pair) -> None:
    async with running(pair, workers=1) as server:
        for host in HOSTS:
            assert status_of(await raw(server, request_of("GET", "/jobs", ("Host", host)))) == 403, host
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:80"):
            assert status_of(await raw(server, request_of("GET", "/jobs", ("Host", host)))) == 200, host
        both = (("Host", "localhost"), ("Host", "evil.example"))
        assert status_of(await raw(server, request_of("GET", "/jobs", *both))) in (400, 403)


# Keys as they come and go.


async def test_the_first_key_closes_the_server_and_the_last_one_does_not_open_it(pair: Pair) -> None:
    """By itself: nobody tells a process, it looks."""
    async with running(pair, workers=1) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/jobs")).status_code == 200
        key = new_key()
        await server.access_store.create(uuid4(), "first", "read", digest_of(key.encode()), lifetime_seconds=None)

        async def closed() -> bool:
            return (await client.get("/jobs")).status_code == 401

        await eventually(closed, within=5.0)
        assert (await client.get("/jobs", headers=bearer(key))).status_code == 200
        await server.access_store.revoke("first")

        async def revoked() -> bool:
            return (await client.get("/jobs", headers=bearer(key))).status_code == 401

        await eventually(revoked, within=5.0)
        await asyncio.sleep(1.5)  # another look
        assert (await client.get("/jobs")).status_code == 401


async def test_what_is_old_is_confirmed_before_anybody_is_let_in(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop that looks is held up: the request that comes next looks by itself, and SQL away is 503, not 200."""
    server, key = house.server, bearer(house.keys["read"])
    await server.keys.look()
    await server.access_store.revoke((await server.access_store.keys())[0].name)
    server.keys._grow_old()
    assert (await house.ask("GET", "/jobs", headers=key)).status_code == 401

    async def away() -> Any:
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(server.access_store, "state", away)
    server.keys._grow_old()
    other = bearer(house.keys["submit"])
    answer = await house.ask("GET", "/queues", headers=other)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    # Nothing of SQL is in these, and they are wanted now: the keys that were known last.
    assert (await house.ask("GET", "/metrics", headers=other)).status_code == 200
    assert (await house.ask("GET", "/metrics")).status_code == 401
    assert (await house.ask("GET", "/health")).status_code == 200


async def test_a_look_that_took_too_long_confirms_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    server = house.server
    state = server.access_store.state

    async def slow() -> Any:
        found = await state()
        await asyncio.sleep(0.05)
        return found

    monkeypatch.setattr(server.access_store, "state", slow)
    monkeypatch.setattr(known, "FRESH_SECONDS", 0.01)
    server.keys._grow_old()
    with pytest.raises(DatabaseUnavailable):
        await server.keys.admit([(b"authorization", b"Bearer " + house.keys["read"].encode())], "read")
    # Not even for a turn of the event loop.
    await server.keys.look()
    assert not server.keys._fresh


async def test_a_key_ends_when_its_time_is_over(pair: Pair) -> None:
    async with running(pair, workers=1) as server, httpx.AsyncClient(base_url=server.url) as client:
        key = await made(server, "read", lifetime_seconds=1.0)
        assert (await client.get("/jobs", headers=bearer(key))).status_code == 200

        async def over() -> bool:
            return (await client.get("/jobs", headers=bearer(key))).status_code == 401

        await eventually(over, within=3.0)


async def test_when_a_key_was_last_used_is_written_down(house: House) -> None:
    await house.ask("GET", "/jobs", headers=bearer(house.keys["read"]))
    server = house.server
    server.keys._used_written = float("-inf")
    await server.keys.step()
    used = {key.name.partition("-")[0]: key.last_used_at for key in await server.access_store.keys()}
    assert used["read"] is not None
    assert used["admin"] is None


async def test_keys_are_stored_by_their_hash_alone(house: House) -> None:
    database = Database(house.server.store.database.url)
    async with database.read() as session:
        rows = await session.fetch("live_keys")
    await database.close()
    stored = " ".join(str(value) for row in rows for value in row)
    assert not any(key in stored or key[8:24] in stored for key in house.keys.values())


async def test_idempotency_keys_belong_to_the_api_key_that_sent_them(house: House) -> None:
    mine, theirs = bearer(house.keys["submit"]), bearer(house.keys["admin"])
    body = {"type": "echo", "payload": 1, "idempotency_key": "k"}
    first = await house.ask("POST", "/jobs", json=body, headers=mine)
    again = await house.ask("POST", "/jobs", json=body, headers=mine)
    other = await house.ask("POST", "/jobs", json={**body, "payload": 2}, headers=theirs)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 201)
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    batch = await house.ask("POST", "/jobs/batch", json={"jobs": [body]}, headers=mine)
    [known_already] = batch.json()["jobs"]
    assert (known_already["id"], known_already["created"]) == (first.json()["id"], False)


async def test_tracebacks_are_for_admins(house: House) -> None:
    admin = bearer(house.keys["admin"])
    job = (await house.ask("POST", "/jobs", json={"type": "fail", "max_retries": 0}, headers=admin)).json()
    failed = (await house.ask("GET", f"/jobs/{job['id']}?wait=20", headers=admin)).json()
    assert "Traceback" in failed["error"]["traceback"]
    for scope in ("read", "submit"):
        headers = bearer(house.keys[scope])
        shown = (await house.ask("GET", f"/jobs/{job['id']}", headers=headers)).json()
        assert shown["error"]["message"] == failed["error"]["message"]
        for path in (f"/jobs/{job['id']}", "/jobs", "/dlq", f"/jobs/{job['id']}/attempts"):
            assert "Traceback" not in (await house.ask("GET", path, headers=headers)).text
    for path in ("/jobs", "/dlq", f"/jobs/{job['id']}/attempts"):
        assert "Traceback" in (await house.ask("GET", path, headers=admin)).text


# Audit.


async def test_every_admin_action_is_noted_with_who_what_and_how_many(house: House) -> None:
    admin = bearer(house.keys["admin"])
    failing = {"type": "fail", "payload": {"retryable": False}, "max_retries": 0}
    ids = []
    for _ in range(3):
        job = (await house.ask("POST", "/jobs", json=failing, headers=admin)).json()
        await house.ask("GET", f"/jobs/{job['id']}?wait=20", headers=admin)
        ids.append(job["id"])
    await house.ask("POST", "/queues/q/pause", headers=admin)
    await house.ask("POST", "/queues/default/pause", headers=admin)
    for method, path, body in (
        ("POST", "/queues/q/resume", None),
        ("POST", f"/jobs/{ids[0]}/retry", None),
        ("POST", f"/dlq/{ids[0]}/replay", None),  # is queued: refused
        ("POST", "/dlq/replay", {"type": "fail", "limit": 1}),
        ("POST", "/dlq/replay", {"all": True, "dry_run": True}),  # changes nothing
        ("POST", "/jobs/actions", {"action": "delete", "filter": {"type": "fail"}, "dry_run": True}),
        ("POST", "/jobs/actions", {"action": "delete", "filter": {"status": ["queued"]}}),  # refused, not begun
        ("POST", "/jobs/actions", {"action": "cancel", "filter": {"q": "retryable", "status": ["queued"]}, "limit": 1}),
        ("POST", "/jobs/actions", {"action": "retry", "ids": [UNKNOWN_ID]}),
        ("DELETE", f"/dlq/{UNKNOWN_ID}", None),
        ("DELETE", "/dlq?all=true", None),
    ):
        await house.ask(method, path, json=body, headers=admin)
    seen = []
    cursor = ""
    while True:
        page = (await house.ask("GET", f"/audit?limit=2{cursor}", headers=admin)).json()
        seen += [(each["action"], each["target"], each["changed"]) for each in page["items"]]
        assert all(each["key_name"].startswith("admin-") for each in page["items"])
        assert {each["address"] for each in page["items"]} <= {"127.0.0.1"}
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [
        ("delete", {"all": True}, 1),
        ("delete", {"job_id": UNKNOWN_ID}, 0),
        ("retry", {"ids": [UNKNOWN_ID]}, 0),
        ("cancel", {"filter": {"status": ["queued"], "q": "retryable"}}, 1),
        ("replay", {"type": "fail"}, 1),
        ("replay", {"job_id": ids[0]}, 0),
        ("retry", {"job_id": ids[0]}, 1),
        ("resume", {"queue": "q"}, 1),
        ("pause", {"queue": "default"}, 1),
        ("pause", {"queue": "q"}, 1),
    ]
    assert (await house.ask("GET", "/audit?cursor=x", headers=admin)).status_code == 422


async def test_an_action_that_cannot_be_noted_is_not_done(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> None:
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(house.server.access_store, "begin_action", away)
    answer = await house.ask("POST", "/queues/q/pause", headers=bearer(house.keys["admin"]))
    assert answer.status_code == 503
    assert "q" not in await house.server.store.queues()


# What every answer carries.


async def test_every_answer_has_the_headers_that_keep_browsers_out(house: House) -> None:
    key = bearer(house.keys["admin"])
    answers = [await house.ask(method, path, headers=headers) for method, path in NEEDED for headers in ({}, key)]
    answers += [
        await house.ask("GET", "/nothing"),
        await house.ask("OPTIONS", "/jobs"),
        await house.ask("PUT", "/jobs"),
    ]
    for answer in answers:
        headers = answer.headers
        # The page and its files are kept, and asked for again.
        is_file = answer.status_code == 200 and "etag" in headers
        assert headers["x-content-type-options"] == "nosniff", answer.request.url
        assert "default-src 'none'" in headers["content-security-policy"], answer.request.url
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == ("no-cache" if is_file else "no-store")
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    broken = await raw(house.server, b"GET / nonsense\r\n\r\n")
    assert status_of(broken) == 400
    assert b"application/problem+json" in broken
    assert b"nosniff" in broken


async def test_an_open_stream_ends_with_its_key(house: House) -> None:
    key = await made(house.server, "read", name="streams")
    async with house.client.stream("GET", "/events", headers=bearer(key)) as answer:
        assert answer.status_code == 200
        await house.server.access_store.revoke("streams")
        async with asyncio.timeout(6):
            async for _ in answer.aiter_bytes():
                pass


async def test_whoever_waits_for_a_job_stops_when_its_key_does(house: House) -> None:
    key = await made(house.server, "submit", name="waits")
    job = (await house.ask("POST", "/jobs", json={"type": "echo", "delay": 600}, headers=bearer(key))).json()
    waiting = asyncio.create_task(house.ask("GET", f"/jobs/{job['id']}?wait=60", headers=bearer(key)))
    other = asyncio.create_task(house.ask("GET", f"/jobs/{job['id']}?wait=8", headers=bearer(house.keys["read"])))
    await eventually(lambda: house.server.waiters._count == 2)
    await house.server.access_store.revoke("waits")
    async with asyncio.timeout(6):
        assert (await waiting).status_code == 401
    answer = await other
    assert (answer.status_code, answer.json()["status"]) == (200, "scheduled")
    await eventually(lambda: house.server.waiters._count == 0)


async def test_a_body_that_drips_stops_with_its_key(house: House) -> None:
    key = await made(house.server, "submit", name="drips")
    host, port = house.server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(SUBMIT)}\r\n"
    writer.write(head.encode() + b"\r\n" + SUBMIT[:1])
    await writer.drain()
    await house.server.access_store.revoke("drips")
    async with asyncio.timeout(6):
        assert b" 401 " in await reader.readline()
    writer.write(SUBMIT[1:])
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    stats = (await house.ask("GET", "/admin/stats", headers=bearer(house.keys["read"]))).json()
    assert stats["total"] == 0


async def test_anonymous_waiting_ends_with_the_first_key(pair: Pair) -> None:
    async with running(pair, workers=1) as server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        job = (await client.post("/jobs", json={"type": "echo", "delay": 600})).json()
        waiting = asyncio.create_task(client.get(f"/jobs/{job['id']}?wait=60"))
        await eventually(lambda: server.waiters._count == 1)
        await made(server, "admin")
        async with asyncio.timeout(6):
            assert (await waiting).status_code == 401
