"""An HTTP load of keep-alive connections, lean enough to leave the machine to the server.

    python -m bench.load HOST PORT CONNECTIONS REQUESTS

Each connection sends its next `POST /jobs` when the last one was answered (a closed loop). Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import msgspec

BODY = msgspec.json.encode({"type": "echo", "payload": {"to": "user@example.com", "text": "x" * 60}})


async def connection(host: str, port: int, left: list[int], seconds: list[float], statuses: dict[int, int]) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    request = (
        f"POST /jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    ).encode() + BODY
    while left[0] > 0:
        left[0] -= 1
        started = time.perf_counter()
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        length = next(
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        await reader.readexactly(length)
        seconds.append(time.perf_counter() - started)
        status = int(head[9:12])
        statuses[status] = statuses.get(status, 0) + 1
    writer.close()


async def load(host: str, port: int, connections: int, requests: int) -> dict[str, Any]:
    left = [requests]
    seconds: list[float] = []
    statuses: dict[int, int] = {}
    started = time.perf_counter()
    await asyncio.gather(*(connection(host, port, left, seconds, statuses) for _ in range(connections)))
    took = time.perf_counter() - started
    seconds.sort()
    return {
        "requests": len(seconds),
        "per_second": len(seconds) / took,
        "p50_ms": seconds[len(seconds) // 2] * 1000,
        "p99_ms": seconds[int(len(seconds) * 0.99)] * 1000,
        "statuses": {str(status): n for status, n in statuses.items()},
    }


def main() -> None:
    host, port, connections, requests = sys.argv[1], *map(int, sys.argv[2:5])
    print(msgspec.json.encode(asyncio.run(load(host, port, connections, requests))).decode())


if __name__ == "__main__":
    main()
