"""From rows of either driver to the values of `job/model.py`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from jobserver.job.model import AttemptRecord, Claimed, Job, JobError, Priority, Progress, Status, TypeInfo
from jobserver.store.engine import Database, Row

_decode_error: Final = msgspec.json.Decoder(JobError).decode
_decode_progress: Final = msgspec.json.Decoder(Progress).decode
_decode_names: Final = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_object: Final = msgspec.json.Decoder(dict[str, Any]).decode
PRIORITIES: Final = tuple(Priority)
STATUSES: Final = {status.value: status for status in Status}


def error_of(text: str | None) -> JobError | None:
    return None if text is None else _decode_error(text)


def names_of(text: str | None) -> tuple[str, ...]:
    return () if text is None else _decode_names(text)


def job_of(database: Database, row: Row) -> Job:
    instant, moment = database.instant, database.moment
    result = row["result"]
    progress = row["progress"]
    due_at = moment(row["due_at"])
    return Job(
        id=database.uuid(row["id"]),
        type=row["type"],
        queue=row["queue"],
        priority=PRIORITIES[row["priority"]],
        status=STATUSES[row["status"]],
        payload=row["payload"].encode(),
        result=None if result is None else result.encode(),
        error=error_of(row["error"]),
        attempt=row["attempt"],
        retry_count=row["retry_count"],
        max_retries=row["max_retries"],
        crashes=row["crashes"],
        fence=row["fence"],
        timeout_seconds=row["timeout_seconds"],
        idempotency_key=row["idempotency_key"],
        tags=names_of(row["tags"]),
        progress=None if progress is None else _decode_progress(progress),
        callback_url=row["callback_url"],
        created_at=moment(row["created_at"]),
        updated_at=moment(row["updated_at"]),
        run_at=due_at,
        started_at=instant(row["started_at"]),
        finished_at=instant(row["finished_at"]),
        expires_at=instant(row["expires_at"]),
        due_at=due_at,
        worker_id=row["worker_id"],
        lease_expires_at=instant(row["lease_expires_at"]),
        cancel_requested=bool(row["cancel_requested"]),
        trace_context=row["trace_context"],
    )


def claimed_of(database: Database, row: Row) -> Claimed:
    """The columns that every statement about claimed jobs returns, in this order: unpacked, which is cheaper."""
    (
        job_id,
        kind,
        queue,
        priority,
        payload,
        tags,
        fence,
        attempt,
        retry_count,
        max_retries,
        crashes,
        timeout_seconds,
        created_at,
        due_at,
        started_at,
        trace_context,
        cancel_requested,
        callback_url,
        *_,
    ) = row
    if database.sqlite:
        moment = database.moment
        job_id, created_at, due_at = database.uuid(job_id), moment(created_at), moment(due_at)
        started_at, cancel_requested = moment(started_at), bool(cancel_requested)
    return Claimed(
        id=job_id,
        type=kind,
        queue=queue,
        priority=PRIORITIES[priority],
        payload=payload.encode(),
        tags=() if tags is None else names_of(tags),
        fence=fence,
        attempt=attempt,
        retry_count=retry_count,
        max_retries=max_retries,
        crashes=crashes,
        timeout_seconds=timeout_seconds,
        created_at=created_at,
        due_at=due_at,
        started_at=started_at,
        trace_context=trace_context,
        cancel_requested=cancel_requested,
        callback_url=callback_url,
    )


def attempt_of(database: Database, row: Row) -> AttemptRecord:
    return AttemptRecord(
        number=row["number"],
        fence=row["fence"],
        started_at=database.moment(row["started_at"]),
        ended_at=database.moment(row["ended_at"]),
        outcome=row["outcome"],
        error=error_of(row["error"]),
        worker_id=row["worker_id"],
    )


def type_of(row: Row) -> TypeInfo:
    return TypeInfo(
        type=row["type"],
        queue=row["queue"],
        priority=PRIORITIES[row["priority"]],
        max_retries=row["max_retries"],
        timeout_seconds=row["timeout_seconds"],
        schema=_decode_object(row["schema"]),
    )
