"""jobserver: submit stores it, the stream delivers it, a consumer executes it, finish decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobserver.errors import (
    Cancel,
    ConfigurationError,
    Invalid,
    JobserverError,
    NotRetryable,
    Retry,
    Snooze,
)

if TYPE_CHECKING:  # imported on use, below: a program that only declares handlers needs no HTTP client
    from jobserver.client import (
        Client,
        ClientError,
        JobFailed,
        NotFinished,
        RequestRefused,
        ServerUnreachable,
        SyncClient,
    )
    from jobserver.job.attempt import Attempt
    from jobserver.job.handlers import Handlers, JobRequest

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "Cancel",
    "Client",
    "ClientError",
    "ConfigurationError",
    "Handlers",
    "Invalid",
    "JobFailed",
    "JobRequest",
    "JobserverError",
    "NotFinished",
    "NotRetryable",
    "RequestRefused",
    "Retry",
    "ServerUnreachable",
    "Snooze",
    "SyncClient",
    "__version__",
]

_ON_USE = {
    "Attempt": "jobserver.job.attempt",
    "Client": "jobserver.client",
    "ClientError": "jobserver.client",
    "Handlers": "jobserver.job.handlers",
    "JobFailed": "jobserver.client",
    "JobRequest": "jobserver.job.handlers",
    "NotFinished": "jobserver.client",
    "RequestRefused": "jobserver.client",
    "ServerUnreachable": "jobserver.client",
    "SyncClient": "jobserver.client",
}


def __getattr__(name: str) -> Any:
    module = _ON_USE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # here, like what it imports: on use

    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
