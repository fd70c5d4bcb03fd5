"""One attempt of a handler, run inline: in this task and thread, whatever it declares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, ParamSpec, TypeVar

import msgspec

from jobserver.errors import Invalid, Signal
from jobserver.job.attempt import Attempt
from jobserver.job.handlers import Handler
from jobserver.job.lifecycle import Policy, Transition, decide
from jobserver.job.model import (
    Canceled,
    Claimed,
    JobError,
    LeaseLost,
    Outcome,
    Progress,
    Raised,
    Returned,
    Status,
    bounded_error,
)
from jobserver.pipeline.ids import Ids
from jobserver.pipeline.outcomes import raised, returned, unreadable_payload
from jobserver.settings import Settings

C = ParamSpec("C")
P = ParamSpec("P")
R = TypeVar("R")

DEFAULTS: Final = Settings()
POLICY: Final = Policy(
    backoff_base=DEFAULTS.backoff_base, backoff_cap=DEFAULTS.backoff_cap, max_crashes=DEFAULTS.max_crashes
)
AnyHandler = Handler[..., ..., Any]


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt came to: what the job became, when it would run again, what its handler said meanwhile."""

    status: Status
    result: Any
    error: JobError | None
    delay_seconds: float
    progress: list[Progress]


async def perform(handler: Handler[C, P, R], *args: P.args, **kwargs: P.kwargs) -> Ran:
    """Run a handler once, as the first attempt of a job with these arguments. Raises what `handler.job` raises.

    An exception of the handler is not raised, it is what the attempt came to.
    """
    request = handler.job(*args, **kwargs)
    now = datetime.now(UTC)
    job = Claimed(
        id=Ids(lambda: time.time_ns() // 1_000).next(),
        type=handler.type,
        queue=handler.queue,
        priority=handler.priority,
        payload=msgspec.json.encode(request.payload),
        tags=(),
        fence=1,
        attempt=1,
        retry_count=0,
        max_retries=DEFAULTS.max_retries if handler.max_retries is None else handler.max_retries,
        crashes=0,
        timeout_seconds=DEFAULTS.timeout if handler.timeout_seconds is None else handler.timeout_seconds,
        created_at=now,
        due_at=now,
        started_at=now,
        trace_context=None,
        cancel_requested=False,
    )
    control = Control()
    transition = decide(job, await attempt(handler, job, control), POLICY, 0.0)
    return ran(transition, control.progress)


def ran(transition: Transition, progress: list[Progress]) -> Ran:
    result = None if transition.result is None else msgspec.json.decode(transition.result)
    return Ran(
        status=transition.status,
        result=result,
        error=transition.error,
        delay_seconds=transition.delay_seconds,
        progress=progress,
    )


class Crashed(BaseException):
    """The process is gone, as far as the handler can tell."""


class Control:
    """What is done to an attempt while it runs, and what it said. `at` are percents of progress."""

    def __init__(
        self,
        *,
        crash_at: float | None = None,
        cancel_at: float | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.progress: list[Progress] = []
        self.cancel_requested = False
        self._crash_at = crash_at
        self._cancel_at = cancel_at
        self._on_progress = on_progress
        self._task: asyncio.Task[Any] | None = None

    def cancel(self) -> None:
        """Ask the handler to end, as a user's cancel does."""
        self.cancel_requested = True
        if self._task is not None:
            self._task.cancel()

    def report(self, progress: Progress) -> None:
        self.progress.append(progress)
        self._on_progress(progress)
        if self._cancel_at is not None and progress.percent >= self._cancel_at:
            self._cancel_at = None
            self.cancel()
        if self._crash_at is not None and progress.percent >= self._crash_at:
            raise Crashed

    async def run(self, handler: AnyHandler, arguments: dict[str, Any], seconds: float) -> Any:
        """What the handler returns; raises what it raises, and TimeoutError as `asyncio.timeout` does."""
        value = await self._run(handler, arguments, seconds)
        if self._crash_at is not None:
            raise Crashed
        return value

    async def _run(self, handler: AnyHandler, arguments: dict[str, Any], seconds: float) -> Any:
        if self._cancel_at is not None and self._cancel_at <= 0:
            self.cancel_requested = True
        if not handler.is_async:
            return handler.function(**arguments)
        self._task = asyncio.ensure_future(_guarded(handler, arguments))
        if self.cancel_requested:
            # Once it has begun: a task that was never there has nothing to clean up.
            asyncio.get_running_loop().call_soon(self._task.cancel)
        try:
            async with asyncio.timeout(seconds):
                value, error = await self._task
        finally:
            self._task.cancel()
        if error is not None:
            raise error
        return value


async def _guarded(handler: AnyHandler, arguments: dict[str, Any]) -> tuple[Any, BaseException | None]:
    """What it returned or raised. A task must not raise what is no Exception: that would stop the event loop."""
    try:
        return await handler.function(**arguments), None
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return None, error


async def attempt(handler: AnyHandler, job: Claimed, control: Control) -> Outcome:
    """Run the attempt to its end and say what it comes to."""
    try:
        arguments = handler.decode(job.payload)
    except Invalid as error:
        return unreadable_payload(error)
    began = time.monotonic()
    if handler.attempt_parameter is not None:
        arguments[handler.attempt_parameter] = Attempt(
            job,
            report=control.report,
            cancel_requested=lambda: control.cancel_requested,
            clock=time.monotonic,
            deadline=began + job.timeout_seconds,
        )
    outcome: Outcome
    try:
        outcome = returned(await control.run(handler, arguments, job.timeout_seconds), DEFAULTS.max_result_bytes)
    except Crashed:
        return LeaseLost(bounded_error("LeaseLost", "the process died"))
    except asyncio.CancelledError as error:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        outcome = Canceled("cancel requested") if control.cancel_requested else raised(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome = raised(error)
        if control.cancel_requested and not isinstance(error, Signal):
            outcome = Canceled("cancel requested")
    if time.monotonic() - began >= job.timeout_seconds:
        return Raised(bounded_error("Timeout", f"ran longer than {job.timeout_seconds:g} s"))
    if control.cancel_requested and not isinstance(outcome, Returned | Canceled):
        return Canceled("cancel requested")
    return outcome
