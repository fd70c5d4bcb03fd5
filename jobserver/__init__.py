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
        DeletedEvent,
        JobEvent,
        JobFailed,
        NotFinished,
        ProgressEvent,
        RequestRefused,
        ResetEvent,
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
    "DeletedEvent",
    "Handlers",
    "Invalid",
    "JobEvent",
    "JobFailed",
    "JobRequest",
    "JobserverError",
    "NotFinished",
    "NotRetryable",
    "ProgressEvent",
    "RequestRefused",
    "ResetEvent",
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
    "DeletedEvent": "jobserver.client",
    "Handlers": "jobserver.job.handlers",
    "JobEvent": "jobserver.client",
    "JobFailed": "jobserver.client",
    "JobRequest": "jobserver.job.handlers",
    "NotFinished": "jobserver.client",
    "ProgressEvent": "jobserver.client",
    "RequestRefused": "jobserver.client",
    "ResetEvent": "jobserver.client",
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
