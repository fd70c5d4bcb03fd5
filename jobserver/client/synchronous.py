"""The same client for code without an event loop."""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterable, Iterator
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


class SyncClient:
    """`with SyncClient(url) as client:` the verbs of Client, for code without an event loop. Thread-safe."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = 10.0,
        retries: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        options = options_of(url, api_key)
        self.calls: Final = Calls(options.shown_url, seconds=timeout, repeats=retries)
        if transport is None and options.on_loopback:
            # With a transport of its own httpx reads no proxies: none is on the way to this machine itself.
            transport = httpx.HTTPTransport(verify=options.verify, limits=LIMITS)
        with proxies_checked():
            self._http = httpx.Client(
                base_url=options.base_url,
                verify=options.verify,
                limits=LIMITS,
                auth=options.authorize,
                transport=transport,
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
        return in_time(self.run(self.calls.wait(job_id, timeout)).value, timeout)

    def result(self, job_id: UUID | str, timeout: float | None = 60.0) -> Any:
        """See Client.result."""
        return result_of(self.wait(job_id, timeout))

    def list(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> Iterator[Job]:
        """See Client.list."""
        return self._pages(filters, limit, dead=False)

    def watch(
        self,
        job_id: UUID | str | None = None,
        *,
        last_event_id: str | None = None,
        **filters: Unpack[EventFilters],
    ) -> Iterator[Event]:
        """See Client.watch."""
        watching = self.calls.watch(job_id, filters, last_event_id)
        while not watching.is_over():
            request = watching.request()
            outcome: Response | Lost
            try:
                with self._http.stream(**stream_arguments_of(request)) as response:
                    if watching.is_opened_by(response.status_code, response.headers.get("content-type", "")):
                        for data in response.iter_bytes():
                            yield from watching.feed(data)
                            if watching.is_over():
                                return
                        outcome = Lost("the stream ended", sent=True)
                    else:
                        response.read()
                        outcome = response_of(response)
            except httpx.RequestError as error:
                outcome = lost(error, request)
            if not watching.is_over():
                time.sleep(watching.pause(outcome))

    def attempts(self, job_id: UUID | str) -> builtins.list[AttemptView]:
        return self.run(self.calls.attempts(job_id)).value.items

    def why(self, job_id: UUID | str) -> WhyView:
        """Why the job waits, runs or has ended as it has: reasons with figures and hints, the most important first."""
        return self.run(self.calls.why(job_id)).value

    def cancel(self, job_id: UUID | str) -> Job:
        """See Client.cancel."""
        return self.run(self.calls.cancel(job_id)).value

    def retry(self, job_id: UUID | str) -> Job:
        return self.run(self.calls.retry(job_id)).value

    def act(
        self,
        action: Literal["cancel", "retry", "delete"],
        ids: Iterable[UUID | str] | None = None,
        *,
        limit: int = 1_000,
        cursor: str | None = None,
        dry_run: bool = False,
        **filters: Unpack[Filters],
    ) -> ActionView:
        """See Client.act."""
        calls = self.calls.act(action, filters, ids, limit=limit, cursor=cursor, dry_run=dry_run)
        return self.run(calls).value

    def dlq(self, *, limit: int | None = None, **filters: Unpack[DeadFilters]) -> Iterator[Job]:
        """See Client.dlq."""
        return self._pages(filters, limit, dead=True)

    def groups(
        self,
        *,
        type: str | None = None,  # noqa: A002
        queue: str | None = None,
        limit: int = 20,
    ) -> builtins.list[FailedGroupView]:
        """See Client.groups."""
        return self.run(self.calls.groups(type=type, queue=queue, limit=limit)).value.items

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

    def activity(self, *, minutes: int = 15) -> ActivityView:
        """What happened in the last minutes (1 to 60), in buckets of five seconds, and the rates of the queues."""
        return self.run(self.calls.activity(minutes)).value

    def audit(self, *, limit: int | None = None) -> Iterator[Action]:
        """See Client.audit."""
        left = limit
        cursor: str | None = None
        while left is None or left > 0:
            page = (self.run(self.calls.audit(PAGE if left is None else min(PAGE, left), cursor))).value
            yield from islice(page.items, left)
            cursor = page.next_cursor
            if cursor is None:
                return
            left = None if left is None else left - len(page.items)

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
            return response_of(self._http.request(**arguments_of(request)))
        except httpx.RequestError as error:
            return lost(error, request)
