"""Jobs for tests: submissions, deliveries, and the way of a job into a given status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import uuid_utils.compat

from jobserver.job.lifecycle import Policy, Transition, decide
from jobserver.job.model import (
    Canceled,
    Claimed,
    Delivery,
    Outcome,
    Priority,
    Raised,
    Returned,
    Status,
    Submission,
    bounded_error,
)
from jobserver.store.jobs import Inserted, JobStore, Moved, Refusal, Settlement
from jobserver.store.workers import Beat

POLICY = Policy(backoff_base=2.0, backoff_cap=60.0, max_crashes=3)
WORKER = "host-1-aaaa"


def submission(**fields: Any) -> Submission:
    defaults: dict[str, Any] = {
        "id": uuid_utils.compat.uuid7(),
        "type": "echo",
        "queue": "default",
        "priority": Priority.NORMAL,
        "payload": b'{"n":1}',
        "max_retries": 3,
        "timeout_seconds": 60.0,
    }
    return Submission(**(defaults | fields))


def delivery(job_id: UUID, fence: int, entry_id: str = "1-1") -> Delivery:
    return Delivery(job_id, fence, 0, ("default", Priority.NORMAL), entry_id)


async def inserted(store: JobStore, **fields: Any) -> Inserted:
    [answer] = await store.insert([[submission(**fields)]])
    assert isinstance(answer, list)
    return answer[0]


async def try_claim(
    store: JobStore, job_id: UUID, fence: int, *, worker_id: str = WORKER, lease_seconds: float = 15.0
) -> Claimed | Refusal:
    [answer] = await store.claim(
        [delivery(job_id, fence)],
        worker_id=worker_id,
        token=uuid_utils.compat.uuid4(),
        lease_seconds=lease_seconds,
    )
    return answer


async def claimed(store: JobStore, job_id: UUID, fence: int = 0, **options: Any) -> Claimed:
    answer = await try_claim(store, job_id, fence, **options)
    assert isinstance(answer, Claimed), answer
    return answer


async def settled(store: JobStore, job: Claimed, outcome: Outcome, **options: Any) -> Moved | None:
    transition = decide(job, outcome, POLICY, jitter=0.5)
    return await written(store, job, transition, **options)


async def written(store: JobStore, job: Claimed, transition: Transition, **options: Any) -> Moved | None:
    [answer] = await store.settle([Settlement(job.id, job.fence, transition, **options)])
    return answer


def raised(message: str = "no", *, retryable: bool = True, after: float | None = None) -> Raised:
    return Raised(bounded_error("ValueError", message, traceback="Traceback ...", retryable=retryable), after)


async def job_in(store: JobStore, status: Status, **fields: Any) -> UUID:
    """A job that came into `status` by the usual way."""
    job_id = (await inserted(store, **({"delay_seconds": 60.0} if status is Status.SCHEDULED else {}), **fields)).job.id
    if status in {Status.QUEUED, Status.SCHEDULED}:
        return job_id
    if status is Status.CANCELED:
        await store.cancel([job_id])
        return job_id
    job = await claimed(store, job_id)
    outcomes: dict[Status, Outcome] = {
        Status.COMPLETED: Returned(b"1"),
        Status.FAILED: raised(retryable=False),
        Status.RETRYING: raised(),
    }
    if status in outcomes:
        await settled(store, job, outcomes[status])
    return job_id


def ids(answers: Sequence[list[Inserted] | Any]) -> list[UUID]:
    return [each.job.id for group in answers for each in group]


CANCELED = Canceled("asked")


def beat_of(worker_id: str, **fields: Any) -> Beat:
    """What a process says of itself."""
    defaults: dict[str, Any] = {
        "host": "h",
        "pid": 1,
        "version": "1",
        "draining": False,
        "stopped": False,
        "concurrency": 1,
        "running": 0,
        "loop_lag_seconds": 0.0,
        "queues": None,
        "types": (),
    }
    return Beat(worker_id=worker_id, **(defaults | fields))
