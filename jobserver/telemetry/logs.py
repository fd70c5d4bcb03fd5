"""Logs: one JSON object a line, or colours on a terminal; structlog for the server, stdlib for everybody else.

A handler's own lines carry the ids of its job through context variables.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog

from jobserver.job.attempt import CURRENT, log_fields
from jobserver.job.model import bounded

MAX_TEXT: Final = 32_768
# Where the stdlib's `extra` fields may come from: everything that a plain LogRecord does not have.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

LogFormat = Literal["json", "console"]


def configure_logs(format_: LogFormat, level: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (stderr) in one format."""
    stream = stream or sys.stderr
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _of_the_job,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    render: list[Any]
    if format_ == "json":
        render = [structlog.processors.format_exc_info, _bound, _json]
    else:
        render = [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, _extra],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(LEVELS[level])
    # Theirs are about their own insides, or repeat what a line of ours says better.
    for name, least in (
        ("uvicorn.access", "error"),
        ("httpx", "warning"),
        ("httpcore", "warning"),
        # It says every statement with its values: payloads, and the secrets of callbacks.
        ("aiosqlite", "warning"),
        ("alembic", "warning"),
        ("uvicorn", "warning"),
    ):
        logging.getLogger(name).setLevel(max(LEVELS[level], LEVELS[least]))
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _of_the_job(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The ids of the job whose handler says this."""
    job = CURRENT.get()
    if job is not None:
        for name, value in log_fields(job).items():
            event.setdefault(name, value)
    return event


def _extra(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The stdlib's `extra={...}` as fields."""
    record = event.get("_record")
    if record is not None:
        for name, value in vars(record).items():
            if name not in _STANDARD:
                event.setdefault(name, value)
    return event


def fields_of(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """The event of a record, whoever logged it, and its fields: for those who send it elsewhere."""
    if isinstance(record.msg, dict):
        fields = {name: value for name, value in record.msg.items() if name not in {"event", "timestamp", "level"}}
        fields.pop("logger", None)
        return str(record.msg.get("event", "")), fields
    job = CURRENT.get()
    fields = {} if job is None else log_fields(job)
    fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return bounded(record.getMessage(), MAX_TEXT), fields


def _bound(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str) and len(value) > MAX_TEXT:
            event[name] = bounded(value, MAX_TEXT)
    return event


def _json(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> str:
    ordered = {name: event.pop(name) for name in ("timestamp", "level", "logger", "event") if name in event}
    fields = ordered | dict(event)
    try:
        return _encode(fields).decode()
    except Exception:
        # Lone surrogates, cycles, values that do not print: whatever a handler logs, its line is written.
        return _encode({bounded(str(name), 128): _plain(value) for name, value in fields.items()}).decode()


def _plain(value: object) -> str | float | None:
    """The value as something that JSON has for sure."""
    if value is None or isinstance(value, bool | float):
        return value
    try:
        return bounded(value if isinstance(value, str) else repr(value), MAX_TEXT)
    except Exception:
        return f"<{type(value).__name__} that does not print>"


_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
