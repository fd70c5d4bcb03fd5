"""A server is killed at each arrow of the README's table of writes, and what the table says follows.

Whatever waits for a while before it is mended is aged in SQL instead: the servers that mend are production ones.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import sqlalchemy as sa

from jobserver.job.model import Job, Status
from jobserver.store import tables
from jobserver.store.engine import Database
from jobserver.store.jobs import JobStore
from jobserver.store.views import Views
from jobserver.stream.client import StreamClient
from jobserver.stream.jobs import JobStream, Sizes
from tests.conftest import Pair
from tests.engines import eventually
from tests.jobs import inserted
from tests.life.crashing import CRASH_AT, GO_ON, POINTS, said
from tests.life.notes import Notes
from tests.life.process import ServerProcess
from tests.stream.messages import NORMAL
from tests.test_docs import table

LEASE: Final = timedelta(seconds=1)
# Short, and no delay before what has crashed or failed runs again.
ARGUMENTS: Final = ("--workers", "4", "--lease-seconds", "1s", "--backoff-cap", "0.2s")
# Where two processes are alive, and a loaded machine must not make one of them look dead.
LONGER_LEASE: Final = ("--lease-seconds", "3s")
HANDLERS: Final = "tests.life.handlers_noted:handlers"
ARMED: Final = "tests.life.crashing:handlers"
# More than the grace of reconcile.
AGE: Final = timedelta(seconds=10)
EMPTY: Final = Sizes(0, 0, 0)

SHOWN: Final[list[str]] = []


def shows(point: str) -> pytest.MarkDecorator:
    """The test is the one of this crash point, and gets its name."""
    SHOWN.append(point)

    return pytest.mark.parametrize("point", [point])


on_postgresql = pytest.mark.parametrize("pair", ["postgresql"], indirect=True)


class Site:
    """The engines of a test, the servers that it starts on them, and what stands in SQL and Redis right now."""

    def __init__(self, pair: Pair, folder: Path, stack: AsyncExitStack) -> None:
        self._where: Final = (
            *("--database-url", pair.database_url),
            *("--redis-url", pair.redis_url, "--redis-prefix", pair.redis_prefix),
        )
        self._folder: Final = folder
        self._stack: Final = stack
        self.servers: Final[list[ServerProcess]] = []
        self.go_on: Final = folder / "go on"
        self.database: Final = Database(pair.database_url)
        self.store: Final = JobStore(self.database)
        self.views: Final = Views(self.database)
        self.client: Final = StreamClient(pair.redis_url)
        self.stream: Final = JobStream(self.client, pair.redis_prefix)

    async def serve(self, *arguments: str) -> ServerProcess:
        """An ordinary server, started."""
        return await (await self._start(HANDLERS, arguments)).started()

    async def armed(self, point: str, *arguments: str) -> ServerProcess:
        """A server that crashes at a point, started."""
        return await (await self.armed_early(point, *arguments)).started()

    async def armed_early(self, point: str, *arguments: str) -> ServerProcess:
        """A server that may crash before it has started."""
        return await self._start(ARMED, arguments, **{CRASH_AT: point, GO_ON: str(self.go_on)})

    async def _start(self, handlers: str, arguments: Sequence[str], **variables: str) -> ServerProcess:
        log = self._folder / f"server-{len(self.servers)}.log"
        server = await ServerProcess.start(
            (handlers, *self._where, *ARGUMENTS, *arguments), cwd=self._folder, log=log, **variables
        )
        self._stack.push_async_callback(server.end)
        self.servers.append(server)
        return server

    async def job(self, job_id: str) -> Job:
        job = await self.views.job(UUID(job_id))
        assert job is not None
        return job

    async def jobs(self) -> int:
        """How many jobs are stored."""
        [row] = await self.database.select(sa.select(sa.func.count().label("n")).select_from(tables.jobs))
        return int(row["n"])

    async def only_job(self) -> str:
        """The id of the one job that is stored."""
        [row] = await self.database.select(sa.select(tables.jobs.c.id))
        return str(row["id"])

    async def outcomes(self, job_id: str) -> list[str]:
        attempts = await self.views.attempts(UUID(job_id))
        assert attempts is not None
        assert len({each.fence for each in attempts}) == len(attempts)
        return [each.outcome for each in attempts]

    async def sizes(self) -> Sizes:
        return await self.stream.sizes([NORMAL])

    async def in_stream(self) -> set[int]:
        """The fences that the messages in the stream name. Some may be there twice, which is harmless."""
        entries = await self.client.commands.xrange(self.stream.keys.jobs(*NORMAL))
        return {int(fields[b"m"].split(b":")[1]) for _, fields in entries}

    async def in_delayed(self) -> set[int]:
        """The fences that the members of the delayed set name."""
        members = await self.client.commands.zrange(self.stream.keys.delayed(*NORMAL), 0, -1)
        return {int(member.split(b":")[1]) for member in members}

    async def published(self) -> bool:
        """Whether the job's first message is in the stream."""
        return await self.in_stream() == {0}

    async def is_empty(self) -> bool:
        """Whether Redis holds no message at all: neither waiting, nor pending, nor delayed."""
        assert await self.sizes() == EMPTY
        return True

    async def age(self, job_id: str) -> None:
        """As if the job had been waiting for longer than the grace of reconcile."""
        age = int(AGE.total_seconds() * 1e6) if self.database.sqlite else AGE
        change = (
            sa.update(tables.jobs)
            .where(tables.jobs.c.id == UUID(job_id))
            .values(available_at=tables.jobs.c.available_at - sa.literal(age))
        )
        async with self.database._connection(self.database._writer) as connection:
            await connection.execute(change)
            await connection.commit()

    async def ends(
        self,
        server: ServerProcess,
        job_id: str,
        status: str = "completed",
        *,
        outcomes: Sequence[str] = ("completed",),
        attempt: int = 1,
        retries: int = 0,
        crashes: int = 0,
        fence: int = 2,
    ) -> dict[str, Any]:
        """The job ends like this, with everything counted right, and Redis holds nothing of it any more."""
        job = await server.finished(job_id, within=40)
        counted = (job["status"], job["attempt"], job["retry_count"], job["crashes"], job["fence"])
        assert counted == (status, attempt, retries, crashes, fence)
        assert await self.outcomes(job_id) == list(outcomes)
        await eventually(self.is_empty)
        return job

    async def ends_after_a_crash(self, server: ServerProcess, job_id: str) -> None:
        """The lease was lost, and the job has run again, in all with one transition a fence."""
        await self.ends(server, job_id, outcomes=["lease_lost", "completed"], attempt=2, crashes=1, fence=4)


