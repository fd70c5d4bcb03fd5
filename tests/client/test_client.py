"""The client: what it repeats and what it does not, and both clients against a server."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from jobserver import (
    Client,
    ConfigurationError,
    Handlers,
    Invalid,
    JobFailed,
    JobRequest,
    NotFinished,
    RequestRefused,
    ServerUnreachable,
    SyncClient,
)
from jobserver.client import Calls, Lost, Pause, Request, Response, Steps
from jobserver.errors import DatabaseUnavailable, Overloaded, Unavailable
from jobserver.http.problems import reply_to
from jobserver.job.model import Status
from jobserver.job.wire import MAX_BATCH, ReplayBody
from jobserver.server import Server
from tests.conftest import Pair
from tests.servers import running

pytestmark = pytest.mark.usefixtures("patient")

handlers = Handlers()


@handlers.handler("add", queue="sums", max_retries=0)
async def add(a: int, b: int) -> int:
    return a + b


@handlers.handler("broken", max_retries=0)
async def broken() -> None:
    raise ValueError("no luck")


# What to send and when to repeat it: no I/O, no clock.

ANSWER = Response(200, b'{"items":[]}')
UNAVAILABLE = Response(503, b"", "2")
REFUSED = Lost("refused", sent=False)
CUT = Lost("reset", sent=True)


def unavailable(error: Unavailable) -> Response:
    """As a server says it."""
    reply = reply_to(error, method="POST", path="/")
    headers = dict(reply.headers)
    return Response(reply.status, reply.body, headers[b"retry-after"].decode())


def calls(repeats: int = 3) -> Calls:
    return Calls("http://server", seconds=10.0, repeats=repeats, jitter=lambda: 1.0, clock=lambda: 0.0)


class Clock:
    """Stands still unless it is told otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Talk(msgspec.Struct, frozen=True):
    """A conversation that was had: what was sent, how long was waited, and the result or the error."""

    sent: list[Request]
    pauses: list[float]
    result: Any


def converse(steps: Steps[Any], answer: Callable[[Request], Response | Lost], clock: Clock | None = None) -> Talk:
    """Have a conversation with `answer`."""
    talk = Talk([], [], None)
    outcome: Response | Lost | None = None
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration as done:
            return msgspec.structs.replace(talk, result=done.value)
        except (ServerUnreachable, RequestRefused) as error:
            return msgspec.structs.replace(talk, result=error)
        if isinstance(step, Request):
            talk.sent.append(step)
            outcome = answer(step)
        else:
            talk.pauses.append(step.seconds)
            outcome = None
            if clock is not None:
                clock.now += step.seconds


def talk(steps: Steps[Any], *outcomes: Response | Lost) -> tuple[list[Request], list[float], Any]:
    """Have a conversation in which these outcomes come one after the other."""
    left = iter(outcomes)
    had = converse(steps, lambda request: next(left))
    return had.sent, had.pauses, had.result


