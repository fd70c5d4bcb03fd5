"""The client for code on an event loop."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar
from uuid import UUID

import httpx

from jobserver.client.calls import Calls
from jobserver.client.exchange import Lost, Pause, Request, Response, Steps
from jobserver.client.http import (
    DEFAULT_URL,
    LIMITS,
    PAGE,
    arguments_of,
    in_time,
    late,
    lost,
    options_of,
    proxies_checked,
    response_of,
    result_of,
    stream_arguments_of,
)
from jobserver.client.views import Action, DeadFilters, EventFilters, Filters, Job, Selection
from jobserver.client.watching import Event
from jobserver.job.handlers import JobOptions, JobRequest
from jobserver.job.wire import (
    ActionView,
    ActivityView,
    AttemptView,
    BatchItem,
    FailedGroupView,
    QueueView,
    Readiness,
    ReplayBody,
    ReplayedView,
    StatsView,
    TypeView,
    WhyView,
    WorkerView,
)

if TYPE_CHECKING:  # 3.11 has it, and only checkers read it
    from typing import Unpack

T = TypeVar("T")


class Client:
    """`async with Client(url) as client:` talks to a server. Works without the `async with` too; `close` it then.

    `timeout` is the seconds that one request may take, `retries` how often it is repeated after a refused
    connection, a lost answer, a 429 or a 503, whose Retry-After is heeded. `transport` is another way to the
    server than TCP, such as `httpx.AsyncHTTPTransport(uds=...)`. Every verb raises ServerUnreachable and
    RequestRefused.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = 10.0,
        retries: int = 5,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        options = options_of(url, api_key)
        self.calls: Final = Calls(options.shown_url, seconds=timeout, repeats=retries)
        if transport is None and options.on_loopback:
            # With a transport of its own httpx reads no proxies: none is on the way to this machine itself.
            transport = httpx.AsyncHTTPTransport(verify=options.verify, limits=LIMITS)
        with proxies_checked():
            self._http = httpx.AsyncClient(
                base_url=options.base_url,
                verify=options.verify,
                limits=LIMITS,
                auth=options.authorize,
                transport=transport,
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
        return in_time((await self.run(self.calls.wait(job_id, timeout))).value, timeout)

    async def result(self, job_id: UUID | str, timeout: float | None = 60.0) -> Any:
        """What the job's handler returned. Raises JobFailed, and NotFinished after `timeout` seconds."""
        return result_of(await self.wait(job_id, timeout))

    def list(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> AsyncIterator[Job]:
        """Jobs, newest first, page by page as they are asked for.

        Filters: status (one or several), type, queue, tag, created_after, created_before, q (a part of the payload),
        error (one of the last error), fingerprint. What no index answers comes in pages of two seconds.
        """
        return self._pages(filters, limit, dead=False)

    async def watch(
        self,
        job_id: UUID | str | None = None,
        *,
        last_event_id: str | None = None,
        **filters: Unpack[EventFilters],
    ) -> AsyncIterator[Event]:
        """Events as they happen: of one job from its present state to its end, or of all until you stop.

        Filters, where no job is named: type, queue, status (one or several). A broken connection is resumed
        after the last event; a `ResetEvent` says that some were left out.
        """
        watching = self.calls.watch(job_id, filters, last_event_id)
        while not watching.is_over():
            request = watching.request()
            outcome: Response | Lost
            try:
                async with self._http.stream(**stream_arguments_of(request)) as response:
                    if watching.is_opened_by(response.status_code, response.headers.get("content-type", "")):
                        async for data in response.aiter_bytes():
                            for event in watching.feed(data):
                                yield event
                            if watching.is_over():
                                return
                        outcome = Lost("the stream ended", sent=True)
                    else:
                        await response.aread()
                        outcome = response_of(response)
            except httpx.RequestError as error:
                outcome = lost(error, request)
            if not watching.is_over():
                await asyncio.sleep(watching.pause(outcome))

    async def attempts(self, job_id: UUID | str) -> builtins.list[AttemptView]:
        """The runs of a job, oldest first."""
        return (await self.run(self.calls.attempts(job_id))).value.items

    async def why(self, job_id: UUID | str) -> WhyView:
        """Why the job waits, runs or has ended as it has: reasons with figures and hints, the most important first."""
        return (await self.run(self.calls.why(job_id))).value

    async def cancel(self, job_id: UUID | str) -> Job:
        """Cancel a job. One that runs is asked to end, and still `running` in the answer."""
        return (await self.run(self.calls.cancel(job_id))).value

    async def retry(self, job_id: UUID | str) -> Job:
        """Queue a failed or canceled job again."""
        return (await self.run(self.calls.retry(job_id))).value

    async def act(
        self,
        action: Literal["cancel", "retry", "delete"],
        ids: Iterable[UUID | str] | None = None,
        *,
        limit: int = 1_000,
        cursor: str | None = None,
        dry_run: bool = False,
        **filters: Unpack[Filters],
    ) -> ActionView:
        """Cancel, queue again or delete many jobs: those of `ids`, or those of a filter, newest first.

        Filters as those of `list`. Jobs in a status that the action does not permit, or that the filter does not name
        any more, are left alone. `dry_run=True` changes nothing. Not all were looked at if the answer is `partial`:
        its `next_cursor` as `cursor` goes on.
        """
        calls = self.calls.act(action, filters, ids, limit=limit, cursor=cursor, dry_run=dry_run)
        return (await self.run(calls)).value

    def dlq(self, *, limit: int | None = None, **filters: Unpack[DeadFilters]) -> AsyncIterator[Job]:
        """Failed jobs, the most recently failed first. Filters as those of `list`, without status."""
        return self._pages(filters, limit, dead=True)

    async def groups(
        self,
        *,
        type: str | None = None,  # noqa: A002
        queue: str | None = None,
        limit: int = 20,
    ) -> builtins.list[FailedGroupView]:
        """Failed jobs by type and by what their errors have in common, the most recently failed first."""
        return (await self.run(self.calls.groups(type=type, queue=queue, limit=limit))).value.items

    async def replay(
        self, ids: Iterable[UUID] | None = None, *, limit: int = 1_000, **selection: Unpack[Selection]
    ) -> ReplayedView:
        """Queue failed jobs again: those of `ids`, of a type, queue or fingerprint, or `all=True`.

        `dry_run=True` only counts.
        """
        body = ReplayBody(ids=None if ids is None else tuple(ids), limit=limit, **selection)
        return (await self.run(self.calls.replay(body))).value

    async def delete(self, job_id: UUID | str) -> None:
        """Delete a failed job and its history."""
        await self.run(self.calls.delete(job_id))

    async def purge(self, **selection: Unpack[Selection]) -> int:
        """Delete failed jobs of a type, queue or fingerprint, or `all=True`. How many; `dry_run=True` only counts."""
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

    async def activity(self, *, minutes: int = 15) -> ActivityView:
        """What happened in the last minutes (1 to 60), in buckets of five seconds, and the rates of the queues."""
        return (await self.run(self.calls.activity(minutes))).value

    async def audit(self, *, limit: int | None = None) -> AsyncIterator[Action]:
        """The audit log, newest first, page by page: who replayed, deleted, paused. For keys with the scope admin."""
        left = limit
        cursor: str | None = None
        while left is None or left > 0:
            page = (await self.run(self.calls.audit(PAGE if left is None else min(PAGE, left), cursor))).value
            for action in islice(page.items, left):
                yield action
            cursor = page.next_cursor
            if cursor is None:
                return
            left = None if left is None else left - len(page.items)

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
                return response_of(await self._http.request(**arguments_of(request)))
        except httpx.RequestError as error:
            return lost(error, request)
        except TimeoutError:
            return late(request)
