"""The jobs that this process holds: claimed, under their fence, until their end is written or refused."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from jobserver.job.model import Claimed, Delivery, Progress
from jobserver.pipeline.running import CancelReason, Running


class Held:
    """One claimed job, the message that brought it, and its attempt."""

    __slots__ = ("asked", "claimed", "delivery", "job", "progress", "running", "started")

    def __init__(self, job: Claimed, delivery: Delivery, asked: float | None = None) -> None:
        """`asked`: when the claim was sent, by the monotonic clock. Its lease began then, or later."""
        self.job = job
        self.delivery = delivery
        self.running = Running(job)
        # Since when it is held, and, once a consumer had a place for it, since when it runs.
        self.claimed = self.started = time.monotonic()
        self.asked = self.claimed if asked is None else asked
        # What the handler said and SQL does not know yet.
        self.progress: Progress | None = None

    @property
    def refused(self) -> bool:
        """Whether SQL said that the job is not ours any more."""
        return self.running.requested is CancelReason.LEASE_REFUSED


class Holdings:
    """Every job that this process holds, by id. Bounded by six times the number of consumers."""

    def __init__(self) -> None:
        self._held: dict[UUID, Held] = {}
        # Flushes of claims under way.
        self._claims: dict[int, Sequence[Delivery]] = {}
        # When the leases were extended last: the question's time, by the monotonic clock.
        self.kept_at = 0.0

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def get(self, job_id: UUID) -> Held | None:
        return self._held.get(job_id)

    def add(self, held: Held) -> None:
        older = self._held.get(held.job.id)
        if older is not None:
            # A newer claim won, so its fence is gone: nobody would tell it later.
            older.running.cancel(CancelReason.LEASE_REFUSED)
        self._held[held.job.id] = held

    def remove(self, held: Held) -> None:
        if self._held.get(held.job.id) is held:
            del self._held[held.job.id]

    @property
    def running(self) -> int:
        """Jobs whose handler has not ended. May be asked from any thread."""
        return sum(not held.running.over for held in list(self._held.values()))

    def fences(self) -> list[tuple[UUID, int]]:
        # A copy first, made in one go: another thread asks.
        return [(held.job.id, held.job.fence) for held in list(self._held.values())]

    def claims(self) -> list[tuple[UUID, int]]:
        """Job and fence of each claim under way: it may be ours already, and its answer not heard."""
        flushes = list(self._claims.values())
        return [(delivery.job_id, delivery.fence + 1) for flush in flushes for delivery in flush]

    @contextmanager
    def claiming(self, deliveries: Sequence[Delivery]) -> Iterator[None]:
        """While these are being claimed. What was won must be held before this ends."""
        self._claims[id(deliveries)] = deliveries
        try:
            yield
        finally:
            del self._claims[id(deliveries)]

    def said(self, job: Claimed, progress: Progress) -> None:
        """A handler reported its progress; the heartbeat stores the latest."""
        held = self._held.get(job.id)
        if held is not None and held.job.fence == job.fence:
            held.progress = progress

    def cancel(self, job_id: UUID, fence: int | None = None) -> bool:
        """Ask a job's handler to end, as a user wished; whether the job is held here."""
        held = self._held.get(job_id)
        if held is None or (fence is not None and held.job.fence != fence):
            return False
        held.running.cancel(CancelReason.REQUESTED)
        return True

    def refuse(self, job_id: UUID, fence: int) -> None:
        """SQL says that the job is not ours any more: stop its handler, discard what it returns."""
        held = self._held.get(job_id)
        if held is not None and held.job.fence == fence:
            held.running.cancel(CancelReason.LEASE_REFUSED)