@pytest.fixture
async def site(pair: Pair, tmp_path: Path) -> AsyncIterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    async with AsyncExitStack() as stack:
        site = Site(pair, folder, stack)
        stack.push_async_callback(site.database.close)
        stack.push_async_callback(site.client.close)
        # Redis has been there for longer than any job: none is published again for being older than its content.
        long_ago = site.database.clock.now_us() - 3_600_000_000
        await site.stream.incarnation(f"{uuid4()}:{long_ago}")
        yield site
    for number, server in enumerate(site.servers):
        print(f"--- server {number} (process {server.pid})\n{server.stderr[-6_000:]}")
    for server in site.servers:
        assert "Traceback" not in server.stderr


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path)


async def died(server: ServerProcess, point: str) -> None:
    """A server has killed itself where it should."""
    assert await server.exit_code() == -signal.SIGKILL
    assert said(point) in server.stderr, f"it died elsewhere, so nobody knows whether {POINTS[point].then}"


async def at(server: ServerProcess, point: str) -> None:
    """A server that lives on has come to its point."""
    await eventually(lambda: said(point) in server.stderr)


def facts(job: Job) -> tuple[Status, int]:
    return (job.status, job.fence)


def lease_of(job: Job) -> timedelta:
    """From the claim to the end of the lease."""
    assert job.started_at is not None
    assert job.lease_expires_at is not None
    return job.lease_expires_at - job.started_at


def now() -> datetime:
    return datetime.now(UTC)


# submit


@shows("submit: before COMMIT")
async def test_a_submit_that_dies_before_its_commit_stores_nothing(site: Site, notes: Notes, point: str) -> None:
    notes.open_gate()
    body = {"type": "gated", "payload": notes.gated, "idempotency_key": "k"}
    first = await site.armed(point)
    with pytest.raises(httpx.TransportError):
        await first.http.post("/jobs", json=body)
    await died(first, point)
    assert await site.jobs() == 0
    second = await site.serve()
    # Nor is the key taken.
    answer = await second.http.post("/jobs", json=body)
    assert answer.status_code == 201
    await site.ends(second, answer.json()["id"])
    assert await site.jobs() == 1


