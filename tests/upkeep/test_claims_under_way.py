"""A claim that was committed while the event loop was blocked keeps its lease until its answer can be heard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from jobserver.job.model import Claimed, Priority, Status
from jobserver.server import Server
from jobserver.store.jobs import Refusal
from jobserver.stream.jobs import Message
from tests.engines import eventually
from tests.parts import ended, job_of, submitted
from tests.upkeep.gates import Gate


@pytest.mark.parametrize("committed", [True, False])
async def test_a_beat_during_a_claim_keeps_what_it_wins_and_refuses_nothing(
    consumer: Server, gate: Gate, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    claim, extend = consumer.store.claim, consumer.heartbeat.pulse.extend
    leases: list[Any] = []

    async def claim_with_a_beat(*arguments: Any, **options: Any) -> Sequence[Claimed | Refusal]:
        if not committed:
            await extend(consumer.store)
            return await claim(*arguments, **options)
        answers = await claim(*arguments, **options)
        for answer in answers:
            assert isinstance(answer, Claimed)
            leases.append((await job_of(consumer, answer.id)).lease_expires_at)
            await extend(consumer.store)
            leases.append((await job_of(consumer, answer.id)).lease_expires_at)
        return answers

    monkeypatch.setattr(consumer.store, "claim", claim_with_a_beat)
    gate.open.set()
    job = await submitted(consumer, "gate")
    done = await ended(consumer, job.id)
    assert (done.status, done.result) == (Status.COMPLETED, b'"through"')
    if committed:
        before, after = leases
        assert after > before
    assert consumer.holdings.claims() == []


async def test_a_claim_that_is_refused_is_forgotten(consumer: Server, gate: Gate) -> None:
    gate.open.set()
    job = await submitted(consumer, "gate")
    await ended(consumer, job.id)
    # Its message once more, which reaches nobody who may claim it.
    consumer.deliveries.publish([Message(job.id, 0, "default", Priority.NORMAL, 0)])
    fetched = consumer.consumers.fetched
    await eventually(lambda: consumer.consumers.fetched > fetched)
    await eventually(lambda: consumer.holdings.claims() == [])
    assert (await job_of(consumer, job.id)).fence == 2
