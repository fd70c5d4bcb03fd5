"""Every setting of a server process, in one frozen struct.

Built once at the edge (`cli/serve.py`, or by a test) and passed down; nothing here reads the environment.
Field names are the option names of `jobserver serve`; durations are seconds unless the name says otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from jobserver.errors import ConfigurationError

YEAR_SECONDS: Final = 31_536_000.0
DAY_SECONDS: Final = 86_400.0
MEBIBYTE: Final = 1_048_576
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one server process needs to know. See the README's table for the meaning of each."""

    # Where to listen and what to run
    handlers: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    http: bool = True
    processes: int = 1
    workers: int = 64
    queues: tuple[str, ...] | None = None
    accept_unknown_types: bool = False
    allow_anonymous: bool = False
    allow_private_targets: bool = False

    # Engines
    database_url: str | None = None
    redis_url: str | None = None
    redis_prefix: str = "jobserver"
    data_dir: Path = Path(".jobserver")
    migrate: bool = True
    pool_size: int = 8

    # The life of a job
    lease_seconds: float = 15.0
    max_loop_block: float = 60.0
    drain_seconds: float = 30.0
    max_retries: int = 3
    backoff_base: float = 2.0
    backoff_cap: float = 60.0
    timeout: float = 60.0
    max_crashes: int = 3
    thread_grace: float = 30.0
    threads: int = 32
    process_pool: int = 2

    # Keeping
    retention: float = 7 * DAY_SECONDS
    retention_failed: float = 30 * DAY_SECONDS
    idempotency_ttl: float = DAY_SECONDS
    max_payload_bytes: int = MEBIBYTE
    max_result_bytes: int = MEBIBYTE

    # Logs
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigurationError(f"{option(name)} must be between {low:g} and {high:g}, not {value:g}.")
        if (self.database_url is None) != (self.redis_url is None):
            given, missing = ("--database-url", "--redis-url")
            if self.database_url is None:
                given, missing = missing, given
            raise ConfigurationError(
                f"{given} was given without {missing}: give both, or neither for the embedded engines."
            )
        if self.processes > 1 and (self.database_url or "sqlite").startswith("sqlite"):
            raise ConfigurationError(f"--processes {self.processes} needs PostgreSQL: SQLite is for one process.")
        if not self.http and self.workers == 0:
            raise ConfigurationError("--no-http together with --workers 0 leaves nothing to do.")
        if self.http and self.host not in LOOPBACK_HOSTS and not self.allow_anonymous:
            raise ConfigurationError(
                f"Everything is open to whoever reaches {self.host}: listen on 127.0.0.1, "
                "or say --allow-anonymous if that is meant."
            )

    @property
    def embedded(self) -> bool:
        """Whether this process starts its own engines in the data folder."""
        return self.database_url is None


_RANGES: Final[tuple[tuple[str, float, float], ...]] = (
    ("port", 0, 65_535),
    ("processes", 1, 64),
    ("workers", 0, 10_000),
    ("pool_size", 2, 100),
    ("lease_seconds", 1, 3_600),
    ("max_loop_block", 1, 3_600),
    ("drain_seconds", 0, DAY_SECONDS),
    ("max_retries", 0, 100),
    ("backoff_base", 1, 100),
    ("backoff_cap", 0, DAY_SECONDS),
    ("timeout", 0.001, DAY_SECONDS),
    ("max_crashes", 1, 100),
    ("thread_grace", 0, DAY_SECONDS),
    ("threads", 1, 1_000),
    ("process_pool", 1, 256),
    ("retention", 0, 100 * YEAR_SECONDS),
    ("retention_failed", 0, 100 * YEAR_SECONDS),
    ("idempotency_ttl", 1, YEAR_SECONDS),
    ("max_payload_bytes", 64, 64 * MEBIBYTE),
    ("max_result_bytes", 64, 64 * MEBIBYTE),
)


def option(field: str) -> str:
    """The command line's spelling of a field, for messages."""
    return "--" + field.replace("_", "-")
