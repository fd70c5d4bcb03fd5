"""From flags, environment and `.env` to Settings, and what is said of values that are wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import pytest

from jobserver.cli import run
from jobserver.cli.environment import read_dotenv
from jobserver.cli.options import SECTIONS, settings_from
from jobserver.cli.parameters import DURATION_TYPE, shown_duration
from jobserver.cli.serve import serve_command
from jobserver.settings import Settings


@pytest.fixture(autouse=True)
def clean_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no variable of ours."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("JOBSERVER_")]:
        monkeypatch.delenv(name)
    return tmp_path


def settings(*args: str) -> Settings:
    with serve_command.make_context("serve", list(args), obj=read_dotenv()) as context:
        return settings_from(context.params)


def test_every_setting_has_one_option_and_every_option_is_a_setting() -> None:
    options = [option.field for section in SECTIONS.values() for option in section]
    assert sorted([*options, "handlers"]) == sorted(Settings.__struct_fields__)


def test_without_anything_the_defaults_of_the_settings_hold() -> None:
    assert settings() == Settings()


def test_help_shows_every_option_its_default_and_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for option in (option for section in SECTIONS.values() for option in section):
        assert f"--{option.name.replace('_', '-')}" in shown
        assert f"{option.variable}]" in shown
    assert "default: 7d, JOBSERVER_RETENTION]" in shown
    assert "jobserver serve mail:handlers" in shown


PRECEDENCE = {
    "default": ([], None, None, 64),
    "dotenv": ([], None, "3", 3),
    "environment": ([], "2", None, 2),
    "environment over dotenv": ([], "2", "3", 2),
    "flag over environment and dotenv": (["--workers", "1"], "2", "3", 1),
    "an empty variable is none": ([], "", "3", 3),
    "an empty line in dotenv is none": ([], None, "", 64),
}


@pytest.mark.parametrize(("args", "variable", "dotenv", "expected"), PRECEDENCE.values(), ids=PRECEDENCE)
def test_flags_are_stronger_than_the_environment_and_that_than_dotenv(
    args: list[str],
    variable: str | None,
    dotenv: str | None,
    expected: int,
    clean_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable is not None:
        monkeypatch.setenv("JOBSERVER_WORKERS", variable)
    if dotenv is not None:
        (clean_folder / ".env").write_text(f"OTHER=1\nJOBSERVER_WORKERS={dotenv}\n")
    before = dict(os.environ)
    assert settings(*args).workers == expected
    assert dict(os.environ) == before


VALUES: dict[str, tuple[str, str, Any]] = {
    # option and value -> field and what it becomes
    "--port 0": ("JOBSERVER_PORT", "port", 0),
    "--host ::1": ("JOBSERVER_HOST", "host", "::1"),
    "--no-http": ("JOBSERVER_NO_HTTP", "http", False),
    "--no-migrate": ("JOBSERVER_NO_MIGRATE", "migrate", False),
    "--accept-unknown-types": ("JOBSERVER_ACCEPT_UNKNOWN_TYPES", "accept_unknown_types", True),
    "--allow-anonymous": ("JOBSERVER_ALLOW_ANONYMOUS", "allow_anonymous", True),
    "--allow-private-targets": ("JOBSERVER_ALLOW_PRIVATE_TARGETS", "allow_private_targets", True),
    "--queues mail": ("JOBSERVER_QUEUES", "queues", ("mail",)),
    "--queues a,b,a": ("JOBSERVER_QUEUES", "queues", ("a", "b")),
    "--cors-origins https://A.example,http://b:1": (
        "JOBSERVER_CORS_ORIGINS",
        "cors_origins",
        ("https://a.example", "http://b:1"),
    ),
    "--trusted-proxies 10.0.0.0/8": ("JOBSERVER_TRUSTED_PROXIES", "trusted_proxies", ("10.0.0.0/8",)),
    "--rate-limit 10/minute": ("JOBSERVER_RATE_LIMIT", "rate_limit", "10/minute"),
    "--max-waiting 5": ("JOBSERVER_MAX_WAITING", "max_waiting", 5),
    "--retention-audit 30d": ("JOBSERVER_RETENTION_AUDIT", "retention_audit", 2_592_000.0),
    "--data-dir data": ("JOBSERVER_DATA_DIR", "data_dir", Path("data")),
    "--lease-seconds 20": ("JOBSERVER_LEASE_SECONDS", "lease_seconds", 20.0),
    "--drain-seconds 1.5m": ("JOBSERVER_DRAIN_SECONDS", "drain_seconds", 90.0),
    "--backoff-base 1.5": ("JOBSERVER_BACKOFF_BASE", "backoff_base", 1.5),
    "--backoff-cap 10m": ("JOBSERVER_BACKOFF_CAP", "backoff_cap", 600.0),
    "--timeout 500s": ("JOBSERVER_TIMEOUT", "timeout", 500.0),
    "--retention 7d": ("JOBSERVER_RETENTION", "retention", 604_800.0),
    "--idempotency-ttl 2h": ("JOBSERVER_IDEMPOTENCY_TTL", "idempotency_ttl", 7_200.0),
    "--max-payload-bytes 2048": ("JOBSERVER_MAX_PAYLOAD_BYTES", "max_payload_bytes", 2_048),
    "--log-format json": ("JOBSERVER_LOG_FORMAT", "log_format", "json"),
    "--log-level debug": ("JOBSERVER_LOG_LEVEL", "log_level", "debug"),
}


@pytest.mark.parametrize(("written", "told"), VALUES.items(), ids=VALUES)
def test_an_option_and_its_variable_mean_the_same(
    written: str, told: tuple[str, str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, field, expected = told
    assert getattr(settings(*written.split()), field) == expected
    _, _, value = written.partition(" ")
    monkeypatch.setenv(variable, value or "true")
    assert getattr(settings(), field) == expected


def test_a_flag_can_be_switched_off_again_in_the_environment(
    clean_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clean_folder / ".env").write_text("JOBSERVER_NO_HTTP=true\n")
    assert settings().http is False
    monkeypatch.setenv("JOBSERVER_NO_HTTP", "false")
    assert settings().http is True


def test_the_variable_that_kubernetes_sets_for_a_service_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBSERVER_PORT", "tcp://10.96.0.1:8000")
    assert settings().port == 8_000


def test_handlers_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBSERVER_HANDLERS", "mail:handlers")
    assert settings().handlers == "mail:handlers"
    assert settings("other:handlers").handlers == "other:handlers"


WRONG = {
    "no number": (["--port", "abc"], "--port"),
    "port out of range": (["--port", "70000"], "--port must be between 0 and 65535"),
    "negative workers": (["--workers=-1"], "--workers must be between"),
    "NaN": (["--backoff-base", "nan"], "--backoff-base must be between"),
    "no duration": (["--timeout", "soon"], "'soon' is not a duration"),
    "negative duration": (["--timeout=-1s"], "'-1s' is not a duration"),
    "unknown unit": (["--retention", "7w"], "'7w' is not a duration"),
    "lease too short": (["--lease-seconds", "0"], "--lease-seconds must be between"),
    "empty queue": (["--queues", "a,,b"], "'' is not the name of a queue"),
    "queue with a space": (["--queues", "a b"], "'a b' is not the name of a queue"),
    "unknown format": (["--log-format", "xml"], "--log-format"),
    "unknown option": (["--wrokers", "1"], "--wrokers"),
    "one URL alone": (["--redis-url", "redis://localhost"], "--redis-url was given without --database-url"),
    "the other URL alone": (["--database-url", "postgresql://localhost/x"], "without --redis-url"),
    "nothing to do": (["--no-http", "--workers", "0"], "leaves nothing to do"),
    "open to everybody": (["--host", "0.0.0.0"], "--allow-anonymous"),
    "half of TLS": (["--tls-key", "key.pem"], "--tls-certificate"),
    "every origin": (["--cors-origins", "*"], "--cors-origins"),
    "every proxy": (["--trusted-proxies", "0.0.0.0/0"], "trusts everybody"),
    "no rate": (["--rate-limit", "often"], "--rate-limit"),
}


@pytest.mark.parametrize(("args", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_told_in_one_line_with_exit_code_2(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--port", "0", *args]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("jobserver: ")
    assert told.err.count("\n") == 1
    assert said in told.err


def test_a_wrong_value_is_told_with_the_place_where_it_was_written(
    clean_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (clean_folder / ".env").write_text("JOBSERVER_WORKERS=many\n")
    assert run(["serve"]) == 2
    assert "Invalid value for JOBSERVER_WORKERS in .env: 'many'" in capsys.readouterr().err
    monkeypatch.setenv("JOBSERVER_WORKERS", "few")
    assert run(["serve"]) == 2
    assert "Invalid value for JOBSERVER_WORKERS: 'few'" in capsys.readouterr().err


def test_a_dotenv_that_is_no_text_is_told_in_one_line(clean_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clean_folder / ".env").write_bytes(b"\xff\xfe")
    assert run(["serve"]) == 2
    assert ".env cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [0.5, 1.0, 60.0, 90.0, 120.0, 3_600.0, 86_400.0, 604_800.0, 2_592_000.0])
def test_a_duration_is_shown_as_it_can_be_typed(seconds: float) -> None:
    assert DURATION_TYPE.convert(shown_duration(seconds), None, None) == seconds


@pytest.mark.parametrize("text", ["", "s", "1e3", "١", "inf", "nan", "1 s", "1,5s", "9" * 400])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        DURATION_TYPE.convert(text, None, None)


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        *((host, False) for host in ("127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "localhost", "LOCALHOST")),
        *((host, True) for host in ("0.0.0.0", "::", "192.0.2.1", "128.0.0.1", "localhost.example.com", "")),
    ],
)
def test_every_address_of_loopback_is_this_machine_alone(host: str, reached: bool) -> None:
    assert settings("--host", host).beyond_loopback is reached
    assert not settings("--host", host, "--allow-anonymous").beyond_loopback