@shows("submit: after COMMIT, before the answer")
async def test_a_submit_that_dies_unanswered_is_found_by_its_key_and_runs_once(
    site: Site, notes: Notes, point: str
) -> None:
    notes.open_gate()
    body = {"type": "gated", "payload": notes.gated, "idempotency_key": "k"}
    first = await site.armed(point)
    with pytest.raises(httpx.TransportError):
        await first.http.post("/jobs", json=body)
    await died(first, point)
    job_id = await site.only_job()
    assert facts(await site.job(job_id)) == (Status.QUEUED, 0)
    assert await site.sizes() == EMPTY
    await site.age(job_id)
    second = await site.serve()
    answer = await second.http.post("/jobs", json=body)
    assert (answer.status_code, answer.json()["id"]) == (200, job_id)
    await site.ends(second, job_id)
    assert notes.events(job_id) == ["started", "returned"]
    assert await site.jobs() == 1


@shows("submit: after the answer, before XADD")
async def test_a_job_that_was_accepted_and_never_published_runs(site: Site, notes: Notes, point: str) -> None:
    notes.open_gate()
    first = await site.armed(point)
    job_id = await first.submit("gated", notes.gated)
    await at(first, point)
    first.kill()
    assert facts(await site.job(job_id)) == (Status.QUEUED, 0)
    assert await site.sizes() == EMPTY
    await site.age(job_id)
    await site.ends(await site.serve(), job_id)
    assert notes.events(job_id) == ["started", "returned"]


# claim


@shows("claim: after XREADGROUP, before the UPDATE")
async def test_a_message_that_was_read_and_not_claimed_goes_to_another(site: Site, notes: Notes, point: str) -> None:
    notes.open_gate()
    first = await site.armed(point)
    job_id = await first.submit("gated", notes.gated)
    await died(first, point)
    assert facts(await site.job(job_id)) == (Status.QUEUED, 0)
    assert (await site.sizes()).pending
    await site.ends(await site.serve(), job_id)
    assert notes.events(job_id) == ["started", "returned"]


@shows("claim: after COMMIT, before the handler")
async def test_a_job_that_was_claimed_and_never_begun_is_reclaimed(site: Site, notes: Notes, point: str) -> None:
    notes.open_gate()
    first = await site.armed(point)
    job_id = await first.submit("gated", notes.gated)
    await died(first, point)
    assert facts(await site.job(job_id)) == (Status.RUNNING, 1)
    assert notes.all() == []
    await site.ends_after_a_crash(await site.serve(), job_id)
    assert [(note["event"], note["fence"]) for note in notes.of(job_id)] == [("started", 3), ("returned", 3)]


@shows("claim: the reply to COMMIT is lost")
async def test_a_claim_whose_commit_was_not_confirmed_is_known_as_ours(site: Site, notes: Notes, point: str) -> None:
    notes.open_gate()
    server = await site.armed(point)
    job_id = await server.submit("gated", notes.gated)
    await site.ends(server, job_id)
    await at(server, point)
    assert notes.events(job_id) == ["started", "returned"]


# heartbeat


@shows("heartbeat: before the leases are extended")
async def test_a_job_whose_lease_was_never_extended_is_reclaimed(site: Site, notes: Notes, point: str) -> None:
    first = await site.armed(point)
    job_id = await first.submit("gated", notes.gated)
    await died(first, point)
    job = await site.job(job_id)
    assert facts(job) == (Status.RUNNING, 1)
    assert lease_of(job) == LEASE
    notes.open_gate()
    await site.ends_after_a_crash(await site.serve(), job_id)
    assert [note["fence"] for note in notes.of(job_id) if note["event"] == "returned"] == [3]


@shows("heartbeat: after the leases were extended")
async def test_a_job_whose_lease_was_extended_is_reclaimed_all_the_same(site: Site, notes: Notes, point: str) -> None:
    first = await site.armed(point)
    job_id = await first.submit("gated", notes.gated)
    await died(first, point)
    job = await site.job(job_id)
    assert facts(job) == (Status.RUNNING, 1)
    assert lease_of(job) > LEASE
    notes.open_gate()
    await site.ends_after_a_crash(await site.serve(), job_id)
    assert [note["fence"] for note in notes.of(job_id) if note["event"] == "returned"] == [3]


