"""`submit --file`: every line one job, however often the command is given, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobserver.cli import bulk
from jobserver.cli.remote import Session
from jobserver.client import Answer, SyncClient
from jobserver.job.model import Status
from jobserver.job.wire import BatchItem, BatchView
from tests.cli.conftest import Command
from tests.cli.process import Serving, jobserver


def payloads(command: Command, tag: str) -> list[Any]:
    """Of the jobs with this tag, in the order of their submits."""
    with SyncClient(command.url) as client:
        return [job.payload for job in client.list(tag=tag)][::-1]


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_each_line_is_a_job(command: Command, tmp_path: Path) -> None:
    file = write(tmp_path / "jobs.ndjson", *(json.dumps({"n": n}) for n in range(2_500)))
    done = command.run("submit", "echo", "--file", str(file), "--tag", "all", "--delay", "1h")
    assert (done.code, done.out, done.err) == (0, "2,500 jobs submitted\n", "")
    assert payloads(command, "all") == [{"n": n} for n in range(2_500)]


def test_a_repeated_command_doubles_nothing(command: Command, tmp_path: Path) -> None:
    file = write(tmp_path / "jobs.ndjson", "1", "", "1", '"ä"')
    args = ("submit", "echo", "--file", str(file), "--tag", "again", "--delay", "1h")
    assert command.run(*args).out == "3 jobs submitted\n"
    # By another name, it is the same content.
    moved = str(file.rename(tmp_path / "moved.ndjson"))
    again = command.run(*(moved if arg == str(file) else arg for arg in args))
    assert (again.code, again.out) == (0, "0 jobs submitted, 3 were there already\n")
    assert payloads(command, "again") == [1, 1, "ä"]
    # Another content is other jobs.
    write(tmp_path / "moved.ndjson", "1", "2")
    assert command.run(*(moved if arg == str(file) else arg for arg in args)).out == "2 jobs submitted\n"


def test_with_a_key_the_file_may_have_grown(command: Command, tmp_path: Path) -> None:
    args = ("--tag", "grown", "--key", "import-7", "--delay", "1h")
    file = str(write(tmp_path / "jobs.ndjson", "1", "2"))
    assert command.run("submit", "echo", "--file", file, *args).code == 0
    write(tmp_path / "jobs.ndjson", "1", "2", "3")
    done = command.run("submit", "echo", "--file", file, *args)
    assert done.out == "1 jobs submitted, 2 were there already\n"
    assert payloads(command, "grown") == [1, 2, 3]
    write(tmp_path / "jobs.ndjson", "1", "", "4")
    refused = command.run("submit", "echo", "--file", file, *args)
    assert (refused.code, refused.out) == (1, "")
    assert "line 3" in refused.err
    assert "0 of 2 jobs are submitted" in refused.err


def test_after_an_interruption_it_goes_on_where_it_was(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(write(tmp_path / "jobs.ndjson", *map(str, range(3_000))))
    args = ("submit", "echo", "--file", file, "--tag", "cut", "--delay", "1h")
    original, calls = SyncClient._send, []

    def cut(self: SyncClient, request: Any) -> Any:
        calls.append(request)
        if len(calls) == 2:
            # Stored, and nobody heard of it.
            original(self, request)
            raise KeyboardInterrupt
        return original(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(SyncClient, "_send", cut)
        interrupted = command.run(*args)
    assert interrupted.code == 130
    assert "1,000 of 3,000 jobs are submitted" in interrupted.err
    done = command.run(*args)
    assert done.out == "1,000 jobs submitted, 2,000 were there already\n"
    assert sorted(payloads(command, "cut")) == list(range(3_000))


def test_json_is_the_answer_of_each_batch(command: Command, tmp_path: Path) -> None:
    file = write(tmp_path / "jobs.ndjson", *map(str, range(1_001)))
    done = command.run("submit", "echo", "--file", str(file), "--json", "--delay", "1h")
    batches = [json.loads(line)["jobs"] for line in done.out.splitlines()]
    assert [len(batch) for batch in batches] == [1_000, 1]
    assert command.show(batches[1][0]["id"])["payload"] == 1_000


def test_standard_input_is_a_file_too(command: Command) -> None:
    done = command.run("submit", "echo", "--file", "-", "--tag", "stdin", "--delay", "1h", stdin="1\n2")
    assert (done.code, done.out) == (0, "2 jobs submitted\n")
    assert payloads(command, "stdin") == [1, 2]


WRONG = {
    "a line that is not JSON": ("1\n{\n", "Line 2 of"),
    "NaN": ("NaN\n", "Line 1 of"),
    "no lines": ("\n \n", "has no lines"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_wrong_is_refused_whole(command: Command, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "wrong.ndjson").write_text(text)
    done = command.run("submit", "echo", "--file", "wrong.ndjson", "--tag", "wrong")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert payloads(command, "wrong") == []


@pytest.mark.parametrize("args", [["--file", "missing"], ["--file", "x", "--wait"], ["1", "--file", "x"]])
def test_a_file_that_is_not_there_or_not_alone_is_wrong_usage(command: Command, args: list[str]) -> None:
    assert command.run("submit", "echo", *args).code == 2


def test_a_line_that_the_server_refuses_is_named(command: Command, tmp_path: Path) -> None:
    file = write(tmp_path / "jobs.ndjson", '{"text": "a"}', "", '{"text": 1}')
    done = command.run("submit", "hostile", "--file", str(file))
    assert done.code == 1
    assert "line 3: $.payload.text: Expected `str`, got `int`" in done.err
    assert "0 of 2 jobs are submitted" in done.err


def test_a_server_that_is_not_there_is_exit_code_3(
    alone: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "REPEATS", 0)
    done = alone.run("submit", "echo", "--file", str(write(tmp_path / "x", "1")), "--url", "http://127.0.0.1:1")
    assert (done.code, done.out) == (3, "")


def test_the_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(self: Any, bodies: list[Any]) -> Iterator[Any]:
        items = [BatchItem(body.idempotency_key, Status.QUEUED, True) for body in bodies]
        return iter(items)

    peaks = []
    with SyncClient() as client:
        session = Session(client, url="", api_key=None, with_json=False)
        monkeypatch.setattr(
            SyncClient,
            "run",
            lambda self, steps: Answer(BatchView(list(steps)), b""),
        )
        monkeypatch.setattr("jobserver.client.Calls.submit_batch", submit)
        for lines in (5_000, 50_000):
            file = write(tmp_path / "jobs", *('{"n": "' + "x" * 200 + f'{n}"}}' for n in range(lines)))
            tracemalloc.start()
            assert bulk.submit_file(session, "echo", str(file), None, {}) == 0
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5, peaks


def test_a_terminal_sees_a_bar(server: Serving, tmp_path: Path) -> None:
    write(tmp_path / "jobs.ndjson", *map(str, range(1_500)))
    # Without a terminal there is none.
    done = jobserver("submit", "echo", "--file", "jobs.ndjson", "--delay", "1h", cwd=tmp_path, JOBSERVER_URL=server.url)
    assert (done.code, done.out, done.err) == (0, "1,500 jobs submitted\n", "")
