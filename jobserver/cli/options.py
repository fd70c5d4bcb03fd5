"""The options of a server process, one a field of Settings, whose defaults they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from jobserver.cli.environment import PREFIX
from jobserver.cli.parameters import (
    DURATION_TYPE,
    LIST_TYPE,
    NAMES_TYPE,
    EnvironmentArgument,
    EnvironmentOption,
    shown_duration,
)
from jobserver.settings import Settings


class ServerOption(msgspec.Struct, frozen=True):
    """How a field of Settings is written on the command line."""

    field: str
    kind: Any
    help: str
    metavar: str | None = None
    # Fields that are true unless said otherwise are spelled by what the option does: --no-http.
    negated: bool = False

    @property
    def name(self) -> str:
        return f"no_{self.field}" if self.negated else self.field

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


FLAG: Final = click.BOOL
COUNT: Final = click.INT
BYTES: Final = click.INT

SECTIONS: Final[Mapping[str, Sequence[ServerOption]]] = {
    "Where to listen and what to run": (
        ServerOption("host", click.STRING, "Address to listen on.", "ADDRESS"),
        ServerOption("port", COUNT, "Port to listen on; 0 takes any free one.", "PORT"),
        ServerOption("http", FLAG, "Consume jobs without an HTTP API.", negated=True),
        ServerOption("processes", COUNT, "Server processes behind the port, on PostgreSQL.", "P"),
        ServerOption("workers", COUNT, "Jobs that each process runs at the same time; 0 serves the API only.", "N"),
        ServerOption("queues", NAMES_TYPE, "Consume only these queues. Unset: every queue, new ones too.", "A,B"),
        ServerOption("accept_unknown_types", FLAG, "Accept jobs of types that no worker has registered."),
        ServerOption("allow_anonymous", FLAG, "Listen beyond loopback although there are no API keys."),
        ServerOption("allow_private_targets", FLAG, "Let http.request and callbacks reach private addresses."),
    ),
    "Access": (
        ServerOption("cors_origins", LIST_TYPE, "Pages of these may call the server.", "A,B"),
        ServerOption("trusted_proxies", LIST_TYPE, "Addresses that may say in X-Forwarded-For who calls.", "A,B"),
        ServerOption("tls_certificate", click.Path(path_type=Path), "Speak TLS with this certificate.", "FILE"),
        ServerOption("tls_key", click.Path(path_type=Path), "Its private key.", "FILE"),
        ServerOption("rate_limit", click.STRING, "Submits of each caller, such as 10/minute.", "N/TIME"),
        ServerOption("max_waiting", COUNT, "Refuse submits while so many jobs wait.", "N"),
        ServerOption("trace_url_template", click.STRING, "Where the page finds a trace, by {trace_id}.", "URL"),
    ),
    "Engines": (
        ServerOption("database_url", click.STRING, "PostgreSQL. Unset, like --redis-url: embedded engines.", "URL"),
        ServerOption("redis_url", click.STRING, "Redis or Valkey.", "URL"),
        ServerOption("redis_prefix", click.STRING, "Begins every key in Redis.", "TEXT"),
        ServerOption("data_dir", click.Path(path_type=Path), "Where embedded engines keep their data.", "FOLDER"),
        ServerOption("migrate", FLAG, "Refuse to start on an old schema instead of migrating it.", negated=True),
        ServerOption("pool_size", COUNT, "Connections to the database.", "N"),
    ),
    "The life of a job": (
        ServerOption("lease_seconds", DURATION_TYPE, "How long a silent worker keeps its jobs.", "DURATION"),
        ServerOption("max_loop_block", DURATION_TYPE, "How long a handler may block the event loop.", "DURATION"),
        ServerOption("drain_seconds", DURATION_TYPE, "How long a stop waits for running jobs.", "DURATION"),
        ServerOption("max_retries", COUNT, "Retries of a job whose type does not say.", "N"),
        ServerOption("backoff_base", click.FLOAT, "The n-th retry waits about this to the power of n.", "NUMBER"),
        ServerOption("backoff_cap", DURATION_TYPE, "The longest wait before a retry.", "DURATION"),
        ServerOption("timeout", DURATION_TYPE, "Of an attempt of a job whose type does not say.", "DURATION"),
        ServerOption("max_crashes", COUNT, "Lost leases after which a job has failed.", "N"),
        ServerOption("callback_retries", COUNT, "Retries of a callback.", "N"),
        ServerOption("thread_grace", DURATION_TYPE, "How long a thread may outlive its timeout.", "DURATION"),
        ServerOption("threads", COUNT, "Threads for handlers that are plain functions.", "N"),
        ServerOption("process_pool", COUNT, 'Child processes for handlers with executor="process".', "N"),
    ),
    "Keeping": (
        ServerOption("retention", DURATION_TYPE, "Of completed and canceled jobs.", "DURATION"),
        ServerOption("retention_failed", DURATION_TYPE, "Of failed jobs.", "DURATION"),
        ServerOption("retention_audit", DURATION_TYPE, "Of the audit log.", "DURATION"),
        ServerOption("idempotency_ttl", DURATION_TYPE, "Of idempotency keys.", "DURATION"),
        ServerOption("max_payload_bytes", BYTES, "Largest payload.", "BYTES"),
        ServerOption("max_result_bytes", BYTES, "Largest result.", "BYTES"),
        ServerOption("events_max", COUNT, "Live events that can be read again after a break; 0: no live events.", "N"),
    ),
    "Logs": (
        ServerOption(
            "log_format", click.Choice(["json", "console"]), "One JSON object a line, or console: text.", "FORMAT"
        ),
        ServerOption(
            "log_level",
            click.Choice(["debug", "info", "warning", "error"]),
            "debug, info, warning or error: the least that is logged.",
            "LEVEL",
        ),
    ),
}

HANDLERS_HELP: Final = "MODULE:HANDLERS, or JOBSERVER_HANDLERS, names a Handlers object of your own."

_BY_FIELD: Final = {option.field: option for section in SECTIONS.values() for option in section}
_BY_NAME: Final = {option.name: option for option in _BY_FIELD.values()}
_DEFAULTS: Final = {field.name: field.default for field in msgspec.structs.fields(Settings)}


def handlers_argument() -> click.Argument:
    return EnvironmentArgument(["handlers"], metavar="[MODULE:HANDLERS]", required=False, envvar=f"{PREFIX}HANDLERS")


def server_options(fields: Sequence[str] | None = None) -> list[click.Parameter]:
    """The options of these fields, or all."""
    return [_parameter(_BY_FIELD[field]) for field in (_BY_FIELD if fields is None else fields)]


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Settings from what click parsed. Raises ConfigurationError."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        option = _BY_NAME.get(name)
        if value is not None:
            fields[name if option is None else option.field] = (not value) if option and option.negated else value
    return Settings(**fields)


def _parameter(option: ServerOption) -> click.Option:
    default = _shown_default(option)
    return EnvironmentOption(
        ["--" + option.name.replace("_", "-")],
        type=option.kind,
        is_flag=option.kind is FLAG,
        # None: not given. The defaults are those of Settings, which fills them in.
        default=None,
        metavar=option.metavar,
        help=f"{option.help} [{f'default: {default}, ' if default else ''}{option.variable}]",
        envvar=option.variable,
    )


def _shown_default(option: ServerOption) -> str | None:
    default = _DEFAULTS[option.field]
    if option.field == "log_format":
        return "console on a terminal, else json"
    if option.kind is FLAG or default is None:
        return None
    return shown_duration(default) if option.kind is DURATION_TYPE else str(default)


class ServerCommand(click.Command):
    """A command whose --help shows its options by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = {each.name: each for each in self.get_params(ctx) if isinstance(each, click.Option)}
        sections: Mapping[str, Sequence[str | None]] = {
            **{title: [option.name for option in section] for title, section in SECTIONS.items()},
            "Other options": list(options),
        }
        for title, names in sections.items():
            # What no section has taken is left for the last one.
            found = [options.pop(name) for name in names if name in options]
            rows = [record for option in found if (record := option.get_help_record(ctx)) is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
