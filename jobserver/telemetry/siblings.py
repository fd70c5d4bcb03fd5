"""The metrics of the processes behind one port: each tells its own over a unix socket, and whoever is asked merges.

The sockets are in a folder that only this user can enter: no port is opened, and no key is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
from prometheus_client import CollectorRegistry

from jobserver.telemetry import merge
from jobserver.telemetry.merge import Family

# A process that does not answer within this time is left out of the page.
ANSWER_SECONDS: Final = 0.5
MAX_BYTES: Final = 64 * 1_048_576


class Siblings:
    """`async with Siblings(...)` tells the others; `page` asks them. `number` counts from 0 to `processes` - 1."""

    def __init__(self, registry: CollectorRegistry, folder: Path, *, number: int, processes: int) -> None:
        self._registry: Final = registry
        self._folder: Final = folder
        self._number: Final = number
        self._processes: Final = processes
        self._server: asyncio.Server | None = None
        # Another process has taken the number over.
        self.replaced = False

    async def __aenter__(self) -> Self:
        path = self._folder / str(self._number)
        # By a name of its own first: one that is to be replaced is heard until this one can be.
        new = self._folder / f"{self._number}-{os.getpid()}"
        self._server = await asyncio.start_unix_server(self._tell, new)
        os.replace(new, path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The file stays: it may be the successor's. The folder is the parent's.
        if self._server is not None:
            self._server.close()

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all processes that answer in time: the body and its media type."""
        others = [number for number in range(self._processes) if self.replaced or number != self._number]
        told = await asyncio.gather(*(self._ask(number) for number in others))
        found = {number: families for number, families in zip(others, told, strict=True) if families is not None}
        if not self.replaced:
            found[self._number] = merge.families_of(self._registry.collect())
        return merge.page(merge.merged(found, processes=self._processes), accept)

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Whoever connects is told, and need not ask."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2 * ANSWER_SECONDS):
                writer.write(merge.encode(merge.families_of(self._registry.collect())))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        writer.close()

    async def _ask(self, number: int) -> list[Family] | None:
        """What a process says; None if it does not, in time."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._folder / str(number))
                data = bytearray()
                while chunk := await reader.read(1_048_576):
                    data += chunk
                    if len(data) > MAX_BYTES:
                        return None
                return merge.decode(bytes(data))
        except (OSError, TimeoutError, msgspec.MsgspecError):
            return None
        finally:
            if writer is not None:
                writer.close()
