"""Two thousand requests that are wrong in every way that a seeded fuzzer finds: only 4xx, and nothing of them stays."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

import httpx
import msgspec
import pytest

from jobserver.server import Server
from tests.conftest import Pair
from tests.engines import eventually
from tests.http.cases import UNKNOWN_ID
from tests.http.test_access import raw, status_of
from tests.servers import running

REQUESTS: Final = 2_000
SEED: Final = 20_261_122
# Else the server waits for the rest of the body.
CLOSING: Final = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
JSON: Final = ("Content-Type", "application/json")

# What no field takes: of a wrong type, out of bounds, or what no text may be.
NEVER: Final[dict[str, tuple[Any, ...]]] = {
    "type": (None, 1, "", " ", "a b", "a" * 129, "é", "a\0", [], {}, "-a", "no.such.type", "../x", "' OR 1=1--"),
    "queue": (1, "", "a b", "q" * 200, "ü", [], {"a": 1}, "\u0000", "{x}", "*"),
    "priority": ("urgent", "HIGH", 1, [], {}, ""),
    "delay": (-1, "1", 31_536_001, 1e300, [], True, "NaN"),
    "run_at": ("yesterday", "2026-01-01", "2026-01-01T00:00:00", 1, [], "2026-13-01T00:00:00Z", ""),
    "max_retries": (-1, 101, 1.5, "3", 10**30, []),
    "timeout": (0, -1, 86_401, "x", [], 10**400),
    "expires_at": ("2020-01-01T00:00:00Z", "never", 0, "2099-01-01T00:00:00"),
    "idempotency_key": ("", "x" * 256, "ü", 1, "\n", []),
    "tags": ("x", [""], ["x" * 65], ["t"] * 21, [1], {"a": 1}, [None]),
    "callback": ("http://x", 1),
    "__proto__": ({}, 1),
    "status": ("completed",),
    "id": (UNKNOWN_ID,),
}
PATHS: Final = (
    *("/jobs/x", "/jobs/' OR 1=1", "/jobs/%00", "/jobs/..%2f..%2fetc%2fpasswd", f"/jobs/{UNKNOWN_ID}x", "/jobs/-1"),
    *(f"/jobs/{UNKNOWN_ID}", f"/jobs/{UNKNOWN_ID}/attempts", "/" + "a/" * 500, "/%ff%fe", "/jobs/%e2%80%ae", "/queue"),
    *("/jobs?limit=0", "/jobs?limit=101", "/jobs?limit=x", "/jobs?nope=1", "/jobs?status=done", "/jobs?cursor=%00"),
    *("/jobs?offset=-1", "/jobs?created_after=x", "/jobs?limit=1&limit=2", "/jobs?type=%ff", "/jobs?tag=" + "t" * 65),
    *("/jobs?q=", "/dlq?error=%00", "/dlq?q=x&offset=1", "/dlq/groups?limit=0", "/jobs?fingerprint=0"),
    *("/jobs?limit=1e3", "/dlq?cursor=AAAA", "/dlq?status=failed", "/audit?limit=0", "/audit?cursor=!", "/workers?x=1"),
)


def encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (OverflowError, msgspec.MsgspecError):
        return b'{"type": "echo", "timeout": 1e999}'


def wrong_body(chance: random.Random) -> bytes:
    """A submit of a known type with one or more fields that no server takes, or bytes that are no submit."""
    body: dict[str, Any] = {"type": "echo", "payload": {"n": chance.random()}}
    for field in chance.sample(sorted(NEVER), chance.randint(1, 3)):
        body[field] = chance.choice(NEVER[field])
    data = encoded(body)
    match chance.randrange(8):
        case 0:
            # Cut off anywhere within.
            return data[: chance.randrange(len(data))]
        case 1:
            return data + chance.choice((b"x", b"{}", b"\0", b",", b"]"))
        case 2:
            return bytes([chance.choice((0xFF, 0xC0, 0xFE, 0x80))]) + data
        case 3:
            return b'{"type": "echo", "payload": ' + b"[" * chance.randint(65, 5_000)
        case 4:
            return (
                b'{"type": "echo", "payload": '
                + chance.choice((b"NaN", b"Infinity", b"01", b'"\\ud800"', b"'x'"))
                + b"}"
            )
        case 5:
            return bytes(chance.randrange(256) for _ in range(chance.randint(0, 200))).lstrip(b" \t\r\n") or b"\0"
        case _:
            return data


def wrong_request(chance: random.Random) -> bytes:
    """The bytes of a request that has no right answer but 4xx."""
    host = ("Host", "localhost")
    match chance.randrange(10):
        case 0 | 1 | 2 | 3:
            return request(chance.choice(("POST",)), "/jobs", wrong_body(chance), host, JSON)
        case 4:
            good = encoded({"type": "echo"})
            return request("POST", "/jobs/batch", b'{"jobs": [' + good + b", " + wrong_body(chance) + b"]}", host, JSON)
        case 5:
            return request("POST", "/dlq/replay", wrong_body(chance), host, JSON)
        case 6:
            method = chance.choice(("GET", "DELETE", "HEAD"))
            return request(method, ascii_of(chance.choice(PATHS)), b"", host)
        case 7:
            # A good body in the wrong wrapping.
            headers = chance.choice(
                (
                    [("Content-Type", "text/plain")],
                    [("Content-Type", "application/json"), ("Content-Type", "text/xml")],
                    [JSON, ("Content-Encoding", "gzip")],
                    [JSON, ("Idempotency-Key", "a"), ("Idempotency-Key", "b")],
                    [JSON, ("Idempotency-Key", '"open')],
                    [JSON, ("Origin", "https://evil.example")],
                    [JSON, ("Sec-Fetch-Site", "cross-site")],
                    [JSON, ("Host", "evil.example")],
                )
            )
            return request("POST", "/jobs", b'{"type": "echo"}', host, *headers)
        case 8:
            method = chance.choice(("PUT", "PATCH", "TRACE", "MKCOL", "BREW", "LOCK", "DELETE"))
            return request(method, chance.choice(("/jobs", "/health", "/queues", "/metrics")), b"", host)
        case _:
            # No HTTP at all. It ends, so that the server need not wait for more.
            return chance.choice(
                (
                    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
                    b"GET\r\n\r\n",
                    b"GET / HTTP/9.9\r\n\r\n",
                    b"POST /jobs HTTP/1.1\r\nHost localhost\r\n\r\n",
                    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
                    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1x\r\n\r\n",
                    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
                    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
                    CLOSING + b"Content-Length: 99999999999\r\n\r\n{}",
                    b"\x00" * chance.randint(1, 50) + b"\r\n\r\n",
                    b"GET /\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                )
            )


def ascii_of(target: str) -> str:
    return target.encode("ascii", "ignore").decode().replace(" ", "%20")


def request(method: str, target: str, body: bytes, *headers: tuple[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def test_the_fuzzer_is_the_same_every_time() -> None:
    first, second = random.Random(SEED), random.Random(SEED)
    assert [wrong_request(first) for _ in range(200)] == [wrong_request(second) for _ in range(200)]


@pytest.mark.timeout(180)
async def test_two_thousand_wrong_requests_leave_nothing_behind(pair: Pair) -> None:
    chance = random.Random(SEED)
    async with running(pair, workers=2) as server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        before = await left_by(server, client)
        wrong: list[tuple[bytes, bytes]] = []

        async def send(data: bytes) -> None:
            answer = await raw(server, data)
            if not answer.startswith(b"HTTP/1.1 ") or status_of(answer) // 100 != 4:
                wrong.append((data[:300], answer[:300]))

        for _ in range(REQUESTS // 20):
            await asyncio.gather(*(send(wrong_request(chance)) for _ in range(20)))
        assert wrong == []
        assert await left_by(server, client) == before
        # And it goes on as if nothing had been.
        job = (await client.post("/jobs", json={"type": "echo", "payload": 1})).json()
        assert (await client.get(f"/jobs/{job['id']}?wait=20")).json()["status"] == "completed"


async def is_ready(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/health/ready")).json()["status"] == "ok")


async def left_by(server: Server, client: httpx.AsyncClient) -> dict[str, Any]:
    """What a request could have left."""
    await eventually(lambda: is_ready(client))
    async with server.store.database.read() as session:
        queues = [row["name"] for row in await session.fetch("queues")]
    return {
        "jobs": (await client.get("/admin/stats")).json()["total"],
        "queues": queues,
        "audit": (await client.get("/audit")).json()["items"],
        "waiting": server.submitter.batcher.waiting,
    }