@shows("heartbeat: no answer until the lease is over")
async def test_a_lease_that_ends_without_an_answer_cancels_nothing(site: Site, notes: Notes, point: str) -> None:
    server = await site.armed(point)
    job_id = await server.submit("gated", notes.gated)
    await at(server, point)

    async def over() -> bool:
        job = await site.job(job_id)
        assert job.lease_expires_at is not None
        # And there was time to reclaim it, if its own process took it for lost.
        return now() > job.lease_expires_at + timedelta(seconds=1.5)

    await eventually(over)
    assert notes.events(job_id) == ["started"]
    notes.open_gate()
    await site.ends(server, job_id)
    assert notes.events(job_id) == ["started", "returned"]


@on_postgresql
@shows("heartbeat: late, after another process has reclaimed")
async def test_a_heartbeat_that_comes_too_late_is_refused_and_ends_the_handler(
    site: Site, notes: Notes, point: str
) -> None:
    # With one consumer, which is busy: the job runs again in the other process.
    late = await site.armed(point, "--workers", "1", *LONGER_LEASE)
    job_id = await late.submit("gated", notes.gated)
    await at(late, point)
    other = await site.serve(*LONGER_LEASE)
    await eventually(lambda: notes.events(job_id) == ["started", "started"], within=20)
    site.go_on.touch()
    await eventually(lambda: [(n["event"], n["fence"]) for n in notes.of(job_id)][2:] == [("cancelled", 1)])
    notes.open_gate()
    await site.ends_after_a_crash(other, job_id)
    assert [note["fence"] for note in notes.of(job_id)] == [1, 3, 1, 3]
    assert late.running


# finish


@shows("finish: before COMMIT")
async def test_a_result_that_was_not_committed_leaves_nothing_and_the_job_runs_again(
    site: Site, notes: Notes, point: str
) -> None:
    notes.open_gate()
    first = await site.armed(point)
    job_id = await first.submit("gated", notes.gated)
    await died(first, point)
    job = await site.job(job_id)
    assert facts(job) == (Status.RUNNING, 1)
    assert job.result is None
    assert await site.outcomes(job_id) == ["running"]
    assert notes.events(job_id) == ["started", "returned"]
    await site.ends_after_a_crash(await site.serve(), job_id)
    assert [note["fence"] for note in notes.of(job_id)] == [1, 1, 3, 3]


@shows("finish: after COMMIT, before XACK")
async def test_the_message_of_a_completed_job_comes_again_and_is_dropped(site: Site, notes: Notes, point: str) -> None:
    notes.open_gate()
    first = await site.armed(point)
    job_id = await first.submit("gated", notes.gated)
    await died(first, point)
    done = await site.job(job_id)
    assert facts(done) == (Status.COMPLETED, 2)
    assert (await site.sizes()).pending
    await site.ends(await site.serve(), job_id)
    assert await site.job(job_id) == done
    assert notes.events(job_id) == ["started", "returned"]


@shows("finish: the reply to COMMIT is lost")
async def test_an_end_whose_commit_was_not_confirmed_is_known_as_ours(site: Site, notes: Notes, point: str) -> None:
    notes.open_gate()
    server = await site.armed(point)
    job_id = await server.submit("gated", notes.gated)
    await at(server, point)
    # Acknowledged too: it was not taken for somebody else's end.
    await site.ends(server, job_id)
    assert notes.events(job_id) == ["started", "returned"]
    assert "stale_write_rejected" not in server.stderr


@shows("finish: after COMMIT of a retry, before ZADD")
async def test_a_retry_that_was_never_put_into_redis_runs(site: Site, point: str) -> None:
    first = await site.armed(point)
    job_id = await first.submit("fail", {"times": 1})
    await died(first, point)
    assert facts(await site.job(job_id)) == (Status.RETRYING, 2)
    assert await site.in_stream() | await site.in_delayed() == {0}
    await site.age(job_id)
    ended = ["retrying", "completed"]
    job = await site.ends(await site.serve(), job_id, outcomes=ended, attempt=2, retries=1, fence=4)
    assert job["result"] == {"attempt": 2}


@shows("finish: after COMMIT of a snooze, before ZADD")
async def test_a_snooze_that_was_never_put_into_redis_ends(site: Site, notes: Notes, point: str) -> None:
    first = await site.armed(point)
    job_id = await first.submit("snoozes_once", {"file": str(notes.file)})
    await died(first, point)
    job = await site.job(job_id)
    assert (*facts(job), job.attempt) == (Status.SCHEDULED, 2, 0)
    assert await site.in_stream() | await site.in_delayed() == {0}
    await site.age(job_id)
    await site.ends(await site.serve(), job_id, outcomes=["snoozed", "completed"], fence=4)
    assert [note["fence"] for note in notes.of(job_id)] == [1, 3]


