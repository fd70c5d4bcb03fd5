"""What a process holds is known by job and fence: word of another claim of the same job is not for this one."""

from __future__ import annotations

import msgspec
import pytest

from jobserver.job.model import Claimed, Progress
from jobserver.pipeline.held import Held, Holdings
from jobserver.pipeline.running import CancelReason
from tests.jobs import delivery
from tests.pipeline.attempts import claimed


@pytest.fixture
def job() -> Claimed:
    return claimed("echo")


@pytest.fixture
def holdings() -> Holdings:
    return Holdings()


@pytest.fixture
def held(job: Claimed, holdings: Holdings) -> Held:
    held = Held(job, delivery(job.id, job.fence - 1))
    holdings.add(held)
    return held


def test_a_newer_claim_of_a_job_ends_the_older_one(job: Claimed, holdings: Holdings, held: Held) -> None:
    newer = Held(msgspec.structs.replace(job, fence=job.fence + 2), delivery(job.id, job.fence + 1))
    holdings.add(newer)
    assert held.refused
    assert not newer.refused
    # Its end leaves the newer one in its place.
    holdings.remove(held)
    assert holdings.get(job.id) is newer


def test_a_refusal_is_for_the_fence_that_it_names(job: Claimed, holdings: Holdings, held: Held) -> None:
    holdings.refuse(job.id, job.fence - 2)
    assert not held.refused
    holdings.refuse(job.id, job.fence)
    assert held.refused


def test_a_cancel_is_for_the_fence_that_it_names(job: Claimed, holdings: Holdings, held: Held) -> None:
    assert not holdings.cancel(job.id, job.fence - 2)
    assert not held.running.is_stopping()
    assert holdings.cancel(job.id, job.fence)
    assert held.running.requested is CancelReason.REQUESTED


def test_progress_of_an_earlier_attempt_is_not_that_of_this_one(job: Claimed, holdings: Holdings, held: Held) -> None:
    holdings.said(msgspec.structs.replace(job, fence=job.fence - 2), Progress(99.0, "zombie"))
    assert held.progress is None
    holdings.said(job, Progress(1.0, "begun"))
    assert held.progress == Progress(1.0, "begun")