REPEATS: dict[str, tuple[str, list[Response | Lost], list[float], type]] = {
    # call, what comes back -> the pauses, and what becomes of it
    "answered": ("queues", [ANSWER], [], msgspec.Struct),
    "refused, then answered": ("queues", [REFUSED, ANSWER], [0.1], msgspec.Struct),
    "lost answers of a question": ("queues", [CUT, CUT, ANSWER], [0.1, 0.2], msgspec.Struct),
    "given up": ("queues", [CUT] * 4, [0.1, 0.2, 0.4], ServerUnreachable),
    "unavailable: as it asks, and jitter": ("queues", [UNAVAILABLE, ANSWER], [2.1], msgspec.Struct),
    "unavailable to the end": ("queues", [Response(503, b"")] * 4, [0.1, 0.2, 0.4], RequestRefused),
    "asks for too much patience": ("queues", [Response(503, b"", "3600")], [], RequestRefused),
    "an unreadable Retry-After": ("queues", [Response(503, b"", "soon"), ANSWER], [0.1], msgspec.Struct),
    "a gateway's error on a question": ("queues", [Response(502, b""), ANSWER], [0.1], msgspec.Struct),
    "our own error": ("queues", [Response(500, b"")], [], RequestRefused),
    "too many requests, then answered": ("queues", [Response(429, b"", "1"), ANSWER], [1.1], msgspec.Struct),
    "too many requests, by a date": (
        "cancel",
        [Response(429, b"", "Sat, 07 Mar 2026 10:00:03 GMT", "Sat, 07 Mar 2026 10:00:00 GMT"), Response(404, b"")],
        [3.1],
        RequestRefused,
    ),
    "not a jobserver": ("queues", [Response(200, b"<html>")], [], ServerUnreachable),
    "another JSON": ("queues", [Response(200, b"{}")], [], ServerUnreachable),
    "a command that never left": ("cancel", [REFUSED, Response(404, b"")], [0.1], RequestRefused),
    "a command whose answer was lost": ("cancel", [CUT], [], ServerUnreachable),
    "a command behind a gateway": ("cancel", [Response(504, b"")], [], RequestRefused),
    "a command not acknowledged": ("cancel", [UNAVAILABLE, Response(409, b"")], [2.1], RequestRefused),
}


@pytest.mark.parametrize(("name", "outcomes", "pauses", "kind"), REPEATS.values(), ids=REPEATS)
def test_a_request_is_repeated_where_that_is_safe_and_helps(
    name: str, outcomes: list[Response | Lost], pauses: list[float], kind: type
) -> None:
    steps = calls().queues() if name == "queues" else calls().cancel(uuid4())
    sent, waited, result = talk(steps, *outcomes)
    assert waited == pytest.approx(pauses)
    assert len(sent) == len(outcomes)
    assert len(set(sent)) == 1
    assert isinstance(result, kind)


IN_STEPS: dict[str, Callable[[bool], Steps[Any]]] = {
    "act": lambda dry_run: calls().act("delete", {"type": "echo"}, dry_run=dry_run),
    "replay": lambda dry_run: calls().replay(ReplayBody(type="echo", dry_run=dry_run)),
    "purge": lambda dry_run: calls().purge({"type": "echo", "dry_run": dry_run}),
}
AWAY = unavailable(DatabaseUnavailable())
FULL = unavailable(Overloaded())


@pytest.mark.parametrize("name", IN_STEPS)
def test_what_is_done_in_steps_is_repeated_only_where_none_was_done(name: str) -> None:
    for half_done in (AWAY, UNAVAILABLE, Response(503, b"<html>", "2")):
        sent, waited, error = talk(IN_STEPS[name](False), half_done)
        assert (len(sent), waited) == (1, [])
        assert isinstance(error, RequestRefused)
    for turned_away in (FULL, Response(429, b"", "1"), REFUSED):
        sent, _, error = talk(IN_STEPS[name](False), turned_away, Response(404, b""))
        assert len(sent) == 2
        assert isinstance(error, RequestRefused)
    # Which would only tell, is repeated as any question.
    sent, _, _ = talk(IN_STEPS[name](True), AWAY, CUT, Response(404, b""))
    assert len(sent) == 3


def test_every_repeat_of_a_submit_has_the_same_key() -> None:
    sent, _, error = talk(calls().submit("echo", {"n": 1}), CUT, UNAVAILABLE, CUT, CUT)
    assert isinstance(error, ServerUnreachable)
    assert "No answer from http://server: reset" in str(error)
    [key] = {json.loads(request.body or b"")["idempotency_key"] for request in sent}
    assert len(key) == 32
    other, _, _ = talk(calls(0).submit("echo", {"n": 1}), CUT)
    assert json.loads(other[0].body or b"")["idempotency_key"] != key


def test_the_backoff_is_capped_and_has_jitter() -> None:
    patient = Calls("http://server", seconds=1.0, repeats=12, jitter=lambda: 0.0)
    _, waited, _ = talk(patient.stats(), *[REFUSED] * 13)
    assert waited[:3] == [0.05, 0.1, 0.2]
    assert max(waited) == 2.5


