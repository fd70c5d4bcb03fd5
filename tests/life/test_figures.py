"""What /metrics says is what SQL holds, after thousands of jobs that ended in every way, on two processes."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tests.engines import eventually
from tests.life.conftest import Serve
from tests.life.process import ServerProcess

MIXED = "tests.life.handlers_mixed:handlers"
OPTIONS = ("--backoff-base", "1", "--backoff-cap", "0.1s", "--workers", "32", "--log-level", "warning")
BATCH = 500

Figures = Counter[tuple[str, ...]]


async def figures(servers: Iterable[ServerProcess], name: str, *labels: str) -> Figures:
    """A counter of all processes together, without its zeros, by these labels."""
    found: Figures = Counter()
    for server in servers:
        page = (await server.http.get("/metrics")).text
        for said, value in re.findall(rf"^jobserver_{name}(?:{{(.*)}})? (\S+)$", page, re.MULTILINE):
            named = dict(re.findall(r'(\w+)="([^"]*)"', said))
            found[tuple(named[label] for label in labels)] += int(float(value))
    return +found


async def counted(connection: asyncpg.Connection, query: str) -> Figures:
    """The rows of a query: labels, and a number last."""
    return +Counter({tuple(row)[:-1]: row[-1] for row in await connection.fetch(query)})


async def submit(server: ServerProcess, jobs: Sequence[dict[str, object]]) -> list[str]:
    return [
        job_id
        for start in range(0, len(jobs), BATCH)
        for job_id in await server.submit_all(jobs[start : start + BATCH])
    ]


async def cancel(server: ServerProcess, job_ids: Sequence[str]) -> None:
    """One after the other, in eight lines."""

    async def line(own: Sequence[str]) -> None:
        for job_id in own:
            assert (await server.http.post(f"/jobs/{job_id}/cancel")).status_code in {200, 202}

    await asyncio.gather(*(line(job_ids[start::8]) for start in range(8)))


def of(type_: str, payload: object = None, **fields: object) -> dict[str, object]:
    return {"type": f"mixed.{type_}", "payload": {} if payload is None else payload, **fields}


async def ten_thousand(one: ServerProcess, other: ServerProcess) -> dict[str, int]:
    """Mixed jobs, to their ends. Returns what was done that SQL does not keep."""
    soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    # Deduplicated: each of these twice, at different processes.
    keyed = [of("complete", {"number": n}, idempotency_key=f"k{n}") for n in range(800)]
    delayed = [of("complete", {"number": n}, delay=3_000) for n in range(760)]
    expiring = [of("complete", {"number": n}, delay=3_000, expires_at=soon) for n in range(600)]
    halves: tuple[list[dict[str, object]], ...] = ([], [])
    for half in halves:
        half += [of("complete", {"number": n}) for n in range(2_500)]
        half += [of("retry", {"times": n % 4}) for n in range(500)]
        half += [of("snooze") for _ in range(500)]
    failing = [of("fail") for _ in range(800)]
    long = [of("long") for _ in range(40)]
    _, _, canceled, _, failed, running, _, _ = await asyncio.gather(
        submit(one, halves[0]),
        submit(other, halves[1]),
        submit(one, delayed),
        submit(other, expiring),
        submit(one, failing),
        submit(other, long),
        submit(one, keyed),
        submit(other, keyed),
    )
    for server, refused, code in (
        (one, of("unheard-of"), 422),
        (other, of("complete", {"number": "none"}), 422),
        (one, of("fail", idempotency_key="k0"), 422),
    ):
        assert (await server.http.post("/jobs", json=refused)).status_code == code
    await cancel(one, [*canceled, *running])
    await one.all_finished(failed[:300], within=60)
    answer = await other.http.post("/dlq/replay", json={"ids": failed[:300]})
    assert answer.status_code == 200, answer.text
    again = await one.http.post("/jobs/" + canceled[0] + "/retry")
    assert again.status_code == 200, again.text

    async def at_rest() -> bool:
        left = await one.counts()
        return not set(left) & {"queued", "running", "retrying"} and left.get("scheduled", 0) == 0

    await eventually(at_rest, within=90, every=0.5)
    return {"deduplicated": 2 * len(keyed) - len(keyed), "invalid": 2, "key_reused": 1, "replayed": 301}


@pytest.mark.timeout(240)
async def test_after_ten_thousand_mixed_jobs_the_figures_of_two_processes_equal_sql(
    serve: Serve, shared_engines: tuple[str, ...], postgresql_url: str
) -> None:
    servers = list(
        await asyncio.gather(
            serve(*shared_engines, *OPTIONS, handlers=MIXED), serve(*shared_engines, *OPTIONS, handlers=MIXED)
        )
    )
    done = await ten_thousand(servers[0], servers[1])
    connection = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
    try:
        await _compare(servers, connection, done)
    finally:
        await connection.close()


async def _compare(servers: list[ServerProcess], connection: asyncpg.Connection, done: dict[str, int]) -> None:
    async def said(name: str, *labels: str) -> Figures:
        return await figures(servers, name, *labels)

    async def stored(query: str) -> Figures:
        return await counted(connection, query)

    async def ends(outcomes: str) -> Figures:
        return await stored(
            "SELECT j.type, j.queue, count(*) FROM attempts a JOIN jobs j ON j.id = a.job_id "
            f"WHERE a.outcome IN ({outcomes}) GROUP BY 1, 2"
        )

    by_job = ("type", "queue")
    assert await said("jobs_created_total", *by_job) == await stored(
        "SELECT type, queue, count(*) FROM jobs GROUP BY 1, 2"
    )
    assert (await said("jobs_created_total")).total() == 10_000
    completed = await said("jobs_completed_total", *by_job)
    assert completed == await stored("SELECT type, queue, count(*) FROM jobs WHERE status = 'completed' GROUP BY 1, 2")
    assert completed == await ends("'completed'")
    expired = await said("jobs_expired_total", *by_job)
    assert expired == await stored(
        "SELECT type, queue, count(*) FROM jobs WHERE error LIKE '%\"Expired\"%' GROUP BY 1, 2"
    )
    assert expired.total() == 600
    # Replayed ones fail twice.
    assert await said("jobs_failed_total", *by_job) == await ends("'failed'") + expired
    assert await said("jobs_retried_total", *by_job) == await ends("'retrying'")
    assert await said("jobs_snoozed_total", *by_job) == await ends("'snoozed'")
    assert await said("jobs_handed_back_total", *by_job) == await ends("'handed_back'")
    assert await said("jobs_reclaimed_total", *by_job) == await ends("'lease_lost'")
    # The one that was replayed ran after all, or waits no more.
    canceled = await stored("SELECT type, queue, count(*) FROM jobs WHERE status = 'canceled' GROUP BY 1, 2")
    assert (await said("jobs_canceled_total")).total() == canceled.total() + 1 == 800
    # Each claim and each end of an attempt is a transition, and so are these; nothing else has changed a job.
    [[transitions, attempts]] = await connection.fetch(
        "SELECT (SELECT sum(fence) FROM jobs), (SELECT count(*) FROM attempts)"
    )
    [[while_waiting]] = await connection.fetch(
        "SELECT count(*) FROM jobs WHERE status = 'canceled' AND id NOT IN (SELECT job_id FROM attempts)"
    )
    replayed = (await said("jobs_replayed_total")).total()
    assert replayed == transitions - 2 * attempts - expired.total() - (while_waiting + 1) == done["replayed"]
    # Histograms: one value an attempt, a claim and a terminal end.
    outcomes = await stored("SELECT outcome, count(*) FROM attempts WHERE outcome <> 'lease_lost' GROUP BY 1")
    assert await said("attempt_duration_seconds_count", "outcome") == outcomes
    assert (await said("queue_wait_seconds_count")).total() == attempts
    assert await said("end_to_end_seconds_count", "type") == await stored(
        "SELECT j.type, count(*) FROM attempts a JOIN jobs j ON j.id = a.job_id "
        "WHERE a.outcome IN ('completed', 'failed', 'canceled') GROUP BY 1"
    )
    # What SQL does not keep.
    assert (await said("submits_deduplicated_total")).total() == done["deduplicated"]
    assert await said("submits_rejected_total", "reason") == Counter(
        {("invalid",): done["invalid"], ("key_reused",): done["key_reused"]}
    )
    assert await said("stale_writes_rejected_total") == Counter()
    await _compare_shared(servers, connection)


async def _compare_shared(servers: list[ServerProcess], connection: asyncpg.Connection) -> None:
    """What is shared, each process says alike, as of its last sample."""
    held = await counted(connection, "SELECT queue, status, count(*) FROM jobs GROUP BY 1, 2")
    for server in servers:

        async def sampled(server: ServerProcess = server) -> bool:
            return await figures([server], "jobs", "queue", "status") == held

        await eventually(sampled, within=20, every=0.5)
        [dead] = (await figures([server], "dead_letters")).values()
        assert dead == sum(n for (_, status), n in held.items() if status == "failed")
        assert (await figures([server], "workers_alive")).total() == 2
