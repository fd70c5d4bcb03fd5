"""A handler that waits for its gate, so that a test decides how long a job runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jobserver.job.handlers import Handlers


class Gate:
    """The type "gate": runs until the gate is open, and then returns its result."""

    def __init__(self, result: Callable[[], str] = lambda: "through") -> None:
        self.open = asyncio.Event()
        self.started = 0
        self.handlers = Handlers()
        self.handlers.handler("gate")(self.run)
        self._result = result

    async def run(self) -> str:
        self.started += 1
        await self.open.wait()
        return self._result()