def test_options_that_are_none_leave_those_of_the_request() -> None:
    request = JobRequest(type="echo", payload=1, queue="a", priority="high")
    sent, _, _ = talk(calls(0).submit(request, None, "k", {"queue": None, "priority": "low"}), CUT)
    body = json.loads(sent[0].body or b"")
    assert body == {"type": "echo", "payload": 1, "queue": "a", "priority": "low", "idempotency_key": "k"}


def test_a_request_with_two_payloads_is_refused() -> None:
    with pytest.raises(TypeError, match="payload already"):
        calls().submit(JobRequest(type="echo", payload=1), 2)


@pytest.mark.parametrize("client_class", [Client, SyncClient])
@pytest.mark.parametrize("proxy", ["socks5://me:s3cret@127.0.0.1:1080", "socks4://me:s3cret@x", "http://s3cret:x:y"])
def test_a_proxy_that_cannot_be_used_is_one_sentence_and_none_on_the_way_to_this_machine(
    client_class: type[Client | SyncClient], proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ConfigurationError, match=r"proxy of the environment \(ALL_PROXY") as refused:
        client_class("http://192.0.2.1:8000")
    assert "s3cret" not in str(refused.value)
    for host in ("localhost", "127.0.0.1", "127.1.2.3", "[::1]"):
        client_class(f"http://{host}:8000")


@pytest.mark.parametrize("client_class", [Client, SyncClient])
@pytest.mark.parametrize("host", ["a..b", "a" * 64, f"x.{'a' * 64}.example", "\udcff"])
def test_a_host_that_no_resolver_takes_is_refused_at_once(client_class: type[Client | SyncClient], host: str) -> None:
    with pytest.raises(ConfigurationError, match="is not readable"):
        client_class(f"http://{host}:8000")
    for good in ("a.example.", "a_b", "b\u00fccher.example", "[::1]", "[fe80::1%25eth0]"):
        client_class(f"http://{good}:8000")


def batch(sent: Request) -> list[dict[str, Any]]:
    bodies: list[dict[str, Any]] = json.loads(sent.body or b"")["jobs"]
    return bodies


def stored(request: Request) -> Response:
    jobs = [{"id": str(uuid4()), "status": "queued", "created": True} for _ in batch(request)]
    return Response(201, msgspec.json.encode({"jobs": jobs}))


def test_many_jobs_are_sent_in_chunks_of_a_thousand() -> None:
    requests = (JobRequest(type="echo", payload=n) for n in range(2 * MAX_BATCH + 1))
    had = converse(calls().submit_many(requests), stored)
    assert [len(batch(request)) for request in had.sent] == [1_000, 1_000, 1]
    assert [body["payload"] for request in had.sent for body in batch(request)] == list(range(2_001))
    assert len(had.result) == 2_001


def test_large_jobs_are_sent_in_chunks_that_a_server_takes() -> None:
    had = converse(calls().submit_many(JobRequest(type="echo", payload="x" * 1_000_000) for _ in range(40)), stored)
    assert [len(batch(request)) for request in had.sent] == [31, 9]
    assert max(len(request.body or b"") for request in had.sent) < 32 * 1_048_576


def test_no_jobs_are_no_request() -> None:
    assert talk(calls().submit_many([])) == ([], [], [])


def test_a_refusal_of_a_later_chunk_names_the_place_in_the_whole_list() -> None:
    steps = calls().submit_many(JobRequest(type="echo") for _ in range(MAX_BATCH + 5))
    first = next(steps)
    assert isinstance(first, Request)
    steps.send(stored(first))
    refusal = {
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "$.jobs[4].type: unknown",
        "errors": [{"path": "$.jobs[4].type", "message": "unknown"}],
    }
    with pytest.raises(RequestRefused, match=r"\$\.jobs\[1004\]\.type: unknown") as refused:
        steps.send(Response(422, msgspec.json.encode(refusal)))
    assert [error.path for error in refused.value.problem.errors or ()] == ["$.jobs[1004].type"]


