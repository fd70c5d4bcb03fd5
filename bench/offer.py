"""Submits at a constant rate, whether or not the server keeps up, by a process that leaves the machine to the server.

    python -m bench.offer HOST PORT RATE SECONDS CONNECTIONS

Each is sent when it is due, over a connection that waits for nothing; where none does, it was never sent: `dropped`.
Times are counted from when it was due. Prints one JSON object, as bench/overload.js does.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections import deque
from typing import Any, Final

import msgspec
import uvloop

from bench.load import TEXT_BYTES, Connection, Load, job, request
from bench.served import ROOT, environment, output_of

TICK_SECONDS: Final = 0.002
LAST_SECONDS: Final = 60.0
PERCENTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999}
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after: *[1-9]", re.IGNORECASE)


class Answers(msgspec.Struct, frozen=True):
    """How many, and how long they took in milliseconds."""

    count: int
    p50: float
    p99: float
    p95: float = 0.0
    p999: float = 0.0


class Offered(msgspec.Struct, frozen=True):
    """What became of the requests; `told`: refused with a Retry-After, `broken`: neither 201 nor 503."""

    accepted: Answers
    refused: Answers
    told: int
    broken: int
    dropped: int


class Offer(Load):
    """What is due, who may send it, and what was answered."""

    def __init__(self, body: bytes) -> None:
        super().__init__(iter(()), 0.0)
        self.body: Final = body
        # The one that was idle for longest comes next: the server closes those that nobody uses.
        self.idle: Final[deque[Offering]] = deque()
        self.took: Final[dict[int, list[float]]] = {}
        self.told = 0
        self.dropped = 0

    def send(self, due: float) -> None:
        if self.idle:
            self.idle.popleft().send(due)
        else:
            self.dropped += 1


class Offering(Connection):
    """A connection that sends when it is told to."""

    def __init__(self, offer: Offer) -> None:
        super().__init__(offer)
        self._offer: Final = offer

    def send(self, due: float) -> None:
        self._sent = due
        self._transport.write(self._offer.body)

    def data_received(self, data: bytes) -> None:
        # Head and body come in one piece, or the connection's own reading puts them together.
        self._told = _RETRY_AFTER.search(self._head + data if self._missing < 0 else self._head) is not None
        status = int((self._head or data)[9:12])
        super().data_received(data)
        if self._missing < 0 and not self._head:
            self._offer.took.setdefault(status, []).append(time.perf_counter() - self._sent)
            self._offer.told += status == 503 and self._told

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._offer.idle:
            self._offer.idle.remove(self)

    def _send(self) -> None:
        self._offer.idle.append(self)


async def offer(host: str, port: int, rate: float, seconds: float, connections: int) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    work = Offer(request(host, port, "/jobs", msgspec.json.encode(job(TEXT_BYTES))))
    opened = [await loop.create_connection(lambda: Offering(work), host, port) for _ in range(connections)]
    # The server has accepted them all before it is measured.
    await asyncio.sleep(1.0)
    began = time.perf_counter()
    sent = 0
    while (now := time.perf_counter() - began) < seconds:
        while sent < now * rate:
            work.send(began + sent / rate)
            sent += 1
        await asyncio.sleep(TICK_SECONDS)
    until = time.perf_counter() + LAST_SECONDS
    while len(work.idle) < connections and time.perf_counter() < until:  # noqa: ASYNC110 - a few answers are missing
        await asyncio.sleep(0.01)
    for transport, _ in opened:
        transport.abort()
    return {
        "accepted": _told_of(work.took.pop(201, [])),
        "refused": _told_of(work.took.pop(503, [])),
        "told": work.told,
        "broken": sum(map(len, work.took.values())) + connections - len(work.idle),
        "dropped": work.dropped,
    }


def _told_of(took: list[float]) -> dict[str, float]:
    took.sort()
    at = {name: took[int(len(took) * fraction)] * 1_000 if took else 0.0 for name, fraction in PERCENTILES.items()}
    return {"count": len(took), **at}


async def offered_lean(port: int, rate: float, seconds: int, clients: int) -> Offered:
    """What a process of this module sees that offers submits at this rate for so long."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.offer", "127.0.0.1", str(port), str(round(rate)), str(seconds), str(clients)),
        cwd=ROOT,
        env=environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    return msgspec.json.decode(await output_of(process), type=Offered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    for name in ("port", "rate", "seconds", "connections"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    found = uvloop.run(offer(options.host, options.port, options.rate, options.seconds, options.connections))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
