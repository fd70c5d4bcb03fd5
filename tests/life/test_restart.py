"""A server that stops or is killed, and starts again on what it left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines import eventually
from tests.life.conftest import Serve
from tests.life.notes import Notes
from tests.life.process import command


async def test_waiting_scheduled_and_completed_jobs_survive_a_restart(anywhere: Serve, notes: Notes) -> None:
    first = await anywhere("--workers", "1", "--drain-seconds", "0s")
    completed = await first.submit("echo", 1)
    before = await first.finished(completed)
    running = await first.submit("gated", notes.gated)
    await eventually(lambda: notes.events(running) == ["started"])
    waiting = await first.submit_all([{"type": "echo", "payload": number} for number in range(20)])
    soon = await first.submit("echo", "soon", delay=2)
    later = await first.submit("echo", "later", delay=3_600)
    assert await first.stop() == 0

    notes.open_gate()
    second = await anywhere()
    assert await second.job(completed) == before
    again = await second.finished(running)
    assert (again["status"], again["attempt"], again["crashes"]) == ("completed", 1, 0)
    assert [job["result"] for job in await second.all_finished(waiting)] == list(range(20))
    assert (await second.finished(soon))["result"] == "soon"
    assert (await second.job(later))["status"] == "scheduled"
    assert await second.counts() == {"completed": 23, "scheduled": 1}


@pytest.mark.parametrize("valkey", ["orphaned", "killed too"])
async def test_after_kill_9_every_accepted_job_completes_and_what_ran_runs_at_once(
    alone: Serve, notes: Notes, valkey: str
) -> None:
    # With this lease, only the lock of the folder can tell that the predecessor is dead.
    long_lease = ("--lease-seconds", "600s", "--workers", "4")
    first = await alone(*long_lease)
    done = await first.submit("echo")
    await first.finished(done)
    running = [await first.submit("gated", notes.gated) for _ in range(4)]
    await eventually(lambda: len(notes.all()) == 4)
    waiting = await first.submit_all([{"type": "echo", "payload": number} for number in range(100)])
    delayed = await first.submit_all([{"type": "echo", "delay": 1.5} for _ in range(10)])
    [engine] = first.children
    first.kill()
    if valkey == "killed too":
        engine.kill()
    else:
        assert engine.is_running()

    notes.open_gate()
    second = await alone(*long_lease)
    for job in await second.all_finished(running):
        assert (job["status"], job["crashes"], job["retry_count"], job["attempt"]) == ("completed", 1, 0, 2)
        assert await second.outcomes(job["id"]) == ["lease_lost", "completed"]
    for job in await second.all_finished([*waiting, *delayed]):
        assert (job["status"], job["crashes"], job["attempt"]) == ("completed", 0, 1)
    assert await second.counts() == {"completed": 115}
    assert await second.stop() == 0


async def test_jobs_of_a_killed_process_wait_for_their_lease_where_others_may_run(fleet: Serve, notes: Notes) -> None:
    """On shared engines nothing proves a process dead but its lease."""
    first = await fleet("--lease-seconds", "3s")
    job_id = await first.submit("gated", notes.gated)
    await eventually(lambda: notes.events(job_id) == ["started"])
    first.kill()
    notes.open_gate()
    second = await fleet("--lease-seconds", "3s")
    assert (await second.job(job_id))["status"] == "running"
    job = await second.finished(job_id)
    assert (job["status"], job["crashes"], job["attempt"]) == ("completed", 1, 2)


async def test_a_folder_serves_one_server_at_a_time(alone: Serve, data_dir: Path, workdir: Path) -> None:
    first = await alone()
    refused = await command("serve", "--data-dir", str(data_dir), "--port", "0", cwd=workdir)
    assert refused.code == 2
    assert refused.err == (
        f"jobserver: Another jobserver (process {first.pid}) is running on the data folder {data_dir}: "
        "stop it, or choose another one (--data-dir).\n"
    )
    assert (await first.finished(await first.submit("echo")))["status"] == "completed"
