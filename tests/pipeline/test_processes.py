"""Attempts in real child processes: what they return, how they die, and that they leave with their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from jobserver.job.model import Canceled, HandedBack, Outcome, Raised, Returned
from jobserver.pipeline.running import CancelReason, Running
from tests.engines import eventually
from tests.pipeline.attempts import REFERENCE, Recorded, claimed, crash_of, error_of


@pytest.fixture
async def recorded() -> AsyncIterator[Recorded]:
    async with Recorded(references=(REFERENCE,)) as recorded:
        yield recorded


async def test_a_job_runs_in_a_child_with_its_ids_and_its_progress(recorded: Recorded) -> None:
    job = claimed("process", {"text": "ä" * 100_000})
    outcome = await recorded.executor.run(Running(job))
    seen = result_of(outcome)
    assert seen["pid"] != os.getpid()
    assert seen["text"] == "ä" * 100_000
    assert seen["attempt"] == 2
    assert 0 < seen["left"] <= 30
    assert seen["context"]["job_id"] == str(job.id)
    assert [p.percent for p in recorded.progress] == [50]


async def test_a_child_is_kept_for_the_next_job(recorded: Recorded) -> None:
    first = result_of(await recorded.run("process"))
    second = result_of(await recorded.run("process.async"))
    assert first["pid"] == second["pid"]
    assert recorded.executor.child_pids == [first["pid"]]


async def test_children_are_at_most_as_many_as_allowed() -> None:
    async with Recorded(references=(REFERENCE,), processes=2) as recorded:
        outcomes = await asyncio.gather(*(recorded.run("process.async", {"seconds": 0.2}) for _ in range(5)))
        assert len({result_of(outcome)["pid"] for outcome in outcomes}) == 2


async def test_a_child_calls_its_setup_first() -> None:
    setup = {"child_setup": "tests.pipeline.sample_handlers:set_up", "child_setup_arguments": {"level": "debug"}}
    async with Recorded(references=(REFERENCE,), **setup) as recorded:
        assert result_of(await recorded.run("process"))["setup"] == {"level": "debug"}


@pytest.mark.parametrize(("how", "fate"), [("exit", "exited with status 3"), ("kill", "SIGKILL"), ("abort", "SIGABRT")])
async def test_a_dead_child_fails_its_own_job_and_is_replaced(recorded: Recorded, how: str, fate: str) -> None:
    outcome = await recorded.run("process.dies", {"how": how})
    assert fate in crash_of(outcome)
    assert isinstance(await recorded.run("process"), Returned)


async def test_what_is_raised_in_a_child_is_a_failure_of_the_job_alone(recorded: Recorded) -> None:
    assert error_of(await recorded.run("process.dies", {"how": "leaving"})) == ("SystemExit", True)
    throttled = ("tests.pipeline.sample_handlers.Throttled", True)
    assert error_of(await recorded.run("process.dies", {"how": "throttled"})) == throttled
    assert len(recorded.executor.child_pids) == 1


async def test_a_child_that_died_while_it_was_idle_costs_no_job(recorded: Recorded) -> None:
    pid = result_of(await recorded.run("process"))["pid"]
    os.kill(pid, signal.SIGKILL)
    outcome = await recorded.run("process")
    assert result_of(outcome)["pid"] != pid


async def test_a_child_that_sends_garbage_is_killed(recorded: Recorded) -> None:
    outcome = await recorded.run("process.garbage")
    assert "sent what is not a frame" in crash_of(outcome)
    assert isinstance(await recorded.run("process"), Returned)


async def test_a_payload_that_does_not_fit_is_refused_by_the_child(recorded: Recorded) -> None:
    assert error_of(await recorded.run("process", {"text": 1})) == ("InvalidPayload", False)


@pytest.mark.parametrize("job_type", ["process.async", "process.stubborn"])
async def test_a_child_that_runs_too_long_times_out(recorded: Recorded, job_type: str) -> None:
    payload = {"seconds": 60} if job_type == "process.async" else None
    outcome = await recorded.run(job_type, payload, timeout_seconds=0.3)
    assert error_of(outcome) == ("Timeout", True)
    # Only the one that did not end when asked was killed.
    assert len(recorded.executor.child_pids) == (1 if job_type == "process.async" else 0)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (CancelReason.REQUESTED, Canceled("cancel requested")),
        (CancelReason.SHUTDOWN, HandedBack()),
        (CancelReason.LEASE_REFUSED, HandedBack()),
    ],
)
@pytest.mark.parametrize("job_type", ["process.async", "process.stubborn"])
async def test_a_job_in_a_child_can_be_asked_to_end(
    recorded: Recorded, job_type: str, reason: CancelReason, expected: Outcome
) -> None:
    payload = {"seconds": 60} if job_type == "process.async" else None
    running = Running(claimed(job_type, payload))
    run = asyncio.create_task(recorded.executor.run(running))
    await until_progress(recorded)
    running.cancel(reason)
    async with asyncio.timeout(10):
        assert await run == expected


async def test_a_plain_function_in_a_child_sees_the_cancel_request(recorded: Recorded) -> None:
    running = Running(claimed("cooperates.process"))
    run = asyncio.create_task(recorded.executor.run(running))
    await until_progress(recorded)
    running.cancel(CancelReason.REQUESTED)
    assert await run == Returned(b'"stopped"')
    assert len(recorded.executor.child_pids) == 1


async def test_a_job_can_be_asked_to_end_while_its_child_starts(recorded: Recorded) -> None:
    running = Running(claimed("process"))
    run = asyncio.create_task(recorded.executor.run(running))
    await asyncio.wait([run], timeout=0.05)
    running.cancel(CancelReason.REQUESTED)
    async with asyncio.timeout(10):
        assert await run == Canceled("cancel requested")
    assert isinstance(await recorded.run("process"), Returned)


async def test_cancelling_the_caller_kills_the_child(recorded: Recorded) -> None:
    running = Running(claimed("process.stubborn"))
    run = asyncio.create_task(recorded.executor.run(running))
    await until_progress(recorded)
    [pid] = recorded.executor.child_pids
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not psutil.pid_exists(pid)
    assert isinstance(await recorded.run("process"), Returned)


async def test_a_suspect_runs_in_a_child_whatever_its_handler_is(recorded: Recorded) -> None:
    assert result_of(await recorded.run("suspect", crashes=0)) == os.getpid()
    assert result_of(await recorded.run("suspect", crashes=1)) != os.getpid()
    assert isinstance(await recorded.run("context.thread", crashes=1), Returned)


async def test_a_poisonous_suspect_takes_only_its_child_with_it(recorded: Recorded) -> None:
    outcome = await recorded.run("suspect.dies", crashes=1)
    assert "exited with status 9" in crash_of(outcome)


async def test_the_suspects_of_a_dead_process_wait_for_nobody() -> None:
    async with Recorded(references=(REFERENCE,), processes=1, isolated=20) as recorded:
        runs = [asyncio.create_task(recorded.run("process.async", {"seconds": 0.5}, crashes=1)) for _ in range(20)]
        async with asyncio.timeout(30):
            while len(recorded.executor.child_pids) < 20:
                await asyncio.sleep(0.005)
        assert len({result_of(await run)["pid"] for run in runs}) == 20
        # No more of them are kept than for those that want one.
        await eventually(lambda: len(recorded.executor.child_pids) == 1)


async def test_the_end_of_the_template_is_a_crash_of_what_runs_and_no_more(recorded: Recorded) -> None:
    run = asyncio.create_task(recorded.run("process.stubborn"))
    await until_progress(recorded)
    [child] = recorded.executor.child_pids
    template = psutil.Process(child).parent()
    assert template is not None
    template.kill()
    assert "stopped answering" in crash_of(await run)
    await eventually(lambda: not psutil.pid_exists(child))
    assert isinstance(await recorded.run("process"), Returned)


@pytest.mark.parametrize(
    ("reference", "message"),
    [("no.such.module:handlers", "no.such.module"), ("tests.pipeline.attempts:claimed", "not a Handlers object")],
)
async def test_a_child_that_cannot_import_its_handlers_says_so(reference: str, message: str) -> None:
    async with Recorded(references=(reference,)) as recorded:
        outcome = await recorded.run("process")
        assert error_of(outcome)[0] == "HandlerNotFound"
        assert isinstance(outcome, Raised)
        assert message in outcome.error.message


async def test_a_child_that_does_not_know_the_type_says_so() -> None:
    async with Recorded(references=("jobserver.builtin:handlers",)) as recorded:
        outcome = await recorded.run("process")
        assert error_of(outcome)[0] == "HandlerNotFound"


async def test_closing_ends_the_children() -> None:
    async with Recorded(references=(REFERENCE,)) as recorded:
        pid = result_of(await recorded.run("process"))["pid"]
    assert not psutil.pid_exists(pid)


async def test_children_ignore_the_signals_of_the_terminal_and_the_service_manager(recorded: Recorded) -> None:
    pid = result_of(await recorded.run("process"))["pid"]
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    assert result_of(await recorded.run("process"))["pid"] == pid


PARENT = """
import asyncio, sys
sys.path.insert(0, {root!r})
from jobserver.pipeline.running import Running
from tests.pipeline.attempts import REFERENCE, Recorded, claimed

async def main():
    async with Recorded(references=(REFERENCE,)) as recorded:
        run = asyncio.create_task(recorded.executor.run(Running(claimed("process.stubborn"))))
        await recorded.reported.wait()
        print(recorded.executor.child_pids[0], flush=True)
        await run

asyncio.run(main())
"""


async def test_a_child_leaves_when_its_parent_is_killed() -> None:
    root = str(Path(__file__).parents[2])
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT.format(root=root)), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = psutil.Process(int(await asyncio.wait_for(parent.stdout.readline(), 30)))
    parent.kill()
    await parent.wait()
    gone, _ = await asyncio.to_thread(psutil.wait_procs, [child], timeout=10)
    assert gone == [child]


async def until_progress(recorded: Recorded) -> None:
    async with asyncio.timeout(30):
        await recorded.reported.wait()


def result_of(outcome: Outcome) -> Any:
    assert isinstance(outcome, Returned), outcome
    return msgspec.json.decode(outcome.result)
