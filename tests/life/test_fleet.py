"""Several processes on one PostgreSQL and one Redis: no leader, one behaviour."""

from __future__ import annotations

import asyncio
import time

from tests.clocks import judged_by_the_clock
from tests.engines import eventually
from tests.life.conftest import Serve
from tests.life.notes import Notes
from tests.life.process import ServerProcess

MAIL = "tests.life.handlers_mail:handlers"
IMAGES = "tests.life.handlers_images:handlers"


async def knows(server: ServerProcess, type_: str) -> bool:
    """Whether a process has heard of a type: a payload that fits no handler is refused for itself then."""
    answer = await server.http.post("/jobs", json={"type": type_, "payload": []})
    assert answer.status_code == 422, answer.text
    return str(answer.json()["errors"][0]["path"]).startswith("$.payload")


async def test_two_processes_share_the_work(fleet: Serve, notes: Notes) -> None:
    one, other = await asyncio.gather(fleet("--workers", "4"), fleet("--workers", "4"))
    # More than either can hold: both have to take some.
    jobs = await one.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(8)])
    await eventually(lambda: len(notes.all()) == 8)
    pids = [note["pid"] for note in notes.all()]
    assert {pid: pids.count(pid) for pid in pids} == {one.pid: 4, other.pid: 4}
    notes.open_gate()
    for job in await other.all_finished(jobs):
        assert (job["status"], job["attempt"]) == ("completed", 1)

    many = await other.submit_all([{"type": "echo", "payload": number} for number in range(500)])
    assert [job["result"] for job in await one.all_finished(many)] == list(range(500))
    workers = (await one.get("/workers"))["items"]
    assert {worker["pid"] for worker in workers if worker["alive"]} == {one.pid, other.pid}
    assert all((job["attempt"], job["fence"]) == (1, 2) for job in await one.all_finished(many))


async def test_a_type_that_is_not_handled_here_is_handed_on_and_pays_no_attempt(fleet: Serve, notes: Notes) -> None:
    # It was there once, so its type is known.
    assert await (await fleet(handlers=IMAGES)).stop() == 0
    other = await fleet("--workers", "1")
    await eventually(lambda: knows(other, "image.resize"))
    job_id = await other.submit("image.resize", {"width": 9})

    async def handed_on() -> bool:
        return (await other.outcomes(job_id))[:1] == ["handed_back"]

    await eventually(handed_on)
    # Its only consumer is busy from here on: who claims the job next is a matter of chance otherwise.
    gated = await other.submit("gated", notes.gated)
    await eventually(lambda: notes.events(gated) == ["started"])
    images = await fleet(handlers=IMAGES)
    job = await other.finished(job_id, within=40)
    assert (job["status"], job["result"]) == ("completed", {"pid": images.pid, "width": 9})
    assert (job["attempt"], job["retry_count"], job["crashes"]) == (1, 0, 0)
    outcomes = await images.outcomes(job_id)
    assert outcomes == ["handed_back"] * (len(outcomes) - 1) + ["completed"]


async def test_an_api_only_process_knows_the_types_of_the_others(fleet: Serve) -> None:
    consumers = await fleet("--no-http", handlers=MAIL)
    api = await fleet("--workers", "0", handlers=None)
    assert "no HTTP API" in consumers.stderr
    assert "API only" in api.stderr

    job = await api.finished(await api.submit("mail.send", {"to": "a@b.c", "copies": 2}))
    assert job["result"] == {"pid": consumers.pid, "letters": 2}
    assert (job["max_retries"], job["timeout"], job["priority"]) == (7, 11.0, "high")
    [known] = [each for each in (await api.get("/types"))["items"] if each["type"] == "mail.send"]
    assert known["schema"]["required"] == ["to"]

    for payload, path in (
        ({"to": 5}, "$.payload.to"),
        ({"to": "a@b.c", "copies": "many"}, "$.payload.copies"),
        ({"copies": 1}, "$.payload"),
        ({"to": "a@b.c", "bcc": "x"}, "$.payload"),
        (None, "$.payload"),
        ("a@b.c", "$.payload"),
    ):
        refused = await api.http.post("/jobs", json={"type": "mail.send", "payload": payload})
        assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, path), refused.text
    assert (await api.get("/jobs"))["total"] == 1
    assert await consumers.stop() == 0