def test_keys_that_are_not_as_many_as_the_jobs_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        next(calls().submit_many([JobRequest(type="echo")], keys=["a", "b"]))


@pytest.mark.parametrize("job_id", ["", "..", "x/../..", "123", None, 5])
def test_what_is_no_id_is_never_sent(job_id: Any) -> None:
    with pytest.raises(RequestRefused, match="There is no job") as refused:
        calls().get(job_id)
    assert refused.value.status == 404


@pytest.mark.parametrize("queue", ["", "..", "a/b", "a b", "a\n"])
def test_what_is_no_queue_is_never_sent(queue: str) -> None:
    with pytest.raises(Invalid, match=r"\$\.path\.name"):
        calls().pause(queue)


def test_a_refusal_that_is_no_problem_still_tells_what_it_was() -> None:
    _, _, error = talk(calls().stats(), Response(418, b"short and stout"))
    assert isinstance(error, RequestRefused)
    assert (error.status, str(error)) == (418, "418 I'm a Teapot: short and stout")
    _, _, error = talk(calls().stats(), Response(599, b"\xff" * 10_000))
    assert isinstance(error, RequestRefused)
    assert len(str(error)) < 600


def job_body(status: str) -> bytes:
    now = "2026-03-07T10:00:00Z"
    times = dict.fromkeys(("created_at", "updated_at", "run_at"), now)
    ends = dict.fromkeys(("started_at", "finished_at", "expires_at", "lease_expires_at"))
    nothing = dict.fromkeys(("result", "error", "idempotency_key", "progress", "callback_url", "worker_id", "trace_id"))
    numbers = dict.fromkeys(("attempt", "retry_count", "max_retries", "crashes", "fence"), 0)
    named = {"id": str(UUID(int=1)), "type": "echo", "queue": "q", "priority": "low", "status": status, "payload": 1}
    rest = {"timeout": 60.0, "tags": [], "cancel_requested": False}
    return msgspec.json.encode({**named, **rest, **times, **ends, **nothing, **numbers})


def test_a_long_wait_is_made_of_several_and_ends_in_time() -> None:
    clock = Clock()

    def answer_at_the_end(request: Request) -> Response:
        seconds = float(dict(request.query)["wait"])
        assert request.seconds == seconds + 10.0
        clock.now += seconds
        return Response(200, job_body("running"))

    steps = Calls("http://server", seconds=10.0, repeats=0, clock=clock).wait(UUID(int=1), 90.0)
    had = converse(steps, answer_at_the_end, clock)
    assert had.result.value.status is Status.RUNNING
    assert [dict(request.query)["wait"] for request in had.sent] == ["60.000", "29.800"]
    assert clock.now == pytest.approx(90.0)


def test_a_server_that_answers_a_wait_too_early_is_not_asked_in_a_hot_loop() -> None:
    clock = Clock()
    steps = Calls("http://server", seconds=10.0, repeats=0, clock=clock).wait(UUID(int=1), None)
    assert isinstance(next(steps), Request)
    assert steps.send(Response(200, job_body("queued"))) == Pause(0.2)
    assert isinstance(next(steps), Request)
    with pytest.raises(StopIteration) as done:
        steps.send(Response(200, job_body("completed")))
    assert done.value.value.value.ended


# The two clients.


def test_both_clients_have_the_same_verbs() -> None:
    def verbs(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(kind).items()
            if inspect.isfunction(member) and not name.startswith("_")
        }

    assert verbs(Client) == verbs(SyncClient)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://localhost", "http://", "http://[", "/jobs"])
@pytest.mark.parametrize("kind", [Client, SyncClient])
def test_a_url_that_is_none_is_one_sentence(kind: type[Client] | type[SyncClient], url: str) -> None:
    with pytest.raises(ConfigurationError, match="The server's URL"):
        kind(url)


