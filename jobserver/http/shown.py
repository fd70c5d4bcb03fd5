"""What a caller may see of a job: tracebacks tell of the code that runs, and are for admins alone."""

from __future__ import annotations

import msgspec

from jobserver.access import Caller
from jobserver.job.model import AttemptRecord, Job, JobError
from jobserver.job.query import Page


def shown(job: Job, caller: Caller) -> Job:
    """The job as this caller sees it."""
    if job.error is None or job.error.traceback is None or caller.sees_tracebacks:
        return job
    return msgspec.structs.replace(job, error=_without_traceback(job.error))


def shown_page(page: Page, caller: Caller) -> Page:
    if caller.sees_tracebacks:
        return page
    return msgspec.structs.replace(page, items=[shown(job, caller) for job in page.items])


def shown_attempts(records: list[AttemptRecord], caller: Caller) -> list[AttemptRecord]:
    if caller.sees_tracebacks:
        return records
    return [
        record if record.error is None else msgspec.structs.replace(record, error=_without_traceback(record.error))
        for record in records
    ]


def _without_traceback(error: JobError) -> JobError:
    return msgspec.structs.replace(error, traceback=None)