async def test_a_type_that_a_later_process_brings_is_accepted_everywhere(fleet: Serve) -> None:
    early = await fleet("--queues", "others", handlers=None)
    body = {"type": "mail.send", "payload": {"to": "a@b.c"}}
    refused = await early.http.post("/jobs", json=body)
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "$.type")
    late = await fleet(handlers=MAIL)
    await eventually(lambda: knows(early, "mail.send"))
    job = await early.finished(await early.submit("mail.send", {"to": "a@b.c"}))
    assert job["result"]["pid"] == late.pid


@judged_by_the_clock
async def test_a_cancel_reaches_the_process_that_runs_the_job(fleet: Serve, notes: Notes) -> None:
    one, other = await asyncio.gather(fleet("--workers", "2"), fleet("--workers", "0"))
    jobs = [await one.submit("gated", notes.gated) for _ in range(2)]
    await eventually(lambda: len(notes.all()) == 2)
    canceled, neighbour = jobs

    began = time.monotonic()
    answer = await other.http.post(f"/jobs/{canceled}/cancel")
    assert (answer.status_code, answer.json()["cancel_requested"]) == (202, True)
    job = await one.finished(canceled)
    assert time.monotonic() - began < 2
    assert (job["status"], job["error"]["type"]) == ("canceled", "Canceled")
    assert notes.events(canceled) == ["started", "cancelled"]
    assert await other.outcomes(canceled) == ["canceled"]

    assert (await other.job(neighbour))["status"] == "running"
    assert (await other.http.post(f"/jobs/{canceled}/cancel")).status_code == 409
    notes.open_gate()
    assert (await other.finished(neighbour))["status"] == "completed"
    assert notes.events(neighbour) == ["started", "returned"]


async def test_a_canceled_process_handler_is_killed_singly(fleet: Serve, notes: Notes) -> None:
    one = await fleet("--process-pool", "2")
    other = await fleet("--workers", "0")
    canceled, neighbour = [await one.submit("gated.process", notes.gated) for _ in range(2)]
    await eventually(lambda: len(notes.all()) == 2)
    pids = {note["job_id"]: note["pid"] for note in notes.all()}
    assert len({*pids.values(), one.pid}) == 3

    began = time.monotonic()
    assert (await other.http.post(f"/jobs/{canceled}/cancel")).status_code == 202
    assert (await one.finished(canceled))["status"] == "canceled"
    # It is deaf to being asked, and killed after its grace of 2 s.
    assert time.monotonic() - began < 5
    assert pids[canceled] not in {child.pid for child in one.children}
    notes.open_gate()
    job = await other.finished(neighbour)
    assert (job["status"], job["result"], job["attempt"]) == ("completed", pids[neighbour], 1)
    assert one.running


async def test_a_pause_stops_every_process_and_a_resume_publishes_again(fleet: Serve) -> None:
    one, other = await asyncio.gather(fleet(), fleet())
    assert (await one.http.post("/queues/mail/pause")).json()["paused"] is True
    paused = await other.submit_all([{"type": "echo", "queue": "mail", "payload": number} for number in range(20)])
    # Both have fetched and run others after these, from a queue that is not paused.
    for server in (one, other):
        await server.all_finished(await server.submit_all([{"type": "echo"} for _ in range(50)]))
    jobs = [await other.job(job_id) for job_id in paused]
    assert {(job["status"], job["attempt"], job["fence"]) for job in jobs} == {("queued", 0, 0)}
    [mail] = [queue for queue in (await other.get("/queues"))["items"] if queue["name"] == "mail"]
    assert (mail["paused"], mail["counts"]["queued"]) == (True, 20)

    assert (await other.http.post("/queues/mail/resume")).json()["paused"] is False
    assert [job["result"] for job in await one.all_finished(paused)] == list(range(20))
    assert (await one.http.post("/queues/mail/resume")).status_code == 200