async def test_the_password_in_a_url_is_not_shown() -> None:
    async with Client("http://user:secret@127.0.0.1:1/", retries=0) as client:
        with pytest.raises(ServerUnreachable) as error:
            await client.stats()
    assert "secret" not in str(error.value)
    assert "http://127.0.0.1:1" in str(error.value)


@pytest.fixture
async def server(pair: Pair) -> AsyncIterator[Server]:
    async with running(pair, handlers) as found:
        yield found


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as found:
        yield found


async def test_a_handler_is_submitted_and_its_result_comes_back(client: Client) -> None:
    job = await client.submit(add.job(a=1, b=2), key="sum", tags=("maths",), timeout=5)
    assert (job.type, job.queue, job.payload, job.tags) == ("add", "sums", {"a": 1, "b": 2}, ("maths",))
    assert await client.result(job.id, timeout=20) == 3
    done = await client.wait(str(job.id))
    assert (done.status, done.result, done.ended, done.idempotency_key) == (Status.COMPLETED, 3, True, "sum")
    again = await client.submit(add.job(a=1, b=2), key="sum", tags=("maths",), timeout=5)
    assert again.id == job.id
    [attempt] = await client.attempts(job.id)
    assert (attempt.number, attempt.outcome) == (1, "completed")


async def test_a_failed_job_brings_its_error(client: Client) -> None:
    job = await client.submit("broken")
    with pytest.raises(JobFailed, match="ValueError: no luck") as failed:
        await client.result(job.id, timeout=20)
    assert failed.value.error is not None
    assert failed.value.error.type == "ValueError"
    assert "no luck" in (failed.value.error.traceback or "")


async def test_a_job_that_takes_too_long_is_told_and_can_be_canceled(client: Client) -> None:
    job = await client.submit("sleep", {"seconds": 60})
    with pytest.raises(TimeoutError, match=r"still (queued|running) after 0\.2 s") as late:
        await client.result(job.id, timeout=0.2)
    assert isinstance(late.value, NotFinished)
    assert late.value.job.id == job.id
    await client.cancel(job.id)
    with pytest.raises(JobFailed, match="was canceled"):
        await client.result(job.id, timeout=20)
    # A consumer may have taken it already.
    assert (await client.retry(job.id)).status in {Status.QUEUED, Status.RUNNING}


async def test_what_the_server_refuses_has_its_problem(client: Client) -> None:
    with pytest.raises(RequestRefused) as refused:
        await client.submit("add", {"a": 1, "b": "two"})
    assert refused.value.status == 422
    assert [error.path for error in refused.value.problem.errors or ()] == ["$.payload.b"]
    with pytest.raises(Invalid, match=r"\$\.max_retries"):
        await client.submit("add", {"a": 1, "b": 2}, max_retries=-1)
    with pytest.raises(RequestRefused) as unknown:
        await client.get(uuid4())
    assert unknown.value.status == 404


async def test_many_jobs_get_their_own_keys_and_come_back_in_order(client: Client) -> None:
    first = await client.submit_many(add.job(n, 1) for n in range(3))
    assert [item.created for item in first] == [True, True, True]
    assert [(await client.get(item.id)).payload["a"] for item in first] == [0, 1, 2]
    named = await client.submit_many([add.job(1, 1), add.job(2, 2)], keys=["x", "y"])
    again = await client.submit_many([add.job(2, 2), add.job(3, 3)], keys=["y", "z"])
    assert [item.created for item in again] == [False, True]
    assert again[0].id == named[1].id


async def test_lists_go_on_over_pages(client: Client) -> None:
    items = await client.submit_many(JobRequest(type="echo", tags=("many",), delay=3_600.0) for _ in range(230))
    listed = [job.id async for job in client.list(tag="many", status=Status.SCHEDULED)]
    assert sorted(listed) == sorted(item.id for item in items)
    assert [job.id async for job in client.list(tag="many", limit=101)] == listed[:101]
    assert [job async for job in client.list(tag="many", limit=0)] == []
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert [job async for job in client.list(tag="many", created_after=soon)] == []
    assert len([job async for job in client.list(tag="many", status=["scheduled", "failed"], type="echo")]) == 230


