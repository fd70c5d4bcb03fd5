"""The HTTP client, async and sync, with the same verbs.

`Calls` knows what to send, when to repeat it and what the answer means, and does no I/O; `Client` and
`SyncClient` only carry its requests out. A submit always has an idempotency key, so repeating it is safe.

    JobserverError
    └── ClientError
        ├── ServerUnreachable     no answer, or none that a jobserver gives
        ├── RequestRefused        answered with a problem: its status, title, detail and errors
        ├── JobFailed             the result of a job that failed or was canceled
        └── NotFinished           the job has not ended in time; a TimeoutError too
"""

from __future__ import annotations

import asyncio
import builtins
import math
import random
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from datetime import datetime
from http import HTTPStatus
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypedDict, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec

from jobserver.errors import ConfigurationError, Invalid, JobserverError
from jobserver.job.handlers import JobOptions, JobRequest
from jobserver.job.model import TERMINAL, JobError, Status
from jobserver.job.wire import (
    MAX_BATCH,
    MAX_WAIT_SECONDS,
    NAME_PATTERN,
    AttemptList,
    AttemptView,
    BatchBody,
    BatchItem,
    BatchView,
    DeletedView,
    JobView,
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
    TypeView,
    WorkerList,
    WorkerView,
)

if TYPE_CHECKING:  # 3.11 has it, and only checkers read it
    from typing import Unpack

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8000"
# Under the server's limit of 32 MiB for a batch, the brackets and commas included.
BATCH_BYTES: Final = 30 * 1_048_576
PAGE: Final = 100
BACKOFF_FIRST_SECONDS: Final = 0.1
BACKOFF_CAP_SECONDS: Final = 5.0
# A server that asks for more patience than this is told as refusing.
RETRY_AFTER_CAP_SECONDS: Final = 30.0
WAIT_AGAIN_SECONDS: Final = 0.2
CONNECT_SECONDS: Final = 5.0
# uvicorn closes an idle connection after 5 s: ours must be gone before, or a request meets the closing.
KEEPALIVE_SECONDS: Final = 2.0
MAX_DETAIL: Final = 500


class ClientError(JobserverError):
    """The root of the tree above."""


class ServerUnreachable(ClientError):
    """No answer, or none that a jobserver gives, after all repeats. A submit may still have been stored."""


class RequestRefused(ClientError):
    """The server answered with a problem."""

    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(problem.detail or problem.title)
        self.status = status
        self.problem = problem


class JobFailed(ClientError):
    """The job failed, or was canceled; `error` is what its last failed attempt raised, if one did."""

    def __init__(self, job: Job) -> None:
        error = job.error
        said = "" if error is None else f": {error.type}: {error.message}"
        super().__init__(f"The job {job.id} {'was canceled' if job.status is Status.CANCELED else 'failed'}{said}")
        self.job = job
        self.error: JobError | None = error


class NotFinished(ClientError, TimeoutError):
    """The job has not ended in time. It goes on."""

    def __init__(self, job: Job, seconds: float) -> None:
        super().__init__(f"The job {job.id} is still {job.status} after {seconds:g} s")
        self.job = job


