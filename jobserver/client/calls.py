"""Every call of the API as a conversation: what to send, when to repeat it, what the answer means. No I/O."""

from __future__ import annotations

import builtins
import math
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

import msgspec

from jobserver.client.errors import RequestRefused, ServerUnreachable
from jobserver.client.exchange import Answer, Lost, Pause, Request, Response, Steps
from jobserver.client.refusals import GATEWAYS, TURNED_AWAY, asked_seconds, none_is_done, problem_of
from jobserver.client.views import Actions, DeadFilters, EventFilters, Filters, Job, Page, Selection
from jobserver.client.watching import Watching
from jobserver.errors import Invalid
from jobserver.job.handlers import JobOptions, JobRequest
from jobserver.job.signature import invalid
from jobserver.job.wire import (
    MAX_BATCH,
    MAX_WAIT_SECONDS,
    NAME_PATTERN,
    ActionBody,
    ActionView,
    ActivityView,
    AttemptList,
    BatchBody,
    BatchItem,
    BatchView,
    DeletedView,
    FailedGroupList,
    Problem,
    ProblemError,
    QueueList,
    QueueView,
    Readiness,
    ReplayBody,
    ReplayedView,
    StatsView,
    SubmitBody,
    TypeList,
    WhyView,
    WorkerList,
)

T = TypeVar("T")

# Under the server's limit of 32 MiB for a batch, the brackets and commas included.
BATCH_BYTES: Final = 30 * 1_048_576
BACKOFF_FIRST_SECONDS: Final = 0.1
BACKOFF_CAP_SECONDS: Final = 5.0
# A server that asks for more patience than this is told as refusing.
RETRY_AFTER_CAP_SECONDS: Final = 60.0
WAIT_AGAIN_SECONDS: Final = 0.2
ACTION_SECONDS: Final = 30.0


