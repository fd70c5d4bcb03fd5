"""The server processes of a torture: one a slot, always on the slot's port, started again whenever it dies."""

from __future__ import annotations

import asyncio
import email.utils
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import httpx

import jobserver
from jobserver.errors import ConfigurationError
from jobserver.torture.child import Child
from jobserver.torture.clock import OFFSET_VARIABLE
from jobserver.torture.engines import Engines
from jobserver.torture.history import Death
from jobserver.torture.installation import free_port
from jobserver.torture.oracle import FOLDER_VARIABLE, REFERENCE

START_SECONDS: Final = 40.0
AGAIN_SECONDS: Final = 0.2
POLL_SECONDS: Final = 0.1


class Processes:
    """`async with Processes(...)`: all serve and are ready. Leaving stops them gracefully."""

    def __init__(self, engines: Engines, folder: Path, *, count: int, options: tuple[str, ...]) -> None:
        self._engines: Final = engines
        self._folder: Final = folder
        self._options: Final = options
        self.oracle_folder: Final = folder / "oracle"
        self.ports: Final = [free_port() for _ in range(count)]
        self._children: list[Child | None] = [None] * count
        self._started: Final = [0.0] * count
        self._clock_offsets: Final = [0.0] * count
        self._again: Final = [asyncio.Event() for _ in range(count)]
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False
        self.deaths: list[Death] = []
        self.stop_seconds: Final[list[float]] = []
        self.http: Final = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(15.0, connect=2.0))

    async def __aenter__(self) -> Self:
        self.oracle_folder.mkdir()
        try:
            # The first one alone, since it makes the schema.
            await self._start(0)
            await asyncio.gather(*(self._start(slot) for slot in range(1, len(self.ports))))
        except BaseException:
            await self.__aexit__()
            raise
        self._keepers = [
            asyncio.create_task(self._keep(slot), name=f"keeper {slot}") for slot in range(len(self.ports))
        ]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(child.end() for child in self._children if child is not None))
        await self.http.aclose()

    def url(self, slot: int) -> str:
        return f"http://127.0.0.1:{self.ports[slot]}"

    def pid(self, slot: int) -> int:
        child = self._children[slot]
        return 0 if child is None else child.pid

    def pids(self) -> frozenset[int]:
        return frozenset(child.pid for child in self._children if child is not None)

    def send(self, slot: int, number: signal.Signals) -> None:
        child = self._children[slot]
        if child is not None:
            child.send(number)

    async def ready(self, slot: int, *, within_seconds: float = START_SECONDS) -> None:
        """Return when it takes requests. Raises ConfigurationError."""
        deadline = time.monotonic() + within_seconds
        while True:
            try:
                answer = await self.http.get(f"{self.url(slot)}/health/ready", timeout=2.0)
                if answer.status_code == httpx.codes.OK and not answer.json()["draining"]:
                    return
            except httpx.TransportError:
                pass  # it starts
            if time.monotonic() > deadline:
                raise ConfigurationError(f"A server does not become ready: see {self.log(slot)}.")
            await asyncio.sleep(POLL_SECONDS)

    def log(self, slot: int) -> Path:
        return self._folder / f"server-{slot}.log"

    async def restart(self, slot: int, *, clock_offset_seconds: float = 0.0) -> None:
        """Stop gracefully, and return when its successor is ready, whose clock is that much ahead."""
        # One that still starts, after a fault before, knows no graceful stop.
        await self.ready(slot)
        child = self._children[slot]
        if child is None:
            return
        self._clock_offsets[slot] = clock_offset_seconds
        self._again[slot].clear()
        began = time.monotonic()
        await child.end(signal.SIGTERM)
        self.stop_seconds.append(time.monotonic() - began)
        async with asyncio.timeout(START_SECONDS):
            await self._again[slot].wait()
        await self.ready(slot)

    async def clock(self, slot: int) -> float:
        """What the process takes for the time, in seconds since 1970. Raises httpx.TransportError."""
        answer = await self.http.get(f"{self.url(slot)}/health")
        return email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()

    async def _start(self, slot: int) -> None:
        await self._spawn(slot)
        await self.ready(slot)

    async def _keep(self, slot: int) -> None:
        while True:
            child = self._children[slot]
            assert child is not None
            code = await child.ended()
            if self._stopping:
                return
            self.deaths.append(Death(child.pid, self._started[slot], time.time(), code))
            await asyncio.sleep(AGAIN_SECONDS)
            await self._spawn(slot)
            self._again[slot].set()

    async def _spawn(self, slot: int) -> None:
        self._started[slot] = time.time()
        offset = self._clock_offsets[slot]
        self._children[slot] = await Child.spawn(
            [
                *(sys.executable, "-m", "jobserver.torture.moved" if offset else "jobserver"),
                *("serve", REFERENCE, "--port", str(self.ports[slot])),
                *self._engines.arguments(slot),
                *self._options,
            ],
            folder=self._folder,
            log=self.log(slot),
            environment={**self._environment(), **({OFFSET_VARIABLE: str(offset)} if offset else {})},
        )

    def _environment(self) -> Mapping[str, str]:
        """This process's without options of the server, and with the very jobserver that runs here."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JOBSERVER_", "OTEL_"))}
        package = str(Path(jobserver.__file__).resolve().parent.parent)
        paths = [package, *filter(None, [inherited.get("PYTHONPATH")])]
        return {**inherited, "PYTHONPATH": os.pathsep.join(paths), FOLDER_VARIABLE: str(self.oracle_folder)}
