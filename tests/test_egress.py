"""The guard of outbound requests: which addresses are public, and that it connects to checked ones only."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from jobserver import egress
from jobserver.egress import (
    Answer,
    Exchange,
    ResponseTooLarge,
    TargetRefused,
    Targets,
    exchange,
    is_public,
    resolve_public,
)
from tests.engines import eventually
from tests.web import WebServer, response

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"]
REFUSED = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.0.1", "169.254.169.254", "172.31.0.1"),
    *("168.63.129.16", "64:ff9b::a83f:8110"),
    *("192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "fe80::1", "fe80::1%lo", "fec0::1", "fc00::1"),
    *("fd12::1", "ff02::1", "2001::1", "2001:db8::1", "2001:10::1", "3fff::1", "2002:7f00:1::", "2002:808:808::"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "64:ff9b:1:a9fe:a9:fe00:808:808", "100::1"),
    *("5f00::1", "localhost", "", "1.2.3", "1.2.3.4.5"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", REFUSED)
def test_every_other_address_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "::1", "127.1", "2130706433", "0x7f000001", "0", "017700000001"]
)
async def test_no_spelling_of_a_loopback_address_gets_through(host: str) -> None:
    with pytest.raises(TargetRefused):
        await resolve_public(host, 80, allow_private=False)


def answering(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Make the resolver answer with these addresses; the names that it is asked for are noted."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **kwargs: Any) -> list[Any]:
        asked.append(host)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(egress, "socket", resolver(getaddrinfo))
    return asked


def resolver(getaddrinfo: Callable[..., Any]) -> Any:
    """The module `socket` with this function, for egress alone: others resolve as they do."""
    return SimpleNamespace(**{**vars(socket), "getaddrinfo": getaddrinfo})


def lookups() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lookup"]


async def test_names_that_nobody_answers_for_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many hosts of silent nameservers: the loop's own resolver, which the engines need, goes on, as do requests."""
    silent, asked = threading.Event(), []

    def getaddrinfo(host: str, port: int, **kwargs: Any) -> list[Any]:
        asked.append(host)
        if host.endswith("silent.example"):
            silent.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))]

    monkeypatch.setattr(egress, "socket", resolver(getaddrinfo))
    loop = asyncio.get_running_loop()
    targets = Targets(allow_private=False)
    try:
        checks = [targets.check(f"https://{n}.silent.example/", until=loop.time() + 0.1) for n in range(100)]
        await asyncio.gather(*checks)
        # Given up, and still under way: no more begin.
        await targets.check("https://another.example/", until=loop.time() + 1)
        assert len(asked) == 16
        async with asyncio.timeout(5):
            assert await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
            assert await resolve_public("example.org", 80, allow_private=False) == ["8.8.8.8"]
            # An address asks nobody.
            with pytest.raises(TargetRefused):
                await targets.check("https://127.0.0.1/", until=loop.time() + 1)
        # And the one that has answered may still be on its way out.
        await eventually(lambda: len(lookups()) == 16)
        threads = lookups()
        # Or they would hold up the exit.
        assert all(thread.daemon for thread in threads)
    finally:
        silent.set()
    await eventually(lambda: not any(thread.is_alive() for thread in threads))
    await targets.check("https://another.example/", until=loop.time() + 1)
    assert asked[-1] == "another.example"


async def test_after_the_deadline_no_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, "10.0.0.1")
    await Targets(allow_private=False).check("https://late.example/", until=asyncio.get_running_loop().time())
    assert asked == []


async def test_requests_wait_for_a_place_to_look_names_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "_for_requests", egress.Lookups(1))
    answering(monkeypatch, "8.8.8.8")
    async with asyncio.timeout(5):
        found = await asyncio.gather(*(resolve_public(f"{n}.example", 80, allow_private=False) for n in range(5)))
    assert found == [["8.8.8.8"]] * 5


