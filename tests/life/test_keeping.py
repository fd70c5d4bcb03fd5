"""What time does to jobs, and what the commands that talk to SQL do: retention, expiry, recover, migrate."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobserver.upkeep.pulse import SILENT_SECONDS
from tests.engines import eventually
from tests.life.conftest import Serve
from tests.life.notes import Notes
from tests.life.process import ServerProcess, command


async def test_jobs_are_kept_for_their_retention_and_not_longer(anywhere: Serve) -> None:
    # A key that is known keeps its job.
    first = await anywhere("--idempotency-ttl", "1s")
    done = await first.submit("echo", idempotency_key="once")
    failed = await first.submit("fail", {"retryable": False})
    assert (await first.finished(done))["status"] == "completed"
    assert (await first.finished(failed))["status"] == "failed"
    ended_at = time.monotonic()
    assert await first.stop() == 0
    await eventually(lambda: time.monotonic() - ended_at > 1)

    # The first look for what is too old is at the start.
    second = await anywhere("--retention", "1s", "--retention-failed", "1h")

    async def gone() -> bool:
        return (await second.http.get(f"/jobs/{done}")).status_code == 404

    await eventually(gone)
    assert (await second.http.get(f"/jobs/{done}/attempts")).status_code == 404
    assert (await second.job(failed))["status"] == "failed"
    await eventually(lambda: _has_counts(second, {"failed": 1}))


async def test_a_job_that_nobody_starts_in_time_has_expired(anywhere: Serve) -> None:
    server = await anywhere()
    assert (await server.http.post("/queues/mail/pause")).status_code == 200
    at = datetime.now(UTC) + timedelta(seconds=1.5)
    expiring = await server.submit("echo", queue="mail", expires_at=at.isoformat())
    lasting = await server.submit("echo", queue="mail")
    job = await server.finished(expiring)
    assert (job["status"], job["error"]["type"], job["attempt"]) == ("failed", "Expired", 0)
    assert (await server.job(lasting))["status"] == "queued"
    assert [item["id"] for item in (await server.get("/dlq"))["items"]] == [expiring]


async def test_recover_mends_what_a_killed_server_left_behind(
    fleet: Serve, shared_engines: tuple[str, ...], notes: Notes, workdir: Path
) -> None:
    server = await fleet("--lease-seconds", "1s", "--workers", "2")
    running = await server.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(2)])
    await eventually(lambda: len(notes.all()) == 2)
    # Beside a running server it finds nothing, and does no harm.
    beside = await command("recover", *shared_engines, cwd=workdir)
    assert (beside.code, _mended(beside.out)) == (0, {"reclaimed": 0, "expired": 0, "republished": 0})
    at = datetime.now(UTC) + timedelta(seconds=1)
    await server.submit("echo", expires_at=at.isoformat())
    server.kill()
    killed_at = time.monotonic()
    # Its leases are over before that, but whoever beat a moment ago is taken for alive.
    await eventually(lambda: time.monotonic() - killed_at > SILENT_SECONDS + 0.5)

    recovered = await command("recover", *shared_engines, cwd=workdir)
    assert (recovered.code, recovered.err.count("job_reclaimed")) == (0, 2)
    assert _mended(recovered.out) == {"reclaimed": 2, "expired": 1, "republished": 0}
    again = await command("recover", *shared_engines, cwd=workdir)
    assert _mended(again.out) == {"reclaimed": 0, "expired": 0, "republished": 0}
    notes.open_gate()
    after = await fleet()
    for job in await after.all_finished(running):
        assert (job["status"], job["crashes"], job["attempt"]) == ("completed", 1, 2)


async def test_recover_of_a_data_folder_is_for_when_no_server_runs(
    alone: Serve, data_dir: Path, notes: Notes, workdir: Path
) -> None:
    where = ("--data-dir", str(data_dir))
    server = await alone("--lease-seconds", "600s")
    job_id = await server.submit("gated", notes.gated)
    await eventually(lambda: notes.events(job_id) == ["started"])
    refused = await command("recover", *where, cwd=workdir)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == f"jobserver: The server that runs on the data folder {data_dir} already does this.\n"
    assert (await server.job(job_id))["status"] == "running"
    # The schema may be brought up to date beside it.
    assert (await command("migrate", *where, cwd=workdir)).code == 0

    server.kill()
    recovered = await command("recover", *where, cwd=workdir)
    assert (recovered.code, _mended(recovered.out)["reclaimed"]) == (0, 1)
    notes.open_gate()
    after = await alone()
    job = await after.finished(job_id)
    assert (job["status"], job["crashes"], job["attempt"]) == ("completed", 1, 2)


def _mended(out: str) -> dict[str, int]:
    words = [line.split() for line in out.splitlines()]
    return {line[0]: int(line[1]) for line in words}


async def _has_counts(server: ServerProcess, counts: dict[str, int]) -> bool:
    return bool(await server.counts() == counts)
