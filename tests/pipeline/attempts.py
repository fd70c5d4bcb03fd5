"""Claimed jobs and executors for the tests of how attempts are run."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec

from jobserver.job.model import Claimed, LeaseLost, Outcome, Priority, Progress, Raised
from jobserver.pipeline.execute import Executor, ExecutorOptions
from jobserver.pipeline.running import Running
from tests.pipeline.sample_handlers import handlers

REFERENCE = "tests.pipeline.sample_handlers:handlers"


def claimed(job_type: str, payload: object = None, **fields: Any) -> Claimed:
    now = datetime.now(UTC)
    defaults: dict[str, Any] = {
        "id": uuid.uuid4(),
        "type": job_type,
        "queue": "default",
        "priority": Priority.NORMAL,
        "payload": msgspec.json.encode(payload),
        "tags": ("a", "b"),
        "fence": 5,
        "attempt": 2,
        "retry_count": 1,
        "max_retries": 3,
        "crashes": 0,
        "timeout_seconds": 30.0,
        "created_at": now,
        "due_at": now,
        "started_at": now,
        "trace_context": None,
        "cancel_requested": False,
    }
    return Claimed(**(defaults | fields))


class Recorded:
    """An executor and what it told its callbacks."""

    def __init__(self, **options: Any) -> None:
        defaults: dict[str, Any] = {
            "threads": 4,
            "processes": 1,
            "thread_grace_seconds": 0.1,
            "max_result_bytes": 1_048_576,
        }
        self.progress: list[Progress] = []
        self.reported = asyncio.Event()
        self.abandoned: list[Claimed] = []
        self.executor = Executor(
            handlers,
            ExecutorOptions(**(defaults | options)),
            report_progress=self._report,
            on_abandoned=self.abandoned.append,
        )

    def _report(self, job: Claimed, progress: Progress) -> None:
        self.progress.append(progress)
        self.reported.set()

    async def __aenter__(self) -> Recorded:
        await self.executor.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.executor.__aexit__(*exc_info)

    async def run(self, job_type: str, payload: object = None, **fields: Any) -> Outcome:
        return await self.executor.run(Running(claimed(job_type, payload, **fields)))


def crash_of(outcome: Outcome) -> str:
    """What is said of the child process that died."""
    assert isinstance(outcome, LeaseLost), outcome
    assert outcome.error.type == "ProcessDied"
    return outcome.error.message


def error_of(outcome: Outcome) -> tuple[str, bool]:
    """The type of a failure, and whether it may be retried."""
    assert isinstance(outcome, Raised), outcome
    return outcome.error.type, outcome.error.retryable
