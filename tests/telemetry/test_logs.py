"""Every line is one JSON object, whoever wrote it and whatever it says."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from jobserver.job.attempt import Attempt
from jobserver.job.handlers import Handlers
from jobserver.telemetry.logs import MAX_TEXT, LogFormat, configure_logs
from tests.conftest import Pair
from tests.engines import eventually
from tests.parts import consuming, ended, parts, submitted
from tests.servers import running


class Lines:
    """What was logged."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def configure(self, format_: LogFormat = "json", level: str = "info") -> None:
        configure_logs(format_, level, self.stream)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.all() if line["event"] == event]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("uvicorn", "uvicorn.access", "httpx", "alembic")}
    lines = Lines()
    lines.configure()
    yield lines
    root.handlers = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_line_begins_with_when_how_bad_who_and_what(lines: Lines) -> None:
    logging.getLogger("somebody").warning("it_happened", extra={"count": 3})
    structlog.get_logger("us").error("that_too", queue="mail")
    first, second = lines.all()
    assert list(first) == ["timestamp", "level", "logger", "event", "count"]
    assert (first["level"], first["logger"], first["event"], first["count"]) == (
        "warning",
        "somebody",
        "it_happened",
        3,
    )
    assert (second["level"], second["logger"], second["event"], second["queue"]) == ("error", "us", "that_too", "mail")
    for line in (first, second):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])


def test_arguments_of_the_standard_library_are_filled_in(lines: Lines) -> None:
    logging.getLogger("x").info("%s of %d", "one", 2)
    assert lines.all()[0]["event"] == "one of 2"


def test_an_exception_is_a_field_of_its_line(lines: Lines) -> None:
    try:
        raise ValueError("not good")
    except ValueError:
        logging.getLogger("x").exception("failed")
        structlog.get_logger("y").exception("failed_too")
    for line in lines.all():
        assert "ValueError: not good" in line["exception"]
        assert "Traceback" in line["exception"]


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize(
    "value",
    [
        "line\nbreak\r\x00\x1b[31m",
        "\ud800 lone",
        b"\xff bytes",
        float("nan"),
        2**200,
        {1, 2},
        {("a", 1): 2},
        object(),
        Unprintable(),
        {"deep": {"\ud800": ["\udfff"]}},
        ValueError("an error"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_is_logged_is_one_line_of_json(lines: Lines, value: object, capfd: pytest.CaptureFixture[str]) -> None:
    # Without pytest's own handlers, which cannot report all of this.
    lines.configure()
    cycle: list[Any] = [value]
    cycle.append(cycle)
    logging.getLogger("x").info("plain", extra={"value": value})
    logging.getLogger("x").info("cycle", extra={"value": cycle})
    structlog.get_logger("y").info("ours", value=value)
    if isinstance(value, str):
        logging.getLogger("x").info(value)
        logging.getLogger("x").info("%s", value)
    for line in lines.all():
        assert {"timestamp", "level", "logger", "event"} <= set(line)
    assert len(lines.all()) == (5 if isinstance(value, str) else 3)
    # Nothing went beside the log.
    assert capfd.readouterr().err == ""


def test_long_texts_are_bounded(lines: Lines) -> None:
    logging.getLogger("x").info("y" * 1_000_000, extra={"long": "z" * 1_000_000})
    [line] = lines.all()
    assert len(line["event"]) <= MAX_TEXT
    assert len(line["long"]) <= MAX_TEXT


def test_less_than_the_level_is_not_logged(lines: Lines) -> None:
    lines.configure(level="warning")
    logging.getLogger("x").info("quiet")
    structlog.get_logger("y").info("quiet")
    logging.getLogger("uvicorn").info("quiet")
    logging.getLogger("x").warning("loud")
    assert [line["event"] for line in lines.all()] == ["loud"]


def test_the_console_format_is_for_people(lines: Lines) -> None:
    lines.configure("console")
    logging.getLogger("x").warning("it_happened", extra={"count": 3})
    assert "it_happened" in lines.text
    assert "count" in lines.text
    with pytest.raises(json.JSONDecodeError):
        lines.all()


async def test_a_handlers_own_lines_carry_the_ids_of_its_job(pair: Pair, lines: Lines) -> None:
    handlers = Handlers()

    @handlers.handler("talk.task")
    async def talk_in_task(attempt: Attempt) -> None:
        logging.getLogger("my.code").info("from_a_task", extra={"own": 1})
        attempt.logger.info("by_the_attempt")
        await asyncio.sleep(0)
        structlog.get_logger("my.other").info("structured")

    @handlers.handler("talk.thread")
    def talk_in_thread() -> None:
        logging.getLogger("my.code").info("from_a_thread")

    async with parts(pair, handlers) as server, consuming(server):
        jobs = {name: await submitted(server, name, queue="default") for name in ("talk.task", "talk.thread")}
        for job in jobs.values():
            await ended(server, job.id)
    for event, name in (
        ("from_a_task", "talk.task"),
        ("by_the_attempt", "talk.task"),
        ("structured", "talk.task"),
        ("from_a_thread", "talk.thread"),
    ):
        [line] = lines.named(event)
        assert line["job_id"] == str(jobs[name].id), event
        assert (line["type"], line["queue"], line["attempt"]) == (name, "default", 1)


async def test_every_step_of_a_life_has_its_line(pair: Pair, lines: Lines) -> None:
    async with parts(pair) as server, consuming(server):
        done = await submitted(server)
        await ended(server, done.id)
        failed = await submitted(server, "fail", {"retryable": False})
        await ended(server, failed.id)
        again = await submitted(server, "fail", {"times": 1})
        await eventually(lambda: lines.named("job_retry_scheduled"))
        await server.commands.cancel(again.id)
        await server.commands.replay(failed.id, failed_only=True)
        await ended(server, failed.id)
    for event, job in (
        ("job_submitted", done),
        ("job_claimed", done),
        ("job_completed", done),
        ("job_failed", failed),
        ("job_retry_scheduled", again),
        ("job_canceled", again),
        ("job_replayed", failed),
    ):
        found = [line for line in lines.named(event) if line["job_id"] == str(job.id)]
        assert found, event
        for line in found:
            assert (line["type"], line["queue"], line["logger"]) == (job.type, "default", "jobserver.life")
    [completed] = lines.named("job_completed")
    assert completed["worker_id"] == server.worker_id
    assert (completed["attempt"], completed["status"]) == (1, "completed")
    assert {line["error_type"] for line in lines.named("job_failed")} == {"NotRetryable"}


async def test_no_password_is_ever_logged(postgresql_url: str, redis_url: str, redis_prefix: str, lines: Lines) -> None:
    lines.configure(level="debug")
    password = postgresql_url.split("://")[1].split("@")[0].split(":")[1]
    pair = Pair("postgresql", postgresql_url, redis_url, redis_prefix)
    async with running(pair) as server:
        await ended(server, (await submitted(server)).id)
        assert password not in str(server.facts)
    assert lines.named("server_started")
    assert lines.named("server_stopped")
    assert password not in lines.text
