"""An HTTP load of keep-alive connections, lean enough to leave the machine to the server.

    python -m bench.load HOST PORT CONNECTIONS REQUESTS [--batch N] [--payload BYTES] [--timed] [--key KEY]
        [--pause SECONDS]

Each connection sends its next `POST /jobs` when the last one was answered (a closed loop). Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import msgspec
import uvloop

TIME_LIMIT_SECONDS: Final = 900.0
# With the rest of a payload, about 100 bytes.
TEXT_BYTES: Final = 60

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Load:
    """What is left to send, and what was answered."""

    def __init__(self, requests: Iterator[bytes], pause_seconds: float) -> None:
        self._requests: Final = requests
        self.pause_seconds: Final = pause_seconds
        self.seconds: Final[list[float]] = []
        self.statuses: Final[dict[int, int]] = {}

    def next(self) -> bytes | None:
        return next(self._requests, None)

    def answered(self, status: int, seconds: float) -> None:
        self.seconds.append(seconds)
        self.statuses[status] = self.statuses.get(status, 0) + 1


class Connection(asyncio.Protocol):
    """One connection: `done` resolves when nothing is left to send."""

    def __init__(self, load: Load) -> None:
        self._load: Final = load
        self._head = b""
        self._missing = -1
        self._sent = 0.0
        self._transport: asyncio.Transport
        self.done: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's derives from nothing of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self._head, 0, end)
            assert length is not None, self._head
            self._missing = int(length[1]) - (len(self._head) - end - 4)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._load.answered(int(self._head[9:12]), time.perf_counter() - self._sent)
            self._head, self._missing = b"", -1
            if self._load.pause_seconds:
                asyncio.get_running_loop().call_later(self._load.pause_seconds, self._send)
            else:
                self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def _send(self) -> None:
        request = self._load.next()
        if request is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(request)


async def load(host: str, port: int, connections: int, requests: Iterator[bytes], pause: float) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    work = Load(requests, pause)
    began = time.perf_counter()
    opened = [await loop.create_connection(lambda: Connection(work), host, port) for _ in range(connections)]
    async with asyncio.timeout(TIME_LIMIT_SECONDS):
        await asyncio.gather(*(connection.done for _, connection in opened))
    took = time.perf_counter() - began
    seconds = sorted(work.seconds)
    return {
        "requests": len(seconds),
        "per_second": len(seconds) / took,
        "p50_ms": seconds[len(seconds) // 2] * 1000,
        "p99_ms": seconds[int(len(seconds) * 0.99)] * 1000,
        "statuses": {str(status): n for status, n in work.statuses.items()},
    }


def request(host: str, port: int, path: str, body: bytes, key: str = "") -> bytes:
    who = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"{who}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def job(payload_bytes: int) -> dict[str, Any]:
    return {"type": "echo", "payload": {"to": "user@example.com", "text": "x" * payload_bytes}}


def timed_job() -> dict[str, Any]:
    """A job that knows when it was sent: see `bench.timed`."""
    return {"type": "bench.timed", "payload": {"sent": time.time(), "text": "x" * TEXT_BYTES}}


def encoded(options: argparse.Namespace) -> Callable[[], bytes]:
    """What makes each request. Only a timed job is encoded more than once."""
    if options.timed:
        return lambda: request(options.host, options.port, "/jobs", msgspec.json.encode(timed_job()))
    if options.batch:
        body, path = msgspec.json.encode({"jobs": [job(options.payload)] * options.batch}), "/jobs/batch"
    else:
        body, path = msgspec.json.encode(job(options.payload)), "/jobs"
    same = request(options.host, options.port, path, body, options.key)
    return lambda: same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("connections", type=int)
    parser.add_argument("requests", type=int)
    parser.add_argument("--batch", type=int, default=0, help="jobs a request, through /jobs/batch")
    parser.add_argument("--payload", type=int, default=TEXT_BYTES, help="bytes of text in a payload")
    parser.add_argument("--timed", action="store_true", help="jobs of bench.timed, with the time when they are sent")
    parser.add_argument("--key", default="", help="an API key")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between an answer and the next request")
    options = parser.parse_args()
    make = encoded(options)
    requests = (make() for _ in range(options.requests))
    found = uvloop.run(load(options.host, options.port, options.connections, requests, options.pause))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
