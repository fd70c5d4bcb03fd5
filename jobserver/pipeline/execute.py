"""Run one attempt and turn whatever happens into an Outcome.

An `async def` runs as a task, a plain `def` in a thread, and with `executor="process"`, or when the job has
crashed a process before, either runs in a child process. Nothing that a handler does harms the server.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, Self

import msgspec

from jobserver.errors import Invalid, Signal
from jobserver.job.attempt import CURRENT, Attempt, log_fields
from jobserver.job.handlers import Handler, Handlers
from jobserver.job.model import CALLBACK, Canceled, Claimed, HandedBack, Outcome, Progress, Raised, Returned
from jobserver.pipeline.outcomes import raised, returned, unreadable_payload
from jobserver.pipeline.processes import ChildOptions, Children
from jobserver.pipeline.running import CancelReason, Running, timeout
from jobserver.pipeline.threads import Threads

logger = logging.getLogger(__name__)

# A cancelled task needs some turns of the loop for its cleanup, even where threads are given no grace at all.
_LEAST_TASK_GRACE_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 2.0
_VERDICT_SECONDS: Final = 0.05
_FAULT_DELAY_SECONDS: Final = 1.0

AnyHandler = Handler[..., ..., Any]

Ended = Callable[[Outcome], object]


class ExecutorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`references` ("module:attribute", one's own first) are what child processes import their handlers from.

    Without them everything runs in this process. `child_setup` names a function that a child calls first.
    """

    threads: int
    processes: int
    # For jobs that have crashed a process before.
    isolated: int = 1
    thread_grace_seconds: float
    max_result_bytes: int
    references: tuple[str, ...] = ()
    child_setup: str | None = None
    child_setup_arguments: dict[str, Any] = {}


class Spans(Protocol):
    """Puts an attempt's span into the context of its task; `tracer` is for handlers."""

    @property
    def tracer(self) -> Any: ...
    def enter(self, job: Claimed) -> Any: ...


