"""Fingerprint: gives failed jobs of an older release, which had none, what they have in common with others."""

from __future__ import annotations

from typing import Final

from jobserver.store.jobs import JobStore
from jobserver.upkeep.loop import Loop

INTERVAL_SECONDS: Final = 30.0
LIMIT: Final = 500


class Fingerprint:
    """Owns the loop."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self.loop = Loop("fingerprint", INTERVAL_SECONDS, self._step)

    async def _step(self) -> float | None:
        # A pause between batches: this never competes with the life of jobs.
        return 0.1 if await self.step() >= LIMIT else None

    async def step(self) -> int:
        """Look at up to 500 failed jobs; returns how many there were."""
        return await self._store.save_fingerprints(limit=LIMIT)
