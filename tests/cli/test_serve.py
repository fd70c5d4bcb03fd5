"""`jobserver serve`, `migrate` and `recover` as processes: banner, signals, exit codes."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path

import pytest

from jobserver.cli.serve import banner
from jobserver.server import Facts
from tests.cli.process import Ended, Serving, jobserver

HANDLERS = """
from jobserver import Handlers

handlers = Handlers()

@handlers.handler("shout")
async def shout(text: str) -> str:
    return text.upper()
"""

FACTS = Facts(
    url="http://127.0.0.1:8000",
    data="/srv/.jobserver",
    engines=("SQLite 3.40.1", "Valkey 9.1.2"),
    consumers=64,
    types=("echo", "sleep"),
    warnings=("PostgreSQL runs with fsync=off",),
)


def one_line(ended: Ended) -> str:
    """What a command that could not start said, without a traceback."""
    assert ended.code == 2, ended
    assert ended.err.startswith("jobserver: ")
    assert ended.err.count("\n") == 1, ended.err
    return ended.err


def test_the_banner_tells_what_runs_where_and_what_to_try() -> None:
    text = banner(FACTS)
    for part in (
        FACTS.url or "",
        FACTS.data,
        "SQLite 3.40.1 + Valkey 9.1.2",
        "64 consumers",
        "echo, sleep",
        "fsync=off",
    ):
        assert part in text
    [example] = re.findall(r"curl --json '(.*)' (\S+)", text)
    assert json.loads(example[0])["type"] == "echo"
    assert example[1] == "http://127.0.0.1:8000/jobs"


def test_a_server_without_http_has_nothing_to_try() -> None:
    facts = Facts(url=None, data="x", engines=("a", "b"), consumers=1, types=(), warnings=())
    text = banner(facts)
    assert "curl" not in text
    assert "1 consumer\n" in text


def test_a_server_runs_handlers_of_the_current_folder_and_stops_at_sigterm(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANDLERS)
    with Serving(tmp_path, "mine:handlers", "--workers", "2") as server:
        assert "2 consumers" in server.err
        assert re.search(r"types +echo, .*shout", server.err)
        assert server.run("submit", "shout", '{"text": "hi"}', "--wait", "20").out == '"HI"\n'
        server.send(signal.SIGTERM)
        assert server.ended() == 0
        assert "Traceback" not in server.err


def test_the_first_ctrl_c_drains_and_the_second_one_stops_now(tmp_path: Path) -> None:
    with Serving(tmp_path, "--drain-seconds", "25") as server:
        job_id = server.run("submit", "sleep", '{"seconds": 60}').out.strip()
        server.wait_for(re.compile(f'"job_claimed".*{job_id}'))
        server.send(signal.SIGINT)
        server.wait_for(re.compile("^draining 1 job, Ctrl-C again to stop now$", re.MULTILINE))
        server.send(signal.SIGINT)
        assert server.ended() == 0
    with Serving(tmp_path, "--workers", "0") as server:
        # It was handed back: no attempt is counted.
        job = json.loads(server.run("show", job_id, "--json").out)
        assert (job["status"], job["attempt"]) == ("queued", 0)


def test_where_json_was_asked_for_every_line_is_json(tmp_path: Path) -> None:
    with Serving(tmp_path, "--log-format", "json") as server:
        server.run("submit", "echo", "--wait", "20")
        server.send(signal.SIGTERM)
        assert server.ended() == 0
    # Which a busy machine may do before the server has started.
    events = [event for line in server.err.splitlines() if (event := json.loads(line)["event"]) != "event_loop_blocked"]
    assert events[0] == "server_started"
    assert "job_completed" in events


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port {port}" in one_line(jobserver("serve", "--port", str(port), cwd=tmp_path))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["mail"], "'mail' does not name handlers"),
        (["no_such_module:handlers"], "cannot be imported"),
        (["mine:nothing"], "has no attribute 'nothing'"),
        (["mine:__name__"], "is not a Handlers object"),
        (["--database-url", "mysql://x/y", "--redis-url", "redis://x"], "mysql://"),
        (["--database-url", "postgresql://127.0.0.1:1/x", "--redis-url", "redis://127.0.0.1:1"], "cannot be used"),
    ],
)
def test_what_cannot_be_started_is_one_sentence(tmp_path: Path, args: list[str], said: str) -> None:
    (tmp_path / "mine.py").write_text(HANDLERS)
    assert said in one_line(jobserver("serve", "--port", "0", *args, cwd=tmp_path))


def test_beside_a_running_server_a_second_one_and_recover_are_refused_and_migrate_works(tmp_path: Path) -> None:
    with Serving(tmp_path):
        assert "Another jobserver" in one_line(jobserver("serve", "--port", "0", cwd=tmp_path))
        assert "already does this" in one_line(jobserver("recover", cwd=tmp_path))
        migrated = jobserver("migrate", cwd=tmp_path)
        assert (migrated.code, migrated.out) == (0, "")
        assert "The schema is current (SQLite" in migrated.err


def test_a_new_folder_can_be_migrated_and_recovered_without_a_server(tmp_path: Path) -> None:
    assert jobserver("migrate", "--data-dir", "data", cwd=tmp_path).code == 0
    assert (tmp_path / "data" / "jobs.db").exists()
    recovered = jobserver("recover", cwd=tmp_path, JOBSERVER_DATA_DIR="data")
    assert recovered.code == 0, recovered
    assert re.search(r"reclaimed +0 ", recovered.out)


def test_recover_mends_what_a_killed_server_left_behind(tmp_path: Path) -> None:
    with Serving(tmp_path) as server:
        job_id = server.run("submit", "sleep", '{"seconds": 60}').out.strip()
        server.wait_for(re.compile(f'"job_claimed".*{job_id}'))
        server.send(signal.SIGKILL)
        server.ended()
    recovered = jobserver("recover", cwd=tmp_path)
    assert re.search(r"reclaimed +1 ", recovered.out), recovered