class Executor:
    """Runs attempts. An async context manager that owns threads and children; lives on one event loop."""

    def __init__(
        self,
        handlers: Handlers,
        options: ExecutorOptions,
        *,
        report_progress: Callable[[Claimed, Progress], None],
        on_abandoned: Callable[[Claimed], None] = lambda job: None,
        spans: Spans | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handlers = handlers
        self._options = options
        self._report_progress = report_progress
        self._on_abandoned = on_abandoned
        self._spans = spans
        self._clock = clock
        self._threads = Threads(options.threads)
        self._children: Children | None = None
        if options.references:
            child = ChildOptions(
                references=options.references,
                max_result_bytes=options.max_result_bytes,
                setup=options.child_setup,
                setup_arguments=options.child_setup_arguments,
            )
            self._children = Children(child, options.processes, options.isolated)
        # Every attempt's task; also of those that were given up, and go on.
        self._tasks: dict[asyncio.Task[None], Running] = {}
        # Handlers that have just begun, and whose time is not limited yet.
        self._unarmed: list[Running] = []
        self._closing = False
        self._task_grace_seconds = max(options.thread_grace_seconds, _LEAST_TASK_GRACE_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Within seconds: what still runs is cancelled, children end; threads that still run end with the process."""
        self._closing = True
        self._threads.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)
        if self._children is not None:
            await self._children.close()

    @property
    def child_pids(self) -> list[int]:
        """The child processes that live."""
        return [] if self._children is None else self._children.pids()

    def job_of(self, task: asyncio.Task[Any]) -> Claimed | None:
        """The job whose attempt this task is. May be asked from any thread."""
        running = self._tasks.get(task)
        return None if running is None else running.job

    async def run(self, running: Running) -> Outcome:
        """Run the attempt to its end and say what it comes to. A caller that is cancelled takes the attempt along."""
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def end(outcome: Outcome) -> None:
            if not ended.done():
                ended.set_result(outcome)

        task = self.start(running, end)
        try:
            return await ended
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait((task,), timeout=_CLOSE_SECONDS)
            # One that was cancelled before its first step has not done so itself.
            self._tasks.pop(task, None)
            raise

    def start(self, running: Running, ended: Ended) -> asyncio.Task[None]:
        """Run the attempt in a task of its own. `ended` hears once what it comes to, unless the executor is closed.

        After `running.cancel(LEASE_REFUSED)` the outcome means nothing.
        """
        handler = self._handlers.get(running.job.type)
        if handler is not None and handler.is_async and not self._wants_child(running, handler):
            body = self._attempt_here(running, handler, ended)
        else:
            body = self._attempt(running, handler, ended)
        task = asyncio.get_running_loop().create_task(body, name=running.job.type)
        running.task = task
        self._tasks[task] = running
        return task

    def _wants_child(self, running: Running, handler: AnyHandler) -> bool:
        """A suspect may take its process with it: then only its own child."""
        if self._children is None:
            return False
        if running.job.crashes > 0:
            # A callback is ours: it takes nothing with it, and the secrets that sign it are here.
            return handler.type != CALLBACK
        return handler.execution == "process"

    # An attempt in its own task, on this loop: most are, so each step and each call less is felt.

    async def _attempt_here(self, running: Running, handler: AnyHandler, ended: Ended) -> None:
        if running.is_stopping() or running.lease_is_over():
            # So rarely that it need not be cheap.
            outcome = await self._not_begun(running)
            if outcome is not None:
                self._end(running, ended, outcome)
                return
        task = running.task
        loop = asyncio.get_running_loop()
        running.begin(
            loop,
            grace_seconds=self._task_grace_seconds,
            on_given_up=functools.partial(self._give_up, running, ended),
            stop=None if task is None else task.cancel,
        )
        if not self._unarmed:
            loop.call_soon(self._arm)
        self._unarmed.append(running)
        try:
            CURRENT.set(running.job)
            if self._spans is not None:
                running.span = self._spans.enter(running.job)
            arguments = self._arguments(running, handler, None)
            if isinstance(arguments, Raised):
                outcome = arguments
            else:
                outcome = returned(await handler.function(**arguments), self._options.max_result_bytes)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and not loop.is_running():
                raise  # the loop was closed around us
            # SystemExit and KeyboardInterrupt too: out of a task they would stop the event loop, and the server.
            outcome = _failed(running, error)
        finally:
            self._forget(running)
        self._end(running, ended, outcome)

    async def _not_begun(self, running: Running) -> Outcome | None:
        """What becomes of a job that was asked to end before it began, or whose lease may be over; None: it begins.

        After a hang of the loop the job may run elsewhere by now: the next heartbeat keeps its lease, or refuses it.
        """
        try:
            # Asked again and again: so rare that an event for each job is too dear.
            while running.lease_is_over() and not running.is_stopping():  # noqa: ASYNC110
                await asyncio.sleep(_VERDICT_SECONDS)
        except BaseException:
            self._forget(running)
            raise
        if not running.is_stopping():
            return None
        self._forget(running)
        return running.stopped() or HandedBack()

    def _forget(self, running: Running) -> None:
        if running.task is not None:
            self._tasks.pop(running.task, None)
            running.task = None

    def _arm(self) -> None:
        """After the first step of each handler that has begun: those that go on get their timers."""
        unarmed, self._unarmed = self._unarmed, []
        for running in unarmed:
            running.arm()

    def _give_up(self, running: Running, ended: Ended) -> None:
        """The handler does not end: decide without it. Its task goes on, and what comes out of it is discarded."""
        if not running.over:
            self._end(running, ended, self._abandon(running))

    def _end(self, running: Running, ended: Ended, outcome: Outcome) -> None:
        if running.over or self._closing:
            return  # it was given up before, or nobody is there any more
        running.close()
        if running.requested is CancelReason.REQUESTED and not isinstance(outcome, Returned | Canceled):
            outcome = Canceled("cancel requested")
        ended(outcome)

    # An attempt elsewhere: in a thread, in a child, or not at all.

    async def _attempt(self, running: Running, handler: AnyHandler | None, ended: Ended) -> None:
        """The body of its task."""
        try:
            outcome = await self._outcome(running, handler)
        except Exception:
            # No thread to be had, or a fault of ours: the job is not to blame.
            logger.exception("attempt_not_run", extra=log_fields(running.job))
            outcome = HandedBack(delay_seconds=_FAULT_DELAY_SECONDS)
        finally:
            self._forget(running)
        self._end(running, ended, outcome)

    async def _outcome(self, running: Running, handler: AnyHandler | None) -> Outcome:
        if self._spans is not None:
            running.span = self._spans.enter(running.job)
        if handler is None:
            return HandedBack(delay_seconds=_unhandled_delay(running.job))
        outcome = await self._not_begun(running)
        if outcome is not None:
            return outcome
        if self._children is not None and self._wants_child(running, handler):
            report = functools.partial(self._report, running)
            return await self._children.run(running, report) or running.stopped() or HandedBack()
        return await self._run_in_thread(running, handler)

    # In a thread.

    async def _run_in_thread(self, running: Running, handler: AnyHandler) -> Outcome:
        job = running.job
        loop = asyncio.get_running_loop()
        if not await self._threads.acquire(running):
            return running.stopped() or HandedBack()
        latest = _Latest(loop, functools.partial(self._report, running))
        function = functools.partial(contextvars.copy_context().run, self._call_in_thread, running, handler, latest)
        ended: asyncio.Future[Outcome | None] = loop.create_future()

        def end(outcome: Outcome | None) -> None:
            if not ended.done():
                ended.set_result(outcome)

        call = self._threads.start(function, end, f"job {job.type} {job.id}")
        # The clock begins here: waiting for a thread costs nothing of the timeout.
        running.begin(loop, grace_seconds=self._options.thread_grace_seconds, on_given_up=lambda: end(None))
        running.arm()
        try:
            outcome = await ended
        except asyncio.CancelledError:
            self._threads.abandon(call)
            raise
        if outcome is None:
            self._threads.abandon(call)
            return self._abandon(running)
        return outcome

    def _call_in_thread(self, running: Running, handler: AnyHandler, latest: _Latest) -> Outcome:
        try:
            CURRENT.set(running.job)
            arguments = self._arguments(running, handler, latest.put)
            if isinstance(arguments, Raised):
                return arguments
            outcome = returned(handler.function(**arguments), self._options.max_result_bytes)
        except BaseException as error:
            return _failed(running, error)
        # It was not interrupted, so that it returns at all says nothing: it ran too long.
        return timeout(running.job) if running.timed_out else outcome

    # Either way.

    def _arguments(
        self, running: Running, handler: AnyHandler, report: Callable[[Progress], None] | None
    ) -> dict[str, Any] | Raised:
        """The handler's keyword arguments, or what becomes of a payload that does not fit them.

        `report` takes progress; None: on the event loop, at once.
        """
        job = running.job
        try:
            arguments = handler.decode(job.payload)
        except Invalid as error:
            return unreadable_payload(error)
        if handler.attempt_parameter is not None:
            arguments[handler.attempt_parameter] = Attempt(
                job,
                report=report or functools.partial(self._report, running),
                cancel_requested=running.is_stopping,
                clock=self._clock,
                deadline=self._clock() + job.timeout_seconds,
                span=running.span,
                tracer=None if self._spans is None else self._spans.tracer,
            )
        return arguments

    def _report(self, running: Running, progress: Progress) -> None:
        # What an abandoned handler says is of interest to nobody: the job may run elsewhere by now.
        if not running.over:
            self._report_progress(running.job, progress)

    def _abandon(self, running: Running) -> Outcome:
        """The handler does not end: decide without it."""
        self._on_abandoned(running.job)
        return running.stopped() or timeout(running.job)


def _failed(running: Running, error: BaseException) -> Outcome:
    """What a handler says by a Signal counts even after it was asked to stop; any other exception does not.

    A CancelledError that nobody asked for is the handler's own failure.
    """
    if isinstance(error, Signal):
        return raised(error)
    return running.stopped() or raised(error)


class _Latest:
    """Carries a thread's progress to the loop. Only the latest matters, so nothing can queue up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, report: Callable[[Progress], None]) -> None:
        self._loop = loop
        self._report = report
        self._lock = threading.Lock()
        self._progress: Progress | None = None

    def put(self, progress: Progress) -> None:
        """From the thread."""
        with self._lock:
            under_way = self._progress is not None
            self._progress = progress
        if under_way:
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            return  # the loop is closed: an abandoned thread talks on

    def _deliver(self) -> None:
        with self._lock:
            progress, self._progress = self._progress, None
        if progress is not None:
            self._report(progress)


def _unhandled_delay(job: Claimed) -> float:
    """Seconds until another process may try a type that is not handled here: 1, growing to 30.

    By the claims so far, which the fence counts by two: a job that is old because it waited long is no harder
    to place than a new one.
    """
    return float(min(30.0, 1.2 ** min((job.fence - 1) / 2, 20)))
