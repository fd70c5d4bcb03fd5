"""A newcomer's first minute: start, submit, see it done, stop; and settings from `.env`."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from jobserver import __version__
from tests.engines import eventually
from tests.life.conftest import Serve
from tests.life.notes import Notes


async def test_a_server_says_what_it_is_and_drains_at_ctrl_c(serve: Serve, workdir: Path) -> None:
    began = time.monotonic()
    server = await serve(handlers=None)
    assert time.monotonic() - began < 15
    [valkey] = server.children
    for fact in (__version__, server.url, str(workdir / ".jobserver"), "SQLite 3.", "Valkey", "64 consumers"):
        assert fact in server.stderr
    assert "echo, fail, http.request, sleep" in server.stderr
    assert f"{server.url}/jobs" in next(line for line in server.stderr.splitlines() if "curl" in line)
    assert (workdir / ".jobserver" / ".gitignore").read_text() == "*\n"

    job = await server.finished(await server.submit("echo", {"hello": "world"}))
    assert (job["status"], job["result"], job["attempt"], job["fence"]) == ("completed", {"hello": "world"}, 1, 2)
    assert await server.outcomes(job["id"]) == ["completed"]

    server.send(signal.SIGINT)
    assert await server.exit_code() == 0
    assert "draining 0 jobs, Ctrl-C again to stop now" in server.stderr
    await eventually(lambda: not valkey.is_running())


async def test_ctrl_c_of_a_terminal_reaches_every_process_and_harms_no_job(anywhere: Serve, notes: Notes) -> None:
    """A terminal sends SIGINT to the whole group: neither Valkey nor a child that runs a handler dies of it."""
    server = await anywhere("--drain-seconds", "20s")
    jobs = [await server.submit("gated", notes.gated), await server.submit("gated.process", notes.gated)]
    await eventually(lambda: len(notes.all()) == 2)
    server.send_to_group(signal.SIGINT)
    await eventually(lambda: "draining 2 jobs, Ctrl-C again to stop now" in server.stderr)
    waiting = asyncio.gather(*(server.finished(job_id) for job_id in jobs))
    notes.open_gate()
    assert [job["status"] for job in await waiting] == ["completed", "completed"]
    assert await server.exit_code() == 0


async def test_a_second_ctrl_c_stops_at_once_and_hands_the_jobs_back(alone: Serve, notes: Notes) -> None:
    server = await alone("--drain-seconds", "600s")
    job_id = await server.submit("gated", notes.gated)
    await eventually(lambda: notes.events(job_id) == ["started"])
    server.send(signal.SIGINT)
    await eventually(lambda: "draining 1 job," in server.stderr)
    server.send(signal.SIGINT)
    assert await server.exit_code(within=10) == 0
    assert notes.events(job_id) == ["started", "cancelled"]

    notes.open_gate()
    again = await alone()
    job = await again.finished(job_id)
    assert (job["status"], job["attempt"], job["retry_count"], job["crashes"]) == ("completed", 1, 0, 0)
    assert await again.outcomes(job_id) == ["handed_back", "completed"]


async def test_dotenv_gives_settings_and_flags_win(serve: Serve, workdir: Path) -> None:
    (workdir / ".env").write_text(
        "JOBSERVER_WORKERS=3\nJOBSERVER_DATA_DIR=from-dotenv\nJOBSERVER_MAX_RETRIES=9\nJOBSERVER_TIMEOUT=1.5m\n"
        "JOBSERVER_HANDLERS=tests.life.handlers_mail:handlers\n"
    )
    server = await serve("--max-retries", "2", handlers=None, JOBSERVER_WORKERS="5", JOBSERVER_PORT="tcp://10.0.0.1:80")
    assert "5 consumers" in server.stderr
    assert "mail.send" in server.stderr
    assert (workdir / "from-dotenv" / "jobs.db").exists()
    job = await server.job(await server.submit("echo"))
    assert (job["max_retries"], job["timeout"]) == (2, 90.0)
