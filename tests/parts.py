"""The parts of a server, put together and not started: a test starts those that it is about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec

from jobserver.errors import NotFound
from jobserver.job.handlers import Handlers
from jobserver.job.model import Job, Outcome, Status
from jobserver.job.wire import SubmitBody
from jobserver.pipeline.held import Held
from jobserver.server import Server, open_engines
from jobserver.store.jobs import Moved
from tests.conftest import Pair
from tests.servers import settings_for


@asynccontextmanager
async def parts(pair: Pair, handlers: Handlers | None = None, **options: Any) -> AsyncIterator[Server]:
    """Everything that a server has, on the engines of a test, with the queue "default"; nothing runs."""
    server = Server(settings_for(pair, **options), handlers=handlers)
    async with open_engines(server.settings) as engines:
        server._build(engines)
        await server.queues.refresh()
        await server.queues.ensure(["default"])
        try:
            yield server
        finally:
            await server.waiters.close()
            await server.feed.close()


@asynccontextmanager
async def writing(server: Server) -> AsyncIterator[None]:
    """The batchers and the queue to Redis run."""
    async with AsyncExitStack() as stack:
        server._start_pipeline(stack)
        yield


@asynccontextmanager
async def executing(server: Server) -> AsyncIterator[None]:
    """The consumers run, on batchers that do already; the end stops them at once, without a drain."""
    async with server.executor:
        server.consumers.start()
        try:
            yield
        finally:
            await server.consumers.close()


@asynccontextmanager
async def consuming(server: Server) -> AsyncIterator[None]:
    """Batchers and consumers run."""
    async with writing(server), executing(server):
        yield


def body(type_: str = "echo", payload: object = None, **fields: Any) -> SubmitBody:
    """A request to submit, as parsed."""
    return SubmitBody(type=type_, payload=msgspec.Raw(msgspec.json.encode(payload)), **fields)


async def submitted(server: Server, type_: str = "echo", payload: object = None, **fields: Any) -> Job:
    inserted = await server.submitter.submit(body(type_, payload, **fields), scope="", trace_context=None)
    return inserted.job


async def job_of(server: Server, job_id: UUID) -> Job:
    job = await server.views.job(job_id)
    if job is None:
        raise NotFound(str(job_id))
    return job


async def status_of(server: Server, job_id: UUID) -> Status:
    return (await job_of(server, job_id)).status


async def ended(server: Server, job_id: UUID, *, within_seconds: float = 20.0) -> Job:
    """The job once it is terminal."""
    job = await server.commands.wait(job_id, within_seconds)
    assert job.status in {Status.COMPLETED, Status.FAILED, Status.CANCELED}, job
    return job


async def outcomes(server: Server, job_id: UUID) -> list[str]:
    """How the attempts of a job ended, oldest first."""
    history = await server.views.attempts(job_id)
    assert history is not None
    return [each.outcome for each in history]


async def finished(server: Server, held: Held, outcome: Outcome) -> Moved | None:
    """Write the end of an attempt: what the job has become, None when somebody else decides about it."""
    done: asyncio.Future[Moved | None] = asyncio.get_running_loop().create_future()
    server.finisher.finish(held, outcome, lambda _, moved: done.set_result(moved))
    return await done
