"""A running server over HTTP: what is refused is not stored, what is stored runs, what is answered is true."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.engines import eventually
from tests.http.cases import BAD_BATCHES, BAD_BODIES, BAD_REPLAYS, BAD_REQUESTS, UNKNOWN_ID, BadBody, BadRequest
from tests.http.test_refusals import post

pytestmark = pytest.mark.usefixtures("patient")


@pytest.fixture
async def client(server: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server, timeout=30) as client:
        yield client


async def submit(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/jobs", json={"type": "echo", **body})
    assert response.status_code == 201, response.text
    job: dict[str, Any] = response.json()
    return job


async def ended(client: httpx.AsyncClient, job: dict[str, Any]) -> dict[str, Any]:
    """The job once it is terminal."""
    shown: dict[str, Any] = (await client.get(f"/jobs/{job['id']}", params={"wait": 30})).json()
    assert shown["status"] in ("completed", "failed", "canceled"), shown
    return shown


async def total(client: httpx.AsyncClient) -> int:
    page = (await client.get("/jobs", params={"limit": 1})).json()
    assert not page["total_capped"]
    return int(page["total"])


def every_refusal() -> list[BadRequest]:
    bodies: list[tuple[str, tuple[BadBody, ...]]] = [
        ("/jobs", BAD_BODIES),
        ("/jobs/batch", BAD_BATCHES),
        ("/dlq/replay", BAD_REPLAYS),
    ]
    return [*(post(target, case) for target, cases in bodies for case in cases), *BAD_REQUESTS]


async def test_nothing_that_is_refused_is_stored(client: httpx.AsyncClient) -> None:
    await submit(client)
    before = await total(client)
    answers = {}
    for case in every_refusal():
        response = await client.request(case.method, case.target, headers=list(case.headers), content=case.data)
        errors = response.json().get("errors", [{"path": None}])
        answers[case.method, case.target, case.name] = (response.status_code, errors[0]["path"])
    wrong = {
        (case.method, case.target, case.name): (answers[case.method, case.target, case.name], case.status, case.path)
        for case in every_refusal()
        if answers[case.method, case.target, case.name] != (case.status, case.path)
    }
    assert wrong == {}
    assert await total(client) == before


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"type": "echoo"}, "$.type"),
        ({"type": "sleep", "payload": {"seconds": "long"}}, "$.payload.seconds"),
        ({"type": "sleep", "payload": {"minutes": 1}}, "$.payload"),
        ({"type": "echo", "expires_at": "2020-01-01T00:00:00Z"}, "$.expires_at"),
    ],
)
async def test_what_the_types_and_the_clock_refuse_is_not_stored(
    client: httpx.AsyncClient, body: dict[str, Any], path: str
) -> None:
    single = await client.post("/jobs", json=body)
    assert single.status_code == 422, single.text
    assert single.json()["errors"][0]["path"] == path
    batch = await client.post("/jobs/batch", json={"jobs": [{"type": "echo"}, body]})
    assert batch.status_code == 422, batch.text
    assert batch.json()["errors"][0]["path"] == path.replace("$", "$.jobs[1]", 1)
    assert await total(client) == 0


async def test_a_near_name_is_proposed_for_an_unknown_type(client: httpx.AsyncClient) -> None:
    assert "echo" in (await client.post("/jobs", json={"type": "ecko"})).json()["detail"]


async def test_a_cursor_of_somebody_else_is_refused(client: httpx.AsyncClient) -> None:
    for target in ("/jobs", "/dlq"):
        response = await client.get(target, params={"cursor": "AAAA"})
        assert response.status_code == 422, response.text
        assert response.json()["errors"][0]["path"] == "$.query.cursor"
    body = {"action": "cancel", "filter": {"type": "echo"}, "cursor": "AAAA"}
    response = await client.post("/jobs/actions", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["path"] == "$.cursor"


@pytest.mark.parametrize(
    "payload",
    [
        b"null",
        b"12345678901234567890123456789",
        b'{"b":1.5,"a":[1e300,-0.0,"\\u0000","\xf0\x9f\x98\x80"]}',
        b'"' + b"x" * 1_048_574 + b'"',
        b"[" * 64 + b"]" * 64,
    ],
    ids=["null", "a big integer", "NUL and floats", "1 MiB", "64 levels"],
)
async def test_a_payload_comes_back_as_the_result_of_echo(client: httpx.AsyncClient, payload: bytes) -> None:
    response = await client.post("/jobs", content=b'{"type":"echo","payload":%s}' % payload)
    assert response.status_code == 201, response.text
    shown = await ended(client, response.json())
    assert shown["payload"] == json.loads(payload)
    assert shown["result"] == json.loads(payload)
    assert list(shown["result"]) == list(json.loads(payload)) if isinstance(shown["result"], dict) else True


async def test_a_known_key_answers_with_the_first_job(client: httpx.AsyncClient) -> None:
    body = {"type": "echo", "payload": {"a": 1, "b": 2}}
    first = await client.post("/jobs", json=body, headers={"idempotency-key": "k"})
    again = await client.post("/jobs", content=b'{"payload":{"b":2,"a":1},"type":"echo","idempotency_key":"k"}')
    other = await client.post("/jobs", json={"type": "echo", "payload": 1}, headers={"idempotency-key": '"k"'})
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert other.json()["type"] == "/problems/idempotency-key-reused"
    assert await total(client) == 1


async def test_a_lost_submit_is_repeated_after_its_expiry(client: httpx.AsyncClient) -> None:
    """It was stored, and its answer lost: the key says so, though the body would be refused by now."""
    soon = datetime.now(UTC) + timedelta(seconds=0.6)
    body = {"type": "echo", "queue": "elsewhere", "expires_at": soon.isoformat()}
    known = {"idempotency-key": "lost"}
    first = await client.post("/jobs", json=body, headers=known)
    assert first.status_code == 201
    await asyncio.sleep((soon - datetime.now(UTC)).total_seconds() + 0.05)
    again = await client.post("/jobs", json=body, headers=known)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert again.json()["id"] == first.json()["id"]
    batch = {"jobs": [{"type": "echo"}, {**body, "idempotency_key": "lost"}]}
    created = (await client.post("/jobs/batch", json=batch)).json()["jobs"]
    assert [(job["created"], job["id"] == first.json()["id"]) for job in created] == [(True, False), (False, True)]
    other = await client.post("/jobs", json={**body, "payload": 1}, headers=known)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    for headers in ({"idempotency-key": "unknown"}, {}):
        refused = await client.post("/jobs", json=body, headers=headers)
        assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "$.expires_at")
    assert await total(client) == 2


async def test_a_batch_is_stored_whole_or_not_at_all(client: httpx.AsyncClient) -> None:
    await submit(client, payload=1, idempotency_key="known")
    known = {"type": "echo", "payload": 1, "idempotency_key": "known"}
    stored = await client.post("/jobs/batch", json={"jobs": [{"type": "echo"}, known]})
    assert [item["created"] for item in stored.json()["jobs"]] == [True, False]
    refused = await client.post("/jobs/batch", json={"jobs": [{"type": "echo"}, {**known, "payload": 2}]})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["path"] == "$.jobs[1].idempotency_key"
    assert await total(client) == 2


async def test_pages_are_disjoint_and_whole(client: httpx.AsyncClient) -> None:
    bodies = [{"type": "echo", "tags": ["page"], "delay": 3_600, "payload": number} for number in range(25)]
    await client.post("/jobs/batch", json={"jobs": bodies})
    await submit(client)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params: dict[str, str | int] = {"tag": "page", "limit": 10}
        if cursor is not None:
            params["cursor"] = cursor
        page = (await client.get("/jobs", params=params)).json()
        assert page["total"] == 25
        seen.extend(item["id"] for item in page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 25
    by_offset = (await client.get("/jobs", params={"tag": "page", "limit": 10, "offset": 20})).json()
    assert [item["id"] for item in by_offset["items"]] == seen[20:]


async def test_filters_select(client: httpx.AsyncClient) -> None:
    delayed = await submit(client, queue="mail", delay=3_600)
    at_once = await ended(client, await submit(client))
    future = (datetime.now(UTC) + timedelta(hours=1)).isoformat()

    async def ids(**params: Any) -> list[str]:
        return [item["id"] for item in (await client.get("/jobs", params=params)).json()["items"]]

    assert await ids() == [at_once["id"], delayed["id"]]
    assert await ids(queue="mail") == [delayed["id"]]
    assert await ids(status=["scheduled", "completed"]) == [at_once["id"], delayed["id"]]
    assert await ids(status="completed") == [at_once["id"]]
    assert await ids(type="sleep") == []
    assert await ids(created_after=delayed["created_at"]) == [at_once["id"]]
    assert await ids(created_after=future) == []
    assert len(await ids(created_before=future)) == 2


async def test_a_failed_job_is_replayed_and_deleted(client: httpx.AsyncClient) -> None:
    job = await submit(client, type="fail", payload={"retryable": False})
    failed = await ended(client, job)
    assert failed["status"] == "failed"
    assert [item["id"] for item in (await client.get("/dlq")).json()["items"]] == [job["id"]]
    attempts = (await client.get(f"/jobs/{job['id']}/attempts")).json()["items"]
    assert [attempt["outcome"] for attempt in attempts] == ["failed"]
    dry = (await client.post("/dlq/replay", json={"type": "fail", "dry_run": True})).json()
    assert dry == {"replayed": 1, "ids": [job["id"]]}
    assert (await client.post(f"/dlq/{job['id']}/replay")).status_code == 200
    assert (await ended(client, job))["fence"] > failed["fence"]
    assert (await client.delete("/dlq", params={"type": "fail", "dry_run": "true"})).json() == {"deleted": 1}
    assert (await client.delete(f"/dlq/{job['id']}")).status_code == 204
    assert (await client.get(f"/jobs/{job['id']}")).status_code == 404
    assert (await client.delete(f"/dlq/{job['id']}")).status_code == 404


async def test_a_waiting_job_is_canceled_at_once_and_retried(client: httpx.AsyncClient) -> None:
    job = await submit(client, delay=3_600)
    canceled = await client.post(f"/jobs/{job['id']}/cancel")
    assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
    assert (await client.post(f"/jobs/{job['id']}/cancel")).status_code == 409
    assert (await client.post(f"/dlq/{job['id']}/replay")).status_code == 409
    assert (await client.post(f"/jobs/{job['id']}/retry")).status_code == 200
    assert (await ended(client, job))["status"] == "completed"
    assert (await client.post(f"/jobs/{job['id']}/retry")).status_code == 409


async def test_waiting_ends_with_the_job(client: httpx.AsyncClient) -> None:
    job = await submit(client, type="sleep", payload={"seconds": 30})
    waiting = asyncio.create_task(client.get(f"/jobs/{job['id']}", params={"wait": 30}), name="wait")
    cancel = await client.post(f"/jobs/{job['id']}/cancel")
    assert cancel.status_code in (200, 202)
    assert (await asyncio.wait_for(waiting, 10)).json()["status"] == "canceled"
    short = await submit(client, delay=3_600)
    shown = await client.get(f"/jobs/{short['id']}", params={"wait": 0.2})
    assert shown.json()["status"] == "scheduled"


async def test_a_paused_queue_accepts_and_does_not_start(client: httpx.AsyncClient) -> None:
    assert (await client.post("/queues/held/pause")).json()["paused"] is True
    assert (await client.post("/queues/held/pause")).status_code == 200
    job = await submit(client, queue="held")
    shown = await client.get(f"/jobs/{job['id']}", params={"wait": 1})
    assert shown.json()["status"] == "queued"
    assert (await client.post("/queues/held/resume")).json()["paused"] is False
    assert (await ended(client, job))["status"] == "completed"
    names = [queue["name"] for queue in (await client.get("/queues")).json()["items"]]
    assert names == sorted(names)
    assert "held" in names


async def test_unknown_jobs_are_not_found(client: httpx.AsyncClient) -> None:
    for method, target in (
        ("GET", f"/jobs/{UNKNOWN_ID}"),
        ("GET", f"/jobs/{UNKNOWN_ID}?wait=1"),
        ("GET", f"/jobs/{UNKNOWN_ID}/attempts"),
        ("POST", f"/jobs/{UNKNOWN_ID}/cancel"),
        ("POST", f"/jobs/{UNKNOWN_ID}/retry"),
        ("POST", f"/dlq/{UNKNOWN_ID}/replay"),
        ("DELETE", f"/dlq/{UNKNOWN_ID}"),
    ):
        response = await client.request(method, target)
        assert response.status_code == 404, (method, target)
        assert response.headers["content-type"] == "application/problem+json"


async def test_the_server_describes_itself(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {"status": "ok"}

    async def is_ready() -> bool:
        ready = (await client.get("/health/ready")).json()
        return bool(ready == {"status": "ok", "database": "ok", "redis": "ok", "draining": False})

    await eventually(is_ready)
    (worker,) = (await client.get("/workers")).json()["items"]
    assert worker["alive"] is True
    types = {info["type"] for info in (await client.get("/types")).json()["items"]}
    assert {"echo", "sleep", "fail"} <= types
    stats = (await client.get("/admin/stats")).json()
    assert set(stats["by_status"]) == {"scheduled", "queued", "retrying", "running", "completed", "failed", "canceled"}
    metrics = await client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "# HELP" in metrics.text


async def test_a_chunked_body_is_stopped_at_its_limit(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"type":"echo","payload":"'
        for _ in range(40):
            yield b"x" * 65_536
        yield b'"}'

    response = await client.post("/jobs", content=chunks())
    assert response.status_code == 413
    assert (await client.get("/health")).status_code == 200


async def test_a_body_that_never_ends_does_not_hold_up_the_others(client: httpx.AsyncClient, server: str) -> None:
    url = httpx.URL(server)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    await submit(client)
    # Gone in the middle of its body: no answer, no job.
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    assert await total(client) == 1


async def test_without_a_host_it_is_no_browser(server: str) -> None:
    url = httpx.URL(server)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"GET /health HTTP/1.0\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 10)).split()[1] == b"200"
    writer.close()
    await writer.wait_closed()


async def test_the_last_minutes_and_the_present_rates_are_told(client: httpx.AsyncClient) -> None:
    job = (await client.post("/jobs", json={"type": "echo"})).json()
    assert (await client.get(f"/jobs/{job['id']}?wait=20")).json()["status"] == "completed"

    async def told() -> Any:
        activity = (await client.get("/admin/activity?minutes=1")).json()
        # A bucket may end between its submit and its end: they are told one after the other then.
        ended = sum(item["completed"] for item in activity["items"])
        return activity if activity["queues"] and ended and not activity["partial"] else None

    activity = await eventually(told, within=30)
    assert activity["bucket_seconds"] == 5
    assert sum(item["submitted"] for item in activity["items"]) >= 1
    assert max(item["latency_p95"] or 0 for item in activity["items"]) > 0
    (queue,) = (each for each in (await client.get("/queues")).json()["items"] if each["name"] == "default")
    assert queue["rates"]["completed_per_second"] > 0
    (worker,) = (await client.get("/workers")).json()["items"]
    assert worker["completed_per_second"] > 0
