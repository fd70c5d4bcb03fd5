"""Why: gathers the facts of one job for `job/reasons.py` to judge.

Answers while Redis is away, and costs the same whatever waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from jobserver.errors import StreamUnavailable
from jobserver.job.model import TERMINAL, Job, Status
from jobserver.job.reasons import Facts, Reason, reasons_of
from jobserver.pipeline.activity import Activity
from jobserver.store.views import Views


class Why:
    """`ping` asks whether Redis answers, within the time of a request; `now` is the database's."""

    def __init__(
        self,
        views: Views,
        activity: Activity,
        ping: Callable[[], Awaitable[None]],
        now: Callable[[], datetime],
    ) -> None:
        self._views = views
        self._activity = activity
        self._ping = ping
        self._now = now

    async def of(self, job_id: UUID) -> tuple[Job, list[Reason]] | None:
        """The job and its reasons, the most important first; None when there is no such job.

        Raises DatabaseUnavailable.
        """
        job = await self._views.job(job_id)
        if job is None:
            return None
        return job, reasons_of(await self._facts(job))

    async def _facts(self, job: Job) -> Facts:
        if job.status in TERMINAL:
            return Facts(job=job, now=self._now())
        if job.status is Status.RUNNING:
            return Facts(job=job, now=self._now(), workers=tuple(await self._views.workers()))
        return await self._facts_of_waiting(job)

    async def _facts_of_waiting(self, job: Job) -> Facts:
        now = self._now()
        questions: tuple[Awaitable[Any], ...] = (
            self._views.standing(job, due=Facts(job=job, now=now).due_in_seconds <= 0),
            self._views.workers(),
            self._answers(),
            self._activity.recent(),
        )
        standing, workers, redis, recent = await asyncio.gather(*questions)
        return Facts(
            job=job,
            now=now,
            paused=standing.paused,
            redis=redis,
            ahead=standing.ahead,
            ahead_capped=standing.capped,
            queued=standing.queued,
            started_per_second=recent.started_per_second(job.queue),
            workers=tuple(workers),
        )

    async def _answers(self) -> bool:
        try:
            await self._ping()
        except StreamUnavailable:
            return False
        return True
