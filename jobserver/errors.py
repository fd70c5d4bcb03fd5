"""Every exception that leaves a public function of jobserver.

JobserverError
├── ConfigurationError        a setting, a URL, a handler: the process cannot start (exit code 2)
├── Unavailable               an engine does not answer, or a queue in memory is full: repeat later
│   ├── DatabaseUnavailable
│   ├── StreamUnavailable
│   └── Overloaded
│       └── BacklogFull       more jobs wait than --max-waiting permits
├── Refused                   a request that is well-formed and still not done
│   ├── NotFound
│   ├── Conflict              the state of the job does not permit it
│   ├── KeyReused             an idempotency key came back with another body
│   ├── Unauthorized          no API key, or one that is not valid
│   ├── Forbidden             the scope of the API key does not permit it
│   ├── Foreign               a browser sent its session, and does not say that a page of ours asked it to
│   ├── RateLimited           more submits than --rate-limit permits
│   └── Invalid               a value is not acceptable; names its path
└── Signal                    raised by handlers to say how an attempt ends
    ├── Retry                 again, after this many seconds (costs a retry)
    ├── NotRetryable          failed at once
    ├── Snooze                again, after this many seconds (costs no attempt)
    └── Cancel                canceled

Two more trees stand beside what raises them: the client's (`client/`) and that of guarded calls (`egress.py`).
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


class BacklogFull(Overloaded):
    """More jobs wait than the server was told to let wait."""

    retry_after_seconds = 5


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


class Unauthorized(Refused):
    """No API key came along, or one that is unknown, revoked or expired: ``presented`` says which of the two."""

    def __init__(self, message: str, *, presented: bool) -> None:
        super().__init__(message)
        self.presented = presented


class Forbidden(Refused):
    """The API key is valid, and its scope does not permit the call; ``needed`` does."""

    def __init__(self, message: str, needed: str) -> None:
        super().__init__(message)
        self.needed = needed


class Foreign(Refused):
    """A browser sent the session of its user, and nothing says that a page of this server asked it to."""


class RateLimited(Refused):
    """The quota of a caller is used up; there is more after ``retry_after_seconds``."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Invalid(Refused):
    """A value is not acceptable. ``path`` is a JSON path such as ``$.delay``."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


class Signal(JobserverError):
    """Raised by a handler to say how its attempt ends."""


class Retry(Signal):
    """Run again ``after`` seconds from now, or after the usual backoff, but no sooner than ``at_least`` seconds from
    now. Costs a retry."""

    def __init__(self, message: str = "retry requested", *, after: float | None = None, at_least: float = 0.0) -> None:
        super().__init__(message)
        if after is not None and not 0 <= after <= 31_536_000:
            raise ValueError("after must be between 0 and 31536000 seconds")
        if not 0 <= at_least <= 31_536_000:
            raise ValueError("at_least must be between 0 and 31536000 seconds")
        self.after = after
        self.at_least = at_least


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