class Job(JobView, frozen=True, kw_only=True):
    """A job as the server showed it, payload and result decoded."""

    payload: Any
    result: Any

    @property
    def ended(self) -> bool:
        """Whether it is completed, failed or canceled."""
        return self.status in TERMINAL


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a list of jobs."""

    items: builtins.list[Job]
    total: int
    total_capped: bool
    limit: int
    offset: int
    next_cursor: str | None


class Filters(TypedDict, total=False):
    """Which jobs a list shows. Times need a zone."""

    status: Status | str | Iterable[Status | str] | None
    type: str | None
    queue: str | None
    tag: str | None
    created_after: datetime | str | None
    created_before: datetime | str | None


class DeadFilters(TypedDict, total=False):
    """Which failed jobs a list shows. Times need a zone."""

    type: str | None
    queue: str | None
    tag: str | None
    created_after: datetime | str | None
    created_before: datetime | str | None


class Selection(TypedDict, total=False):
    """Which failed jobs a command is about; `all=True` says that no filter is meant."""

    type: str | None
    queue: str | None
    all: bool
    dry_run: bool


# What is exchanged with whoever does the I/O.


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Send this. `seconds` is how long the whole exchange may take."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    seconds: float
    # Repeating it changes nothing: it may be sent again even where the first one may have arrived.
    repeatable: bool = True
    # Statuses beside 2xx whose body is an answer and not a problem.
    answers: tuple[int, ...] = ()


class Pause(msgspec.Struct, frozen=True):
    """Wait this long."""

    seconds: float


class Response(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    body: bytes
    retry_after: str | None = None


class Lost(msgspec.Struct, frozen=True):
    """Nothing came back. `sent` is whether the request may have arrived."""

    reason: str
    sent: bool


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """A decoded answer, and the bytes of which it was made."""

    value: T
    body: bytes


# A conversation: yields what to do next, is sent what came of it, returns its result.
Steps = Generator[Request | Pause, Response | Lost | None, T]


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
        self._repeats = repeats
        self._jitter = jitter
        self._clock = clock

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
                answer = yield from self._call(_BATCH, "POST", "/jobs/batch", body=_encode(BatchBody(chunk)))
            except RequestRefused as refused:
                raise _shifted(refused, len(items)) from None
            items += answer.value.jobs
        return items

    def get(self, job_id: UUID | str, wait_seconds: float = 0.0) -> Steps[Answer[Job]]:
        query = (("wait", f"{wait_seconds:.3f}"),) if wait_seconds > 0 else ()
        return self._call(_JOB, "GET", f"/jobs/{_id(job_id)}", query=query, seconds=self._seconds + wait_seconds)

    def wait(self, job_id: UUID | str, within_seconds: float | None) -> Steps[Answer[Job]]:
        """The job, as soon as it has ended; else as it is after that time. None: as long as it takes."""
        deadline = math.inf if within_seconds is None else self._clock() + within_seconds
        while True:
            answer = yield from self.get(job_id, max(0.0, min(deadline - self._clock(), MAX_WAIT_SECONDS)))
            if answer.value.ended or self._clock() >= deadline:
                return answer
            # A server that stops answers before the time is over.
            yield Pause(min(WAIT_AGAIN_SECONDS, deadline - self._clock()))

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

    def cancel(self, job_id: UUID | str) -> Steps[Answer[Job]]:
        return self._call(_JOB, "POST", f"/jobs/{_id(job_id)}/cancel", repeatable=False)

    def retry(self, job_id: UUID | str) -> Steps[Answer[Job]]:
        return self._call(_JOB, "POST", f"/jobs/{_id(job_id)}/retry", repeatable=False)

    # dead letters

    def replay(self, body: ReplayBody) -> Steps[Answer[ReplayedView]]:
        return self._call(_REPLAYED, "POST", "/dlq/replay", body=_encode(body), repeatable=body.dry_run)

    def delete(self, job_id: UUID | str) -> Steps[None]:
        yield from self._perform(
            Request(method="DELETE", path=f"/dlq/{_id(job_id)}", seconds=self._seconds, repeatable=False)
        )

    def purge(self, selection: Selection) -> Steps[Answer[DeletedView]]:
        return self._call(
            _DELETED, "DELETE", "/dlq", query=tuple(_query(selection)), repeatable=selection.get("dry_run", False)
        )

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
            if repeat < self._repeats and pause is not None:
                yield Pause(pause)
                repeat += 1
            elif isinstance(outcome, Lost):
                raise ServerUnreachable(f"No answer from {self._shown_url}: {outcome.reason}.")
            else:
                raise RequestRefused(outcome.status, _problem(outcome))

    def _pause_before_repeat(self, request: Request, outcome: Response | Lost, repeat: int) -> float | None:
        """Seconds, or None where repeating is not safe or does not help."""
        backoff = min(BACKOFF_CAP_SECONDS, BACKOFF_FIRST_SECONDS * 2.0**repeat) * (0.5 + self._jitter() / 2)
        if isinstance(outcome, Lost):
            return backoff if request.repeatable or not outcome.sent else None
        if outcome.status == HTTPStatus.SERVICE_UNAVAILABLE:
            asked = _seconds(outcome.retry_after)
            # The jitter comes on top: those who were sent away together must not come back together.
            return None if asked > RETRY_AFTER_CAP_SECONDS else asked + backoff
        # From a gateway: the server behind it may have done it all the same.
        gateway = outcome.status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)
        return backoff if gateway and request.repeatable else None


_encode: Final = msgspec.json.Encoder().encode

_JOB: Final = msgspec.json.Decoder(Job)
_PAGE: Final = msgspec.json.Decoder(Page)
_BATCH: Final = msgspec.json.Decoder(BatchView)
_ATTEMPTS: Final = msgspec.json.Decoder(AttemptList)
_REPLAYED: Final = msgspec.json.Decoder(ReplayedView)
_DELETED: Final = msgspec.json.Decoder(DeletedView)
_QUEUES: Final = msgspec.json.Decoder(QueueList)
_QUEUE: Final = msgspec.json.Decoder(QueueView)
_WORKERS: Final = msgspec.json.Decoder(WorkerList)
_TYPES: Final = msgspec.json.Decoder(TypeList)
_STATS: Final = msgspec.json.Decoder(StatsView)
_READINESS: Final = msgspec.json.Decoder(Readiness)
_PROBLEM: Final = msgspec.json.Decoder(Problem)

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


def _query(fields: Filters | DeadFilters | Selection) -> Iterator[tuple[str, str]]:
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


def _seconds(retry_after: str | None) -> float:
    """Retry-After in seconds; its other form, a date, is by a clock that is not ours."""
    return float(retry_after) if retry_after is not None and re.fullmatch(r"\d{1,9}", retry_after) else 0.0


def _problem(response: Response) -> Problem:
    """The problem of a refusal; one made up from the status where a proxy answered, or something else."""
    try:
        return _PROBLEM.decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = response.body[: MAX_DETAIL * 4].decode("utf-8", "replace").strip()[:MAX_DETAIL]
    try:
        title = HTTPStatus(response.status).phrase
    except ValueError:
        title = "Error"
    return Problem(title=title, status=response.status, detail=f"{response.status} {title}: {text}" if text else title)


# The two clients: they carry requests out, and nothing else.


class _Options(msgspec.Struct, frozen=True):
    """What httpx is made with."""

    base_url: str
    shown_url: str
    mounts: dict[str, None]
    verify: bool


def _options(url: str) -> _Options:
    try:
        urlsplit(url)  # sees through brackets that httpx takes for a host
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigurationError(f"The server's URL {url!a} is not readable: {error}.") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError(f"The server's URL {url!a} should look like {DEFAULT_URL}.")
    return _Options(
        base_url=url,
        shown_url=str(parsed.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/"),
        # A proxy of the environment is not on the way to this machine itself.
        mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")},
        # Reading the certificates takes 30 ms, and http needs none.
        verify=parsed.scheme == "https",
    )


_LIMITS: Final = httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS)
_UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_JSON: Final = {"content-type": "application/json"}


def _arguments(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.path,
        "params": request.query or None,
        "content": request.body,
        "headers": None if request.body is None else _JSON,
        "timeout": httpx.Timeout(request.seconds, connect=min(request.seconds, CONNECT_SECONDS)),
    }


def _response(response: httpx.Response) -> Response:
    return Response(response.status_code, response.content, response.headers.get("retry-after"))


def _lost(error: httpx.RequestError, request: Request) -> Lost:
    if isinstance(error, httpx.TimeoutException):
        return _late(request, sent=not isinstance(error, _UNSENT))
    return Lost((str(error) or type(error).__name__).rstrip("."), not isinstance(error, _UNSENT))


def _late(request: Request, *, sent: bool = True) -> Lost:
    return Lost(f"none within {request.seconds:g} s", sent)


def _in_time(job: Job, within_seconds: float | None) -> Job:
    if not job.ended:
        raise NotFinished(job, within_seconds or 0.0)
    return job


def _result(job: Job) -> Any:
    if job.status is not Status.COMPLETED:
        raise JobFailed(job)
    return job.result


class Client:
    """`async with Client(url) as client:` talks to a server. Works without the `async with` too; `close` it then.

    `timeout` is the seconds that one request may take, `retries` how often it is repeated after a refused
    connection, a lost answer or a 503. Every verb raises ServerUnreachable and RequestRefused.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout: float = 10.0, retries: int = 5) -> None:
        options = _options(url)
        self.calls: Final = Calls(options.shown_url, seconds=timeout, repeats=retries)
        self._http = httpx.AsyncClient(
            base_url=options.base_url, mounts=options.mounts, verify=options.verify, limits=_LIMITS
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def submit(
        self,
        request: JobRequest | str,
        payload: Any = None,
        *,
        key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Submit a job: `handler.job(...)`, or a type and its payload. Known `key`: the job that has it.

        Options: queue, priority, delay, run_at, max_retries, timeout, expires_at, tags. Raises Invalid for
        values that no server would take.
        """
        return (await self.run(self.calls.submit(request, payload, key, options))).value

    async def submit_many(
        self, requests: Iterable[JobRequest], *, keys: Iterable[str] | None = None
    ) -> builtins.list[BatchItem]:
        """Submit any number of jobs; each thousand is stored together or not at all. Answers in order."""
        return await self.run(self.calls.submit_many(requests, keys))

    async def get(self, job_id: UUID | str) -> Job:
        return (await self.run(self.calls.get(job_id))).value

    async def wait(self, job_id: UUID | str, timeout: float | None = 60.0) -> Job:
        """The job once it has ended, however. Raises NotFinished after `timeout` seconds; None: no limit."""
        return _in_time((await self.run(self.calls.wait(job_id, timeout))).value, timeout)

    async def result(self, job_id: UUID | str, timeout: float | None = 60.0) -> Any:
        """What the job's handler returned. Raises JobFailed, and NotFinished after `timeout` seconds."""
        return _result(await self.wait(job_id, timeout))

    def list(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> AsyncIterator[Job]:
        """Jobs, newest first, page by page as they are asked for.

        Filters: status (one or several), type, queue, tag, created_after, created_before.
        """
        return self._pages(filters, limit, dead=False)

    async def attempts(self, job_id: UUID | str) -> builtins.list[AttemptView]:
        """The runs of a job, oldest first."""
        return (await self.run(self.calls.attempts(job_id))).value.items

    async def cancel(self, job_id: UUID | str) -> Job:
        """Cancel a job. One that runs is asked to end, and still `running` in the answer."""
        return (await self.run(self.calls.cancel(job_id))).value

    async def retry(self, job_id: UUID | str) -> Job:
        """Queue a failed or canceled job again."""
        return (await self.run(self.calls.retry(job_id))).value

    def dlq(self, *, limit: int | None = None, **filters: Unpack[DeadFilters]) -> AsyncIterator[Job]:
        """Failed jobs, the most recently failed first. Filters as those of `list`, without status."""
        return self._pages(filters, limit, dead=True)

    async def replay(
        self, ids: Iterable[UUID] | None = None, *, limit: int = 1_000, **selection: Unpack[Selection]
    ) -> ReplayedView:
        """Queue failed jobs again: those of `ids`, of a type or queue, or `all=True`. `dry_run=True` only counts."""
        body = ReplayBody(ids=None if ids is None else tuple(ids), limit=limit, **selection)
        return (await self.run(self.calls.replay(body))).value

    async def delete(self, job_id: UUID | str) -> None:
        """Delete a failed job and its history."""
        await self.run(self.calls.delete(job_id))

    async def purge(self, **selection: Unpack[Selection]) -> int:
        """Delete failed jobs of a type or queue, or `all=True`. How many; `dry_run=True` only counts."""
        return (await self.run(self.calls.purge(selection))).value.deleted

    async def queues(self) -> builtins.list[QueueView]:
        return (await self.run(self.calls.queues())).value.items

    async def pause(self, queue: str) -> QueueView:
        """Start no more jobs of this queue, on any process."""
        return (await self.run(self.calls.pause(queue))).value

    async def resume(self, queue: str) -> QueueView:
        return (await self.run(self.calls.resume(queue))).value

    async def workers(self) -> builtins.list[WorkerView]:
        return (await self.run(self.calls.workers())).value.items

    async def types(self) -> builtins.list[TypeView]:
        return (await self.run(self.calls.types())).value.items

    async def stats(self) -> StatsView:
        return (await self.run(self.calls.stats())).value

    async def health(self) -> Readiness:
        """Whether the server is ready. Does not raise when it says that it is not."""
        return (await self.run(self.calls.health())).value

    async def _pages(self, filters: Filters | DeadFilters, limit: int | None, *, dead: bool) -> AsyncIterator[Job]:
        left = limit
        cursor: str | None = None
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = (await self.run(self.calls.page(filters, limit=size, cursor=cursor, dead=dead))).value
            for job in islice(page.items, left):
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return
            left = None if left is None else left - len(page.items)

    async def run(self, steps: Steps[T]) -> T:
        """Carry a conversation of `calls` out."""
        outcome: Response | Lost | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                found: T = done.value
                return found
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                outcome = None
            else:
                outcome = await self._send(step)

    async def _send(self, request: Request) -> Response | Lost:
        try:
            # httpx limits each read; this limits all of them together.
            async with asyncio.timeout(request.seconds):
                return _response(await self._http.request(**_arguments(request)))
        except httpx.RequestError as error:
            return _lost(error, request)
        except TimeoutError:
            return _late(request)


class SyncClient:
    """`with SyncClient(url) as client:` the verbs of Client, for code without an event loop. Thread-safe."""

    def __init__(self, url: str = DEFAULT_URL, *, timeout: float = 10.0, retries: int = 5) -> None:
        options = _options(url)
        self.calls: Final = Calls(options.shown_url, seconds=timeout, repeats=retries)
        self._http = httpx.Client(
            base_url=options.base_url, mounts=options.mounts, verify=options.verify, limits=_LIMITS
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(
        self,
        request: JobRequest | str,
        payload: Any = None,
        *,
        key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """See Client.submit."""
        return self.run(self.calls.submit(request, payload, key, options)).value

    def submit_many(
        self, requests: Iterable[JobRequest], *, keys: Iterable[str] | None = None
    ) -> builtins.list[BatchItem]:
        """See Client.submit_many."""
        return self.run(self.calls.submit_many(requests, keys))

    def get(self, job_id: UUID | str) -> Job:
        return self.run(self.calls.get(job_id)).value

    def wait(self, job_id: UUID | str, timeout: float | None = 60.0) -> Job:
        """See Client.wait."""
        return _in_time(self.run(self.calls.wait(job_id, timeout)).value, timeout)

    def result(self, job_id: UUID | str, timeout: float | None = 60.0) -> Any:
        """See Client.result."""
        return _result(self.wait(job_id, timeout))

    def list(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> Iterator[Job]:
        """See Client.list."""
        return self._pages(filters, limit, dead=False)

    def attempts(self, job_id: UUID | str) -> builtins.list[AttemptView]:
        return self.run(self.calls.attempts(job_id)).value.items

    def cancel(self, job_id: UUID | str) -> Job:
        """See Client.cancel."""
        return self.run(self.calls.cancel(job_id)).value

    def retry(self, job_id: UUID | str) -> Job:
        return self.run(self.calls.retry(job_id)).value

    def dlq(self, *, limit: int | None = None, **filters: Unpack[DeadFilters]) -> Iterator[Job]:
        """See Client.dlq."""
        return self._pages(filters, limit, dead=True)

    def replay(
        self, ids: Iterable[UUID] | None = None, *, limit: int = 1_000, **selection: Unpack[Selection]
    ) -> ReplayedView:
        """See Client.replay."""
        body = ReplayBody(ids=None if ids is None else tuple(ids), limit=limit, **selection)
        return self.run(self.calls.replay(body)).value

    def delete(self, job_id: UUID | str) -> None:
        """See Client.delete."""
        self.run(self.calls.delete(job_id))

    def purge(self, **selection: Unpack[Selection]) -> int:
        """See Client.purge."""
        return self.run(self.calls.purge(selection)).value.deleted

    def queues(self) -> builtins.list[QueueView]:
        return self.run(self.calls.queues()).value.items

    def pause(self, queue: str) -> QueueView:
        return self.run(self.calls.pause(queue)).value

    def resume(self, queue: str) -> QueueView:
        return self.run(self.calls.resume(queue)).value

    def workers(self) -> builtins.list[WorkerView]:
        return self.run(self.calls.workers()).value.items

    def types(self) -> builtins.list[TypeView]:
        return self.run(self.calls.types()).value.items

    def stats(self) -> StatsView:
        return self.run(self.calls.stats()).value

    def health(self) -> Readiness:
        """See Client.health."""
        return self.run(self.calls.health()).value

    def _pages(self, filters: Filters | DeadFilters, limit: int | None, *, dead: bool) -> Iterator[Job]:
        left = limit
        cursor: str | None = None
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = self.run(self.calls.page(filters, limit=size, cursor=cursor, dead=dead)).value
            yield from islice(page.items, left)
            cursor = page.next_cursor
            if cursor is None:
                return
            left = None if left is None else left - len(page.items)

    def run(self, steps: Steps[T]) -> T:
        """Carry a conversation of `calls` out."""
        outcome: Response | Lost | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                found: T = done.value
                return found
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                outcome = None
            else:
                outcome = self._send(step)

    def _send(self, request: Request) -> Response | Lost:
        try:
            return _response(self._http.request(**_arguments(request)))
        except httpx.RequestError as error:
            return _lost(error, request)
