"""Submits are limited by rate, by backlog and by what is under way. Who is refused hears at once when to return."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from typing import Any

import httpx
import pytest

from jobserver.access import Caller, Quota, quota_of
from jobserver.errors import ConfigurationError
from jobserver.pipeline import gate
from jobserver.pipeline.gate import Backlog, LocalLimit
from jobserver.pipeline.submit import MAX_UNDER_WAY, MIN_UNDER_WAY
from jobserver.server import Server
from jobserver.server import _http_config as http_config
from jobserver.settings import Settings
from tests.conftest import Pair
from tests.engines import RedisServer, eventually
from tests.keys import bearer, made
from tests.servers import running

# Whoever waits for Redis counts for all processes.
pytestmark = pytest.mark.usefixtures("patient")
ECHO = {"type": "echo"}


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("10/minute", Quota(10, 60)),
        ("5/second", Quota(5, 1)),
        ("100/30 seconds", Quota(100, 30)),
        ("7/2hours", Quota(7, 7_200)),
        ("1/day", Quota(1, 86_400)),
    ],
)
def test_a_quota_is_a_number_and_a_time(text: str, quota: Quota) -> None:
    assert quota_of(text) == quota


@pytest.mark.parametrize("text", ["", "10", "0/minute", "-1/minute", "10/week", "x/minute", "10/minute; 1/second"])
def test_what_is_no_quota_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--rate-limit"):
        quota_of(text)


def fields(header: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r";(\w)=(\d+)", header)}


async def test_the_headers_of_the_draft_say_what_is_left(pair: Pair) -> None:
    """draft-ietf-httpapi-ratelimit-headers: the policy with q and w, the service limit with r and t."""
    async with (
        running(pair, workers=1, rate_limit="3/minute") as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        left = []
        for expected in (201, 201, 422, 429, 429):
            # What is refused for what it says costs as much as what is taken.
            answer = await client.post("/jobs", json=ECHO if expected != 422 else {"type": ""})
            assert answer.status_code == expected
            assert answer.headers["ratelimit-policy"] == '"submits";q=3;w=60'
            assert answer.headers["ratelimit"].startswith('"submits";r=')
            left.append(fields(answer.headers["ratelimit"])["r"])
            assert 1 <= fields(answer.headers["ratelimit"])["t"] <= 60
        assert left == [2, 1, 0, 0, 0]
        assert answer.json()["type"] == "/problems/quota-exceeded"
        assert int(answer.headers["retry-after"]) == fields(answer.headers["ratelimit"])["t"]
        batch = await client.post("/jobs/batch", json={"jobs": [ECHO]})
        assert batch.status_code == 429
        # Everything else is not limited.
        assert "ratelimit" not in (await client.get("/jobs")).headers
        assert (await client.get("/admin/stats")).json()["total"] == 2


async def test_the_quota_is_of_a_key_and_shared_by_all_processes(pair: Pair) -> None:
    options = {"workers": 0, "rate_limit": "4/minute"}
    if pair.name == "sqlite":
        pytest.skip("SQLite is for one process")
    async with running(pair, **options) as one, running(pair, **options) as other:
        first, second = await made(one, "submit"), await made(one, "submit")
        await other.keys.look()
        clients = [httpx.AsyncClient(base_url=server.url) for server in (one, other)]

        async def statuses(key: str, times: int) -> list[int]:
            answers = await asyncio.gather(
                *(clients[n % 2].post("/jobs", json=ECHO, headers=bearer(key)) for n in range(times))
            )
            return sorted(answer.status_code for answer in answers)

        assert await statuses(first, 12) == [201] * 4 + [429] * 8
        assert await statuses(second, 4) == [201] * 4
        for client in clients:
            await client.aclose()


async def test_without_redis_each_process_gives_its_share(
    sqlite_url: str, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair("sqlite", sqlite_url, own_redis.url, "t")
    async with (
        running(pair, workers=1, rate_limit="9/hour") as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        assert (await client.post("/jobs", json=ECHO)).status_code == 201
        # Two more, as far as the last sample knows.
        monkeypatch.setattr(server.gate.limit, "_local", LocalLimit(Quota(9, 3_600), lambda: 3))
        own_redis.kill()
        statuses = [(await client.post("/jobs", json=ECHO)).status_code for _ in range(5)]
        assert statuses == [201, 201, 201, 429, 429]
        own_redis.restart()

        async def shared() -> bool:
            return (await client.post("/jobs", json=ECHO)).status_code == 201

        await eventually(shared, within=10)


def test_a_local_share_of_less_than_one_is_one_in_a_longer_window() -> None:
    few = LocalLimit(Quota(2, 60), lambda: 8)
    assert [few.hit("a", 0.0).allowed for _ in range(2)] == [True, False]
    assert not few.hit("a", 239.0).allowed
    assert few.hit("a", 240.0).allowed


def test_callers_beyond_count_share_one_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MAX_CALLERS", 2)
    limit = LocalLimit(Quota(1, 60), lambda: 1)
    assert [limit.hit(who, 0.0).allowed for who in ("a", "b", "c", "d", "a")] == [True, True, True, False, False]
    assert len(limit._hits) == 3


# Where a request comes from.


async def test_an_address_counts_unless_a_trusted_proxy_says_another(pair: Pair) -> None:
    options = {"workers": 1, "rate_limit": "2/hour"}
    forwarded = [{"x-forwarded-for": f"203.0.113.{n}"} for n in range(6)]
    async with running(pair, **options) as server, httpx.AsyncClient(base_url=server.url) as client:
        said = [(await client.post("/jobs", json=ECHO, headers=headers)).status_code for headers in forwarded]
        assert said == [201, 201, 429, 429, 429, 429]
    trusting = {**options, "trusted_proxies": ("127.0.0.1", "10.0.0.0/8"), "redis_prefix": f"{pair.redis_prefix}x"}
    async with running(pair, **trusting) as server, httpx.AsyncClient(base_url=server.url) as client:
        said = [(await client.post("/jobs", json=ECHO, headers=headers)).status_code for headers in forwarded]
        assert said == [201] * 6
        # The last address that no trusted proxy has: what the client wrote before it tells nothing.
        forged = [{"x-forwarded-for": f"198.51.100.{n}, 203.0.113.77, 10.1.2.3"} for n in range(4)]
        said = [(await client.post("/jobs", json=ECHO, headers=headers)).status_code for headers in forged]
        assert said == [201, 201, 429, 429]
        # One network of IPv6 is one client.
        network = [{"x-forwarded-for": f"2001:db8::{n:x}"} for n in range(1, 5)]
        said = [(await client.post("/jobs", json=ECHO, headers=headers)).status_code for headers in network]
        assert said == [201, 201, 429, 429]
        await client.post("/queues/q/pause", headers={"x-forwarded-for": "203.0.113.9"})
        assert (await client.get("/audit")).json()["items"][0]["address"] == "203.0.113.9"


@pytest.mark.parametrize(
    ("proxy", "believed"),
    [
        *(("127.0.0.1", True), ("10.1.2.3", True), ("::ffff:127.0.0.1", True), ("::ffff:10.1.2.3", True)),
        *(("fd00::1", True), ("11.1.2.3", False), ("::ffff:127.0.0.2", False), ("::ffff:11.1.2.3", False)),
    ],
)
async def test_a_trusted_proxy_is_known_on_a_listener_for_both_kinds_of_addresses(proxy: str, believed: bool) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])

    settings = Settings(trusted_proxies=("127.0.0.1", "10.0.0.0/8", "fd00::/8"))
    nobody: Any = None
    scope: Any = {"type": "http", "client": (proxy, 1), "headers": [(b"x-forwarded-for", b"203.0.113.9")]}
    await http_config(app, settings, nobody, nobody).loaded_app(scope, nobody, nobody)
    assert seen == ["203.0.113.9" if believed else proxy]


# Backlog and overload.


async def test_a_backlog_above_its_limit_takes_no_more_until_it_shrinks(pair: Pair) -> None:
    async with (
        running(pair, workers=1, max_waiting=3) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        await client.post("/queues/default/pause")
        jobs = [(await client.post("/jobs", json={**ECHO, "delay": n})).json() for n in (0, 60, 0)]

        async def refused() -> httpx.Response | None:
            answer = await client.post("/jobs", json={**ECHO, "idempotency_key": "k"})
            return answer if answer.status_code == 503 else None

        answer = await eventually(refused, within=10)
        assert answer.json()["type"] == "/problems/overloaded"
        assert answer.headers["retry-after"] == "5"
        assert (await client.get("/jobs")).status_code == 200
        for job in jobs:
            await client.post(f"/jobs/{job['id']}/cancel")

        async def taken() -> bool:
            return (await client.post("/jobs", json=ECHO)).status_code == 201

        await eventually(taken, within=10)
        page = (await client.get("/metrics")).text
        assert re.search(r'jobserver_submits_rejected_total\{reason="backlog"\} [1-9]', page)


async def test_a_submit_too_many_is_refused_before_it_is_read(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.pipeline.submit.MAX_UNDER_WAY", 5)
    # On a busy machine the 25 may take a while.
    monkeypatch.setattr("jobserver.pipeline.submit.ANSWER_SECONDS", 25.0)
    async with (
        running(pair, workers=0) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30, limits=httpx.Limits(max_connections=40)) as client,
    ):
        await server.queues.ensure(["default"])
        release = held_up(server)
        sent = [asyncio.create_task(client.post("/jobs", json={**ECHO, "queue": "default"})) for _ in range(30)]
        await eventually(lambda: sum(task.done() for task in sent) == 25, within=20)
        for task in sent:
            if task.done():
                assert task.result().status_code == 503
                assert task.result().headers["retry-after"] == "1"
        release.set()
        statuses = [answer.status_code for answer in await asyncio.gather(*sent)]
        assert sorted(statuses) == [201] * 5 + [503] * 25
        # What was taken is there, what was refused is not.
        assert (await client.get("/admin/stats")).json()["total"] == 5


async def test_submits_that_send_their_bodies_late_are_counted_all_the_same(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.pipeline.submit.MAX_UNDER_WAY", 5)
    body = b'{"type": "echo", "queue": "default"}'
    head = (
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body)
    )
    async with running(pair, workers=0) as server, asyncio.timeout(30):
        await server.queues.ensure(["default"])
        release = held_up(server)
        address = httpx.URL(server.url)
        opened = [await asyncio.open_connection(address.host, address.port) for _ in range(12)]
        for reader, writer in opened:
            writer.write(head)
            # It is asked for: this one is past the gate.
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        for _, writer in opened:
            writer.write(body)
        said = [asyncio.create_task(reader.read()) for reader, _ in opened]
        await eventually(lambda: sum(task.done() for task in said) == 7)
        release.set()
        statuses = [int((await task).split()[1]) for task in said]
        assert sorted(statuses) == [201] * 5 + [503] * 7
        for _, writer in opened:
            writer.close()
            await writer.wait_closed()


async def exchanged(server: Server, sent: bytes, answers: int) -> list[bytes]:
    """What is answered to these bytes on one connection, each answer whole."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    found = []
    async with asyncio.timeout(30):
        for _ in range(answers):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None, head
            found.append(head + await reader.readexactly(int(length[1])))
    assert not reader.at_eof()
    writer.close()
    return found