class Calls:
    """Every call of the API as a conversation without I/O. Times are in seconds."""

    def __init__(
        self,
        shown_url: str,
        *,
        seconds: float,
        repeats: int,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shown_url = shown_url
        self._seconds = seconds
        self.repeats = repeats
        self._jitter = jitter
        self.clock = clock

    # jobs

    def submit(
        self, request: JobRequest | str, payload: Any = None, key: str | None = None, options: JobOptions | None = None
    ) -> Steps[Answer[Job]]:
        body = _requested(request, payload, options or {}).body(key or _new_key())
        return self._call(_JOB, "POST", "/jobs", body=_encode(body))

    def submit_many(
        self, requests: Iterable[JobRequest], keys: Iterable[str] | None = None
    ) -> Steps[builtins.list[BatchItem]]:
        """In chunks, each of which is stored together or not at all."""
        named = ((request, _new_key()) for request in requests) if keys is None else zip(requests, keys, strict=True)
        bodies = (request.body(key) for request, key in named)
        items: list[BatchItem] = []
        for chunk in _chunks(bodies):
            try:
                answer = yield from self.submit_batch(chunk)
            except RequestRefused as refused:
                raise _shifted(refused, len(items)) from None
            items += answer.value.jobs
        return items

    def submit_batch(self, bodies: builtins.list[SubmitBody]) -> Steps[Answer[BatchView]]:
        """At most a thousand, each with its key."""
        return self._call(_BATCH, "POST", "/jobs/batch", body=_encode(BatchBody(bodies)))

    def get(self, job_id: UUID | str, wait_seconds: float = 0.0) -> Steps[Answer[Job]]:
        query = (("wait", f"{wait_seconds:.3f}"),) if wait_seconds > 0 else ()
        return self._call(_JOB, "GET", f"/jobs/{_id(job_id)}", query=query, seconds=self._seconds + wait_seconds)

    def wait(self, job_id: UUID | str, within_seconds: float | None) -> Steps[Answer[Job]]:
        """The job, as soon as it has ended; else as it is after that time. None: as long as it takes."""
        deadline = math.inf if within_seconds is None else self.clock() + within_seconds
        while True:
            answer = yield from self.get(job_id, max(0.0, min(deadline - self.clock(), MAX_WAIT_SECONDS)))
            if answer.value.ended or self.clock() >= deadline:
                return answer
            # A server that stops answers before the time is over.
            yield Pause(min(WAIT_AGAIN_SECONDS, deadline - self.clock()))

    def page(
        self,
        filters: Filters | DeadFilters,
        *,
        limit: int,
        offset: int = 0,
        cursor: str | None = None,
        dead: bool = False,
    ) -> Steps[Answer[Page]]:
        query = [*_query(filters), ("limit", str(limit))]
        if offset:
            query.append(("offset", str(offset)))
        if cursor is not None:
            query.append(("cursor", cursor))
        return self._call(_PAGE, "GET", "/dlq" if dead else "/jobs", query=tuple(query))

    def attempts(self, job_id: UUID | str) -> Steps[Answer[AttemptList]]:
        return self._call(_ATTEMPTS, "GET", f"/jobs/{_id(job_id)}/attempts")

    def why(self, job_id: UUID | str) -> Steps[Answer[WhyView]]:
        return self._call(_WHY, "GET", f"/jobs/{_id(job_id)}/why")

    def cancel(self, job_id: UUID | str) -> Steps[Answer[Job]]:
        return self._call(_JOB, "POST", f"/jobs/{_id(job_id)}/cancel", repeatable=False)

    def retry(self, job_id: UUID | str) -> Steps[Answer[Job]]:
        return self._call(_JOB, "POST", f"/jobs/{_id(job_id)}/retry", repeatable=False)

    def act(
        self,
        action: Literal["cancel", "retry", "delete"],
        filters: Filters,
        ids: Iterable[UUID | str] | None = None,
        *,
        limit: int = 1_000,
        cursor: str | None = None,
        dry_run: bool = False,
    ) -> Steps[Answer[ActionView]]:
        said = {name: value for name, value in _said(filters) if value is not None}
        body: dict[str, Any] = {"action": action, "limit": limit, "cursor": cursor, "dry_run": dry_run}
        if ids is not None:
            body["ids"] = [_id(job_id) for job_id in ids]
        if said or ids is None:
            body["filter"] = said
        try:
            typed = msgspec.convert(body, ActionBody)
        except msgspec.ValidationError as error:
            raise invalid(error, "$") from None
        # Its selection may take as long as any other request, and the change comes after it.
        seconds = self._seconds + ACTION_SECONDS
        return self._call(
            _ACTED,
            "POST",
            "/jobs/actions",
            body=_encode(typed),
            seconds=seconds,
            repeatable=dry_run,
            in_steps=not dry_run,
        )

    def watch(self, job_id: UUID | str | None, filters: EventFilters, last_event_id: str | None) -> Watching:
        """Not a conversation of one answer: whoever does the I/O feeds it what comes."""
        path = "/events" if job_id is None else f"/jobs/{_id(job_id)}/events"
        if job_id is not None and filters:
            raise TypeError("the events of one job have no filters")
        return Watching(
            self._shown_url,
            path,
            tuple(_query(filters)),
            last_event_id=last_event_id,
            repeats=self.repeats,
            backoff=self.backoff_seconds,
            clock=self.clock,
        )

    # dead letters

    def replay(self, body: ReplayBody) -> Steps[Answer[ReplayedView]]:
        return self._call(
            _REPLAYED,
            "POST",
            "/dlq/replay",
            body=_encode(body),
            repeatable=body.dry_run,
            in_steps=not body.dry_run,
        )

    def groups(self, *, type: str | None, queue: str | None, limit: int) -> Steps[Answer[FailedGroupList]]:  # noqa: A002
        query = [("limit", str(limit))]
        query += [(name, value) for name, value in (("type", type), ("queue", queue)) if value is not None]
        return self._call(_GROUPS, "GET", "/dlq/groups", query=tuple(query))

    def delete(self, job_id: UUID | str) -> Steps[None]:
        yield from self._perform(
            Request(method="DELETE", path=f"/dlq/{_id(job_id)}", seconds=self._seconds, repeatable=False)
        )

    def purge(self, selection: Selection) -> Steps[Answer[DeletedView]]:
        dry_run = selection.get("dry_run", False)
        query = tuple(_query(selection))
        return self._call(_DELETED, "DELETE", "/dlq", query=query, repeatable=dry_run, in_steps=not dry_run)

    # queues, workers, the whole

    def queues(self) -> Steps[Answer[QueueList]]:
        return self._call(_QUEUES, "GET", "/queues")

    def pause(self, queue: str) -> Steps[Answer[QueueView]]:
        return self._call(_QUEUE, "POST", f"/queues/{_name(queue)}/pause")

    def resume(self, queue: str) -> Steps[Answer[QueueView]]:
        return self._call(_QUEUE, "POST", f"/queues/{_name(queue)}/resume")

    def workers(self) -> Steps[Answer[WorkerList]]:
        return self._call(_WORKERS, "GET", "/workers")

    def types(self) -> Steps[Answer[TypeList]]:
        return self._call(_TYPES, "GET", "/types")

    def stats(self) -> Steps[Answer[StatsView]]:
        return self._call(_STATS, "GET", "/admin/stats")

    def activity(self, minutes: int) -> Steps[Answer[ActivityView]]:
        return self._call(_ACTIVITY, "GET", "/admin/activity", query=(("minutes", str(minutes)),))

    def audit(self, limit: int, cursor: str | None = None) -> Steps[Answer[Actions]]:
        query = (("limit", str(limit)), *(() if cursor is None else (("cursor", cursor),)))
        return self._call(_ACTIONS, "GET", "/audit", query=query)

    def health(self) -> Steps[Answer[Readiness]]:
        return self._call(_READINESS, "GET", "/health/ready", answers=(HTTPStatus.SERVICE_UNAVAILABLE,))

    # one request, and when to repeat it

    def _call(
        self,
        decoder: msgspec.json.Decoder[T],
        method: str,
        path: str,
        *,
        query: tuple[tuple[str, str], ...] = (),
        body: bytes | None = None,
        seconds: float | None = None,
        repeatable: bool = True,
        in_steps: bool = False,
        answers: tuple[int, ...] = (),
    ) -> Steps[Answer[T]]:
        response = yield from self._perform(
            Request(
                method=method,
                path=path,
                query=query,
                body=body,
                seconds=self._seconds if seconds is None else seconds,
                repeatable=repeatable,
                in_steps=in_steps,
                answers=answers,
            )
        )
        try:
            return Answer(decoder.decode(response.body), response.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ServerUnreachable(f"What answers at {self._shown_url} is not this jobserver: {error}.") from None

    def _perform(self, request: Request) -> Steps[Response]:
        repeat = 0
        while True:
            outcome = yield request
            assert outcome is not None
            if isinstance(outcome, Response) and (outcome.status < 300 or outcome.status in request.answers):
                return outcome
            pause = self._pause_before_repeat(request, outcome, repeat)
            if repeat < self.repeats and pause is not None:
                yield Pause(pause)
                repeat += 1
            elif isinstance(outcome, Lost):
                raise ServerUnreachable(f"No answer from {self._shown_url}: {outcome.reason}.")
            else:
                raise RequestRefused(outcome.status, problem_of(outcome))

    def _pause_before_repeat(self, request: Request, outcome: Response | Lost, repeat: int) -> float | None:
        """Seconds, or None where repeating is not safe or does not help."""
        backoff = self.backoff_seconds(repeat)
        if isinstance(outcome, Lost):
            return backoff if request.repeatable or not outcome.sent else None
        if outcome.status in TURNED_AWAY:
            if request.in_steps and not none_is_done(outcome):
                # A repeat would choose others: more than its limit, together.
                return None
            asked = asked_seconds(outcome)
            # The jitter comes on top: those who were sent away together must not come back together.
            return None if asked > RETRY_AFTER_CAP_SECONDS else asked + backoff
        # From a gateway: the server behind it may have done it all the same.
        gateway = outcome.status in GATEWAYS
        return backoff if gateway and request.repeatable else None

    def backoff_seconds(self, repeat: int) -> float:
        """How long to wait before the repeat of this number, from 0; with jitter."""
        return min(BACKOFF_CAP_SECONDS, BACKOFF_FIRST_SECONDS * 2.0**repeat) * (0.5 + self._jitter() / 2)


_encode: Final = msgspec.json.Encoder().encode

_JOB: Final = msgspec.json.Decoder(Job)
_PAGE: Final = msgspec.json.Decoder(Page)
_BATCH: Final = msgspec.json.Decoder(BatchView)
_ATTEMPTS: Final = msgspec.json.Decoder(AttemptList)
_ACTED: Final = msgspec.json.Decoder(ActionView)
_GROUPS: Final = msgspec.json.Decoder(FailedGroupList)
_REPLAYED: Final = msgspec.json.Decoder(ReplayedView)
_DELETED: Final = msgspec.json.Decoder(DeletedView)
_QUEUES: Final = msgspec.json.Decoder(QueueList)
_QUEUE: Final = msgspec.json.Decoder(QueueView)
_WORKERS: Final = msgspec.json.Decoder(WorkerList)
_TYPES: Final = msgspec.json.Decoder(TypeList)
_STATS: Final = msgspec.json.Decoder(StatsView)
_WHY: Final = msgspec.json.Decoder(WhyView)
_ACTIVITY: Final = msgspec.json.Decoder(ActivityView)
_ACTIONS: Final = msgspec.json.Decoder(Actions)
_READINESS: Final = msgspec.json.Decoder(Readiness)

_NAME: Final = re.compile(NAME_PATTERN)
_BATCH_PATH: Final = re.compile(r"\$\.jobs\[(\d+)\]")


def _new_key() -> str:
    return uuid.uuid4().hex


def _requested(request: JobRequest | str, payload: Any, options: JobOptions) -> JobRequest:
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if isinstance(request, str):
        return JobRequest(type=request, payload=payload, **given)
    if payload is not None:
        raise TypeError("a JobRequest has its payload already")
    return msgspec.structs.replace(request, **given)


def _chunks(bodies: Iterable[SubmitBody]) -> Iterator[builtins.list[SubmitBody]]:
    chunk: list[SubmitBody] = []
    size = 0
    for body in bodies:
        weight = len(_encode(body)) + 1
        if chunk and (len(chunk) == MAX_BATCH or size + weight > BATCH_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(body)
        size += weight
    if chunk:
        yield chunk


def _shifted(refused: RequestRefused, stored: int) -> RequestRefused:
    """The refusal of a later chunk, its paths as in the caller's own list."""
    if not stored:
        return refused

    def shift(text: str) -> str:
        return _BATCH_PATH.sub(lambda found: f"$.jobs[{int(found[1]) + stored}]", text)

    problem = refused.problem
    errors = problem.errors
    if errors is not msgspec.UNSET:
        errors = [ProblemError(shift(error.path), error.message) for error in errors]
    return RequestRefused(refused.status, msgspec.structs.replace(problem, detail=shift(problem.detail), errors=errors))


def _id(job_id: UUID | str) -> str:
    """An id as the path carries it. What is no id never reaches the server, where it would name another path."""
    try:
        return str(job_id if isinstance(job_id, UUID) else UUID(job_id))
    except (ValueError, AttributeError, TypeError):
        detail = f"There is no job {job_id!a}: its id would be a UUID."
        raise RequestRefused(404, Problem(title="Not Found", status=404, detail=detail)) from None


def _name(queue: str) -> str:
    if _NAME.match(queue) is None:
        raise Invalid("$.path.name", f"Expected a queue's name, got {queue!a}")
    return queue


def _said(filters: Filters) -> Iterator[tuple[str, Any]]:
    """A filter as a body says it."""
    for name, value in filters.items():
        if name == "status" and isinstance(value, str):
            yield name, [value]
        elif name == "status" and isinstance(value, Iterable):
            yield name, list(value)
        else:
            yield name, value


def _query(fields: Filters | DeadFilters | Selection | EventFilters) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if value is None or value is False:
            continue
        if value is True:
            yield name, "true"
        elif isinstance(value, datetime):
            yield name, value.isoformat()
        elif isinstance(value, str):
            yield name, str(value)
        elif isinstance(value, Iterable):
            yield from ((name, str(each)) for each in value)
        else:
            raise TypeError(f"{name} cannot be {value!r}")
