"""Watching a real server, on both pairs of engines, over connections that break."""

from __future__ import annotations

import asyncio
from uuid import UUID

from jobserver import Attempt, Client, Handlers, JobEvent, ProgressEvent, SyncClient
from jobserver.job.model import Status
from tests.conftest import Pair
from tests.relay import Relay
from tests.servers import running

handlers = Handlers()


@handlers.handler("told")
async def told(attempt: Attempt) -> str:
    attempt.progress(50, "half")
    await asyncio.sleep(0.3)
    return "done"


def watched(url: str, job_id: UUID) -> list[object]:
    with SyncClient(url) as client:
        return list(client.watch(job_id))


async def test_a_job_is_watched_from_its_submit_to_its_end(pair: Pair) -> None:
    async with running(pair, handlers) as server, Client(server.url) as client:
        job = await client.submit("told", delay=0.5)
        async with asyncio.timeout(30):
            events = [event async for event in client.watch(job.id)]
        shown = [event for event in events if isinstance(event, JobEvent)]
        assert [event.status for event in shown] == [Status.SCHEDULED, Status.RUNNING, Status.COMPLETED]
        assert [event.fence for event in shown] == [0, 1, 2]
        assert [event.progress.percent for event in events if isinstance(event, ProgressEvent)] in ([50], [])
        # One that has ended is told once.
        again = await asyncio.to_thread(watched, server.url, job.id)
        assert [event.fence for event in again if isinstance(event, JobEvent)] == [2]


async def test_no_event_is_lost_or_repeated_where_connections_break(pair: Pair) -> None:
    jobs = 30
    async with running(pair, handlers) as server:
        port = int(server.url.rpartition(":")[2])
        async with (
            Relay(port) as relay,
            Client(f"http://127.0.0.1:{relay.port}") as watcher,
            Client(server.url) as client,
        ):
            seen: dict[str, list[int]] = {}
            submitted: list[UUID] = []
            begun = asyncio.Event()

            async def watch() -> None:
                async for event in watcher.watch(type="echo"):
                    if isinstance(event, JobEvent):
                        begun.set()
                        seen.setdefault(str(event.id), []).append(event.fence)
                        ended = sum(seen.get(str(job_id), [0])[-1] == 2 for job_id in submitted)
                        if ended == jobs:
                            return

            watching = asyncio.create_task(watch(), name="watch")
            # Only what comes after the stream was opened is on it; the first event has a place to come back to.
            while not begun.is_set():
                await client.submit("echo", priority="low")
                await asyncio.sleep(0.2)
            for n in range(jobs):
                submitted.append((await client.submit("echo", n)).id)
                if n % 10 == 5:
                    relay.cut()
            async with asyncio.timeout(40):
                await watching
    assert all(seen[str(job_id)] == [0, 1, 2] for job_id in submitted), seen
