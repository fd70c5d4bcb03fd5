"""The OTEL_ variables: what they ask for, and what is said of one that is not understood."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jobserver.errors import ConfigurationError
from jobserver.telemetry.otel import LEAST_SECONDS, Grace, Otel, Queueing, Sampling, read_otel

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}


def asked(**variables: str) -> Otel:
    found = read_otel(variables)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_SERVICE_NAME": "mail", "OTEL_TRACES_SAMPLER": "nonsense"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "true"},
        {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "True"},
    ],
)
def test_nothing_is_asked_for(variables: dict[str, str]) -> None:
    assert read_otel(variables) is None


def test_an_endpoint_turns_traces_on() -> None:
    assert asked(**ENDPOINT).traces == "otlp"
    assert asked(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="https://there/v1/traces").traces == "otlp"
    assert asked(OTEL_TRACES_EXPORTER="otlp").traces == "otlp"
    assert asked(OTEL_TRACES_EXPORTER="console").traces == "console"
    found = asked(**ENDPOINT)
    assert (found.metrics, found.logs, found.service) == (None, None, "jobserver")
    assert (found.sampling, found.queueing) == (Sampling(), Queueing())


def test_metrics_and_logs_are_pushed_when_asked_for_outright() -> None:
    found = asked(**ENDPOINT, OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="otlp", OTEL_LOGS_EXPORTER="otlp")
    assert (found.traces, found.metrics, found.logs) == (None, "otlp", "otlp")
    assert asked(OTEL_METRICS_EXPORTER="otlp", OTEL_METRIC_EXPORT_INTERVAL="5000").metrics_seconds == 5.0


def test_a_signal_s_own_protocol_wins() -> None:
    assert asked(**ENDPOINT).protocols["TRACES"] == "http/protobuf"
    found = asked(**ENDPOINT, OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_EXPORTER_OTLP_METRICS_PROTOCOL="http/protobuf")
    assert found.protocols == {"TRACES": "grpc", "METRICS": "http/protobuf", "LOGS": "grpc"}


@pytest.mark.parametrize(
    ("sampler", "argument", "expected"),
    [
        ("always_on", "", Sampling(parent_based=False, ratio=1.0)),
        ("always_off", "", Sampling(parent_based=False, ratio=0.0)),
        ("traceidratio", "0.25", Sampling(parent_based=False, ratio=0.25)),
        ("parentbased_always_on", "0.25", Sampling(parent_based=True, ratio=1.0)),
        ("parentbased_always_off", "", Sampling(parent_based=True, ratio=0.0)),
        ("parentbased_traceidratio", "0.1", Sampling(parent_based=True, ratio=0.1)),
        ("traceidratio", "", Sampling(parent_based=False, ratio=1.0)),
    ],
)
def test_samplers(sampler: str, argument: str, expected: Sampling) -> None:
    found = asked(**ENDPOINT, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument)
    assert found.sampling == expected


@pytest.mark.parametrize(
    ("variables", "service"),
    [
        ({"OTEL_SERVICE_NAME": "mail"}, "mail"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "team=a,service.name=letters"}, "letters"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=letters", "OTEL_SERVICE_NAME": "mail"}, "mail"),
    ],
)
def test_the_service_has_the_name_that_is_given(variables: dict[str, str], service: str) -> None:
    assert asked(**ENDPOINT, **variables).service == service


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SDK_DISABLED", "maybe"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Bearer secret"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "5s"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
    ],
)
def test_a_variable_that_is_not_understood_is_named_in_one_sentence(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^[^\n]*{name}[^\n]*\.$") as raised:
        read_otel({**ENDPOINT, name: value})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("ratio", ["much", "-0.1", "1.5", "nan"])
def test_a_ratio_is_from_0_to_1(ratio: str) -> None:
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_SAMPLER_ARG"):
        read_otel({**ENDPOINT, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio})


def test_without_an_endpoint_nothing_of_the_sdk_is_loaded() -> None:
    program = (
        "import sys, jobserver.server, jobserver.telemetry, jobserver.pipeline.child;"
        "own = ('opentelemetry.sdk.trace', 'opentelemetry.exporter');"
        "print([name for name in sys.modules if name.startswith(own)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


async def test_what_a_stop_gives_is_shared_and_never_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("jobserver.telemetry.otel.time.monotonic", lambda: now)
    given: list[float] = []

    async def close(*, within_seconds: float) -> None:
        nonlocal now
        given.append(within_seconds)
        now += 3.0

    grace = Grace()
    for _ in range(3):
        await grace.give(close)
        # What else a stop does is not counted.
        now += 60.0
    assert given == [5.0, 2.0, LEAST_SECONDS]
