"""The client commands against a server that runs: what they print, and their exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import pytest

from jobserver.cli.output import age, as_json, printable, table
from tests.children import PROJECT, environment
from tests.cli.conftest import Command
from tests.cli.process import COMMAND, Serving, jobserver

ESCAPES = "\x1b]0;owned\x07\x9b31m\u202e\r"


def test_submit_prints_the_id(command: Command) -> None:
    done = command.run(
        "submit", "echo", '{"n": 12345678901234567890}', "--tag", "a", "--tag", "b", "--priority", "high"
    )
    assert (done.code, done.err) == (0, "")
    job = command.show(done.out.strip())
    assert job["payload"] == {"n": 12345678901234567890}
    assert (job["tags"], job["priority"]) == (["a", "b"], "high")


def test_submit_hands_every_option_on(command: Command) -> None:
    options = ["--queue", "mail", "--delay", "2h", "--key", "k 1", "--max-retries", "7", "--timeout", "1.5m"]
    done = command.run("submit", "echo", "--json", *options)
    job = json.loads(done.out)
    assert (job["queue"], job["status"], job["idempotency_key"]) == ("mail", "scheduled", "k 1")
    assert (job["max_retries"], job["timeout"], job["payload"]) == (7, 90.0, None)
    assert command.run("submit", "echo", "--json", *options).out == done.out


def test_submit_reads_the_payload_from_standard_input(command: Command) -> None:
    done = command.run("submit", "echo", "-", "--wait", "20", stdin='["\u00e4", 1.0]\n')
    assert json.loads(done.out) == ["ä", 1.0]


@pytest.mark.parametrize("wait", [["--wait"], ["--wait", "20"], ["--wait=20s"]])
def test_submit_waits_for_the_result(command: Command, wait: list[str]) -> None:
    done = command.run("submit", "echo", *wait, '{"b": 1, "a": [true]}')
    assert (done.code, done.out, done.err) == (0, '{\n  "b": 1,\n  "a": [\n    true\n  ]\n}\n', "")


def test_a_wait_may_be_followed_by_the_payload(command: Command) -> None:
    assert command.run("submit", "echo", "--wait", '"5"').out == '"5"\n'


FAILURES = {
    "failed": (["fail", '{"retryable": false}', "--wait", "20"], "failed: NotRetryable"),
    "canceled": (["stop", "--wait", "20"], "was canceled"),
    "not finished": (["sleep", '{"seconds": 60}', "--wait", "0.2"], "is not finished, but"),
    "refused": (["nobody"], "nobody"),
    "refused before it was sent": (["no such type"], "$.type"),
}


@pytest.mark.parametrize(("args", "said"), FAILURES.values(), ids=FAILURES)
def test_a_job_that_did_not_complete_is_exit_code_1(command: Command, args: list[str], said: str) -> None:
    done = command.run("submit", *args)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("jobserver: ")
    assert said in done.err


WRONG = {
    "not JSON": (["submit", "echo", "{"], "The payload is not JSON"),
    "text without quotes": (["submit", "echo", "hello"], "Text needs quotes of its own"),
    "NaN": (["submit", "echo", "NaN"], "The payload is not JSON"),
    "nothing on standard input": (["submit", "echo", "-"], "The payload is not JSON"),
    "too many arguments": (["submit", "echo", "1", "2"], "unexpected extra argument"),
    "unknown priority": (["submit", "echo", "--priority", "urgent"], "--priority"),
    "unknown status": (["list", "--status", "done"], "--status"),
    "no type": (["submit"], "TYPE"),
    "no URL": (["stats", "--url", "localhost"], "should look like"),
    "an empty label": (["stats", "--url", "http://a..b:8000"], "is not readable"),
    "a long label": (["stats", "--url", f"http://{'a' * 64}.example"], "is not readable"),
    "no text in the URL": (["stats", "--url", "http://\udcff"], "is not readable"),
    "another scheme": (["stats", "--url", "ftp://localhost"], "should look like"),
}


@pytest.mark.parametrize(("args", "said"), WRONG.values(), ids=WRONG)
def test_wrong_usage_is_exit_code_2_and_one_line(alone: Command, args: list[str], said: str) -> None:
    done = alone.run(*args)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert said in done.err


def test_a_server_that_is_not_there_is_exit_code_3(alone: Command) -> None:
    done = alone.run("stats", "--url", "http://127.0.0.1:1")
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("jobserver: No answer from http://127.0.0.1:1: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("proxy", ["socks5://me:s3cret@127.0.0.1:1080", "socks4://me:s3cret@127.0.0.1:1080"])
def test_a_proxy_is_not_asked_for_this_machine_and_else_wrong_ones_are_one_line(
    command: Command, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert command.run("list").code == 0
    done = command.run("list", "--url", "http://192.0.2.1:8000")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("jobserver: A proxy of the environment")
    assert done.err.count("\n") == 1
    assert "s3cret" not in done.err


def test_what_a_terminal_cannot_show_is_escaped(server: Serving, tmp_path: Path) -> None:
    where = {"JOBSERVER_URL": server.url, "PYTHONIOENCODING": "ascii"}
    job_id = jobserver("submit", "echo", '"\u4e16\u754c"', cwd=tmp_path, **where).out.strip()
    shown = jobserver("show", job_id, cwd=tmp_path, **where)
    assert (shown.code, shown.err) == (0, "")
    assert r'"\u4e16\u754c"' in shown.out


@pytest.mark.parametrize(
    "args",
    [
        ["list", "--search", "\udcff"],
        ["list", "--tag", "\udcff"],
        ["list", "--queue", "\udcff"],
        ["list", "--cursor", "\udcff"],
        ["submit", "\udcff"],
        ["submit", "echo", "--key", "\udcff"],
        ["submit", "echo", "--tag", "\udcff"],
        ["submit", "echo", '"\udcff"'],
        ["dlq", "replay", "--type", "\udcff", "--yes"],
        ["cancel", "--type", "\udcff", "--yes"],
        ["queues", "pause", "\udcff"],
        ["watch", "\udcff"],
        ["secrets", "revoke", "\udcff"],
        ["\udcff"],
        ["list", "--\udcff"],
    ],
    ids=" ".join,
)
def test_arguments_that_are_no_text_are_one_line(command: Command, args: list[str]) -> None:
    done = command.run(*args)
    assert done.code in (1, 2)
    assert done.out == ""
    assert done.err.startswith("jobserver: ")
    assert done.err.count("\n") == 1


def test_the_url_comes_from_dotenv_too(alone: Command, server: Serving) -> None:
    Path(".env").write_text(f"JOBSERVER_URL={server.url}\nJOBSERVER_TIMEOUT=nonsense\n")
    assert alone.run("stats").code == 0


@pytest.mark.parametrize("job_id", ["1234", "", "..", "../admin/stats", "019a0000-0000-7000-8000-000000000000"])
@pytest.mark.parametrize("verb", ["show", "cancel", "retry"])
def test_an_unknown_id_is_exit_code_1(command: Command, verb: str, job_id: str) -> None:
    done = command.run(verb, job_id)
    assert (done.code, done.out) == (1, "")
    assert "there is no job" in done.err.lower()


def test_show_tells_a_job_and_its_attempts(command: Command) -> None:
    job_id = json.loads(
        command.run("submit", "fail", '{"times": 9}', "--max-retries", "0", "--wait", "20", "--json").out
    )["id"]
    shown = command.run("show", job_id)
    assert (shown.code, shown.err) == (0, "")
    assert f"id        {job_id}" in shown.out
    assert "status    failed" in shown.out
    assert '"times": 9' in shown.out
    assert "Traceback (most recent call last)" in shown.out
    assert shown.out.rstrip().splitlines()[-2].split()[:2] == ["attempt", "outcome"]


def test_nothing_in_a_job_reaches_the_terminal_as_a_command(command: Command) -> None:
    payload = json.dumps({"text": ESCAPES})
    waited = command.run("submit", "hostile", payload, "--wait", "20")
    job_id = waited.err.split()[3]
    for text in (waited.err, command.run("show", job_id).out, command.run("submit", "echo", payload, "--wait").out):
        assert "owned" in text
        assert not set(text) & set(ESCAPES) - set("0;ownedm31[]")


def test_json_is_the_body_unchanged(command: Command) -> None:
    job_id = command.run("submit", "echo", '{"b": 1, "a": 1e3}', "--delay", "1h").out.strip()
    canceled = command.run("submit", "echo", "--delay", "1h").out.strip()
    command.run("cancel", canceled)
    for args, path in (
        (["show", job_id], f"/jobs/{job_id}"),
        (["list", "--status", "scheduled", "--limit", "1"], "/jobs?status=scheduled&limit=1"),
        (["why", canceled], f"/jobs/{canceled}/why"),
    ):
        assert command.run(*args, "--json").out == httpx.get(command.url + path).text + "\n"
    assert json.loads(command.run("queues", "--json").out)["items"][0]["name"] == "default"
    assert json.loads(command.run("workers", "--json").out)["items"][0]["alive"] is True
    assert json.loads(command.run("stats", "--json").out)["workers"] == 1


def test_list_filters_and_pages(command: Command) -> None:
    ids = [command.run("submit", "echo", str(n), "--tag", "paged", "--delay", "1h").out.strip() for n in range(3)]
    first = command.run("list", "--tag", "paged", "--limit", "2")
    assert [line.split()[0] for line in first.out.splitlines()[1:]] == [ids[2], ids[1]]
    assert first.err.startswith("2 of 3; the next: --cursor ")
    cursor = first.err.split()[-1]
    second = command.run("list", "--tag", "paged", "--limit", "2", "--cursor", cursor)
    assert [line.split()[0] for line in second.out.splitlines()[1:]] == [ids[0]]
    assert second.err == ""
    both = command.run("list", "--tag", "paged", "--status", "scheduled", "--status", "queued", "--offset", "1")
    assert len(both.out.splitlines()) == 3
    refused = command.run("list", "--created-after", "yesterday")
    assert refused.code == 1
    assert "created_after" in refused.err


def test_a_waiting_job_is_canceled_and_queued_again(command: Command) -> None:
    job_id = command.run("submit", "echo", "--delay", "1h").out.strip()
    canceled = command.run("cancel", job_id)
    assert (canceled.code, canceled.out) == (0, "canceled\n")
    again = command.run("cancel", job_id)
    assert again.code == 1
    assert "canceled" in again.err
    # It is due at once, so it may have begun before the command looks.
    assert command.run("retry", job_id).out in {"queued\n", "running\n", "completed\n"}


def test_why_gives_reasons_and_what_to_do(command: Command) -> None:
    job_id = command.run("submit", "echo", "--delay", "1h", "--queue", "calm").out.strip()
    assert command.run("queues", "pause", "calm").code == 0
    told = command.run("why", job_id)
    assert (told.code, told.err) == (0, "")
    codes = [line.split()[0] for line in told.out.splitlines() if line and not line.startswith(" ")]
    assert codes == ["status", "scheduled", "queue_paused"]
    assert "due in 59 min" in told.out or "due in 1 h" in told.out
    assert "jobserver queues resume calm" in told.out
    assert command.run("queues", "resume", "calm").code == 0
    unknown = command.run("why", "019a0000-0000-7000-8000-000000000000")
    assert (unknown.code, unknown.out) == (1, "")


def test_rates_are_shown_once_they_are_known(command: Command) -> None:
    command.run("submit", "echo", "--wait", "10")
    deadline = time.monotonic() + 20
    while not (queue := json.loads(command.run("queues", "--json").out)["items"][0])["rates"]:
        assert time.monotonic() < deadline
    assert set(queue["rates"]) == {"submitted_per_second", "completed_per_second", "failed_per_second"}
    header, *_ = command.run("queues").out.splitlines()
    assert "in/s" in header
    assert "done/s" in command.run("workers").out.splitlines()[0]


def test_many_jobs_are_canceled_and_queued_again(command: Command) -> None:
    word = uuid.uuid4().hex
    ids = [command.run("submit", "echo", f'"{word}"', "--delay", "1h").out.strip() for _ in range(3)]
    assert len(command.run("list", "--search", word).out.splitlines()) == 4
    assert command.run("list", "--search", word, "--error", "x").out.splitlines()[1:] == []
    dry = command.run("cancel", "--search", word, "--dry-run")
    assert (dry.code, dry.out) == (0, "3 jobs would be canceled\n")
    unasked = command.run("cancel", "--search", word)
    assert (unasked.code, unasked.out) == (2, "")
    assert "--yes" in unasked.err
    some = command.run("cancel", "--search", word, "--status", "scheduled", "--limit", "2", "--yes")
    assert (some.code, some.out) == (0, "2 jobs canceled\n")
    assert "there may be more" in some.err
    assert json.loads(command.run("cancel", *ids[:2], "--json").out)["changed"] == 1
    assert command.run("retry", *ids, "--dry-run").out == "3 jobs would be queued again\n"
    assert command.run("retry", *ids).out == "3 jobs queued again\n"
    for wrong in (["cancel"], ["retry", "--yes"], ["cancel", ids[0], "--type", "echo"], ["retry", *ids, "--tag", "x"]):
        done = command.run(*wrong)
        assert (done.code, done.out) == (2, ""), wrong


def test_a_person_is_asked_before_many_jobs_are_canceled(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.cli.remote.check_can_ask", lambda *, yes: None)
    monkeypatch.setattr("jobserver.cli.jobs.check_can_ask", lambda *, yes: None)
    word = uuid.uuid4().hex
    command.run("submit", "echo", f'"{word}"', "--delay", "1h")
    no = command.run("cancel", "--search", word, stdin="n\n")
    assert (no.code, no.out, "Cancel 1 job? [y/N]" in no.err) == (1, "", True)
    assert command.run("cancel", "--search", word, stdin="y\n").out == "1 job canceled\n"


def test_tables_name_their_columns(command: Command) -> None:
    assert command.run("queues").out.split()[:3] == ["queue", "scheduled", "queued"]
    assert command.run("workers").out.split()[:3] == ["id", "state", "running"]
    assert command.run("stats").out.splitlines()[0].startswith("jobs")


def test_a_reader_that_goes_away_is_no_error(server: Serving, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "list", "--json", "--url", server.url],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


UNWANTED = {"litestar", "sqlalchemy", "redis", "uvicorn", "structlog", "alembic", "aiosqlite", "asyncpg"}


@pytest.mark.parametrize(
    "code",
    [
        "import jobserver; from jobserver import Client, SyncClient, Handlers, Attempt",
        "import jobserver.client",
        "import jobserver.testing",
        "from jobserver.cli import run; assert run(['stats', '--url', 'http://127.0.0.1:1']) == 3",
        "from jobserver.cli import run; assert run(['submit', 'echo', '--url', 'http://127.0.0.1:1']) == 3",
        "from jobserver.cli import run; assert run(['--help']) == 0",
        "from jobserver.cli import run; assert run(['serve', '--help']) == 0",
    ],
)
def test_clients_load_nothing_of_the_server(code: str) -> None:
    tell = f"{code}\nimport sys; print(sorted({{name.partition('.')[0] for name in sys.modules}} & {UNWANTED!r}))"
    done = subprocess.run(
        [sys.executable, "-c", tell], env=environment(), cwd=PROJECT, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr


def test_import_of_the_package_alone_loads_no_client() -> None:
    tell = "import jobserver, sys; print({'httpx', 'msgspec', 'click', 'asyncio'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", tell], env=environment(), cwd=PROJECT, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "set()\n", done.stderr


def test_a_command_that_blocks_loads_no_event_loop() -> None:
    tell = "from jobserver.cli import run; run(['stats', '--url', 'http://127.0.0.1:1'])"
    tell += "\nimport sys; print('asyncio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", tell], env=environment(), cwd=PROJECT, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "False\n", done.stderr


def test_what_is_printable_stays() -> None:
    assert printable("Grüße, 世界 🎉") == "Grüße, 世界 🎉"
    assert printable("a\nb\tc\x1b") == "a\\nb   c\\x1b"
    assert printable("a\nb\x00", lines=True) == "a\nb\\x00"


@pytest.mark.parametrize("longest", [50, 500])
def test_what_is_copied_from_a_narrow_table_is_whole(
    longest: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jobserver.cli.output.UNBOUNDED", 80)
    row = (str(uuid.uuid4()), "signing", "2026-03-07 10:00:00Z", "s" * 20 + "e" * (longest - 20))
    table(("id", "a", "b", "c"), [row])
    header, *lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    starts = [header.index(name) for name in ("id", "a", "b", "c")]
    for cell, start, end in zip(row, starts, [*starts[1:], None], strict=True):
        shown = "".join(line[start:end].strip() for line in lines)
        assert shown.replace(" ", "") == cell.replace(" ", "")


def test_long_json_is_cut() -> None:
    assert "characters more: see --json" in as_json(["x" * 50_000])


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0.04, "0.0s"), (1.4, "1s"), (61, "1m 1s"), (3_600, "1h"), (90_000, "1d 1h")],
)
def test_ages_have_two_units(seconds: float | None, shown: str) -> None:
    assert age(seconds) == shown