async def test_dead_letters_are_listed_replayed_and_purged(client: Client) -> None:
    jobs = [await client.submit("broken") for _ in range(3)]
    for job in jobs:
        assert (await client.wait(job.id, timeout=20)).status is Status.FAILED
    assert {job.id async for job in client.dlq(type="broken")} == {job.id for job in jobs}
    assert (await client.replay(type="broken", dry_run=True)).replayed == 3
    assert (await client.replay([jobs[0].id])).ids == [jobs[0].id]
    assert (await client.wait(jobs[0].id, timeout=20)).status is Status.FAILED
    await client.delete(jobs[1].id)
    assert await client.purge(type="broken", dry_run=True) == 2
    assert await client.purge(all=True) == 2
    assert [job async for job in client.dlq()] == []
    with pytest.raises(RequestRefused, match="filter"):
        await client.purge()


async def test_many_jobs_are_acted_on_at_once(client: Client) -> None:
    word = uuid.uuid4().hex
    items = await client.submit_many(JobRequest(type="echo", payload=word, delay=3_600.0) for _ in range(3))
    found = {item.id for item in items}
    assert {job.id async for job in client.list(q=word)} == found
    assert [job async for job in client.list(q=word, error="x")] == []
    dry = await client.act("cancel", q=word, status=[Status.SCHEDULED, "queued"], dry_run=True)
    assert (dry.matched, dry.changed, set(dry.ids)) == (3, 0, found)
    first = await client.act("cancel", q=word, limit=2)
    assert (first.changed, first.partial) == (2, True)
    rest = await client.act("cancel", q=word, limit=2, cursor=first.next_cursor)
    assert {*first.ids, *rest.ids} == found
    assert (await client.act("retry", iter([items[0].id]))).ids == [items[0].id]
    since = datetime.now(UTC) - timedelta(hours=1)
    assert (await client.act("delete", status="canceled", q=word, created_after=since)).changed == 2
    with pytest.raises(RequestRefused, match="filter"):
        await client.act("delete")
    with pytest.raises(RequestRefused, match="filter"):
        await client.act("cancel", [items[0].id], type="echo")
    with pytest.raises(Invalid, match="created_after"):
        await client.act("cancel", created_after=datetime.now())  # noqa: DTZ005
    with pytest.raises(Invalid, match="filter"):
        await client.act("cancel", nothing="x")  # type: ignore[call-arg]


async def test_dead_letters_are_grouped(client: Client) -> None:
    await client.purge(all=True)
    jobs = [await client.submit("broken") for _ in range(2)]
    for job in jobs:
        await client.wait(job.id, timeout=20)
    [group] = await client.groups(type="broken", limit=5)
    assert (group.count, group.last_id in {job.id for job in jobs}) == (2, True)
    assert await client.groups(queue="no-such") == []
    assert len([job async for job in client.dlq(fingerprint=group.fingerprint)]) == 2
    assert (await client.replay(fingerprint=group.fingerprint, limit=1, dry_run=True)).replayed == 1
    assert await client.purge(fingerprint="0" * 16) == 0
    assert await client.purge(fingerprint=group.fingerprint) == 2


async def test_the_server_tells_about_itself(client: Client) -> None:
    assert (await client.health()).status == "ok"
    assert (await client.pause("sums")).paused is True
    waiting = await client.submit(add.job(1, 1))
    assert {queue.name: queue.paused for queue in await client.queues()}["sums"] is True
    # As the server tells it: newest first.
    noted = [each async for each in client.audit(limit=1)]
    assert [(each.action, each.target, each.changed) for each in noted] == [("pause", {"queue": "sums"}, 1)]
    why = await client.why(waiting.id)
    assert (why.status, [reason.code for reason in why.reasons]) == (Status.QUEUED, ["queue_paused"])
    assert why.reasons[0].figures == {"queue": "sums"}
    assert (await client.resume("sums")).paused is False
    assert await client.result(waiting.id, timeout=20) == 2
    assert (await client.activity(minutes=1)).bucket_seconds == 5
    assert "add" in {each.type for each in await client.types()}
    assert [worker.alive for worker in await client.workers()] == [True]
    assert (await client.stats()).total >= 1


