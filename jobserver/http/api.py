"""What the routes call. The composition root puts the implementations in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from uuid import UUID

import msgspec

from jobserver.access import ActionPage, Caller, Quota, ScopeName, Standing
from jobserver.job.activity import Bucket, Recent
from jobserver.job.model import AttemptRecord, Job, QueueInfo, TypeInfo, WorkerInfo
from jobserver.job.query import Cancellation, Done, FailedGroups, JobFilter, Order, Page, Selection, Stats
from jobserver.job.reasons import Reason
from jobserver.job.wire import Readiness, SubmitBody
from jobserver.pipeline.feed import Feed


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
    async def carry_out(self, order: Order) -> Done: ...
    async def pause(self, queue: str) -> QueueInfo: ...
    async def resume(self, queue: str) -> QueueInfo: ...

    async def wait(self, job_id: UUID, seconds: float) -> Job:
        """The job, as soon as it is terminal or the time is over."""


class Views(Protocol):
    """What is stored. Raises Unavailable, and Invalid for a cursor that is not one of its own."""

    async def job(self, job_id: UUID) -> Job | None: ...
    async def jobs(self, wanted: JobFilter, *, limit: int, offset: int, cursor: str | None) -> Page: ...
    async def failed_groups(self, *, type: str | None, queue: str | None, limit: int) -> FailedGroups: ...  # noqa: A002
    async def attempts(self, job_id: UUID) -> list[AttemptRecord] | None: ...
    async def queues(self) -> list[QueueInfo]: ...
    async def workers(self) -> list[WorkerInfo]: ...
    async def types(self) -> list[TypeInfo]: ...
    async def stats(self) -> Stats: ...


class Why(Protocol):
    """Why a job is what it is. Raises Unavailable."""

    async def of(self, job_id: UUID) -> tuple[Job, list[Reason]] | None:
        """The job and its reasons, the most important first; None when there is no such job."""


class Activity(Protocol):
    """What happened in the last minutes, as far as it is known. Raises nothing; answers within a time limit."""

    async def recent(self) -> Recent: ...
    async def buckets(self, minutes: int) -> tuple[list[Bucket], bool]:
        """Oldest first, and whether they are whole."""


class Health(Protocol):
    """Answers within its own time limit, whatever the engines do."""

    async def ready(self) -> Readiness: ...


class Access(Protocol):
    """Who may come in. `open` says at once that everybody may, for now; else `admit` is asked."""

    @property
    def open(self) -> bool: ...

    @property
    def ever(self) -> bool:
        """Whether a key was ever made: it is keys that protect the server then, and not its address."""

    async def admit(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        needed: ScopeName,
        *,
        without_sql: bool = False,
        changes: bool = False,
    ) -> Caller:
        """Raises Unauthorized, Forbidden, Foreign and Unavailable."""

    def refused(self, reason: str) -> None:
        """Counts a request that was refused before anybody was asked."""


class Sessions(Protocol):
    """How people sign in by an API key. `whose` says who makes a request, None for nobody."""

    async def whose(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller | None: ...

    async def sign_in(self, key: str, address: str) -> Caller:
        """Raises Unauthorized, RateLimited and Unavailable."""


class Noted(Protocol):
    """An action under way, of which is noted how much it has changed."""

    changed: int


class Audit(Protocol):
    """The admin actions. Raises Unavailable, and Invalid for a cursor that is not one of its own."""

    def action(
        self, caller: Caller, address: str | None, action: str, target: dict[str, object]
    ) -> AbstractAsyncContextManager[Noted]: ...
    async def actions(self, *, limit: int, cursor: str | None) -> ActionPage: ...


class Limit(Protocol):
    """The quota of submits."""

    @property
    def quota(self) -> Quota: ...
    async def take(self, caller: Caller, address: str) -> Standing: ...


class Gate(Protocol):
    """What stands before submits. `check` raises Overloaded while none is taken."""

    @property
    def limit(self) -> Limit | None: ...
    def check(self) -> None: ...


class Requests(Protocol):
    """Makes a span of a request. What `begin_request` returns is for `end_request`."""

    def begin_request(self, caller: str | None) -> Any: ...
    def end_request(self, begun: Any, method: str, route: str, path: str, status: int) -> None: ...


class PageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the web page needs to know of the server."""

    version: str
    trace_url_template: str | None
    max_payload_bytes: int


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the routes need. `metrics` takes an Accept header, gives the body and its media type."""

    submitter: Submitter
    commands: Commands
    views: Views
    activity: Activity
    why: Why
    health: Health
    access: Access
    sessions: Sessions
    audit: Audit
    gate: Gate
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]]
    tracing: Requests | None = None
    feed: Feed | None = None
    facts: PageFacts