@shows("finish: after COMMIT of a hand-back, before XADD")
async def test_a_job_that_was_handed_back_by_a_process_that_died_has_lost_nothing(
    site: Site, notes: Notes, point: str
) -> None:
    first = await site.armed(point, "--drain-seconds", "0s")
    job_id = await first.submit("gated", notes.gated)
    await eventually(lambda: notes.events(job_id) == ["started"])
    first.send(signal.SIGTERM)
    await died(first, point)
    job = await site.job(job_id)
    assert (*facts(job), job.attempt) == (Status.QUEUED, 2, 0)
    assert await site.in_stream() | await site.in_delayed() == {0}
    notes.open_gate()
    await site.age(job_id)
    await site.ends(await site.serve(), job_id, outcomes=["handed_back", "completed"], fence=4)


@shows("finish: after COMMIT of a failure, before the feed")
async def test_a_dead_letter_that_the_feed_misses_is_added_once(site: Site, point: str) -> None:
    first = await site.armed(point)
    job_id = await first.submit("fail", {"retryable": False})
    await died(first, point)
    failed = await site.job(job_id)
    assert facts(failed) == (Status.FAILED, 2)
    assert await site.stream.dead_letters() == []
    second = await site.serve()
    await eventually(site.stream.dead_letters)
    await site.ends(second, job_id, "failed", outcomes=["failed"])
    assert await site.job(job_id) == failed
    assert await site.stream.dead_letters() == [(failed.id, 2)]
    assert [each["id"] for each in (await second.get("/dlq"))["items"]] == [job_id]


# promote


@shows("promote: before the script")
async def test_a_due_job_that_was_not_promoted_is_promoted_by_the_next(site: Site, notes: Notes, point: str) -> None:
    notes.open_gate()
    # Without consumers: nobody reads what is promoted.
    first = await site.armed(point, "--workers", "0")
    job_id = await first.submit("gated", notes.gated, delay=0.8)
    await died(first, point)
    assert facts(await site.job(job_id)) == (Status.SCHEDULED, 0)
    assert (await site.in_stream(), await site.in_delayed()) == (set(), {0})
    await site.ends(await site.serve(), job_id)
    assert notes.events(job_id) == ["started", "returned"]


@shows("promote: after the script")
async def test_a_promoted_job_is_in_the_stream_and_nowhere_else(site: Site, notes: Notes, point: str) -> None:
    notes.open_gate()
    first = await site.armed(point, "--workers", "0")
    job_id = await first.submit("gated", notes.gated, delay=0.8)
    await died(first, point)
    assert facts(await site.job(job_id)) == (Status.SCHEDULED, 0)
    assert (await site.in_stream(), await site.in_delayed()) == ({0}, set())
    await site.ends(await site.serve(), job_id)
    assert notes.events(job_id) == ["started", "returned"]


# cancel


@on_postgresql
@shows("cancel: after COMMIT, before PUBLISH")
async def test_a_cancel_that_nobody_was_told_of_reaches_the_owner(site: Site, notes: Notes, point: str) -> None:
    owner = await site.serve(*LONGER_LEASE)
    job_id = await owner.submit("gated", notes.gated)
    await eventually(lambda: notes.events(job_id) == ["started"])
    asked = await site.armed(point, "--workers", "0", *LONGER_LEASE)
    with pytest.raises(httpx.TransportError):
        await asked.http.post(f"/jobs/{job_id}/cancel")
    await died(asked, point)
    await site.ends(owner, job_id, "canceled", outcomes=["canceled"])
    assert notes.events(job_id) == ["started", "cancelled"]


@shows("cancel: after COMMIT, before the own handler is told")
async def test_a_cancel_outlives_the_process_that_ran_the_job(site: Site, notes: Notes, point: str) -> None:
    first = await site.armed(point)
    job_id = await first.submit("gated", notes.gated)
    await eventually(lambda: notes.events(job_id) == ["started"])
    with pytest.raises(httpx.TransportError):
        await first.http.post(f"/jobs/{job_id}/cancel")
    await died(first, point)
    job = await site.job(job_id)
    assert (*facts(job), job.cancel_requested) == (Status.RUNNING, 1, True)
    notes.open_gate()
    await site.ends(await site.serve(), job_id, "canceled", outcomes=["canceled"], crashes=1)
    assert notes.events(job_id) == ["started"]


