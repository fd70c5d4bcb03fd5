"""What is old goes, in small batches, and the counts stay true."""

from __future__ import annotations

import asyncio

import pytest

from jobserver.job.model import Status
from jobserver.server import Server
from jobserver.store.jobs import JobStore
from jobserver.upkeep.prune import Prune, Retention
from tests.jobs import inserted, job_in


async def test_each_status_has_its_retention(server: Server) -> None:
    for status in Status:
        await job_in(server.store, status)
    keep = Prune(server.store, server.worker_store, Retention(completed_seconds=3_600, failed_seconds=3_600))
    assert not await keep.step()
    assert (await server.views.stats()).total == 7
    some = Prune(server.store, server.worker_store, Retention(completed_seconds=0, failed_seconds=3_600))
    await some.step()
    left = (await server.views.stats()).by_status
    assert {status for status, n in left.items() if n} == set(Status) - {Status.COMPLETED, Status.CANCELED}
    every = Prune(server.store, server.worker_store, Retention(completed_seconds=0, failed_seconds=0))
    await every.step()
    left = (await server.views.stats()).by_status
    assert {status for status, n in left.items() if n} == {
        Status.QUEUED,
        Status.SCHEDULED,
        Status.RETRYING,
        Status.RUNNING,
    }


async def test_it_says_when_there_is_more(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.upkeep.prune.LIMIT", 3)
    for _ in range(7):
        await job_in(server.store, Status.COMPLETED)
    prune = Prune(server.store, server.worker_store, Retention(completed_seconds=0, failed_seconds=0))
    assert [await prune._step() for _ in range(3)] == [0.1, 0.1, None]
    assert (await server.views.stats()).total == 0


async def test_old_keys_go_when_their_job_is_terminal(server: Server) -> None:
    store = JobStore(server.store.database, idempotency_ttl_seconds=0.0)
    done = await inserted(store, idempotency_key="done", fingerprint=b"f")
    waits = await inserted(store, idempotency_key="waits", fingerprint=b"f")
    await store.cancel([done.job.id])
    await server.prune.step()
    assert not (await inserted(store, idempotency_key="waits", fingerprint=b"f")).created
    assert (await inserted(store, idempotency_key="done", fingerprint=b"g")).created
    assert waits.job.id != done.job.id


async def test_folding_beside_writers_keeps_the_counts_true(server: Server) -> None:
    async def submits() -> None:
        for number in range(60):
            await job_in(server.store, Status.COMPLETED if number % 2 else Status.QUEUED)

    async def folds() -> None:
        for _ in range(60):
            await server.prune._fold()

    await asyncio.gather(submits(), folds(), folds())
    await server.prune._fold()
    counts = (await server.views.stats()).by_status
    assert (counts[Status.COMPLETED], counts[Status.QUEUED]) == (30, 30)
