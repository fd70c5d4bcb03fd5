"""The standard OTEL_* variables: what is asked for, read and checked once, at the edge.

Nothing of OpenTelemetry is imported here: without an endpoint there is no SDK in the process, and no cost.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal, TypeVar
from typing import Protocol as TypingProtocol

import msgspec

from jobserver.errors import ConfigurationError

SERVICE: Final = "jobserver"
# Every trace id is below it: the bound of a sampler that takes all.
ALL_TRACES: Final = 1 << 64

GRACE_SECONDS: Final = 5.0
LEAST_SECONDS: Final = 0.5

T = TypeVar("T")
Protocol = Literal["grpc", "http/protobuf"]
Exporter = Literal["otlp", "console"]

# Name: whether the caller's decision counts, and whether the ratio is given by the argument (or the ratio).
_SAMPLERS: Final[dict[str, tuple[bool, float | None]]] = {
    "always_on": (False, 1.0),
    "always_off": (False, 0.0),
    "traceidratio": (False, None),
    "parentbased_always_on": (True, 1.0),
    "parentbased_always_off": (True, 0.0),
    "parentbased_traceidratio": (True, None),
}


class Closing(TypingProtocol):
    def __call__(self, *, within_seconds: float) -> Awaitable[None]: ...


class Grace:
    """The time that a stop has for all that is still to be exported: 5 s together."""

    def __init__(self) -> None:
        self._left_seconds = GRACE_SECONDS

    async def give(self, close: Closing) -> None:
        """What is left; never nothing: a collector that is well needs but a moment, whatever another one took."""
        began = time.monotonic()
        try:
            await close(within_seconds=max(LEAST_SECONDS, self._left_seconds))
        finally:
            self._left_seconds -= time.monotonic() - began


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Which traces are recorded: decided by the caller, or else where the low half of a trace id is below a bound."""

    parent_based: bool = True
    ratio: float = 1.0

    @property
    def bound(self) -> int:
        return round(self.ratio * ALL_TRACES)


class Queueing(msgspec.Struct, frozen=True, kw_only=True):
    """Of finished spans: how many may wait, how many go at once, and how long after one another."""

    most_waiting: int = 2_048
    most_at_once: int = 512
    delay_seconds: float = 5.0


class Otel(msgspec.Struct, frozen=True, kw_only=True):
    """What OpenTelemetry is to do. `traces` None: none are recorded."""

    traces: Exporter | None = None
    metrics: Exporter | None = None
    logs: Exporter | None = None
    protocols: Mapping[str, Protocol] = {}
    service: str = SERVICE
    sampling: Sampling = Sampling()
    queueing: Queueing = Queueing()
    metrics_seconds: float = 60.0


def read_otel(variables: Mapping[str, str]) -> Otel | None:
    """What the variables ask for; None for nothing. Raises ConfigurationError for one that is not understood."""
    given = {name: value.strip() for name, value in variables.items() if name.startswith("OTEL_") and value.strip()}
    if _one_of(given, "OTEL_SDK_DISABLED", {"true": True, "false": False}, "false"):
        return None
    # A push of metrics and logs is asked for outright; traces need no more than a place to go to.
    at = "OTEL_EXPORTER_OTLP_ENDPOINT" in given or "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in given
    traces = _exporter(given, "TRACES", "otlp" if at else "none")
    metrics, logs = (_exporter(given, signal, "none") for signal in ("METRICS", "LOGS"))
    if traces is None and metrics is None and logs is None:
        return None
    _check_attributes(given)
    queueing = Queueing(
        most_waiting=_whole(given, "OTEL_BSP_MAX_QUEUE_SIZE", 2_048, least=1),
        most_at_once=_whole(given, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, least=1),
        delay_seconds=_whole(given, "OTEL_BSP_SCHEDULE_DELAY", 5_000, least=1) / 1_000,
    )
    if queueing.most_at_once > queueing.most_waiting:
        raise ConfigurationError("OTEL_BSP_MAX_EXPORT_BATCH_SIZE is larger than OTEL_BSP_MAX_QUEUE_SIZE.")
    return Otel(
        traces=traces,
        metrics=metrics,
        logs=logs,
        protocols={signal: _protocol(given, signal) for signal in ("TRACES", "METRICS", "LOGS")},
        service=_service(given),
        sampling=_sampling(given),
        queueing=queueing,
        metrics_seconds=_whole(given, "OTEL_METRIC_EXPORT_INTERVAL", 60_000, least=100) / 1_000,
    )


def _exporter(given: Mapping[str, str], signal: str, default: str) -> Exporter | None:
    known: dict[str, Exporter | None] = {"otlp": "otlp", "console": "console", "none": None}
    found = _one_of(given, f"OTEL_{signal}_EXPORTER", known, default)
    if found == "otlp":
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"):
            if not given.get(name, "http://").startswith(("http://", "https://")):
                raise ConfigurationError(f"{name} should begin with http:// or https://.")
        for name in ("OTEL_EXPORTER_OTLP_TIMEOUT", f"OTEL_EXPORTER_OTLP_{signal}_TIMEOUT"):
            _number(given, name, 10.0, float, "a number of seconds", lambda seconds: seconds > 0)
        for name in ("OTEL_EXPORTER_OTLP_COMPRESSION", f"OTEL_EXPORTER_OTLP_{signal}_COMPRESSION"):
            _one_of(given, name, {"gzip": None, "deflate": None, "none": None}, "none")
    return found


def _protocol(given: Mapping[str, str], signal: str) -> Protocol:
    known: dict[str, Protocol] = {"grpc": "grpc", "http/protobuf": "http/protobuf"}
    general = _one_of(given, "OTEL_EXPORTER_OTLP_PROTOCOL", known, "http/protobuf")
    return _one_of(given, f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", known, general)


def _sampling(given: Mapping[str, str]) -> Sampling:
    parent_based, ratio = _one_of(given, "OTEL_TRACES_SAMPLER", _SAMPLERS, "parentbased_always_on")
    if ratio is None:
        name = "OTEL_TRACES_SAMPLER_ARG"
        ratio = _number(given, name, 1.0, float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
    return Sampling(parent_based=parent_based, ratio=ratio)


def _service(given: Mapping[str, str]) -> str:
    pairs = (pair.partition("=") for pair in given.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    named = {name.strip(): value.strip() for name, _, value in pairs}
    return given.get("OTEL_SERVICE_NAME") or named.get("service.name") or SERVICE


def _check_attributes(given: Mapping[str, str]) -> None:
    for name in ("OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_HEADERS"):
        if not all("=" in pair for pair in given.get(name, "").split(",") if pair.strip()):
            # Not shown: headers carry credentials.
            raise ConfigurationError(f"{name} should be a list of name=value, separated by commas.")


def _one_of(given: Mapping[str, str], name: str, known: Mapping[str, T], default: str) -> T:
    value = given.get(name, default).lower()
    if value not in known:
        raise ConfigurationError(f"{name} should be one of {', '.join(known)}, not {given[name]}.")
    return known[value]


def _whole(given: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    return _number(given, name, default, int, f"a whole number from {least} on", lambda value: value >= least)


def _number(
    given: Mapping[str, str], name: str, default: T, read: Callable[[str], T], kind: str, fits: Callable[[T], bool]
) -> T:
    if name not in given:
        return default
    try:
        value = read(given[name])
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise ConfigurationError(f"{name} should be {kind}, not {given[name]}.")
    return value
