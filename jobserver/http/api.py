"""What the routes call. The composition root puts the implementations in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol
from uuid import UUID

import msgspec

from jobserver.job.model import AttemptRecord, Job, QueueInfo, TypeInfo, WorkerInfo
from jobserver.job.query import Cancellation, JobFilter, Page, Selection, Stats
from jobserver.job.wire import Readiness, SubmitBody


class Accepted(Protocol):
    """A submit that is committed: a new job, or the one that its idempotency key names."""

    @property
    def job(self) -> Job: ...
    @property
    def created(self) -> bool: ...


class Submitter(Protocol):
    """Raises Invalid and KeyReused for what is refused, Unavailable for what is not acknowledged."""

    async def submit(self, body: SubmitBody, *, scope: str, trace_context: str | None) -> Accepted: ...

    async def submit_many(
        self, bodies: Sequence[SubmitBody], *, scope: str, trace_context: str | None
    ) -> Sequence[Accepted]:
        """All or none, in order. Paths of Invalid start at the request (`$.jobs[3].type`)."""


class Commands(Protocol):
    """What people do to jobs and queues. Raises NotFound, Conflict and Unavailable."""

    async def cancel(self, job_id: UUID) -> Cancellation: ...
    async def replay(self, job_id: UUID, *, failed_only: bool) -> Job: ...
    async def replay_many(self, selection: Selection, *, limit: int, dry_run: bool) -> list[UUID]: ...
    async def delete(self, job_id: UUID) -> None: ...
    async def delete_many(self, selection: Selection, *, dry_run: bool) -> int: ...
    async def pause(self, queue: str) -> QueueInfo: ...
    async def resume(self, queue: str) -> QueueInfo: ...

    async def wait(self, job_id: UUID, seconds: float) -> Job:
        """The job, as soon as it is terminal or the time is over."""


class Views(Protocol):
    """What is stored. Raises Unavailable, and Invalid for a cursor that is not one of its own."""

    async def job(self, job_id: UUID) -> Job | None: ...
    async def jobs(self, wanted: JobFilter, *, limit: int, offset: int, cursor: str | None) -> Page: ...
    async def attempts(self, job_id: UUID) -> list[AttemptRecord] | None: ...
    async def queues(self) -> list[QueueInfo]: ...
    async def workers(self) -> list[WorkerInfo]: ...
    async def types(self) -> list[TypeInfo]: ...
    async def stats(self) -> Stats: ...


class Health(Protocol):
    """Answers within its own time limit, whatever the engines do."""

    async def ready(self) -> Readiness: ...


class Requests(Protocol):
    """Makes a span of a request. What `begin_request` returns is for `end_request`."""

    def begin_request(self, caller: str | None) -> Any: ...
    def end_request(self, begun: Any, method: str, route: str, path: str, status: int) -> None: ...


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the routes need. `metrics` takes an Accept header, gives the body and its media type."""

    submitter: Submitter
    commands: Commands
    views: Views
    health: Health
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]]
    tracing: Requests | None = None
