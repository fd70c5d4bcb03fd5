"""A handler that waits for its gate, so that a test decides how long a job runs."""

from __future__ import annotations

import asyncio

from jobserver.job.attempt import Attempt
from jobserver.job.handlers import Handlers
from jobserver.job.model import Job
from jobserver.server import Server
from tests.engines import eventually
from tests.parts import job_of, submitted


class Gate:
    """A handler that waits for its gate, and hears when it is cancelled."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.started = 0
        self.cancelled = asyncio.Event()
        self.handlers = Handlers()
        self.handlers.handler("gate")(self.run)

    async def run(self, attempt: Attempt) -> str:
        self.started += 1
        attempt.progress(50, "waiting")
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            # A result that comes too late, on purpose.
            return "late"
        return "through"


async def running_job(server: Server, gate: Gate) -> Job:
    before = gate.started
    job = await submitted(server, "gate")
    await eventually(lambda: gate.started > before)
    return await job_of(server, job.id)
