"""Why a job is what it is, asked of real servers: each reason is brought about, and told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import httpx
import pytest

from jobserver.errors import Snooze
from jobserver.job.attempt import Attempt
from jobserver.job.handlers import Handlers
from jobserver.job.model import Status
from jobserver.job.reasons import Code
from jobserver.server import Server
from tests.conftest import Pair
from tests.engines import RedisServer, eventually
from tests.gates import Gate
from tests.http.cases import UNKNOWN_ID
from tests.jobs import beat_of, claimed, inserted, job_in
from tests.parts import parts
from tests.servers import running

pytestmark = pytest.mark.usefixtures("patient")


class Asked:
    """A server, and what is asked of it over HTTP."""

    def __init__(self, server: Server, client: httpx.AsyncClient) -> None:
        self.server = server
        self.client = client

    async def submit(self, type_: str = "echo", payload: Any = None, **fields: Any) -> str:
        answer = await self.client.post("/jobs", json={"type": type_, "payload": payload, **fields})
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    async def why(self, job_id: str) -> dict[str, Any]:
        answer = await self.client.get(f"/jobs/{job_id}/why")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        assert list(told) == ["id", "status", "summary", "reasons"]
        assert told["id"] == job_id
        assert told["summary"] == told["reasons"][0]["message"]
        for reason in told["reasons"]:
            assert list(reason) == ["code", "message", "hint", "figures"]
            assert reason["code"] in get_args(Code)
        return told

    async def codes(self, job_id: str, *expected: str, within: float = 15.0) -> list[dict[str, Any]]:
        """The figures of the reasons, once they are these in this order."""
        seen: list[list[str]] = []

        async def same() -> list[dict[str, Any]] | None:
            reasons = (await self.why(job_id))["reasons"]
            seen.append([reason["code"] for reason in reasons])
            return [reason["figures"] for reason in reasons] if tuple(seen[-1]) == expected else None

        try:
            found = await eventually(same, within=within)
        except Exception:
            raise AssertionError(f"expected {expected}, last {seen[-1:]}") from None
        assert found is not None
        return found

    async def ended(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = (await self.client.get(f"/jobs/{job_id}?wait=20")).json()
        assert job["finished_at"] is not None, job
        return job


@asynccontextmanager
async def asking(pair: Pair, handlers: Handlers | None = None, **options: Any) -> AsyncIterator[Asked]:
    async with (
        running(pair, handlers, **options) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        yield Asked(server, client)


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


# Jobs that wait.


async def test_a_job_that_is_scheduled_says_when_it_is_due(pair: Pair) -> None:
    async with asking(pair) as asked:
        job_id = await asked.submit(delay=60)
        [figures] = await asked.codes(job_id, "scheduled")
        assert 50 < figures["seconds"] <= 60
        assert figures["run_at"] == (await asked.client.get(f"/jobs/{job_id}")).json()["run_at"]


async def test_a_job_that_failed_says_when_and_why_it_is_retried(pair: Pair) -> None:
    async with asking(pair, backoff_base=60.0) as asked:
        job_id = await asked.submit("fail", {"times": 5}, max_retries=7)
        [figures] = await asked.codes(job_id, "waiting_for_retry")
        assert (figures["retry"], figures["max_retries"], figures["crashes"]) == (1, 7, 0)
        assert 20 < figures["seconds"] <= 60
        assert figures["error_type"] == (await asked.client.get(f"/jobs/{job_id}")).json()["error"]["type"]


async def test_a_job_that_was_put_off_says_so(pair: Pair) -> None:
    handlers = Handlers()

    @handlers.handler("later")
    async def later() -> None:
        raise Snooze(seconds=60)

    async with asking(pair, handlers) as asked:
        [figures] = await asked.codes(await asked.submit("later"), "snoozed")
        assert 50 < figures["seconds"] <= 60


async def test_a_paused_queue_is_named_and_a_resume_lets_the_job_run(pair: Pair) -> None:
    async with asking(pair) as asked:
        await asked.client.post("/queues/mail/pause")
        first = await asked.submit(queue="mail")
        [figures] = await asked.codes(first, "queue_paused")
        assert figures == {"queue": "mail"}
        second = await asked.submit(queue="mail", expires_at=soon(3_600))
        _, ahead, expires = await asked.codes(second, "queue_paused", "jobs_ahead", "expires")
        assert ahead == {"ahead": 1, "capped": False, "rate_per_second": ahead["rate_per_second"], "seconds": None}
        assert 3_500 < expires["seconds"] <= 3_600
        told = await asked.why(first)
        assert (told["status"], told["summary"]) == ("queued", "The queue mail is paused: none of its jobs starts.")
        assert "jobserver queues resume mail" in told["reasons"][0]["hint"]
        await asked.client.post("/queues/mail/resume")
        await asked.codes(first, "completed")


async def test_a_job_that_will_expire_before_it_is_due_says_that_first(pair: Pair) -> None:
    async with asking(pair) as asked:
        await asked.codes(await asked.submit(delay=600, expires_at=soon(300)), "expires", "scheduled")


async def test_without_consumers_a_job_says_that_nobody_lives(pair: Pair) -> None:
    async with asking(pair, workers=0) as asked:
        [figures] = await asked.codes(await asked.submit(), "no_live_worker")
        # The process that is asked has no consumers.
        assert figures == {"processes": 1, "draining": 0}


async def test_a_queue_that_nobody_serves_is_named(pair: Pair) -> None:
    async with asking(pair, queues=("served",)) as asked:
        [figures] = await asked.codes(await asked.submit(queue="forgotten"), "no_worker_for_queue")
        assert figures == {"queue": "forgotten", "workers": 1}
        await asked.codes(await asked.submit(queue="served"), "completed")


async def test_a_type_that_nobody_handles_is_named_while_it_is_handed_on(pair: Pair) -> None:
    async with asking(pair, accept_unknown_types=True) as asked:
        job_id = await asked.submit("forgotten")
        handed, missing = await asked.codes(job_id, "handed_back", "no_worker_for_type")
        assert 0 < handed["seconds"] <= 31
        assert missing == {"type": "forgotten", "queue": "default", "workers": 1}


async def test_busy_consumers_and_the_jobs_before_it_are_counted(pair: Pair) -> None:
    gate = Gate()
    async with asking(pair, gate.handlers, workers=2) as asked:
        runs = [await asked.submit("gate") for _ in range(2)]
        await eventually(lambda: gate.started == 2)
        waits = [await asked.submit("gate") for _ in range(3)]
        urgent = await asked.submit("gate", priority="high")
        await asked.codes(urgent, "consumers_busy")
        busy, ahead = await asked.codes(waits[2], "consumers_busy", "jobs_ahead")
        assert busy == {"running": 2, "concurrency": 2, "workers": 1}
        assert (ahead["ahead"], ahead["capped"]) == (3, False)

        # What was begun in the last half minute is known after the first bucket.
        async def rate() -> Any:
            return (await asked.why(waits[2]))["reasons"][1]["figures"]["rate_per_second"]

        per_second = await eventually(rate, within=20)
        _, ahead = await asked.codes(waits[2], "consumers_busy", "jobs_ahead")
        assert ahead["seconds"] == pytest.approx(3 / per_second, abs=0.1) or ahead["rate_per_second"] != per_second
        gate.open.set()
        for job_id in (*runs, *waits, urgent):
            await asked.codes(job_id, "completed")


async def test_what_nothing_keeps_is_said_to_be_ready(pair: Pair) -> None:
    async with parts(pair) as server:
        job = (await inserted(server.store)).job
        await server.worker_store.beat(beat_of("w", types=("echo",), concurrency=1))
        found = await server.why.of(job.id)
        assert found is not None
        assert [reason.code for reason in found[1]] == ["ready"]


async def test_while_redis_is_down_jobs_say_that_they_are_safe(pair: Pair, own_redis: RedisServer) -> None:
    mine = Pair(pair.name, pair.database_url, own_redis.url, "t")
    async with asking(mine) as asked:
        await asyncio.to_thread(own_redis.kill)
        job_id = await asked.submit()
        [figures] = await asked.codes(job_id, "redis_down")
        assert figures == {}
        # What is in SQL alone is told as ever.
        delayed = await asked.submit(delay=600)
        await asked.codes(delayed, "scheduled", "redis_down")
        await asked.client.post("/queues/mail/pause")
        await asked.codes(await asked.submit(queue="mail"), "queue_paused", "redis_down")
        canceled = await asked.submit(delay=600)
        await asked.client.post(f"/jobs/{canceled}/cancel")
        await asked.codes(canceled, "canceled")
        activity = (await asked.client.get("/admin/activity")).json()
        assert activity["partial"] is True
        for queue in (await asked.client.get("/queues")).json()["items"]:
            assert "rates" in queue
        await asyncio.to_thread(own_redis.restart)
        await asked.codes(job_id, "completed", within=30)
        await asked.codes(delayed, "scheduled")


# Jobs that run.


async def test_a_job_that_runs_says_where_and_for_how_long(pair: Pair) -> None:
    handlers = Handlers()
    leave = asyncio.Event()

    @handlers.handler("stubborn", timeout=100)
    async def stubborn(attempt: Attempt) -> None:
        attempt.progress(40, "on the way")
        while not leave.is_set():
            try:
                await leave.wait()
            except asyncio.CancelledError:
                continue

    async with asking(pair, handlers, lease_seconds=9.0) as asked:
        job_id = await asked.submit("stubborn")
        run, lease = await asked.codes(job_id, "running", "lease")
        assert (run["worker_id"], run["attempt"], run["timeout_seconds"]) == (asked.server.worker_id, 1, 100.0)
        assert 0 <= run["seconds"] < 60
        assert (lease["worker_id"], lease["worker_alive"]) == (asked.server.worker_id, True)
        assert 0 < lease["expires_in_seconds"] <= 9

        async def percent() -> bool:
            return bool((await asked.why(job_id))["reasons"][0]["figures"]["percent"] == 40)

        await eventually(percent)
        assert (await asked.client.post(f"/jobs/{job_id}/cancel")).status_code == 202
        [figures, *_] = await asked.codes(job_id, "cancel_requested", "running", "lease")
        assert figures == {"worker_id": asked.server.worker_id}
        leave.set()
        # It returned, and that wins over the request.
        await asked.codes(job_id, "completed")


async def test_a_job_of_a_dead_process_says_until_when_it_is_held(pair: Pair) -> None:
    async with asking(pair) as asked:
        store = asked.server.store
        job = await claimed(store, (await inserted(store)).job.id, worker_id="gone", lease_seconds=60.0)
        lease, run = await asked.codes(str(job.id), "lease", "running")
        assert (lease["worker_id"], lease["worker_alive"], run["worker_id"]) == ("gone", False, "gone")
        assert 50 < lease["expires_in_seconds"] <= 60


# Jobs that have ended.


async def test_jobs_that_have_ended_say_how_and_what_to_do(pair: Pair) -> None:
    async with asking(pair, backoff_base=1.0, backoff_cap=1.0) as asked:
        done = await asked.submit(payload=1)
        await asked.ended(done)
        [figures] = await asked.codes(done, "completed")
        assert figures["attempts"] == 1
        assert 0 <= figures["seconds"] <= figures["total_seconds"] < 60

        failed = await asked.submit("fail", {"times": 9}, max_retries=2)
        await asked.ended(failed)
        [figures] = await asked.codes(failed, "failed")
        assert (figures["attempts"], figures["retry_count"], figures["max_retries"]) == (3, 2, 2)
        assert figures["retryable"] is True
        [reason] = (await asked.why(failed))["reasons"]
        assert f"jobserver retry {failed}" in reason["hint"]
        assert "all 2 retries were used" in reason["message"]

        hopeless = await asked.submit("fail", {"retryable": False})
        await asked.ended(hopeless)
        [figures] = await asked.codes(hopeless, "failed")
        assert (figures["attempts"], figures["retryable"]) == (1, False)

        late = await asked.submit("echo", delay=60, expires_at=soon(0.3))
        assert (await asked.ended(late))["error"]["type"] == "Expired"
        [figures] = await asked.codes(late, "expired")
        assert 0 <= figures["waited_seconds"] < 30

        unwanted = await asked.submit(delay=600)
        await asked.client.post(f"/jobs/{unwanted}/cancel")
        [figures] = await asked.codes(unwanted, "canceled")
        assert figures["attempts"] == 0
        # What a retry clears is no reason any more.
        await asked.client.post(f"/jobs/{unwanted}/retry")
        await asked.codes(unwanted, "completed")


async def test_every_status_has_a_reason(pair: Pair) -> None:
    async with parts(pair) as server:
        for status in Status:
            found = await server.why.of(await job_in(server.store, status))
            assert found is not None
            assert found[0].status is status
            assert found[1]


async def test_a_job_that_is_not_there_has_no_reason(pair: Pair) -> None:
    async with asking(pair, workers=0) as asked:
        for path in (UNKNOWN_ID, "x"):
            answer = await asked.client.get(f"/jobs/{path}/why")
            assert answer.status_code == 404
            assert answer.headers["content-type"] == "application/problem+json"