def wire(*headers: str, method: str = "POST", path: str = "/jobs", body: bytes = b'{"type":"echo"}') -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


HEALTH = wire(method="GET", path="/health", body=b"")


async def full(server: Server) -> None:
    """From now on the backlog is full."""
    server.gate._backlog = Backlog(server.views, 0)
    await server.gate._backlog.step()


async def test_a_refusal_by_the_protocol_is_that_of_the_application(pair: Pair) -> None:
    """The second is for a page, and takes the long way."""
    async with running(pair, workers=0) as server:
        await full(server)
        for path in ("/jobs", "/jobs/batch"):
            short, long = await exchanged(
                server, wire(path=path) + wire(f"Origin: {server.url}", f"Host: {server.url[7:]}", path=path), 2
            )
            assert sorted(short.split(b"\r\n")) == sorted(long.split(b"\r\n"))
            assert short.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"\r\nretry-after: 5\r\n" in short
        page = server.telemetry.metrics.render("")[0].decode()
        assert 'jobserver_submits_rejected_total{reason="backlog"} 4.0' in page


async def test_a_connection_goes_on_after_a_refusal(pair: Pair) -> None:
    """Whether bodies come along, or thousands of requests at once before the first is answered."""
    async with running(pair, workers=0) as server:
        await full(server)
        large = wire(body=b'{"type":"echo","payload":"%s"}' % (b"x" * 200_000))
        answers = await exchanged(server, wire() + HEALTH + large + wire() + HEALTH, 5)
        assert [answer[9:12] for answer in answers] == [b"503", b"200", b"503", b"503", b"200"]
        answers = await exchanged(server, HEALTH + wire() * 3_000 + HEALTH, 3_002)
        assert [answer[9:12] for answer in answers] == [b"200", *[b"503"] * 3_000, b"200"]