async def test_private_addresses_of_a_name_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "10.0.0.1", "8.8.8.8", "8.8.8.8", "::1", "2606:4700::1111")
    assert await resolve_public("example.org", 80, allow_private=False) == ["8.8.8.8", "2606:4700::1111"]
    answering(monkeypatch, "10.0.0.1", "169.254.169.254")
    with pytest.raises(TargetRefused, match=r"example\.org"):
        await resolve_public("example.org", 80, allow_private=False)


def request(url: str, **fields: Any) -> Exchange:
    defaults: dict[str, Any] = {
        "method": "GET",
        "url": url,
        "headers": {},
        "content": None,
        "timeout_seconds": 10.0,
        "max_bytes": 1_000,
        "allow_private": True,
    }
    return Exchange(**(defaults | fields))


async def test_the_connection_goes_to_the_checked_address_and_the_name_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with WebServer(lambda head, body: response(200, b"ok", X_A="1")) as server:
        asked = answering(monkeypatch, "127.0.0.1")
        answer = await exchange(request(server.url("/path?q=1", host="example.org"), headers={"X-B": "2"}))
    assert answer == Answer(status=200, headers=[("content-length", "2"), ("x-a", "1")], body=b"ok", charset="utf-8")
    assert asked == ["example.org"]
    [(head, _)] = server.requests
    assert head.startswith("GET /path?q=1 HTTP/1.1")
    assert f"Host: example.org:{server.port}" in head
    assert "X-B: 2" in head


async def test_a_refused_target_is_not_connected_to() -> None:
    async with WebServer(lambda head, body: response(200)) as server:
        with pytest.raises(TargetRefused):
            await exchange(request(server.url(), allow_private=False))
    assert server.requests == []


async def test_the_next_address_is_tried_when_one_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebServer(lambda head, body: response(200)) as server:
        answering(monkeypatch, "127.0.0.2", "127.0.0.1")
        assert (await exchange(request(server.url(host="example.org")))).status == 200


async def test_redirects_and_proxies_of_the_environment_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with WebServer(lambda head, body: response(302, Location="/elsewhere")) as server:
        assert (await exchange(request(server.url()))).status == 302
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        response(200, b"x" * 1_001),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000,
        response(200, gzip.compress(b"x" * 1_000_000)[:990] + b"", Content_Encoding="gzip"),
    ],
)
async def test_a_response_that_is_too_large_is_not_read_to_its_end(answer: bytes) -> None:
    async with WebServer(lambda head, body: answer) as server:
        with pytest.raises(ResponseTooLarge):
            await exchange(request(server.url()))


async def test_a_compressed_response_is_unfolded() -> None:
    async with WebServer(lambda head, body: response(200, gzip.compress(b"text"), Content_Encoding="gzip")) as server:
        assert (await exchange(request(server.url()))).body == b"text"


async def test_the_whole_exchange_is_limited_in_time() -> None:
    never = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await never.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises((TimeoutError, httpx.TimeoutException)):
            await exchange(request(f"http://127.0.0.1:{port}/", timeout_seconds=0.2))
        never.set()


async def test_a_name_that_does_not_resolve_is_a_network_error() -> None:
    with pytest.raises(httpx.ConnectError):
        await exchange(request("http://does-not-exist.invalid/"))


async def test_the_certificate_is_checked_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=example.org"]
    command += ["-addext", "subjectAltName=DNS:example.org", "-keyout", str(key), "-out", str(certificate)]
    try:
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    names: list[str | None] = []
    tls.sni_callback = lambda connection, name, context: names.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(egress, "_ssl_context", lambda: trusting)
    async with WebServer(lambda head, body: response(200), tls) as server:
        answering(monkeypatch, "127.0.0.1")
        assert (await exchange(request(server.url(host="example.org")))).status == 200
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await exchange(request(server.url(host="example.com")))
    assert names == ["example.org", "example.com"]
