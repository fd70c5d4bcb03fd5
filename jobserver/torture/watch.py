"""The watch: asks each live server once a second for its metrics, and remembers the most that it saw."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import Final, Protocol, Self

import httpx

from jobserver.torture.history import Buffer

INTERVAL_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 1.0
STALE: Final = "jobserver_stale_writes_rejected_total"
_LINE: Final = re.compile(r'^(jobserver_\w+)(?:\{(?:buffer|step)="(\w+)"\})? (\S+)$', re.MULTILINE)


class Watched(Protocol):
    """The server processes, by slot."""

    @property
    def ports(self) -> Sequence[int]: ...

    @property
    def http(self) -> httpx.AsyncClient: ...

    def pid(self, slot: int) -> int: ...

    def url(self, slot: int) -> str: ...


class Watch:
    """`async with Watch(processes) as watch:` looks all the while. A process that does not answer is left out."""

    def __init__(self, processes: Watched) -> None:
        self._processes: Final = processes
        self._tasks: list[asyncio.Task[None]] = []
        self._most: Final[dict[tuple[int, str], int]] = {}
        self._bound: Final[dict[tuple[int, str], int]] = {}
        self._stale: Final[dict[tuple[int, str], int]] = {}
        self.samples = 0

    async def __aenter__(self) -> Self:
        slots = range(len(self._processes.ports))
        self._tasks = [asyncio.create_task(self._look_on(slot), name=f"watch {slot}") for slot in slots]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The most that each in-memory queue of each process has held."""
        return tuple(
            Buffer(pid=pid, name=name, most=most, bound=self._bound[pid, name])
            for (pid, name), most in sorted(self._most.items())
        )

    @property
    def stale_writes_rejected(self) -> int:
        """At least so many: what a process counted in its last second is not seen."""
        return sum(self._stale.values())

    def _note(self, pid: int, page: str) -> None:
        for name, label, value in _LINE.findall(page):
            number, key = int(float(value)), (pid, label)
            if name == "jobserver_buffer_items":
                self._most[key] = max(number, self._most.get(key, 0))
            elif name == "jobserver_buffer_bound":
                self._bound[key] = number
            elif name == STALE:
                self._stale[key] = number
        self.samples += 1

    async def _look_on(self, slot: int) -> None:
        while True:
            pid = self._processes.pid(slot)
            with contextlib.suppress(httpx.TransportError):
                answer = await self._processes.http.get(
                    f"{self._processes.url(slot)}/metrics", timeout=ANSWER_SECONDS, headers={"accept": "text/plain"}
                )
                if answer.status_code == httpx.codes.OK and self._processes.pid(slot) == pid:
                    self._note(pid, answer.text)
            await asyncio.sleep(INTERVAL_SECONDS)
