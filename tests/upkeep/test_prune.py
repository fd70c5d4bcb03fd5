"""What is old goes, in small batches, and the counts stay true."""

from __future__ import annotations

import asyncio

import pytest

from jobserver.access import ANYBODY
from jobserver.job.model import Status
from jobserver.server import Server
from jobserver.store.jobs import JobStore
from jobserver.upkeep.prune import Prune, Retention
from tests.jobs import inserted, job_in


def pruning(server: Server, *, audit_seconds: float = 3_600, **seconds: float) -> Prune:
    retention = Retention(audit_seconds=audit_seconds, **seconds)
    return Prune(server.store, server.worker_store, server.access_store, retention)


async def test_old_admin_actions_go(server: Server) -> None:
    async with server.audit.action(ANYBODY, None, "pause", {"queue": "q"}):
        pass
    await pruning(server, completed_seconds=3_600, failed_seconds=3_600).step()
    assert len((await server.audit.actions(limit=10, cursor=None)).items) == 1
    await asyncio.sleep(0.005)  # ids are by the millisecond
    await pruning(server, completed_seconds=3_600, failed_seconds=3_600, audit_seconds=0).step()
    assert (await server.audit.actions(limit=10, cursor=None)).items == []


async def test_each_status_has_its_retention(server: Server) -> None:
    for status in Status:
        await job_in(server.store, status)
    keep = pruning(server, completed_seconds=3_600, failed_seconds=3_600)
    assert not await keep.step()
    assert (await server.views.stats()).total == 7
    some = pruning(server, completed_seconds=0, failed_seconds=3_600)
    await some.step()
    left = (await server.views.stats()).by_status
    assert {status for status, n in left.items() if n} == set(Status) - {Status.COMPLETED, Status.CANCELED}
    every = pruning(server, completed_seconds=0, failed_seconds=0)
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
    prune = pruning(server, completed_seconds=0, failed_seconds=0)
    assert [await prune._step() for _ in range(3)] == [0.1, 0.1, None]
    assert (await server.views.stats()).total == 0


async def test_jobs_that_their_keys_keep_hold_up_no_other(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are they looked at again and again."""
    monkeypatch.setattr("jobserver.upkeep.prune.LIMIT", 2)
    for number in range(5):
        await job_in(server.store, Status.COMPLETED, idempotency_key=f"k{number}", fingerprint=b"f")
    await job_in(server.store, Status.COMPLETED)
    prune = pruning(server, completed_seconds=0, failed_seconds=0)
    # Two and two, then the last two, and nothing behind them.
    assert [await prune.step() for _ in range(3)] == [True, True, False]
    assert (await server.views.stats()).total == 5
    await job_in(server.store, Status.COMPLETED)
    assert not await prune.step()
    assert (await server.views.stats()).total == 5


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
