"""jobserver itself, over HTTP as its clients use it, with 100 consumers.

Persists: to PostgreSQL, committed at submit, at the start of each attempt and at its end, with a history row an
attempt; finished jobs are kept. Redis holds only deliveries, which can be lost.
Recovery: processes beat each second in PostgreSQL; another one takes over the jobs of one that is silent (the default).
Settings: defaults; logs at warning. Submits come over one kept connection, encoded as our client does; bulk is
`POST /jobs/batch`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import msgspec
import protocol

from jobserver import Handlers

READ_SECONDS = 60.0
# The answer to a batch at once.
READ_BYTES = 1 << 20

handlers = Handlers()


@handlers.handler("bench.noop")
async def noop(n: int, text: str) -> None:
    protocol.mark(n)
    await protocol.hold()


def job(number: int) -> dict[str, object]:
    return {"type": "bench.noop", "payload": {"n": number, "text": protocol.TEXT}}


class JobServer(protocol.Side):
    bulks = True
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def __aenter__(self) -> JobServer:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", protocol.PORT, limit=READ_BYTES)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.writer.close()

    async def submit(self, number: int) -> None:
        await self._post("/jobs", job(number))

    async def submit_bulk(self, numbers: Sequence[int]) -> None:
        await self._post("/jobs/batch", {"jobs": [job(number) for number in numbers]})

    def worker(self) -> list[str]:
        return self._serve("jobserver_side:handlers", "--workers", str(protocol.CONCURRENCY))

    def server(self) -> list[str]:
        return self._serve("--workers", "0", "--accept-unknown-types")

    def _serve(self, *options: str) -> list[str]:
        database_url = protocol.POSTGRES_URL.replace("postgresql://", "postgresql+asyncpg://", 1)
        return [
            *(sys.executable, "-m", "jobserver", "serve", "--port", str(protocol.PORT), "--log-level", "warning"),
            *("--database-url", database_url, "--redis-url", protocol.REDIS_URL, *options),
        ]

    async def _post(self, path: str, body: object) -> None:
        data = msgspec.json.encode(body)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{protocol.PORT}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        self.writer.write(head.encode() + data)
        async with asyncio.timeout(READ_SECONDS):
            answer = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in answer.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            said = await self.reader.readexactly(length)
        if answer[9:10] != b"2":
            raise RuntimeError(f"{path}: {answer[:12].decode()} {said[:500].decode()}")


if __name__ == "__main__":
    protocol.main(JobServer())