async def test_who_asks_before_it_sends_its_body_is_told_to_begin_anew(pair: Pair) -> None:
    async with running(pair, workers=0) as server:
        await full(server)
        host, port = server.url.removeprefix("http://").split(":")
        for more in ("Expect: 100-continue", "Connection: close"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(wire(more).partition(b"{")[0])
            async with asyncio.timeout(10):
                answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert answer.lower().count(b"\r\nconnection: close\r\n") == 1
            writer.close()


async def test_who_may_not_submit_is_told_so_and_takes_no_place_of_who_may(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(pair, workers=0) as server:
        key, reader = await made(server, "submit"), await made(server, "read")
        monkeypatch.setattr(server.submitter, "_room", 1)
        strangers = wire() + wire("Authorization: Bearer wrong") + wire(f"Authorization: Bearer {reader}")
        # In one turn: what comes before the last must not count as under way.
        answers = await exchanged(server, strangers + wire(f"Authorization: Bearer {key}"), 4)
        assert [answer[9:12] for answer in answers] == [b"401", b"401", b"403", b"201"]
        places = []
        arrive = server.submitter.arrive
        monkeypatch.setattr(server.submitter, "arrive", lambda: places.append(arrive()) or places[-1])
        await exchanged(server, strangers + wire(f"Authorization: Bearer {key}"), 4)
        assert places == [True]
        await full(server)
        answers = await exchanged(server, strangers + wire(f"Authorization: Bearer {key}"), 4)
        assert [answer[9:12] for answer in answers] == [b"401", b"401", b"403", b"503"]


async def test_a_connection_that_sends_a_refused_body_late_and_then_nothing_is_closed(pair: Pair) -> None:
    async with running(pair, workers=0) as server:
        await full(server)
        assert server._http is not None
        server._http.config.timeout_keep_alive = 1
        host, port = server.url.removeprefix("http://").split(":")
        head, brace, body = wire().partition(b"{")
        for late in (brace, brace + body):
            client, writer = await asyncio.open_connection(host, int(port))
            writer.write(head)
            async with asyncio.timeout(10):
                assert (await client.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
                writer.write(late)
                # Up to the end of the connection.
                await client.read()
            writer.close()


async def test_refusals_for_who_reads_none_have_a_bound(pair: Pair) -> None:
    async with running(pair, workers=0) as server:
        await full(server)
        assert server._http is not None
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.setblocking(False)
            many = wire() * 1_000
            kept = 0
            for _ in range(200):
                with contextlib.suppress(BlockingIOError):
                    client.send(many)
                await asyncio.sleep(0.005)
                for connection in server._http.server_state.connections:
                    kept = max(kept, connection.transport.get_write_buffer_size())
        assert 0 < kept < 1_048_576


async def test_room_is_for_those_of_a_turn_and_less_where_they_wait_long(
    sqlite_url: str, redis_url: str, redis_prefix: str
) -> None:
    async with running(Pair("sqlite", sqlite_url, redis_url, redis_prefix), workers=0) as server:
        submitter = server.submitter
        assert [submitter.arrive() for _ in range(MAX_UNDER_WAY + 2)] == [True] * MAX_UNDER_WAY + [False] * 2
        await asyncio.sleep(0)
        assert submitter.arrive()
        await asyncio.sleep(0)
        # A few that wait long do so for another reason.
        for _ in range(100):
            submitter._make_room(1.0)
        assert submitter._room == MAX_UNDER_WAY
        waiting = [asyncio.get_running_loop().create_future() for _ in range(MAX_UNDER_WAY)]
        tasks = [asyncio.create_task(submitter._patience.wait(each)) for each in waiting]
        await asyncio.sleep(0)
        assert not submitter.arrive()
        for _ in range(100):
            submitter._make_room(1.0)
        assert submitter._room == MIN_UNDER_WAY
        for _ in range(100):
            submitter._make_room(0.0)
        assert submitter._room == MAX_UNDER_WAY
        for each in waiting:
            each.set_result(None)
        await asyncio.gather(*tasks)


def held_up(server: Server) -> asyncio.Event:
    """No insert commits until the event is set."""
    release = asyncio.Event()
    insert = server.store.insert

    async def slow(groups: object) -> object:
        await release.wait()
        return await insert(groups)  # type: ignore[arg-type]

    server.store.insert = slow  # type: ignore[method-assign,assignment]
    return release


def test_a_caller_without_a_key_has_no_name() -> None:
    assert Caller(None, None, 2).scope == ""


def test_many_new_clients_are_accepted_in_one_turn(sqlite_url: str, redis_url: str, redis_prefix: str) -> None:
    """uvloop accepts one connection of each listener in a turn; turns of a loaded server are long."""
    uvloop = pytest.importorskip("uvloop")

    async def turns() -> int:
        async with running(Pair("sqlite", sqlite_url, redis_url, redis_prefix), workers=0) as server:
            assert server._http is not None
            host, port = server.url.removeprefix("http://").split(":")
            clients = [socket.create_connection((host, int(port))) for _ in range(100)]
            taken = 0
            while len(server._http.server_state.connections) < 100:
                await asyncio.sleep(0)
                taken += 1
                assert taken < 1_000
            for client in clients:
                client.close()
            return taken

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(turns()) < 50
