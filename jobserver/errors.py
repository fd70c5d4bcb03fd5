"""Every exception that leaves a public function of jobserver.

JobserverError
├── ConfigurationError        a setting, a URL, a handler: the process cannot start (exit code 2)
├── Unavailable               an engine does not answer, or a queue in memory is full: repeat later
│   ├── DatabaseUnavailable
│   ├── StreamUnavailable
│   └── Overloaded
├── Refused                   a request that is well-formed and still not done
│   ├── NotFound
│   ├── Conflict              the state of the job does not permit it
│   ├── KeyReused             an idempotency key came back with another body
│   └── Invalid               a value is not acceptable; names its path
└── Signal                    raised by handlers to say how an attempt ends
    ├── Retry                 again, after this many seconds (costs a retry)
    ├── NotRetryable          failed at once
    ├── Snooze                again, after this many seconds (costs no attempt)
    └── Cancel                canceled

Two more trees stand beside what raises them: the client's (`client.py`) and that of guarded calls (`egress.py`).
"""

from __future__ import annotations


class JobserverError(Exception):
    """The root of the tree above."""


class ConfigurationError(JobserverError):
    """The process cannot start as configured. The message is one sentence for a person."""


class Unavailable(JobserverError):
    """Not acknowledged: the same request may be repeated after ``retry_after_seconds``."""

    retry_after_seconds: int = 1


class DatabaseUnavailable(Unavailable):
    """SQL does not answer, or not in time."""


class StreamUnavailable(Unavailable):
    """Redis does not answer, or not in time."""


class Overloaded(Unavailable):
    """A bounded queue in memory is full."""


class Refused(JobserverError):
    """Well-formed, understood and not done."""


class NotFound(Refused):
    """No such job, queue or type."""


class Conflict(Refused):
    """The state of the job does not permit the transition."""


class KeyReused(Refused):
    """An idempotency key was used before, with another body."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.index = index


class Invalid(Refused):
    """A value is not acceptable. ``path`` is a JSON path such as ``$.delay``."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


class Signal(JobserverError):
    """Raised by a handler to say how its attempt ends."""


class Retry(Signal):
    """Run again ``after`` seconds from now, or after the usual backoff. Costs a retry."""

    def __init__(self, message: str = "retry requested", *, after: float | None = None) -> None:
        super().__init__(message)
        if after is not None and not 0 <= after <= 31_536_000:
            raise ValueError("after must be between 0 and 31536000 seconds")
        self.after = after


class NotRetryable(Signal):
    """Fail at once, whatever retries are left."""


class Snooze(Signal):
    """Run again ``seconds`` from now. Costs no attempt."""

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds <= 31_536_000:
            raise ValueError("seconds must be between 0 and 31536000")
        super().__init__(f"snoozed for {seconds} s")
        self.seconds = seconds


class Cancel(Signal):
    """End the job as canceled."""