@shows("cancel: after COMMIT of a waiting job")
async def test_the_message_of_a_canceled_job_is_dropped(site: Site, notes: Notes, point: str) -> None:
    first = await site.armed(point, "--workers", "0")
    job_id = await first.submit("gated", notes.gated)
    await eventually(site.published)
    with pytest.raises(httpx.TransportError):
        await first.http.post(f"/jobs/{job_id}/cancel")
    await died(first, point)
    canceled = await site.job(job_id)
    assert facts(canceled) == (Status.CANCELED, 1)
    assert await site.published()
    await site.ends(await site.serve(), job_id, "canceled", outcomes=[], attempt=0, fence=1)
    assert await site.job(job_id) == canceled
    assert notes.all() == []


# reclaim, replay, expire, reconcile


@shows("reclaim: after COMMIT, before XADD")
async def test_a_reclaimed_job_that_was_never_published_runs_and_has_crashed_once(
    site: Site, notes: Notes, point: str
) -> None:
    first = await site.serve()
    job_id = await first.submit("gated", notes.gated)
    await eventually(lambda: notes.events(job_id) == ["started"])
    first.kill()
    # On SQLite it reclaims before it has started.
    second = await site.armed_early(point)
    await died(second, point)
    job = await site.job(job_id)
    assert (*facts(job), job.crashes) == (Status.RETRYING, 2, 1)
    assert await site.in_stream() == {0}
    notes.open_gate()
    await site.age(job_id)
    await site.ends_after_a_crash(await site.serve(), job_id)
    assert [note["fence"] for note in notes.of(job_id)] == [1, 3, 3]


@shows("replay: after COMMIT, before XADD")
async def test_a_replayed_job_that_was_never_published_runs(site: Site, notes: Notes, point: str) -> None:
    notes.open_gate()
    first = await site.armed(point, "--workers", "0")
    job_id = await first.submit("gated", notes.gated)
    await eventually(site.published)
    assert (await first.http.post(f"/jobs/{job_id}/cancel")).status_code == 200
    with pytest.raises(httpx.TransportError):
        await first.http.post(f"/jobs/{job_id}/retry")
    await died(first, point)
    assert facts(await site.job(job_id)) == (Status.QUEUED, 2)
    # The message of its first life, which is stale.
    assert await site.published()
    await site.age(job_id)
    await site.ends(await site.serve(), job_id, fence=4)
    assert notes.events(job_id) == ["started", "returned"]


@shows("expire: after COMMIT, before the feed")
async def test_an_expired_job_that_the_feed_misses_is_added_once(site: Site, notes: Notes, point: str) -> None:
    first = await site.armed(point, "--workers", "0")
    soon = now() + timedelta(seconds=0.5)
    job_id = await first.submit("gated", notes.gated, expires_at=soon.isoformat())
    await died(first, point)
    failed = await site.job(job_id)
    assert facts(failed) == (Status.FAILED, 1)
    assert await site.published()
    assert await site.stream.dead_letters() == []
    second = await site.serve()
    await eventually(site.stream.dead_letters)
    await site.ends(second, job_id, "failed", outcomes=[], attempt=0, fence=1)
    assert await site.job(job_id) == failed
    assert await site.stream.dead_letters() == [(failed.id, 1)]
    assert notes.all() == []


@shows("reconcile: after COMMIT, before XADD")
async def test_a_job_that_was_found_lost_and_lost_again_is_found_again(site: Site, notes: Notes, point: str) -> None:
    await site.store.add_queue("default")
    lost = (await inserted(site.store, type="gated", payload=msgspec.json.encode(notes.gated))).job
    job_id = str(lost.id)
    await site.age(job_id)
    first = await site.armed_early(point, "--workers", "0")
    await died(first, point)
    assert facts(await site.job(job_id)) == (Status.QUEUED, 0)
    assert await site.sizes() == EMPTY
    await site.age(job_id)
    notes.open_gate()
    await site.ends(await site.serve(), job_id)
    assert notes.events(job_id) == ["started", "returned"]


# The table.


def test_every_crash_point_has_one_test() -> None:
    assert sorted(SHOWN) == sorted(POINTS)


def test_every_step_of_the_documented_table_of_writes_has_crash_points() -> None:
    steps = [row[0] for row in table("How it is built", "step", "in SQL", "then in Redis", "a crash in between")]
    assert set(steps) == {point.step for point in POINTS.values()}
    assert all(name.startswith(f"{point.step}: ") for name, point in POINTS.items())
