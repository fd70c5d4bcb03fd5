"""Every setting of a server process, in one frozen struct.

Built once at the edge (`cli/serve.py`, or by a test) and passed down; nothing here reads the environment.
Field names are the option names of `jobserver serve`; durations are seconds unless the name says otherwise.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Final, Literal

import msgspec

from jobserver.access import quota_of
from jobserver.errors import ConfigurationError

YEAR_SECONDS: Final = 31_536_000.0
DAY_SECONDS: Final = 86_400.0
MEBIBYTE: Final = 1_048_576
_ORIGIN: Final = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", re.ASCII)
TRACE_ID: Final = "{trace_id}"
MAX_URL: Final = 2_048
# After the host: what need not be escaped in a URL, and the braces of the id. No user, no password.
_TEMPLATE: Final = re.compile(
    r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?/([!#$%&'()*+,./:;=?@_~0-9a-z-]|\{trace_id\})*",
    re.ASCII | re.IGNORECASE,
)


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

    # Who may call, and how often
    cors_origins: tuple[str, ...] | None = None
    trusted_proxies: tuple[str, ...] | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    rate_limit: str | None = None
    max_waiting: int | None = None
    trace_url_template: str | None = None

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
    callback_retries: int = 16
    thread_grace: float = 30.0
    threads: int = 32
    process_pool: int = 2

    # Keeping
    retention: float = 7 * DAY_SECONDS
    retention_failed: float = 30 * DAY_SECONDS
    retention_audit: float = 90 * DAY_SECONDS
    idempotency_ttl: float = DAY_SECONDS
    max_payload_bytes: int = MEBIBYTE
    max_result_bytes: int = MEBIBYTE
    events_max: int = 100_000

    # Logs
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
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
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigurationError("--tls-certificate and --tls-key are given together, or neither of them.")
        for origin in self.cors_origins or ():
            if _ORIGIN.fullmatch(origin) is None:
                raise ConfigurationError(
                    f"--cors-origins {origin!a} is no origin: write it as a browser does, such as https://example.com."
                )
        for proxy in self.trusted_proxies or ():
            _check_proxy(proxy)
        if self.rate_limit is not None:
            quota_of(self.rate_limit)
        if self.trace_url_template is not None:
            _check_template(self.trace_url_template)

    @property
    def beyond_loopback(self) -> bool:
        """Whether others than this machine can reach the server, and nobody said that it may be open to them."""
        return self.http and not self.on_loopback and not self.allow_anonymous

    @property
    def on_loopback(self) -> bool:
        """Whether the host is of this machine alone: all of 127.0.0.0/8, ::1, localhost."""
        return is_loopback(self.host)

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
    ("callback_retries", 0, 100),
    ("thread_grace", 0, DAY_SECONDS),
    ("threads", 1, 1_000),
    ("process_pool", 1, 256),
    ("retention", 0, 100 * YEAR_SECONDS),
    ("retention_failed", 0, 100 * YEAR_SECONDS),
    ("retention_audit", 0, 100 * YEAR_SECONDS),
    ("max_waiting", 1, 1_000_000_000),
    ("idempotency_ttl", 1, YEAR_SECONDS),
    ("max_payload_bytes", 64, 64 * MEBIBYTE),
    ("max_result_bytes", 64, 64 * MEBIBYTE),
    ("events_max", 0, 10_000_000),
)


def _check_proxy(proxy: str) -> None:
    """Raises ConfigurationError for what is no address or network, and for everybody: whom would that not trust?"""
    try:
        network = ipaddress.ip_network(proxy)
    except ValueError:
        raise ConfigurationError(
            f"--trusted-proxies {proxy!a} is no address or network: write 10.0.0.1 or 10.0.0.0/8."
        ) from None
    if network.prefixlen == 0:
        raise ConfigurationError(f"--trusted-proxies {proxy} trusts everybody: name the proxies.")


def _check_template(template: str) -> None:
    """Raises ConfigurationError unless a browser can follow it to a trace, with an id of hex digits put in."""
    if len(template) > MAX_URL or _TEMPLATE.fullmatch(template) is None or template.count(TRACE_ID) != 1:
        raise ConfigurationError(
            f"--trace-url-template {template[:100]!a} leads to no trace: write a URL with {TRACE_ID} in its path, "
            f"such as http://localhost:16686/trace/{TRACE_ID}."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name but localhost may lead anywhere."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def option(field: str) -> str:
    """The command line's spelling of a field, for messages."""
    return "--" + field.replace("_", "-")
