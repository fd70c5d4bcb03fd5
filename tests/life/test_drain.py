"""SIGTERM: what runs may end, the rest is handed back and costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator

from tests.engines import eventually
from tests.life.conftest import Serve
from tests.life.notes import Notes
from tests.life.process import ServerProcess

UNTOUCHED = {"retry_count": 0, "crashes": 0, "attempt": 1, "status": "completed"}


async def draining(server: ServerProcess) -> bool:
    answer = await server.http.get("/health/ready")
    said = answer.json()
    assert (answer.status_code, said["status"], said["draining"]) == (503, "unavailable", True), said
    return True


async def test_a_drain_lets_short_jobs_end_and_hands_long_ones_to_the_others(fleet: Serve, notes: Notes) -> None:
    one = await fleet("--workers", "4", "--drain-seconds", "4s")
    short = await one.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(2)])
    never = notes.gated | {"gate": f"{notes.gate}-2"}
    long = await one.submit_all([{"type": "gated", "payload": never} for _ in range(2)])
    await eventually(lambda: len(notes.all()) == 4)
    # These wait in the stream: the first process is full.
    waiting = await one.submit_all([{"type": "echo"} for _ in range(50)])

    began = time.monotonic()
    one.send(signal.SIGTERM)
    await eventually(lambda: draining(one))
    # HTTP goes on while it drains.
    assert (await one.http.get("/health")).status_code == 200
    late = await one.submit("echo", "late")
    notes.open_gate()
    for job in await one.all_finished(short):
        assert UNTOUCHED.items() <= job.items()
    assert await one.exit_code() == 0
    assert time.monotonic() - began > 4
    assert [notes.events(job_id) for job_id in long] == [["started", "cancelled"]] * 2

    (notes.gate.parent / f"{notes.gate.name}-2").touch()
    other = await fleet()
    for job in await other.all_finished([*long, *waiting, late]):
        assert UNTOUCHED.items() <= job.items()
    for job_id in long:
        assert await other.outcomes(job_id) == ["handed_back", "completed"]
    [gone] = [worker for worker in (await other.get("/workers"))["items"] if worker["pid"] == one.pid]
    assert gone["alive"] is False


async def test_what_a_drain_hands_back_is_run_by_the_others_at_once(fleet: Serve, notes: Notes) -> None:
    one = await fleet("--workers", "2", "--drain-seconds", "1s")
    jobs = await one.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(2)])
    await eventually(lambda: len(notes.all()) == 2)
    other = await fleet()
    one.send(signal.SIGTERM)
    await eventually(lambda: [notes.events(job_id) for job_id in jobs] == [["started", "cancelled", "started"]] * 2)
    notes.open_gate()
    for job in await other.all_finished(jobs):
        assert UNTOUCHED.items() <= job.items()
        assert job["result"] == other.pid
    assert await one.exit_code() == 0


async def test_a_drain_hands_back_at_once_what_it_had_claimed_and_not_started(fleet: Serve, notes: Notes) -> None:
    """With one thread and one child, the other jobs of their kind wait for their turn."""
    one = await fleet("--workers", "8", "--threads", "1", "--process-pool", "1", "--drain-seconds", "60s")
    threads = await one.submit_all([{"type": "gated.thread", "payload": notes.gated} for _ in range(4)])
    children = await one.submit_all([{"type": "gated.process", "payload": notes.gated} for _ in range(4)])
    await eventually(lambda: len(notes.all()) == 2)
    started = {note["job_id"] for note in notes.all()}
    await eventually(one.running_jobs)
    assert await one.running_jobs() == 8
    other = await fleet("--threads", "8", "--process-pool", "3")
    one.send(signal.SIGTERM)
    # The other process has them while the first still waits for the two that run.
    await eventually(lambda: {note["job_id"] for note in notes.all()} == {*threads, *children})
    assert one.running
    assert len(notes.all()) == 8
    notes.open_gate()
    for job in await other.all_finished([*threads, *children]):
        assert UNTOUCHED.items() <= job.items()
        expected = ["completed"] if job["id"] in started else ["handed_back", "completed"]
        assert await other.outcomes(job["id"]) == expected
    assert await one.exit_code() == 0


async def test_a_second_sigterm_stops_at_once(anywhere: Serve, notes: Notes) -> None:
    server = await anywhere("--drain-seconds", "600s")
    kinds = ("gated", "gated.thread", "gated.process")
    jobs = await server.submit_all([{"type": kind, "payload": notes.gated} for kind in kinds])
    await eventually(lambda: len(notes.all()) == 3)
    server.send(signal.SIGTERM)
    await eventually(lambda: draining(server))
    began = time.monotonic()
    server.send(signal.SIGTERM)
    assert await server.exit_code(within=15) == 0
    assert time.monotonic() - began < 10
    notes.open_gate()
    again = await anywhere()
    for job in await again.all_finished(jobs):
        assert UNTOUCHED.items() <= job.items()
        assert await again.outcomes(job["id"]) == ["handed_back", "completed"]


@contextlib.contextmanager
def on_hangup(handler: signal.Handlers) -> Iterator[None]:
    """What a program started meanwhile inherits."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_closed_terminal_drains_unless_its_signal_is_ignored(alone: Serve, notes: Notes) -> None:
    # These tests may run under nohup themselves.
    with on_hangup(signal.SIG_DFL):
        server = await alone("--drain-seconds", "0.2s")
    job_id = await server.submit("gated", notes.gated)
    await eventually(lambda: notes.events(job_id) == ["started"])
    children = server.children
    assert children
    server.send(signal.SIGHUP)
    # The shell's, and the system's.
    server.send(signal.SIGHUP)
    assert await server.exit_code() == 0
    assert not server.children

    # As nohup does: what is ignored stays so in a new program.
    with on_hangup(signal.SIG_IGN):
        again = await alone("--workers", "0")
    again.send(signal.SIGHUP)
    job = await again.job(job_id)
    assert (job["status"], job["attempt"], job["crashes"]) == ("queued", 0, 0)
    assert await again.outcomes(job_id) == ["handed_back"]
    assert (await again.get("/health/ready"))["draining"] is False
    assert again.running


