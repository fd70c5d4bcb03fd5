"""`jobserver dlq` and `jobserver queues`: looked at, asked about, and changed."""

from __future__ import annotations

import json
import sys
from uuid import uuid4

import httpx
import pytest

from jobserver.client import SyncClient
from tests.cli.conftest import Command


@pytest.fixture
def failed(command: Command) -> list[str]:
    """Three jobs that have failed, the only ones."""
    with SyncClient(command.url) as client:
        client.purge(all=True)
        jobs = [client.submit("hostile", {"text": f"no {n}"}) for n in range(3)]
        return [str(client.wait(job.id, 20).id) for job in jobs]


def test_failed_jobs_are_listed(command: Command, failed: list[str]) -> None:
    listed = command.run("dlq", "list")
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == failed[::-1]
    assert "ValueError: no 1" in listed.out
    page = command.run("dlq", "list", "--type", "hostile", "--limit", "2", "--json")
    assert page.out == httpx.get(f"{command.url}/dlq?type=hostile&limit=2").text + "\n"
    assert command.run("dlq", "list", "--limit", "1").err.startswith("1 of 3; the next: --cursor ")


def test_failed_jobs_are_replayed(command: Command, failed: list[str]) -> None:
    dry = command.run("dlq", "replay", "--type", "hostile", "--dry-run")
    assert (dry.code, dry.out) == (0, "3 failed jobs would be queued again\n")
    one = command.run("dlq", "replay", failed[0], "--yes", "--json")
    assert json.loads(one.out) == {"replayed": 1, "ids": [failed[0]]}
    with SyncClient(command.url) as client:
        assert client.wait(failed[0], 20).fence > 2
    rest = command.run("dlq", "replay", "--all", "--limit", "2", "-y")
    assert (rest.code, rest.out) == (0, "2 failed jobs queued again\n")
    assert "There may be more" in rest.err
    with SyncClient(command.url) as client:
        for job_id in failed:
            # Else they would fail among those of the next test.
            assert client.wait(job_id, 20).status == "failed"


def test_failed_jobs_are_purged(command: Command, failed: list[str]) -> None:
    assert command.run("dlq", "purge", "--queue", "default", "--dry-run").out == "3 failed jobs would be deleted\n"
    assert command.run("dlq", "purge", failed[0], "--yes").out == "1 failed job deleted\n"
    unknown = command.run("dlq", "purge", str(uuid4()), "--yes")
    assert (unknown.code, unknown.out) == (1, "")
    assert json.loads(command.run("dlq", "purge", "--all", "--yes", "--json").out) == {"deleted": 2}
    assert command.run("dlq", "list").out.splitlines()[1:] == []


def test_a_purge_goes_on_after_a_refusal(command: Command, failed: list[str]) -> None:
    with SyncClient(command.url) as client:
        strange, scheduled = str(uuid4()), str(client.submit("echo", delay=600).id)
    done = command.run("dlq", "purge", failed[0], strange, scheduled, failed[2], "--yes")
    assert (done.code, done.out) == (1, "2 failed jobs deleted\n")
    said = done.err.splitlines()
    assert [line.startswith(f"jobserver: {each}: ") for line, each in zip(said, (strange, scheduled), strict=True)] == [
        *(True, True)
    ]
    with SyncClient(command.url) as client:
        assert [str(job.id) for job in client.dlq()] == [failed[1]]
        client.cancel(scheduled)


def test_failed_jobs_are_grouped(command: Command, failed: list[str]) -> None:
    shown = command.run("dlq", "groups", "--type", "hostile")
    [line] = shown.out.splitlines()[1:]
    assert "ValueError: no " in line
    fingerprint = line.split()[0]
    assert command.run("dlq", "groups", "--json").out == httpx.get(f"{command.url}/dlq/groups").text + "\n"
    assert len(command.run("dlq", "list", "--fingerprint", fingerprint).out.splitlines()) == 4
    dry = command.run("dlq", "replay", "--fingerprint", fingerprint, "--limit", "2", "--dry-run")
    assert dry.out == "2 failed jobs would be queued again\n"
    assert command.run("dlq", "purge", "--fingerprint", "0" * 16, "--yes").out == "0 failed jobs deleted\n"
    assert command.run("dlq", "purge", "--fingerprint", fingerprint, "--yes").out == "3 failed jobs deleted\n"


@pytest.mark.parametrize("verb", ["replay", "purge"])
@pytest.mark.parametrize("args", [["--all"], ["--type", "hostile"], [str(uuid4())]])
def test_without_a_terminal_nobody_is_asked(command: Command, failed: list[str], verb: str, args: list[str]) -> None:
    done = command.run("dlq", verb, *args)
    assert (done.code, done.out) == (2, "")
    assert "--yes" in done.err
    with SyncClient(command.url) as client:
        assert len(list(client.dlq())) == 3


@pytest.mark.parametrize("verb", ["replay", "purge"])
def test_it_has_to_be_said_which(alone: Command, verb: str) -> None:
    done = alone.run("dlq", verb, "--yes")
    assert (done.code, done.out) == (2, "")
    assert "Say which" in done.err


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 3), ("\n", 1, 3)])
def test_a_person_is_asked(
    command: Command, failed: list[str], monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    monkeypatch.setattr("jobserver.cli.remote.check_can_ask", lambda *, yes: None)
    monkeypatch.setattr("jobserver.cli.dead_letters.check_can_ask", lambda *, yes: None)
    done = command.run("dlq", "purge", "--type", "hostile", stdin=answer)
    assert (done.code, "Delete 3 failed jobs for good? [y/N]" in done.err) == (code, True)
    with SyncClient(command.url) as client:
        assert len(list(client.dlq())) == left
    assert sys.stdin.read() == ""


def test_queues_are_paused_and_resumed(command: Command) -> None:
    assert command.run("queues", "pause", "mail").out == "paused\n"
    assert "paused" in command.run("queues").out
    shown = command.run("queues", "resume", "mail", "--json")
    assert (json.loads(shown.out)["name"], json.loads(shown.out)["paused"]) == ("mail", False)
    assert command.run("queues", "pause").code == 2
    assert command.run("queues", "stop", "mail").code == 2
    assert command.run("queues", "pause", "no such name").code == 1
