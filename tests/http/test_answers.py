"""What HTTP makes of the answers of the parts behind it: statuses, headers, bodies, problems."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from jobserver.errors import (
    Conflict,
    DatabaseUnavailable,
    Invalid,
    KeyReused,
    NotFound,
    Overloaded,
    StreamUnavailable,
)
from jobserver.job.activity import Bucket, Rates, Recent
from jobserver.job.model import AttemptRecord, JobError, Priority, QueueInfo, Status, TypeInfo, WorkerInfo
from jobserver.job.query import Cancellation, Done, FailedGroup, FailedGroups, JobFilter, Order, Page, Selection, Stats
from jobserver.job.wire import Readiness, SubmitBody
from tests.http.canned import JOB, NOW, Accepted, Canned, Unheard, client_of
from tests.http.cases import UNKNOWN_ID

ID = UUID(UNKNOWN_ID)
QUEUE = QueueInfo(name="mail", paused=True, counts={Status.QUEUED: 2}, oldest_waiting_seconds=1.5)
JOB_FIELDS = (
    "id type queue priority status payload result error attempt retry_count max_retries crashes fence timeout "
    "idempotency_key tags progress callback_url created_at updated_at run_at started_at finished_at expires_at "
    "worker_id lease_expires_at cancel_requested trace_id"
)
WORKER_FIELDS = (
    "id host pid version started_at heartbeat_at alive draining concurrency running loop_lag_seconds queues types "
    "completed_per_second"
)
ALL_COUNTS = dict.fromkeys((status.value for status in Status), 0)


async def ask(canned: Canned, method: str, target: str, **options: Any) -> httpx.Response:
    async with client_of(canned) as client:
        return await client.request(method, target, **options)


# The plain path is answered before Litestar, any other spelling of it by Litestar: both alike.
SPELLINGS = pytest.mark.parametrize("path", ["/jobs", "/jobs/"])


@SPELLINGS
async def test_a_submit_answers_with_the_job_and_where_it_is(path: str) -> None:
    canned = Canned(submit=Accepted(JOB, created=True))
    response = await ask(canned, "POST", path, content=b'{"type":"echo"}')
    assert response.status_code == 201
    assert response.headers["location"] == f"/jobs/{UNKNOWN_ID}"
    assert "idempotency-replayed" not in response.headers
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert b'"payload":{"b":1,"a":12345678901234567890123}' in response.content


@SPELLINGS
async def test_a_known_key_answers_with_the_job_of_then(path: str) -> None:
    canned = Canned(submit=Accepted(JOB, created=False))
    response = await ask(canned, "POST", path, content=b'{"type":"echo","idempotency_key":"k"}')
    assert response.status_code == 200
    assert response.headers["idempotency-replayed"] == "true"


@SPELLINGS
@pytest.mark.parametrize("body", [b'{"type":"echo"}', b'{"type":"echo","idempotency_key":"k 1"}'])
async def test_the_key_of_the_header_is_the_key_of_the_body(body: bytes, path: str) -> None:
    canned = Canned(submit=Accepted(JOB, created=True))
    response = await ask(canned, "POST", path, content=body, headers={"idempotency-key": '"k 1"'})
    assert response.status_code == 201
    ((_, (submitted,), _),) = canned.asked
    assert isinstance(submitted, SubmitBody)
    assert submitted.idempotency_key == "k 1"


@SPELLINGS
async def test_the_trace_of_the_request_goes_with_the_job(path: str) -> None:
    canned = Canned(submit=Accepted(JOB, created=True))
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await ask(canned, "POST", path, content=b'{"type":"echo"}', headers={"traceparent": parent})
    ((_, _, named),) = canned.asked
    assert named == {"scope": "", "trace_context": parent}


async def test_a_batch_says_which_jobs_are_new() -> None:
    canned = Canned(submit_many=[Accepted(JOB, created=True), Accepted(JOB, created=False)])
    body = {"jobs": [{"type": "echo"}, {"type": "echo", "idempotency_key": "k"}]}
    response = await ask(canned, "POST", "/jobs/batch", json=body)
    assert response.status_code == 201
    one = {"id": UNKNOWN_ID, "status": "queued"}
    assert response.json() == {"jobs": [{**one, "created": True}, {**one, "created": False}]}


@SPELLINGS
@pytest.mark.parametrize(
    ("error", "status", "kind", "at"),
    [
        (Invalid("$.payload.to", "Expected `str`, got `int`"), 422, "about:blank", "$.payload.to"),
        (KeyReused("The key names another job."), 422, "/problems/idempotency-key-reused", "$.idempotency_key"),
        (DatabaseUnavailable("secret-host refused"), 503, "/problems/database-unavailable", None),
        (Overloaded("secret queue"), 503, "/problems/overloaded", None),
        (StreamUnavailable("secret-host"), 503, "about:blank", None),
        (RuntimeError("secret"), 500, "about:blank", None),
    ],
)
async def test_an_error_becomes_a_problem(error: Exception, status: int, kind: str, at: str | None, path: str) -> None:
    with capture_logs() as logs:
        response = await ask(Canned(submit=error), "POST", path, content=b'{"type":"echo"}')
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == kind
    assert problem.get("errors", [{"path": None}])[0]["path"] == at
    assert ("retry-after" in response.headers) == (status == 503)
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    # Only what nobody expected is logged, and with its traceback.
    assert [log["exc_info"] for log in logs] == ([error] if status == 500 else [])


async def test_a_reused_key_of_a_batch_is_named() -> None:
    canned = Canned(submit_many=KeyReused("The key names another job.", index=3))
    response = await ask(canned, "POST", "/jobs/batch", json={"jobs": [{"type": "echo"}] * 5})
    assert response.status_code == 422
    assert response.json()["errors"][0]["path"] == "$.jobs[3].idempotency_key"


async def test_a_message_that_quotes_the_request_is_bounded() -> None:
    response = await ask(Canned(), "POST", "/jobs", json={"type": "echo", "x" * 100_000: 1})
    assert response.status_code == 422
    assert len(response.content) < 2_000


async def test_a_job_is_shown_as_the_contract_orders_it() -> None:
    error = JobError("ValueError", "no", "Traceback ...", retryable=True)
    job = msgspec.structs.replace(JOB, error=error, result=b"[1]")
    response = await ask(Canned(job=job), "GET", f"/jobs/{UNKNOWN_ID}")
    shown = response.json()
    assert " ".join(shown) == JOB_FIELDS
    assert shown["created_at"] == "2026-03-07T10:00:00.123456Z"
    assert shown["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert shown["error"] == {"type": "ValueError", "message": "no", "traceback": "Traceback ...", "retryable": True}
    assert shown["result"] == [1]


async def test_an_unknown_job_is_not_found() -> None:
    canned = Canned(job=None, attempts=None)
    for target in (f"/jobs/{UNKNOWN_ID}", f"/jobs/{UNKNOWN_ID}?wait=1", f"/jobs/{UNKNOWN_ID}/attempts"):
        assert (await ask(canned, "GET", target)).status_code == 404


async def test_waiting_asks_for_the_end_of_a_job_that_has_not_ended() -> None:
    done = msgspec.structs.replace(JOB, status=Status.COMPLETED)
    canned = Canned(job=JOB, wait=done)
    response = await ask(canned, "GET", f"/jobs/{UNKNOWN_ID}?wait=2.5")
    assert response.json()["status"] == "completed"
    assert canned.asked[1] == ("wait", (ID, 2.5), {})


async def test_waiting_for_a_job_that_has_ended_does_not_wait() -> None:
    canned = Canned(job=msgspec.structs.replace(JOB, status=Status.FAILED))
    assert (await ask(canned, "GET", f"/jobs/{UNKNOWN_ID}?wait=60")).json()["status"] == "failed"


async def test_filters_reach_the_store_as_they_were_meant() -> None:
    canned = Canned(jobs=Page(items=[JOB], total=10_000, total_capped=True, next_cursor="more"))
    response = await ask(
        canned,
        "GET",
        "/jobs?status=queued&status=running&type=null&queue=mail&tag=a+b%2Bc"
        "&created_after=2026-03-07T11:00:00.123456%2B01:00&limit=5&offset=7",
    )
    assert response.status_code == 200, response.text
    page = response.json()
    assert {key: value for key, value in page.items() if key != "items"} == {
        "total": 10_000,
        "total_capped": True,
        "limit": 5,
        "offset": 7,
        "next_cursor": "more",
        "partial": False,
    }
    wanted = JobFilter(
        statuses=frozenset({Status.QUEUED, Status.RUNNING}), type="null", queue="mail", tag="a b+c", created_after=NOW
    )
    assert canned.asked == [("jobs", (wanted,), {"limit": 5, "offset": 7, "cursor": None})]


async def test_dead_letters_are_the_failed_jobs_latest_failure_first() -> None:
    canned = Canned(jobs=Page(items=[], total=0, total_capped=False, next_cursor=None))
    await ask(canned, "GET", "/dlq?cursor=abc")
    wanted = JobFilter(statuses=frozenset({Status.FAILED}), dead_first=True)
    assert canned.asked == [("jobs", (wanted,), {"limit": 20, "offset": 0, "cursor": "abc"})]


async def test_attempts_are_listed() -> None:
    record = AttemptRecord(
        number=1, fence=1, started_at=NOW, ended_at=None, outcome="running", error=None, worker_id="w"
    )
    response = await ask(Canned(attempts=[record]), "GET", f"/jobs/{UNKNOWN_ID}/attempts")
    assert response.json() == {
        "items": [
            {
                "number": 1,
                "fence": 1,
                "started_at": "2026-03-07T10:00:00.123456Z",
                "ended_at": None,
                "outcome": "running",
                "error": None,
                "worker_id": "w",
            }
        ]
    }


@pytest.mark.parametrize(
    ("status", "expected"), [(Status.CANCELED, 200), (Status.RUNNING, 202), (Status.COMPLETED, 202)]
)
async def test_cancel_says_whether_it_has_happened(status: Status, expected: int) -> None:
    done = Cancellation(msgspec.structs.replace(JOB, status=status), was_running=expected == 202)
    assert (await ask(Canned(cancel=done), "POST", f"/jobs/{UNKNOWN_ID}/cancel")).status_code == expected


@pytest.mark.parametrize(
    ("method", "target", "command"),
    [
        ("POST", f"/jobs/{UNKNOWN_ID}/cancel", "cancel"),
        ("POST", f"/jobs/{UNKNOWN_ID}/retry", "replay"),
        ("POST", f"/dlq/{UNKNOWN_ID}/replay", "replay"),
        ("DELETE", f"/dlq/{UNKNOWN_ID}", "delete"),
    ],
)
async def test_a_command_on_the_wrong_job_is_refused(method: str, target: str, command: str) -> None:
    for error, status in ((NotFound("There is no such job."), 404), (Conflict("The job is running."), 409)):
        response = await ask(Canned(**{command: error}), method, target)
        assert response.status_code == status
        assert response.json()["detail"] == str(error)


@pytest.mark.parametrize("options", [{}, {"json": {}}, {"content": b"", "headers": {"content-type": "text/plain"}}])
async def test_a_call_without_a_body_takes_none_or_an_empty_object(options: dict[str, Any]) -> None:
    response = await ask(Canned(pause=QUEUE), "POST", "/queues/mail/pause", **options)
    assert response.status_code == 200, response.text


async def test_a_retry_takes_canceled_jobs_and_a_dead_letter_only_failed_ones() -> None:
    canned = Canned(replay=JOB)
    await ask(canned, "POST", f"/jobs/{UNKNOWN_ID}/retry")
    await ask(canned, "POST", f"/dlq/{UNKNOWN_ID}/replay")
    assert [named["failed_only"] for _, _, named in canned.asked] == [False, True]


async def test_a_replay_of_many_names_its_selection() -> None:
    canned = Canned(replay_many=[ID])
    response = await ask(
        canned, "POST", "/dlq/replay", json={"type": "echo", "ids": [UNKNOWN_ID, UNKNOWN_ID], "dry_run": True}
    )
    assert response.json() == {"replayed": 1, "ids": [UNKNOWN_ID]}
    selection = Selection(type="echo", ids=(ID,))
    assert canned.asked == [("replay_many", (selection,), {"limit": 1_000, "dry_run": True})]


async def test_an_action_says_what_it_is_for() -> None:
    canned = Canned(carry_out=Done(matched=2, changed=1, ids=[ID], next_cursor="more"))
    body = {
        "action": "cancel",
        "filter": {"status": ["queued", "failed"], "created_after": "2026-03-07T11:00:00.123456+01:00", "q": "a%"},
        "limit": 5,
        "cursor": "c",
        "dry_run": True,
    }
    response = await ask(canned, "POST", "/jobs/actions", json=body)
    assert response.json() == {"matched": 2, "changed": 1, "ids": [UNKNOWN_ID], "partial": True, "next_cursor": "more"}
    wanted = JobFilter(statuses=frozenset({Status.QUEUED, Status.FAILED}), created_after=NOW, q="a%")
    order = Order(verb="cancel", wanted=wanted, limit=5, cursor="c", dry_run=True)
    assert canned.asked == [("carry_out", (order,), {})]
    assert order.statuses == {Status.QUEUED}
    await ask(canned, "POST", "/jobs/actions", json={"action": "delete", "ids": [UNKNOWN_ID, UNKNOWN_ID]})
    assert canned.asked[1] == ("carry_out", (Order(verb="delete", ids=(ID,)),), {})


async def test_groups_of_dead_letters_are_shown() -> None:
    group = FailedGroup(
        type="echo",
        fingerprint="0123456789abcdef",
        error_type="ValueError",
        message="no 1",
        count=3,
        first_failed_at=NOW,
        last_failed_at=NOW,
        queues=("a", "b"),
        last_id=ID,
    )
    canned = Canned(failed_groups=FailedGroups([group], partial=True))
    response = await ask(canned, "GET", "/dlq/groups?type=echo&limit=5")
    moment = "2026-03-07T10:00:00.123456Z"
    assert response.json() == {
        "items": [
            {
                "type": "echo",
                "fingerprint": "0123456789abcdef",
                "error_type": "ValueError",
                "message": "no 1",
                "count": 3,
                "first_failed_at": moment,
                "last_failed_at": moment,
                "queues": ["a", "b"],
                "last_id": UNKNOWN_ID,
            }
        ],
        "partial": True,
    }
    assert canned.asked == [("failed_groups", (), {"type": "echo", "queue": None, "limit": 5})]


async def test_a_deleted_job_leaves_nothing_to_show() -> None:
    response = await ask(Canned(delete=None), "DELETE", f"/dlq/{UNKNOWN_ID}")
    assert response.status_code == 204
    assert response.content == b""
    assert "content-length" not in response.headers


async def test_a_delete_of_many_names_its_selection() -> None:
    canned = Canned(delete_many=4)
    response = await ask(canned, "DELETE", "/dlq?queue=mail&dry_run=true")
    assert response.json() == {"deleted": 4}
    assert canned.asked == [("delete_many", (Selection(queue="mail"),), {"dry_run": True})]
    await ask(canned, "DELETE", "/dlq?fingerprint=0123456789abcdef&dry_run=true")
    assert canned.asked[1] == ("delete_many", (Selection(fingerprint="0123456789abcdef"),), {"dry_run": True})


async def test_a_queue_has_all_seven_counts() -> None:
    canned = Canned(queues=[QUEUE], pause=QUEUE, resume=QUEUE)
    shown = {
        "name": "mail",
        "paused": True,
        "counts": {**ALL_COUNTS, "queued": 2},
        "oldest_waiting_seconds": 1.5,
        "rates": None,
    }
    assert (await ask(canned, "GET", "/queues")).json() == {"items": [shown]}
    assert (await ask(canned, "POST", "/queues/mail/pause")).json() == shown
    assert (await ask(canned, "POST", "/queues/mail/resume")).json() == shown


class Heard(Unheard):
    """A queue that moves, a process that works, and two buckets."""

    rates = Rates(submitted_per_second=2.0, completed_per_second=1.5, failed_per_second=0.25)
    asked: int | None = None

    async def recent(self) -> Recent:
        return Recent(known=True, queues={"mail": self.rates}, workers={"w": 1.25})

    async def buckets(self, minutes: int) -> tuple[list[Bucket], bool]:
        self.asked = minutes
        fields: dict[str, Any] = dict.fromkeys(Bucket.__struct_fields__, 1) | {"latency_p95": None}
        return [Bucket(**fields | {"at": 1_700_000_000}), Bucket(**fields | {"at": 1_700_000_005})], True


@pytest.mark.parametrize(("target", "minutes"), [("/admin/activity", 15), ("/admin/activity?minutes=60", 60)])
async def test_activity_and_rates_are_shown(target: str, minutes: int) -> None:
    heard = Heard()
    shown = msgspec.to_builtins(heard.rates)
    async with client_of(Canned(queues=[QUEUE], pause=QUEUE), activity=heard) as client:
        told = (await client.get(target)).json()
        (queue,) = (await client.get("/queues")).json()["items"]
        paused = (await client.post("/queues/mail/pause")).json()
    assert heard.asked == minutes
    assert (told["bucket_seconds"], told["partial"], told["queues"]) == (5, False, {"mail": shown})
    assert [item["at"] for item in told["items"]] == ["2023-11-14T22:13:20Z", "2023-11-14T22:13:25Z"]
    assert (told["items"][0]["submitted"], told["items"][0]["latency_p95"]) == (1, None)
    assert queue["rates"] == paused["rates"] == shown


async def test_workers_types_and_stats_are_shown() -> None:
    worker = WorkerInfo(
        id="w",
        host="h",
        pid=1,
        version="0",
        started_at=NOW,
        heartbeat_at=NOW,
        alive=True,
        draining=False,
        concurrency=64,
        running=0,
        loop_lag_seconds=0.0,
        queues=None,
        types=("echo",),
    )
    info = TypeInfo(type="echo", queue="default", priority=Priority.HIGH, max_retries=3, timeout_seconds=5.0, schema={})
    stats = Stats(total=2, by_status={Status.QUEUED: 2}, dlq=0, workers=1, queues=(QUEUE,), oldest_waiting_seconds=1.5)
    canned = Canned(workers=[worker], types=[info], stats=stats)
    (shown,) = (await ask(canned, "GET", "/workers")).json()["items"]
    assert " ".join(shown) == WORKER_FIELDS
    assert (await ask(canned, "GET", "/types")).json() == {
        "items": [
            {"type": "echo", "queue": "default", "priority": "high", "max_retries": 3, "timeout": 5.0, "schema": {}}
        ]
    }
    told = (await ask(canned, "GET", "/admin/stats")).json()
    assert told["by_status"] == {**ALL_COUNTS, "queued": 2}
    assert [queue["name"] for queue in told["queues"]] == ["mail"]


@pytest.mark.parametrize(
    ("readiness", "status"),
    [
        (Readiness(status="ok", database="ok", redis="ok", draining=False), 200),
        (Readiness(status="degraded", database="ok", redis="down", draining=False), 200),
        (Readiness(status="unavailable", database="down", redis="ok", draining=False), 503),
        (Readiness(status="unavailable", database="ok", redis="ok", draining=True), 503),
    ],
)
async def test_readiness_is_told_by_the_status_too(readiness: Readiness, status: int) -> None:
    response = await ask(Canned(ready=readiness), "GET", "/health/ready")
    assert response.status_code == status
    assert response.json() == msgspec.to_builtins(readiness)


async def test_health_asks_nobody() -> None:
    canned = Canned()
    assert (await ask(canned, "GET", "/health")).json() == {"status": "ok"}
    assert canned.asked == []


async def test_metrics_come_in_the_format_that_is_asked_for() -> None:
    response = await ask(Canned(), "GET", "/metrics", headers={"accept": "application/openmetrics-text"})
    assert response.text == "application/openmetrics-text"
    assert response.headers["content-type"] == "text/plain; version=0.0.4"


async def test_head_is_get_without_the_body() -> None:
    canned = Canned(job=JOB)
    head = await ask(canned, "HEAD", f"/jobs/{UNKNOWN_ID}")
    get = await ask(canned, "GET", f"/jobs/{UNKNOWN_ID}")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers == get.headers


async def test_options_names_every_method_of_a_path() -> None:
    response = await ask(Canned(), "OPTIONS", "/jobs")
    assert response.status_code == 204
    assert response.headers["allow"] == "GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost"},
        {"host": "LOCALHOST:8000"},
        {"host": "127.0.0.1:1"},
        {"host": "[::1]:8000"},
        {"host": "[::1]"},
        {"host": "localhost:8000", "origin": "http://localhost:8000"},
        {"host": "localhost:8000", "sec-fetch-site": "same-origin"},
        {"host": "localhost:8000", "sec-fetch-site": "none"},
    ],
)
async def test_pages_of_this_server_and_programs_are_served(headers: dict[str, str]) -> None:
    response = await ask(Canned(pause=QUEUE), "POST", "/queues/mail/pause", headers=headers)
    assert response.status_code == 200


async def test_a_link_on_another_site_may_be_followed() -> None:
    response = await ask(Canned(queues=[]), "GET", "/queues", headers={"sec-fetch-site": "cross-site"})
    assert response.status_code == 200