async def test_requests_that_wait_for_a_job_are_answered_when_the_server_stops(alone: Serve, notes: Notes) -> None:
    server = await alone("--drain-seconds", "1s")
    job_id = await server.submit("gated", notes.gated)
    await eventually(lambda: notes.events(job_id) == ["started"])
    waiting = asyncio.create_task(server.http.get(f"/jobs/{job_id}", params={"wait": 60}))
    await eventually(lambda: server.get("/health"))
    began = time.monotonic()
    server.send(signal.SIGTERM)
    answer = await waiting
    assert (answer.status_code, answer.json()["attempt"]) == (200, 0)
    assert await server.exit_code() == 0
    assert time.monotonic() - began < 10


async def test_a_thread_that_ignores_its_timeout_is_left_behind_and_the_job_decided(alone: Serve, notes: Notes) -> None:
    server = await alone("--thread-grace", "1s", "--threads", "1")
    began = time.monotonic()
    job_id = await server.submit("gated.thread", notes.gated, timeout=0.5, max_retries=0)
    job = await server.finished(job_id)
    assert time.monotonic() - began > 1.5
    assert (job["status"], job["error"]["type"]) == ("failed", "Timeout")
    counted = 'jobserver_attempts_abandoned_total{type="gated.thread"} 1.0'
    assert counted in (await server.http.get("/metrics")).text
    # Its place was given to another thread, and it does not hold up the exit.
    assert notes.events(job_id) == ["started"]
    following = await server.submit("gated.thread", notes.gated | {"gate": str(notes.file)})
    assert (await server.finished(following))["status"] == "completed"
    assert await server.stop() == 0
    assert notes.events(job_id) == ["started"]


async def test_a_handler_that_refuses_to_be_cancelled_does_not_hold_up_the_exit(alone: Serve, notes: Notes) -> None:
    """Nor does one that left a thread of its own behind."""
    server = await alone("--drain-seconds", "1s")
    jobs = await server.submit_all(
        [{"type": "stubborn", "payload": {"file": str(notes.file)}}, {"type": "to_thread", "payload": notes.gated}]
    )
    await eventually(lambda: len(notes.all()) == 2)
    assert await server.stop() == 0
    again = await alone("--workers", "0")
    for job_id in jobs:
        job = await again.job(job_id)
        assert (job["status"], job["attempt"], job["crashes"]) == ("queued", 0, 0)
        assert await again.outcomes(job_id) == ["handed_back"]
