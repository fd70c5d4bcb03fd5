"""One attempt under way: its clock, and who asked it to stop and why. Lives on the event loop.

Whoever runs the attempt says how to stop it; a handler that does not end after that is given up after a grace.
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Callable
from typing import Any, Final

import msgspec

from jobserver.job.model import Canceled, Claimed, HandedBack, Outcome, Raised, bounded_error

# A process that is about to exit does not wait longer for a handler that was told to stop.
SHUTDOWN_GRACE_SECONDS: Final = 2.0


class CancelReason(enum.IntEnum):
    """Why an attempt should end early. When there are several, the highest counts."""

    SHUTDOWN = 1  # the job is handed back
    REQUESTED = 2  # by a user: the job is canceled, unless the handler returns first
    LEASE_REFUSED = 3  # it is not ours any more: whatever comes out is to be discarded


_EVENTS: Final = {
    CancelReason.SHUTDOWN: "shutdown",
    CancelReason.REQUESTED: "cancel request",
    CancelReason.LEASE_REFUSED: "lease lost",
}


class Running:
    """An attempt from its claim to its outcome. `cancel` may be called at any time, and more than once."""

    __slots__ = (
        "_begun",
        "_grace_seconds",
        "_loop",
        "_on_given_up",
        "_stop",
        "_timer",
        "job",
        "lease_is_over",
        "over",
        "requested",
        "span",
        "started",
        "task",
        "timed_out",
    )

    def __init__(self, job: Claimed) -> None:
        self.job = job
        self.requested: CancelReason | None = None
        self.timed_out = False
        self.started = False
        self.over = False
        # What runs it, once it was begun.
        self.task: asyncio.Task[None] | None = None
        # The attempt in the job's trace, where that is recorded.
        self.span: Any = None
        # Whether the lease may have ended, as far as this process knows.
        self.lease_is_over: Callable[[], bool] = _never
        self._begun = 0.0
        self._on_given_up: Callable[[], object] | None = None
        self._stop: Callable[[], object] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._grace_seconds = math.inf

    def cancel(self, reason: CancelReason) -> None:
        """Ask the attempt to end. What it ends in is for `Executor.run` to say."""
        if reason is not CancelReason.SHUTDOWN or not self.timed_out:
            first = not self.is_stopping()
            if self.requested is None or reason > self.requested:
                self.requested = reason
                self._tell(_EVENTS[reason])
            if first:
                self._ask()
        if reason is CancelReason.SHUTDOWN and math.isfinite(self._grace_seconds):
            self._give_up_after(self._grace())

    def time_out(self) -> None:
        """The attempt has used up its time."""
        if not self.is_stopping():
            self.timed_out = True
            self._tell("timeout")
            self._ask()

    def is_stopping(self) -> bool:
        """Whether the attempt was asked to end."""
        return self.timed_out or self.requested is not None

    def stopped(self) -> Outcome | None:
        """What the attempt comes to because it was asked to end; None when it was not."""
        if self.requested is CancelReason.REQUESTED:
            return Canceled("cancel requested")
        if self.requested is not None:
            return HandedBack()
        return timeout(self.job) if self.timed_out else None

    def stop_with(self, stop: Callable[[], object] | None) -> None:
        """How to ask: called once, and only after this."""
        self._stop = stop

    def job_in_trace(self) -> Claimed:
        """The job as another process gets it: what that does hangs below this attempt."""
        context = self.job.trace_context
        if self.span is None or context is None:
            return self.job
        parent = f"{context[:36]}{self.span.get_span_context().span_id:016x}{context[52:]}"
        return msgspec.structs.replace(self.job, trace_context=parent)

    def begin(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        grace_seconds: float,
        on_given_up: Callable[[], object],
        stop: Callable[[], object] | None = None,
    ) -> None:
        """The handler starts now, and so does its clock; `arm` must follow soon, unless it has ended by then.

        `on_given_up` hears that it did not end within its grace. An infinite grace: it is never given up. `stop` is
        how to ask it to end.
        """
        self._stop = stop
        self.started = True
        self._loop = loop
        self._grace_seconds = grace_seconds
        self._on_given_up = on_given_up
        self._begun = loop.time()

    def arm(self) -> None:
        """Set the timer of a handler that has begun. Most have ended by then, and timers are dear."""
        if self._loop is None or self._timer is not None or self.over:
            return
        self._timer = self._loop.call_at(self._begun + self.job.timeout_seconds, self.time_out)
        if self.is_stopping():
            # It was asked to end before there was a timer.
            self._give_up_after(self._grace())

    def close(self) -> None:
        """The attempt is over, however it ended."""
        self.over = True
        # Each leads back to this: what holds itself waits for the garbage collector, a fifth of a drain's time.
        self._stop = None
        self._on_given_up = None
        self.lease_is_over = _never
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self, event: str) -> None:
        if self.span is not None:
            self.span.add_event(event)

    def _ask(self) -> None:
        if self._stop is not None:
            self._stop()
        self._give_up_after(self._grace_seconds)

    def _grace(self) -> float:
        shutdown = self.requested is CancelReason.SHUTDOWN and math.isfinite(self._grace_seconds)
        return min(self._grace_seconds, SHUTDOWN_GRACE_SECONDS) if shutdown else self._grace_seconds

    def _give_up_after(self, seconds: float) -> None:
        if self._loop is None or self._timer is None:
            return
        self._timer.cancel()
        if math.isfinite(seconds) and self._on_given_up is not None:
            self._timer = self._loop.call_later(seconds, self._on_given_up)


def _never() -> bool:
    return False


def timeout(job: Claimed) -> Raised:
    """What a job that ran too long comes to."""
    return Raised(bounded_error("Timeout", f"ran longer than {job.timeout_seconds:g} s"))
