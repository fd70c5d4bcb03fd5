"""Commands in a real terminal: `top` and its keys, the bar of a file, the question before a purge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobserver.cli.top import Chosen, Rates
from jobserver.client import SyncClient
from jobserver.job.model import Status
from tests.cli.conftest import Command
from tests.cli.process import Serving
from tests.cli.terminal import Terminal

GATED = """
from jobserver import Attempt, Handlers
import asyncio

handlers = Handlers()

@handlers.handler("long", max_retries=0)
async def long(attempt: Attempt) -> None:
    attempt.progress(25, "a quarter")
    await asyncio.sleep(600)

@handlers.handler("hopeless", max_retries=0)
async def hopeless() -> None:
    raise ValueError("no luck")
"""


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("busy")
    (folder / "gated.py").write_text(GATED)
    with Serving(folder, "gated:handlers", "--workers", "4", "--drain-seconds", "0") as serving:
        yield serving


def test_top_shows_the_server_and_acts_by_keys(busy: Serving, tmp_path: Path) -> None:
    with SyncClient(busy.url) as client:
        running = client.submit("long")
        failed = client.submit("hopeless")
        assert client.wait(failed.id, 20).status is Status.FAILED
        with Terminal(tmp_path, "top", "--interval", "0.2", JOBSERVER_URL=busy.url) as terminal:
            terminal.expect(r"completed [\d.,]+/s")
            terminal.expect(rf"{running.id}.*long.*25 % a quarter")
            terminal.expect(r"worker.*1 of 4")
            terminal.expect(rf"{failed.id}.*ValueError: no luck")
            # Pause and resume.
            terminal.press("p")
            terminal.expect("The queue default is paused")
            assert {queue.name: queue.paused for queue in client.queues()}["default"]
            terminal.press("p")
            terminal.expect("The queue default goes on")
            # Cancel: it asks, and n is no.
            terminal.press("c")
            terminal.expect(rf"Cancel the job {running.id}\? y or n")
            terminal.press("n")
            terminal.expect("Nothing was changed")
            terminal.press("cy")
            terminal.expect(f"Asked {running.id} to end")
            assert client.wait(running.id, 20).status is Status.CANCELED
            # Replay: it fails again.
            terminal.press("\t\x1b[B\x1b[Aj")
            terminal.press("r")
            terminal.expect(rf"Replay the job {failed.id}")
            terminal.press("y")
            terminal.expect(rf"{failed.id} is \w+ again")
            assert client.wait(failed.id, 20).fence > failed.fence + 2
            terminal.press("q")
            assert terminal.ended() == 0
            assert terminal.is_as_before()


def test_top_goes_on_while_the_server_is_away_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    with (
        Serving(tmp_path, "--workers", "1") as serving,
        Terminal(tmp_path, "top", "--interval", "0.1", "--url", serving.url) as terminal,
    ):
        terminal.expect("jobs")
        serving.process.terminate()
        serving.ended()
        terminal.expect("No answer from")
        # Once is enough, unless Python was in a finalizer just then, which swallows it.
        assert terminal.ended_by("\x03") == 130
        assert terminal.is_as_before()


def test_top_without_a_terminal_is_wrong_usage(command: Command) -> None:
    done = command.run("top")
    assert (done.code, done.out) == (2, "")
    assert "needs a terminal" in done.err
    assert set(json.loads(command.run("top", "--json").out)) == set(json.loads(command.run("stats", "--json").out))


def test_top_without_a_server_is_exit_code_3(tmp_path: Path) -> None:
    with Terminal(tmp_path, "top", "--url", "http://127.0.0.1:1") as terminal:
        terminal.expect("No answer from")
        assert terminal.ended() == 3


def test_a_file_has_a_bar_on_a_terminal(busy: Serving, tmp_path: Path) -> None:
    (tmp_path / "jobs.ndjson").write_text("1\n" * 3_000)
    with Terminal(tmp_path, "submit", "echo", "--file", "jobs.ndjson", "--delay", "1h", "--url", busy.url) as terminal:
        terminal.expect(r"submitting.*/3000")
        terminal.expect("3,000 jobs submitted")
        assert terminal.ended() == 0


@pytest.mark.parametrize(("answer", "code", "said"), [("y\n", 0, "1 failed job deleted"), ("n\n", 1, "Nothing was")])
def test_a_purge_asks_the_person_at_the_terminal(
    busy: Serving, tmp_path: Path, answer: str, code: int, said: str
) -> None:
    with SyncClient(busy.url) as client:
        client.purge(all=True)
        client.wait(client.submit("hopeless").id, 20)
    with Terminal(tmp_path, "dlq", "purge", "--type", "hopeless", "--url", busy.url) as terminal:
        terminal.expect(r"Delete 1 failed job for good\? \[y/N\]")
        terminal.press(answer)
        terminal.expect(said)
        assert terminal.ended() == code


def test_rates_are_of_the_last_seconds_and_never_below_zero() -> None:
    rates = Rates()
    assert rates.of("total") == 0.0
    for at in range(20):
        rates.add(float(at), {"total": 10 * at})
    assert rates.of("total") == pytest.approx(10.0)
    rates.add(20.0, {"total": 0})
    assert rates.of("total") == 0.0


def test_the_chosen_line_stays_with_its_name() -> None:
    chosen = Chosen()
    assert chosen.name is None
    chosen.move(1)
    chosen.update(["a", "b", "c"])
    chosen.move(1)
    chosen.update(["x", "a", "b"])
    assert chosen.name == "b"
    chosen.update(["x"])
    assert chosen.name == "x"
    chosen.update([])
    assert chosen.name is None
