"""kill -9 and worse: what ran on the dead runs elsewhere, and a job that kills is found out."""

from __future__ import annotations

import asyncio
import functools
import signal
import time

from tests.engines import eventually
from tests.life.conftest import Serve
from tests.life.notes import Notes


async def test_what_a_killed_process_ran_is_completed_by_another(fleet: Serve, notes: Notes) -> None:
    killed = await fleet("--workers", "20")
    theirs = await killed.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(20)])
    await eventually(lambda: len(notes.all()) == 20)
    survivor = await fleet("--workers", "40")
    ours = await survivor.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(5)])
    await eventually(lambda: len(notes.all()) == 25)
    assert {note["pid"] for job_id in ours for note in notes.of(job_id)} == {survivor.pid}

    killed.kill()
    died = time.monotonic()
    notes.open_gate()
    for job in await survivor.all_finished(theirs):
        assert (job["status"], job["crashes"], job["retry_count"], job["attempt"]) == ("completed", 1, 0, 2)
        assert await survivor.outcomes(job["id"]) == ["lease_lost", "completed"]
    # The lease of 2 s, a backoff of less than 1 s, and the start of two children that run them isolated.
    assert time.monotonic() - died < 15
    for job in await survivor.all_finished(ours):
        assert (job["status"], job["crashes"], job["attempt"], job["fence"]) == ("completed", 0, 1, 2)

    async def alive() -> dict[int, bool]:
        return {worker["pid"]: worker["alive"] for worker in (await survivor.get("/workers"))["items"]}

    async def known_dead() -> bool:
        return await alive() == {killed.pid: False, survivor.pid: True}

    await eventually(known_dead)


async def test_a_paused_process_finds_its_jobs_taken_and_cannot_finish_them(fleet: Serve, notes: Notes) -> None:
    """A process that was only asleep wakes up to a lease that another one took: its result is refused."""
    asleep = await fleet("--workers", "1")
    job_id = await asleep.submit("gated", notes.gated)
    await eventually(lambda: notes.events(job_id) == ["started"])
    awake = await fleet("--workers", "1")
    asleep.send(signal.SIGSTOP)
    try:
        await eventually(lambda: notes.events(job_id) == ["started", "started"], within=20)
    finally:
        asleep.send(signal.SIGCONT)
    # Refused by its own next heartbeat: the handler is stopped, what it did does not count.
    await eventually(lambda: "cancelled" in notes.events(job_id))
    notes.open_gate()
    job = await awake.finished(job_id)
    assert (job["status"], job["crashes"], job["attempt"]) == ("completed", 1, 2)
    assert await awake.outcomes(job_id) == ["lease_lost", "completed"]
    assert (await asleep.finished(await asleep.submit("echo")))["status"] == "completed"


async def test_a_job_that_kills_its_process_does_so_once(anywhere: Serve, notes: Notes) -> None:
    arguments = ("--workers", "8", "--max-crashes", "3")
    first = await anywhere(*arguments)
    neighbours = [await first.submit("gated", notes.gated) for _ in range(3)]
    await eventually(lambda: len(notes.all()) == 3)
    poison = await first.submit("poison", {"file": str(notes.file)}, max_retries=1)
    # The first run takes the server with it. A service manager starts it again.
    assert await first.exit_code() == -signal.SIGKILL
    second = await anywhere(*arguments)
    notes.open_gate()
    job = await second.finished(poison, within=40)
    # The second and third run took nothing with them but a child process.
    assert (job["status"], job["crashes"], job["retry_count"], job["attempt"]) == ("failed", 3, 0, 3)
    assert job["error"]["type"] == "ProcessDied"
    assert "SIGKILL" in job["error"]["message"]
    assert await second.outcomes(poison) == ["lease_lost", "lease_lost", "lease_lost"]
    pids = [note["pid"] for note in notes.of(poison)]
    assert pids[0] == first.pid
    assert second.pid not in pids
    for neighbour in await second.all_finished(neighbours):
        assert (neighbour["status"], neighbour["crashes"], neighbour["retry_count"]) == ("completed", 1, 0)
    assert (await second.get("/dlq"))["items"][0]["id"] == poison
    assert await second.stop() == 0


async def test_a_job_whose_process_dies_too_often_has_failed(fleet: Serve, notes: Notes) -> None:
    """Crashes have a cap of their own: here every process that has the job is killed, by somebody else."""
    job_id = ""
    for runs in (["started"], ["started", "started"]):
        server = await fleet("--max-crashes", "2", "--workers", "1")
        job_id = job_id or await server.submit("gated", notes.gated, max_retries=0)
        await eventually(functools.partial(_ran, notes, runs), within=20)
        server.kill()
    last = await fleet("--max-crashes", "2", "--workers", "1")
    job = await last.finished(job_id)
    assert (job["status"], job["crashes"], job["retry_count"]) == ("failed", 2, 0)
    assert job["error"]["type"] == "LeaseLost"
    assert await last.outcomes(job_id) == ["lease_lost", "lease_lost"]
    # A replay resets what counts against it.
    notes.open_gate()
    assert (await last.http.post(f"/jobs/{job_id}/retry")).status_code == 200
    again = await last.finished(job_id)
    assert (again["status"], again["crashes"], again["attempt"]) == ("completed", 0, 1)


async def test_a_child_that_is_killed_fails_its_own_job_only(fleet: Serve, notes: Notes) -> None:
    server = await fleet("--process-pool", "2", "--workers", "4", "--max-crashes", "1")
    killed, neighbour = await asyncio.gather(
        *(server.submit("gated.process", notes.gated, max_retries=0) for _ in range(2))
    )
    await eventually(lambda: len(notes.all()) == 2)
    [note] = notes.of(killed)
    [child] = [each for each in server.children if each.pid == note["pid"]]
    child.kill()
    job = await server.finished(killed)
    assert (job["status"], job["error"]["type"], job["crashes"]) == ("failed", "ProcessDied", 1)
    assert "was killed by SIGKILL" in job["error"]["message"]
    notes.open_gate()
    assert (await server.finished(neighbour))["status"] == "completed"


def _ran(notes: Notes, events: list[str]) -> bool:
    return [note["event"] for note in notes.all()] == events