async def test_the_sync_client_does_the_same(server: Server) -> None:
    def work() -> None:
        with SyncClient(server.url) as client:
            job = client.submit(add.job(2, 3))
            assert client.result(job.id, timeout=20) == 5
            assert client.get(job.id).ended
            assert [each.outcome for each in client.attempts(job.id)] == ["completed"]
            items = client.submit_many(JobRequest(type="echo", tags=("s",), delay=3_600.0) for _ in range(3))
            assert [each.id for each in client.list(tag="s")] == [item.id for item in reversed(items)]
            assert client.cancel(items[0].id).status is Status.CANCELED
            assert client.retry(items[0].id).status is Status.QUEUED
            failed = client.submit("broken")
            with pytest.raises(JobFailed):
                client.result(failed.id, timeout=20)
            assert [each.id for each in client.dlq()] == [failed.id]
            assert client.replay([failed.id]).replayed == 1
            assert client.wait(failed.id, timeout=20).status is Status.FAILED
            client.delete(failed.id)
            assert client.purge(all=True) == 0
            assert client.groups() == []
            found = client.act("cancel", tag="s", status="scheduled", limit=2, dry_run=True)
            assert (found.matched, found.changed, found.partial) == (2, 0, True)
            assert client.act("delete", [items[1].id, items[2].id]).changed == 0
            assert client.pause("sums").paused
            assert not client.resume("sums").paused
            assert {queue.name for queue in client.queues()} >= {"sums"}
            assert len(client.workers()) == 1
            assert "add" in {each.type for each in client.types()}
            assert client.stats().total > 0
            assert client.activity().partial is False
            assert client.why(items[1].id).reasons[0].code == "scheduled"
            assert client.health().status == "ok"
            with pytest.raises(NotFinished):
                client.wait(items[1].id, timeout=0)

    await asyncio.to_thread(work)


# Answers that never arrive.


async def test_a_lost_answer_does_not_double_a_job(server: Server) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    cuts = 2
    passed_on = 0

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cuts, passed_on
        there, back = await asyncio.open_connection(host, int(port))
        back.write(await reader.read(65_536))
        answer = await there.read(65_536)
        passed_on += 1
        if cuts:
            cuts -= 1
        else:
            writer.write(answer)
            await writer.drain()
        for each in (back, writer):
            each.close()
            await each.wait_closed()

    proxy = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    async with proxy, Client(f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}") as client:
        job = await client.submit("echo", 1, tags=("once",))
    assert passed_on == 3
    async with Client(server.url) as client:
        assert [each.id async for each in client.list(tag="once")] == [job.id]


SLOW = {"nothing": b"", "drops": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"}


@pytest.mark.parametrize("head", SLOW.values(), ids=SLOW)
async def test_a_server_that_takes_for_ever_is_given_up_in_time(head: bytes) -> None:
    dripping: list[asyncio.Task[None] | None] = []

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dripping.append(asyncio.current_task())
        gone = asyncio.create_task(_read_to_end(reader), name="gone")
        writer.write(head)
        # A byte now and then: no single read takes long.
        while not (await asyncio.wait([gone], timeout=0.05))[0]:
            writer.write(b" " if head else b"")
        writer.close()

    slow = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{slow.sockets[0].getsockname()[1]}"
    async with slow, Client(url, timeout=0.3, retries=1) as client:
        with pytest.raises(ServerUnreachable, match=r"none within 0\.3 s"):
            await client.stats()
    assert len(dripping) == 2
    await asyncio.gather(*(task for task in dripping if task is not None))


async def _read_to_end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass
