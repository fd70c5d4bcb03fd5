"""jobserver: submit stores it, the stream delivers it, a consumer executes it, finish decides."""

from jobserver.errors import (
    Cancel,
    ConfigurationError,
    JobserverError,
    NotRetryable,
    Retry,
    Snooze,
)

__version__ = "0.1.0"

__all__ = [
    "Cancel",
    "ConfigurationError",
    "JobserverError",
    "NotRetryable",
    "Retry",
    "Snooze",
    "__version__",
]
