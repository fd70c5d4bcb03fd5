"""A port for several listeners."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from jobserver.errors import ConfigurationError
from jobserver.http.listen import Port, listening

HOST = "127.0.0.1"


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port(HOST, 0)
    yield port
    port.close()


def waiting(listener: socket.socket) -> int:
    """How many connections it accepts."""
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_connections_are_dealt_out_to_all_listeners(port: Port) -> None:
    listeners = [port.listener() for _ in range(2)]
    clients = [socket.create_connection((HOST, port.number)) for _ in range(64)]
    counts = [waiting(listener) for listener in listeners]
    assert sum(counts) == 64
    assert min(counts) > 0
    for client in clients:
        client.close()


def test_what_waits_at_a_listener_is_there_for_whoever_has_it_too(port: Port) -> None:
    """A process that dies takes its copy of the listener with it, and not the connections."""
    kept = port.listener()
    process = kept.dup()
    with socket.create_connection((HOST, port.number)) as client:
        process.close()
        accepted, _ = kept.accept()
        accepted.sendall(b"here")
        accepted.close()
        assert client.recv(4) == b"here"


def test_a_listener_that_was_dropped_gets_no_more(port: Port) -> None:
    one, other = port.listener(), port.listener()
    port.drop(one)
    clients = [socket.create_connection((HOST, port.number)) for _ in range(16)]
    assert waiting(other) == 16
    for client in clients:
        client.close()


@pytest.mark.parametrize("listeners", [0, 1])
def test_nobody_else_gets_the_port(port: Port, listeners: int) -> None:
    for _ in range(listeners):
        port.listener()
    for take in (listening, Port):
        with pytest.raises(ConfigurationError, match=f"port {port.number}: Address already in use"):
            take(HOST, port.number)


def test_a_port_that_another_listens_on_is_refused() -> None:
    with listening(HOST, 0) as other:
        number = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {number}: Address already in use"):
            Port(HOST, number)


def test_the_port_is_free_again_at_once_though_connections_linger() -> None:
    port = Port(HOST, 0)
    listener = port.listener()
    with socket.create_connection((HOST, port.number)):
        # Closed by the server's side first: it is the one that waits.
        listener.accept()[0].close()
    port.close()
    again = Port(HOST, port.number)
    again.listener()
    again.close()
