"""Sockets that listen: one for a process alone, or one a process behind a shared port.

Imports nothing of HTTP: the parent of several processes needs it too, and is light.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from jobserver.errors import ConfigurationError

BACKLOG: Final = 2_048


def listening(host: str, port: int) -> socket.socket:
    """A socket of this process alone. Raises ConfigurationError."""
    bound = _bound(host, port)
    try:
        _listen(bound)
    except OSError as error:
        bound.close()
        raise _unusable(host, port, error) from error
    return bound


class Port:
    """A port for several listeners, among which Linux deals out the connections. Owns them all.

    It stays ours while nobody listens. Raises ConfigurationError.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host: Final = host
        # Bound as one that shares with nobody, so that a port in use is found out; made one that does only then.
        self._anchor: Final = _bound(host, port)
        self.number: Final[int] = self._anchor.getsockname()[1]
        self._listeners: Final[set[socket.socket]] = set()
        try:
            self._anchor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # It would let others bind too, as long as nobody listens.
            self._anchor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as error:
            self._anchor.close()
            raise _unusable(host, self.number, error) from error

    def listener(self) -> socket.socket:
        """One more that listens. What connects to it waits until somebody accepts, or it is closed."""
        made = _opened(self._host, self.number)[0]
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(self._anchor.getsockname())
            _listen(made)
        except OSError as error:
            made.close()
            raise _unusable(self._host, self.number, error) from error
        self._listeners.add(made)
        return made

    def drop(self, listener: socket.socket) -> None:
        """Close a listener: connections go to the others. Those that wait at it are reset."""
        self._listeners.discard(listener)
        listener.close()

    def close(self) -> None:
        for listener in list(self._listeners):
            self.drop(listener)
        self._anchor.close()


def _opened(host: str, port: int) -> tuple[socket.socket, Any]:
    """A socket and the address for it."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.socket(family, kind, proto), address
    except OSError as error:
        raise ConfigurationError(f"Cannot listen on {host}: {error.strerror or error}.") from error


def _bound(host: str, port: int) -> socket.socket:
    opened, address = _opened(host, port)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise _unusable(host, port, error) from error
    return opened


def _listen(bound: socket.socket) -> None:
    bound.listen(BACKLOG)
    bound.setblocking(False)


def _unusable(host: str, port: int, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"Cannot listen on {host} port {port}: {error.strerror or error}.")
