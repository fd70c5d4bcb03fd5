"""Prune: deletes what is older than its retention, in small batches, and folds the counts."""

from __future__ import annotations

from typing import Final

import msgspec

from jobserver.job.model import Status
from jobserver.store.access import AccessStore
from jobserver.store.jobs import JobStore, Place
from jobserver.store.workers import WorkerStore
from jobserver.upkeep.loop import Loop

PRUNE_SECONDS: Final = 30.0
FOLD_SECONDS: Final = 2.0
LIMIT: Final = 500


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long terminal jobs are kept, and the audit log."""

    completed_seconds: float
    failed_seconds: float
    audit_seconds: float


class Prune:
    """Owns two loops: pruning, and folding the counts."""

    def __init__(self, store: JobStore, workers: WorkerStore, access: AccessStore, retention: Retention) -> None:
        self._store = store
        self._access = access
        self._audit_seconds = retention.audit_seconds
        self._workers = workers
        self._seconds = {
            Status.COMPLETED: retention.completed_seconds,
            Status.CANCELED: retention.completed_seconds,
            Status.FAILED: retention.failed_seconds,
        }
        self._passed: dict[Status, Place] = {}
        self.loop = Loop("prune", PRUNE_SECONDS, self._step)
        self.fold = Loop("fold counts", FOLD_SECONDS, self._fold)

    async def _step(self) -> float | None:
        # A pause between batches: pruning never competes with the life of jobs.
        return 0.1 if await self.step() else None

    async def step(self) -> bool:
        """One batch of each kind; whether there is more."""
        more = False
        for status, seconds in self._seconds.items():
            more = await self._prune(status, seconds) or more
        more = await self._store.prune_keys(limit=LIMIT) >= LIMIT or more
        pruned = await self._access.prune_audit(older_than_seconds=self._audit_seconds, limit=LIMIT)
        more = pruned >= LIMIT or more
        await self._workers.prune()
        return more

    async def _prune(self, status: Status, seconds: float) -> bool:
        oldest = await self._store.prune(status, older_than_seconds=seconds, limit=LIMIT)
        if oldest.last is None or oldest.deleted:
            return oldest.last is not None
        # Idempotency keys that live for longer than jobs keep the oldest. What has no key does not wait behind them,
        # and nothing is looked at again and again: the next look begins where this one ends.
        after = max(oldest.last, self._passed.get(status, oldest.last))
        behind = await self._store.prune(status, older_than_seconds=seconds, limit=LIMIT, after=after)
        if behind.last is not None:
            self._passed[status] = behind.last
        return behind.last is not None

    async def _fold(self) -> float | None:
        return 0.0 if await self._store.fold_counts() >= 10_000 else None
