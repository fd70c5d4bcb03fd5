"""Jobs in memory and a clock that is moved by hand: what a program submits is kept, run and decided as by a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from jobserver.client import Client, SyncClient
from jobserver.errors import Conflict, Invalid, KeyReused, NotFound
from jobserver.job.handlers import Handler, Handlers, JobRequest
from jobserver.job.lifecycle import CANCELED, EXPIRED, Policy, decide
from jobserver.job.model import (
    TERMINAL,
    WAITING,
    AttemptRecord,
    Claimed,
    Job,
    Priority,
    Progress,
    Status,
)
from jobserver.job.wire import PRIORITIES, SubmitBody, fingerprint
from jobserver.pipeline.ids import Ids
from jobserver.testing.attempts import DEFAULTS, POLICY, Control, Ran, attempt, ran
from jobserver.testing.transport import SandboxTransport

AnyHandler = Handler[..., ..., Any]

# After so many attempts without an end, something submits or snoozes for ever.
MAX_ATTEMPTS: Final = 10_000
START: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Sandbox:
    """Where jobs go in a test. Without `handlers` every type is accepted and none is run.

    `now` stands still until `advance`, `settle` or a client's `wait` moves it. `jitter` in [0, 1) is that of
    every backoff.
    """

    def __init__(
        self,
        handlers: Handlers | None = None,
        *,
        now: datetime = START,
        policy: Policy = POLICY,
        jitter: float = 0.0,
    ) -> None:
        self.now = now
        self.handlers = handlers
        self.transport: Final = SandboxTransport(self)
        self._policy = policy
        self._jitter = jitter
        self._jobs: dict[UUID, Job] = {}
        self._keys: dict[str, tuple[bytes, UUID]] = {}
        self._history: dict[UUID, list[AttemptRecord]] = {}
        self._running: dict[UUID, Control] = {}
        self._planned: dict[str, list[Callable[..., Control]]] = {}
        self._ids = Ids(lambda: int(self.now.timestamp() * 1_000_000))

    # What is used by tests.

    def client(self) -> Client:
        """A client of this sandbox."""
        with self.capture():
            return Client("http://sandbox")

    def sync_client(self) -> SyncClient:
        """A client of this sandbox, for code without an event loop."""
        with self.capture():
            return SyncClient("http://sandbox")

    @contextmanager
    def capture(self) -> Iterator[Sandbox]:
        """While this lasts, every Client and SyncClient that is made talks to the sandbox, whatever its URL."""
        # Imported on use: it belongs to tests alone.
        from unittest.mock import patch

        with (
            patch.object(Client, "__init__", self._into(Client.__init__)),
            patch.object(SyncClient, "__init__", self._into(SyncClient.__init__)),
        ):
            yield self

    def _into(self, original: Callable[..., None]) -> Callable[..., None]:
        def init(client: Client | SyncClient, *args: Any, **options: Any) -> None:
            original(client, *args, **(options | {"transport": self.transport}))
            # Its patience is measured by the time of the sandbox.
            client.calls.clock = self._seconds

        return init

    def _seconds(self) -> float:
        return (self.now - START).total_seconds()

    @property
    def jobs(self) -> list[Job]:
        """Everything that was submitted, oldest first."""
        return list(self._jobs.values())

    def assert_submitted(self, what: JobRequest | AnyHandler | str, **options: Any) -> Job:
        """The last job like that: of this type; a JobRequest, such as `handler.job(...)`, with this payload too.

        `options` are fields of the job that must be equal, such as `queue`, `priority`, `tags`, `idempotency_key`;
        `delay` is the seconds between submit and first run. Raises AssertionError, which lists what there was.
        """
        found = [job for job in self.jobs if self._is_like(job, what, options)]
        if not found:
            listed = "".join(f"\n  {job.type} {job.payload.decode()}" for job in self.jobs) or " nothing"
            raise AssertionError(f"Not submitted: {_named(what)} {options or ''}. Submitted was:{listed}")
        return found[-1]

    def assert_not_submitted(self, what: JobRequest | AnyHandler | str | None = None) -> None:
        """None like that was submitted; none at all, without an argument. Raises AssertionError."""
        found = [job for job in self.jobs if what is None or self._is_like(job, what, {})]
        if found:
            listed = "".join(f"\n  {job.type} {job.payload.decode()}" for job in found)
            raise AssertionError(f"Submitted all the same:{listed}")

    def _is_like(self, job: Job, what: JobRequest | AnyHandler | str, options: dict[str, Any]) -> bool:
        if job.type != (what if isinstance(what, str) else what.type):
            return False
        wanted = dict(options)
        if isinstance(what, JobRequest):
            if msgspec.json.decode(job.payload) != what.payload:
                return False
            fields = ("queue", "priority", "delay", "max_retries", "timeout", "tags")
            wanted = {name: value for name in fields if (value := getattr(what, name)) not in (None, ())} | wanted
        shown = {
            **{name: getattr(job, name) for name in job.__struct_fields__},
            "priority": job.priority.label,
            "timeout": job.timeout_seconds,
            "delay": (job.run_at - job.created_at).total_seconds(),
        }
        return all(shown[name] == value for name, value in wanted.items())

    def crash(self, what: AnyHandler | str, *, at: float = 101.0) -> None:
        """Let the process of the next attempt of this type die: when it reports so much progress, or at its end.

        What the handler did until then is done, and nothing of it is recorded: as after a kill, the job runs again.
        """
        self._plan(what, lambda **given: Control(crash_at=at, **given))

    def cancel_during(self, what: AnyHandler | str, *, at: float = 0.0) -> None:
        """Let somebody cancel the next attempt of this type: as it begins, or when it reports so much progress."""
        self._plan(what, lambda **given: Control(cancel_at=at, **given))

    def _plan(self, what: AnyHandler | str, plan: Callable[..., Control]) -> None:
        self._planned.setdefault(what if isinstance(what, str) else what.type, []).append(plan)

    async def run(self) -> list[Job]:
        """Run every job that is due, and those that become due by it now. What they have become, in their order."""
        return await self.advance(0)

    async def advance(self, seconds: float | timedelta) -> list[Job]:
        """Move the time, and run each job when it is due. What they have become; a job may be there twice."""
        until = self.now + (seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds))
        done: list[Job] = []
        while (job := self._next_due(until)) is not None:
            self.now = max(self.now, job.due_at)
            done.append(await self._run(job))
            _check_ends(len(done))
        self.now = max(self.now, until)
        return done

    async def settle(self) -> list[Job]:
        """Move the time as far as it takes until no job waits that could run."""
        done: list[Job] = []
        while (job := self._next_due(None)) is not None:
            done += await self.advance(max(timedelta(), job.due_at - self.now))
            _check_ends(len(done))
        return done

    async def attempt(self, job_id: UUID | str) -> Ran:
        """Run one job now, due or not, once: what that attempt came to."""
        job = self.job(UUID(str(job_id)))
        if job.status not in WAITING:
            raise Conflict(f"The job is {job.status}: it cannot run.")
        return await self._attempt(job)

    # The life of a job, as the server has it.

    def submit(self, body: SubmitBody) -> tuple[Job, bool]:
        """The job, and whether it is new. Raises Invalid and KeyReused."""
        mark = fingerprint(body)
        if body.idempotency_key is not None and (known := self._keys.get(body.idempotency_key)) is not None:
            if known[0] != mark:
                raise KeyReused("This idempotency key was used before, with another body.")
            return self._jobs[known[1]], False
        if body.expires_at is not None and body.expires_at <= self.now:
            raise Invalid("$.expires_at", "Expected a time in the future")
        handler = self._handler(body.type)
        payload = bytes(body.payload)
        if handler is not None:
            handler.decode(payload)
        elif self.handlers is not None:
            raise Invalid("$.type", f"no handler of this sandbox has the type {body.type!r}")
        job = self._new(body, payload, handler)
        self._jobs[job.id] = job
        if body.idempotency_key is not None:
            self._keys[body.idempotency_key] = (mark, job.id)
        return job, True

    def _new(self, body: SubmitBody, payload: bytes, handler: AnyHandler | None) -> Job:
        due = self.now + timedelta(seconds=body.delay or 0)
        if body.run_at is not None:
            due = max(due, body.run_at)

        def first(*values: Any) -> Any:
            return next(value for value in values if value is not None)

        return Job(
            id=self._ids.next(),
            type=body.type,
            queue=first(body.queue, handler and handler.queue, "default"),
            priority=PRIORITIES[body.priority] if body.priority else (handler.priority if handler else Priority.NORMAL),
            status=Status.SCHEDULED if due > self.now else Status.QUEUED,
            payload=payload,
            result=None,
            error=None,
            attempt=0,
            retry_count=0,
            max_retries=first(body.max_retries, handler and handler.max_retries, DEFAULTS.max_retries),
            crashes=0,
            fence=0,
            timeout_seconds=first(body.timeout, handler and handler.timeout_seconds, DEFAULTS.timeout),
            idempotency_key=body.idempotency_key,
            tags=body.tags,
            progress=None,
            callback_url=None,
            created_at=self.now,
            updated_at=self.now,
            run_at=due,
            started_at=None,
            finished_at=None,
            expires_at=body.expires_at,
            due_at=due,
            worker_id=None,
            lease_expires_at=None,
            cancel_requested=False,
            trace_context=None,
        )

    def _handler(self, name: str) -> AnyHandler | None:
        return None if self.handlers is None else self.handlers.get(name)

    def _next_due(self, until: datetime | None) -> Job | None:
        waiting = (
            job
            for job in self._jobs.values()
            if job.status in WAITING and (until is None or job.due_at <= until) and self._handler(job.type)
        )
        return min(waiting, key=lambda job: (max(job.due_at, self.now), job.priority, job.due_at, job.id), default=None)

    async def _run(self, job: Job) -> Job:
        if job.expires_at is not None and job.expires_at <= self.now:
            return self._moved(job, status=Status.FAILED, error=EXPIRED, finished_at=self.now)
        await self._attempt(job)
        return self.job(job.id)

    async def _attempt(self, job: Job) -> Ran:
        handler = self._handler(job.type)
        if handler is None:
            raise NotFound(f"The sandbox has no handler of the type {job.type!r}.")
        began = self.now
        job = self._moved(job, status=Status.RUNNING, attempt=job.attempt + 1, started_at=began, progress=None)

        def show(progress: Progress) -> None:
            self._jobs[job.id] = msgspec.structs.replace(self._jobs[job.id], progress=progress)

        plans = self._planned.get(job.type)
        control = (plans.pop(0) if plans else Control)(on_progress=show)
        self._running[job.id] = control
        claimed = Claimed(**{name: getattr(job, name) for name in Claimed.__struct_fields__})
        try:
            outcome = await attempt(handler, claimed, control)
        finally:
            del self._running[job.id]
        decided = decide(
            msgspec.structs.replace(claimed, cancel_requested=control.cancel_requested),
            outcome,
            self._policy,
            self._jitter,
        )
        job = self._jobs[job.id]
        due = self.now + timedelta(seconds=decided.delay_seconds)
        self._history.setdefault(job.id, []).append(
            AttemptRecord(
                number=job.attempt,
                fence=job.fence,
                started_at=began,
                ended_at=self.now,
                outcome=decided.ended.value,
                error=decided.error,
                worker_id="sandbox",
            )
        )
        ended = decided.status in TERMINAL
        self._moved(
            job,
            status=decided.status,
            attempt=job.attempt + decided.attempt_delta,
            retry_count=job.retry_count + decided.retry_delta,
            crashes=job.crashes + decided.crash_delta,
            result=decided.result,
            error=decided.error,
            finished_at=self.now if ended else None,
            run_at=job.run_at if ended else due,
            due_at=job.due_at if ended else due,
        )
        return ran(decided, control.progress)

    def _moved(self, job: Job, **changes: Any) -> Job:
        moved = msgspec.structs.replace(job, fence=job.fence + 1, updated_at=self.now, **changes)
        self._jobs[job.id] = moved
        return moved

    def job(self, job_id: UUID) -> Job:
        """As it is now. Raises NotFound."""
        try:
            return self._jobs[job_id]
        except KeyError:
            raise NotFound(f"There is no job {job_id}.") from None

    def attempts(self, job_id: UUID) -> list[AttemptRecord]:
        """The attempts that have ended, oldest first."""
        self.job(job_id)
        return self._history.get(job_id, [])

    def snapshot(self) -> tuple[dict[UUID, Job], dict[str, tuple[bytes, UUID]]]:
        """What `restore` goes back to, where a batch is refused."""
        return dict(self._jobs), dict(self._keys)

    def restore(self, snapshot: tuple[dict[UUID, Job], dict[str, tuple[bytes, UUID]]]) -> None:
        self._jobs, self._keys = snapshot

    def cancel(self, job_id: UUID) -> Job:
        """Raises Conflict for a job that has ended."""
        job = self.job(job_id)
        if job.status in TERMINAL:
            raise Conflict(f"The job is {job.status} already.")
        if job.status is Status.RUNNING:
            self._running[job_id].cancel()
            self._jobs[job_id] = msgspec.structs.replace(job, cancel_requested=True)
            return self._jobs[job_id]
        return self._moved(job, status=Status.CANCELED, error=CANCELED, finished_at=self.now)

    def replay(self, job_id: UUID) -> Job:
        """Raises Conflict for a job that has not failed and is not canceled."""
        job = self.job(job_id)
        if job.status not in (Status.FAILED, Status.CANCELED):
            raise Conflict(f"The job is {job.status}: only failed and canceled jobs are queued again.")
        counters = dict.fromkeys(("attempt", "retry_count", "crashes"), 0)
        nothing = dict.fromkeys(("result", "error", "progress", "expires_at", "started_at", "finished_at"))
        times = {"run_at": self.now, "due_at": self.now}
        return self._moved(job, status=Status.QUEUED, cancel_requested=False, **counters, **nothing, **times)

    async def wait(self, job_id: UUID, seconds: float) -> Job:
        """The job once it has ended, the time moved as far as that takes, but no further than this."""
        until = self.now + timedelta(seconds=seconds)
        for _ in range(MAX_ATTEMPTS):
            job = self.job(job_id)
            due = self._next_due(until)
            if job.status in TERMINAL or job_id in self._running or due is None:
                break
            self.now = max(self.now, due.due_at)
            await self._run(due)
        if self.job(job_id).status not in TERMINAL:
            self.now = max(self.now, until)
        return self.job(job_id)

    def wait_here(self, job_id: UUID, seconds: float) -> Job:
        """The same from a function; where an event loop runs, on another one in a thread."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self.wait(job_id, seconds))
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, self.wait(job_id, seconds)).result()


def _check_ends(attempts: int) -> None:
    if attempts > MAX_ATTEMPTS:
        raise RuntimeError(f"After {MAX_ATTEMPTS:,} attempts there is still something to run.")


def _named(what: JobRequest | AnyHandler | str) -> str:
    if isinstance(what, JobRequest):
        return f"{what.type} {msgspec.json.encode(what.payload).decode()}"
    return what if isinstance(what, str) else what.type
