"""Callbacks on a running server: real receivers, an independent verifier, and every way in which it goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks import Webhook, WebhookVerificationError

from jobserver.builtin.callback import Callbacks, signature
from jobserver.errors import ConfigurationError, Invalid, KeyReused, NotFound
from jobserver.job.handlers import Handlers
from jobserver.job.model import CALLBACK, CALLBACK_QUEUE, Job, Priority, Raised, Returned, Status
from jobserver.job.query import JobFilter
from jobserver.pipeline.execute import Executor, ExecutorOptions
from jobserver.pipeline.held import Held
from jobserver.pipeline.running import Running
from jobserver.server import Server, recover
from jobserver.store.engine import Database
from jobserver.store.secrets import SecretStore
from jobserver.telemetry import Telemetry
from tests.conftest import Pair
from tests.engines import eventually
from tests.jobs import claimed, delivery, inserted, submission
from tests.parts import ended, finished, job_of, parts, submitted, writing
from tests.pipeline.attempts import claimed as attempted
from tests.servers import running, settings_for
from tests.web import WebServer, response

OPEN = {"allow_private_targets": True, "backoff_base": 1.0}


def headers_of(head: str) -> dict[str, str]:
    lines = head.split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}


async def callbacks(server: Server) -> list[Job]:
    page = await server.views.jobs(JobFilter(type=CALLBACK), limit=100, offset=0, cursor=None)
    return list(page.items)


async def the_callback(server: Server, *, within: float = 20.0) -> Job:
    """The one callback that there is, once it has ended."""
    [told] = await eventually(lambda: callbacks(server))
    return await ended(server, told.id, within_seconds=within)


def secrets_of(server: Server) -> SecretStore:
    return SecretStore(server.store.database)


def error_of(job: Job) -> tuple[str, str]:
    assert job.error is not None
    return job.error.type, job.error.message


async def test_an_event_arrives_signed_once_its_receiver_takes_it(pair: Pair) -> None:
    statuses = iter([503, 500])
    async with WebServer(lambda head, body: response(next(statuses, 204))) as receiver, running(pair, **OPEN) as server:
        job = await submitted(server, payload={"a": 1}, callback_url=receiver.url("/hook?x=1"))
        told = await the_callback(server)
        assert (told.status, told.retry_count, told.result) == (Status.COMPLETED, 2, b'{"status":204}')
        [secret] = await secrets_of(server).stored(reveal=True)
        metrics = server.telemetry.metrics
        assert metrics.callbacks_delivered.of().value == 1
        assert metrics.callbacks_failed.of("status").value == 2
        done = await job_of(server, job.id)
    assert secret.id == "first"
    assert secret.secret is not None
    assert len(receiver.requests) == 3
    # Every attempt tells the same under the same id, and each is signed for its own moment.
    assert {body for _, body in receiver.requests} == {receiver.requests[0][1]}
    for head, body in receiver.requests:
        assert head.startswith("POST /hook?x=1 HTTP/1.1\r\n")
        headers = headers_of(head)
        assert headers["webhook-id"] == f"{job.id}:{done.fence}"
        verified = Webhook(secret.secret).verify(body, headers)
        assert (verified["data"]["result"], verified["data"]["status"]) == ({"a": 1}, "completed")
        with pytest.raises(WebhookVerificationError):
            Webhook(secret.secret).verify(body + b" ", headers)
        event = from_http(HTTPMessage(headers, body), JSONFormat(), None)
        assert (event.get_type(), event.get_subject()) == ("jobserver.job.completed", str(job.id))
        assert event.get_id() == headers["webhook-id"]
        assert headers["content-type"] == "application/cloudevents+json"


async def test_while_secrets_rotate_both_sign_and_a_revoked_one_does_not(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.builtin.callback.SECRETS_SECONDS", 0.0)
    async with WebServer(lambda head, body: response(200)) as receiver, running(pair, **OPEN) as server:

        async def told() -> tuple[dict[str, str], bytes]:
            count = len(receiver.requests)
            await submitted(server, callback_url=receiver.url())
            await eventually(lambda: len(receiver.requests) == count + 1)
            head, body = receiver.requests[-1]
            return headers_of(head), body

        secrets = secrets_of(server)
        old = await secrets.create()
        assert old.secret is not None
        headers, body = await told()
        assert headers["webhook-signature"].count("v1,") == 1
        Webhook(old.secret).verify(body, headers)
        new = await secrets.rotate(overlap_seconds=60)
        assert new.secret is not None
        headers, body = await told()
        assert headers["webhook-signature"].count(" v1,") == 1
        for secret in (old.secret, new.secret):
            Webhook(secret).verify(body, headers)
        await secrets.revoke(old.id)
        headers, body = await told()
        Webhook(new.secret).verify(body, headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(old.secret).verify(body, headers)
        # One that nobody has is not made up for those that were revoked.
        await secrets.revoke(new.id)
        job = await submitted(server, callback_url=receiver.url())
        await ended(server, job.id)
        failed = server.telemetry.metrics.callbacks_failed.of("unsigned")
        await eventually(lambda: failed.value >= 1)
        assert len(receiver.requests) == 3


async def test_secrets_are_kept_by_their_states(pair: Pair) -> None:
    database = Database(pair.database_url)
    secrets = SecretStore(database)
    [first] = await secrets.signing()
    assert await secrets.signing() == [first]
    second = await secrets.rotate(overlap_seconds=60)
    third = await secrets.rotate(overlap_seconds=3_600)
    # A second rotation does not keep the first one's secret longer.
    by_id = {each.id: each for each in await secrets.stored(reveal=False)}
    assert [by_id[each].state for each in (third.id, second.id, "first")] == ["signing", "retiring", "retiring"]
    soonest, later = by_id["first"].expires_at, by_id[second.id].expires_at
    assert soonest is not None
    assert later is not None
    assert later - soonest > timedelta(seconds=3_000)
    assert {each.secret for each in by_id.values()} == {None}
    assert await secrets.signing() == [third.secret, second.secret, first]
    await secrets.rotate(overlap_seconds=0)
    assert len(await secrets.signing()) == 1
    await secrets.revoke(second.id)
    for gone in (second.id, "unknown"):
        with pytest.raises(NotFound):
            await secrets.revoke(gone)
    shown = {each.id: each for each in await secrets.stored(reveal=True)}
    assert (shown[second.id].state, shown[second.id].secret) == ("revoked", None)
    assert shown["first"].state == "retired"
    await database.close()


async def test_five_secrets_sign_and_no_more(pair: Pair) -> None:
    database = Database(pair.database_url)
    secrets = SecretStore(database)
    made = [await secrets.create() for _ in range(5)]
    assert len(set(await secrets.signing())) == 5
    with pytest.raises(Exception, match="5 secrets sign already"):
        await secrets.create()
    await secrets.revoke(made[0].id)
    await secrets.create()
    await database.close()


async def test_the_first_secret_is_made_once(pair: Pair) -> None:
    databases = [Database(pair.database_url) for _ in range(4)]
    found = await asyncio.gather(*(SecretStore(each).signing() for each in databases))
    assert len({tuple(each) for each in found}) == 1
    for each in databases:
        await each.close()


def test_signatures_are_those_of_the_standard() -> None:
    # The example of the specification's own libraries.
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a_redirect_is_not_followed(pair: Pair) -> None:
    async with WebServer(lambda head, body: response(200)) as elsewhere:
        answer = response(307, Location=elsewhere.url())
        async with WebServer(lambda head, body: answer) as receiver, running(pair, **OPEN) as server:
            await submitted(server, callback_url=receiver.url())
            told = await the_callback(server)
    assert (told.status, told.retry_count) == (Status.FAILED, 0)
    assert error_of(told) == ("NotRetryable", "answered 307; redirects are not followed")
    assert elsewhere.requests == []


async def test_a_receiver_that_is_gone_is_not_asked_again(pair: Pair) -> None:
    async with WebServer(lambda head, body: response(410)) as receiver, running(pair, **OPEN) as server:
        await submitted(server, callback_url=receiver.url())
        assert (await the_callback(server)).retry_count == 0
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [
        ("0", 8.0, 16.0),
        ("1", 8.0, 16.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 8.0, 16.0),
        ("soon", 8.0, 16.0),
        ("120", 120.0, 120.0),
        ("9999999", 86_400.0, 86_400.0),
    ],
)
async def test_a_receiver_may_ask_for_more_time_and_not_for_less_than_the_backoff(
    asked: str, low: float, high: float
) -> None:
    async def signing() -> list[str]:
        return ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]

    telling = Callbacks(signing, Telemetry("1", "w"), allow_private_targets=True, backoff_base=2.0)
    options = ExecutorOptions(threads=1, processes=1, thread_grace_seconds=0, max_result_bytes=1_000)
    async with (
        WebServer(lambda head, body: response(503, Retry_After=asked)) as receiver,
        Executor(telling.handlers(), options, report_progress=lambda job, progress: None) as executor,
    ):
        told = {"url": receiver.url(), "event": {"id": "a:1"}}
        outcome = await executor.run(Running(attempted(CALLBACK, told, attempt=4)))
    assert isinstance(outcome, Raised)
    assert outcome.after_seconds is not None
    assert low <= outcome.after_seconds <= high


@asynccontextmanager
async def endless(head: bytes, chunk: bytes, pause: float = 0.0) -> AsyncIterator[tuple[str, list[int]]]:
    """A receiver whose answer does not end; its URL, and how many bytes went out for each request."""
    sent: list[int] = []
    served: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            sent.append(0)
            while True:
                writer.write(chunk)
                await writer.drain()
                sent[-1] += len(chunk)
                await asyncio.sleep(pause)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/", sent
    finally:
        listening.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


async def test_an_answer_without_end_is_cut(pair: Pair) -> None:
    async with endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536) as (url, sent), running(pair, **OPEN) as server:
        started = time.monotonic()
        await submitted(server, callback_url=url)
        told = await the_callback(server)
        assert time.monotonic() - started < 10
        assert told.status is Status.COMPLETED
        assert len(sent) == 1
        # What the kernel's buffers hold, and no more.
        assert sent[0] < 64 * 1_048_576


async def test_an_answer_that_does_not_come_is_given_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.builtin.callback.ANSWER_SECONDS", 0.3)
    options = {**OPEN, "callback_retries": 0}
    async with endless(b"", b"", pause=0.05) as (url, _), running(pair, **options) as server:
        await submitted(server, callback_url=url)
        told = await the_callback(server)
    assert error_of(told) == ("Retry", "no answer within 0.3 s")


async def test_a_target_that_is_down_ends_among_the_dead_letters(pair: Pair) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        url = f"http://127.0.0.1:{port}/"
        async with running(pair, **OPEN, callback_retries=1) as server:
            job = await submitted(server, callback_url=url)
            told = await the_callback(server)
            assert (told.status, told.retry_count, told.attempt) == (Status.FAILED, 1, 2)
            assert server.telemetry.metrics.callbacks_failed.of("network").value == 2
            assert (await job_of(server, job.id)).status is Status.COMPLETED
            async with httpx.AsyncClient(base_url=server.url) as client:
                page = (await client.get("/dlq")).json()
                assert [each["id"] for each in page["items"]] == [str(told.id)]
                assert page["items"][0]["type"] == CALLBACK
    # Replayed, once somebody listens there, it tells what it would have told then.
    async with WebServer(lambda head, body: response(200), port=port) as receiver, running(pair, **OPEN) as server:
        await server.commands.replay(told.id, failed_only=True)
        assert (await ended(server, told.id)).status is Status.COMPLETED
        assert headers_of(receiver.requests[0][0])["webhook-id"] == f"{job.id}:2"


def resolving(monkeypatch: pytest.MonkeyPatch, host: str, *answers: str) -> list[str]:
    """Make a name resolve to one answer after the other, the last for ever. Others resolve as they do."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(name: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if name != host:
            return real(name, port, *arguments, **options)
        address = answers[min(len(asked), len(answers) - 1)]
        asked.append(address)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


async def test_a_name_that_turns_private_after_the_submit_is_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with WebServer(lambda head, body: response(200)) as receiver, running(pair) as server:
        asked = resolving(monkeypatch, "rebinding.example", "8.8.8.8", "127.0.0.1")
        await submitted(server, callback_url=receiver.url(host="rebinding.example"))
        assert asked == ["8.8.8.8"]
        told = await the_callback(server)
        assert asked == ["8.8.8.8", "127.0.0.1"]
        assert (told.status, told.retry_count) == (Status.FAILED, 0)
        assert "rebinding.example is not a public address" in error_of(told)[1]
        assert server.telemetry.metrics.callbacks_failed.of("refused").value == 1
    assert receiver.requests == []


async def test_a_private_name_is_refused_at_the_submit_without_its_address(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(pair) as server, httpx.AsyncClient(base_url=server.url) as client:
        asked = resolving(monkeypatch, "intranet.example", "10.9.8.7")
        for _ in range(2):
            answer = await client.post("/jobs", json={"type": "echo", "callback_url": "https://intranet.example/"})
            assert answer.status_code == 422
            [error] = answer.json()["errors"]
            assert error == {"path": "$.callback_url", "message": "intranet.example is not a public address"}
        assert asked == ["10.9.8.7"]
        batch = {"jobs": [{"type": "echo"}, {"type": "echo", "callback_url": "https://intranet.example/"}]}
        answer = await client.post("/jobs/batch", json=batch)
        assert [error["path"] for error in answer.json()["errors"]] == ["$.jobs[1].callback_url"]
        assert (await server.views.stats()).total == 0


async def test_a_repeated_submit_is_known_wherever_its_callback_leads_by_now(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.egress._REMEMBERED_SECONDS", -1.0)
    async with parts(pair) as server, writing(server):
        resolving(monkeypatch, "rebinding.example", "8.8.8.8", "127.0.0.1")
        fields: dict[str, Any] = {"callback_url": "https://rebinding.example/", "idempotency_key": "k"}
        first = await submitted(server, **fields)
        assert (await submitted(server, **fields)).id == first.id
        with pytest.raises(KeyReused):
            await submitted(server, payload=1, **fields)
        with pytest.raises(Invalid, match="rebinding"):
            await submitted(server, **{**fields, "idempotency_key": "another"})


REFUSED = {
    "no host": "http:///a",
    "credentials": "http://a:b@8.8.8.8/",
    "a name alone": "http://a@8.8.8.8/",
    "port 0": "http://8.8.8.8:0/",
    "port 65536": "http://8.8.8.8:65536/",
    "a mail server": "http://8.8.8.8:25/",
    "loopback": "http://127.0.0.1/",
    "localhost": "https://localhost:8443/",
    "a number": "http://2130706433/",
    "octal": "http://0177.0.0.1/",
    "a private network": "http://10.1.2.3/",
    "link-local": "http://169.254.169.254/",
    "unspecified": "http://0.0.0.0/",
    "multicast": "http://224.0.0.1/",
    "loopback in IPv6": "http://[::1]/",
    "mapped": "http://[::ffff:127.0.0.1]/",
    "unique local": "http://[fd00::1]/",
    "a scope": "http://[fe80::1%25lo]/",
    "NAT64": "http://[64:ff9b::7f00:1]/",
    "6to4": "http://[2002:7f00:1::]/",
    "Teredo": "http://[2001::1]/",
}


async def test_what_no_callback_may_reach_is_refused_at_the_submit(pair: Pair) -> None:
    async with running(pair) as server, httpx.AsyncClient(base_url=server.url) as client:
        answers = {}
        for name, url in REFUSED.items():
            answer = await client.post("/jobs", json={"type": "echo", "callback_url": url})
            assert answer.headers["content-type"] == "application/problem+json"
            answers[name] = (answer.status_code, [each["path"] for each in answer.json()["errors"]])
        assert answers == dict.fromkeys(REFUSED, (422, ["$.callback_url"]))
        answer = await client.post("/jobs", json={"type": CALLBACK})
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "$.type")
        assert (await server.views.stats()).total == 0
        accepted = await client.post(
            "/jobs", json={"type": "echo", "callback_url": "http://8.8.8.8:8080/", "delay": 60}
        )
        assert (accepted.status_code, accepted.json()["callback_url"]) == (201, "http://8.8.8.8:8080/")


async def test_a_resolver_that_is_away_refuses_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver.egress.LOOK_SECONDS", 0.1)
    silent = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(name: Any, *arguments: Any, **options: Any) -> Any:
        if name == "silent.example":
            silent.wait(20)
        if str(name).endswith(".example"):
            raise socket.gaierror("no")
        return real(name, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with parts(pair) as server, writing(server):
        for url in ("https://none.example/", "https://silent.example/"):
            assert (await submitted(server, callback_url=url)).callback_url == url
    silent.set()


async def test_callbacks_are_not_submitted_and_not_handled_by_others(pair: Pair) -> None:
    for options in ({}, {"workers": 0}, {"accept_unknown_types": True}):
        async with parts(pair, **options) as server, writing(server):
            with pytest.raises(Invalid, match="reserved") as refused:
                await submitted(server, CALLBACK)
            assert refused.value.path == "$.type"
    own = Handlers()

    @own.handler(CALLBACK)
    async def mine() -> None: ...

    with pytest.raises(ConfigurationError, match="reserved"):
        Server(settings_for(pair), handlers=own)


async def test_every_worker_tells_whatever_queues_it_was_started_for(pair: Pair) -> None:
    async with WebServer(lambda head, body: response(200)) as receiver:
        async with running(pair, **OPEN, queues=("a",)) as server:
            await submitted(server, queue="a", callback_url=receiver.url())
            assert (await the_callback(server)).status is Status.COMPLETED
        assert len(receiver.requests) == 1


async def _by_finish(server: Server, url: str) -> None:
    job = (await inserted(server.store, callback_url=url)).job
    held = Held(await claimed(server.store, job.id), delivery(job.id, 0))
    await finished(server, held, Returned(b"1"))


async def _by_cancel(server: Server, url: str) -> None:
    job = (await inserted(server.store, callback_url=url)).job
    await server.commands.cancel(job.id)


async def _by_expiry(server: Server, url: str) -> None:
    await inserted(server.store, callback_url=url, expires_at=server.store.database.clock.now())
    await server.expire.step()


async def _by_reclaim(server: Server, url: str) -> None:
    job_id = (await inserted(server.store, callback_url=url)).job.id
    await claimed(server.store, job_id, lease_seconds=0.01)

    async def taken() -> int:
        return await server.reclaim.lost_jobs()

    assert await eventually(taken) == 1


@pytest.mark.parametrize("end", [_by_finish, _by_cancel, _by_expiry, _by_reclaim], ids=lambda each: each.__name__[1:])
async def test_a_callback_is_in_the_stream_at_once(pair: Pair, end: Callable[..., Any]) -> None:
    """Without a look of reconcile: nothing but the parts that are asked runs here."""
    async with parts(pair, max_crashes=1) as server, writing(server):
        await end(server, "https://example.org/")
        [told] = await callbacks(server)

        async def fetched() -> list[tuple[UUID, int]]:
            found = await server.stream.fetch([(CALLBACK_QUEUE, Priority.NORMAL)], server.worker_id, 10)
            return [(each.job_id, each.fence) for each in found.deliveries]

        assert await eventually(fetched) == [(told.id, 0)]
        created = server.telemetry.metrics.created.of(CALLBACK, CALLBACK_QUEUE)
        assert created.value == 1


async def test_recovery_tells_of_what_it_ends(pair: Pair) -> None:
    async with parts(pair) as server:
        job_id = (await inserted(server.store, callback_url="https://example.org/")).job.id
        await claimed(server.store, job_id, lease_seconds=0.01)
        await inserted(server.store, callback_url="https://example.org/", expires_at=server.store.database.clock.now())
    await asyncio.sleep(0.05)
    mended = await recover(settings_for(pair, max_crashes=1))
    assert (mended.reclaimed, mended.expired) == (1, 1)
    async with parts(pair) as server:
        found = await server.stream.fetch([(CALLBACK_QUEUE, Priority.NORMAL)], server.worker_id, 10)
        assert {each.job_id for each in found.deliveries} == {each.id for each in await callbacks(server)}
        assert len(await callbacks(server)) == 2


async def test_a_callback_that_was_lost_with_its_worker_is_signed_all_the_same(pair: Pair) -> None:
    """A suspect runs in a child of its own, which has no secrets. A callback is none."""
    async with WebServer(lambda head, body: response(200)) as receiver:
        async with parts(pair) as server, writing(server):
            await _by_finish(server, receiver.url())
            [told] = await callbacks(server)
            await claimed(server.store, told.id, lease_seconds=0.01)
        async with running(pair, **OPEN, lease_seconds=1.0) as server:
            done = await ended(server, told.id)
            assert (done.status, done.crashes) == (Status.COMPLETED, 1)
            assert server.executor.child_pids == []
    assert len(receiver.requests) == 1


async def test_secrets_are_nowhere_but_in_their_table(
    pair: Pair, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    # A server's own logs say no more of its libraries: tests/life/test_callbacks.py.
    caplog.set_level("DEBUG", "jobserver")
    statuses = iter([500])
    async with WebServer(lambda head, body: response(next(statuses, 200))) as receiver, running(pair, **OPEN) as server:
        secret = await secrets_of(server).create()
        assert secret.secret is not None
        job = await submitted(server, callback_url=receiver.url())
        told = await the_callback(server)
        async with httpx.AsyncClient(base_url=server.url) as client:
            paths = [
                "/metrics",
                "/jobs",
                "/workers",
                "/queues",
                "/types",
                "/dlq",
                "/admin/stats",
                "/schema/openapi.json",
            ]
            paths += [f"/jobs/{each}{rest}" for each in (job.id, told.id) for rest in ("", "/attempts")]
            seen = [(await client.get(path)).text for path in paths]
    said = capfd.readouterr()
    seen += [caplog.text, said.out, said.err, *(str(vars(record)) for record in caplog.records)]
    assert any("job_completed" in text for text in seen)
    body = secret.secret.removeprefix("whsec_")
    assert not any(body in text or body[:20] in text for text in seen)
    assert json.loads(receiver.requests[0][1])["id"] == f"{job.id}:2"


async def test_the_trace_goes_on_at_the_receiver(pair: Pair) -> None:
    context = f"00-{'a' * 32}-{'b' * 16}-01"
    async with WebServer(lambda head, body: response(200)) as receiver, running(pair, **OPEN) as server:
        [answer] = await server.store.insert(
            [[submission(callback_url=receiver.url(), trace_context=context, type="echo")]]
        )
        assert isinstance(answer, list)
        server.reconcile.resumed()
        await the_callback(server)
    assert headers_of(receiver.requests[0][0])["traceparent"] == context


async def test_callbacks_wait_while_sql_is_away() -> None:
    """That the secrets cannot be read is nobody's fault: no retry is used up."""
    from jobserver.errors import DatabaseUnavailable, Snooze

    async def away() -> list[str]:
        raise DatabaseUnavailable("no")

    telling = Callbacks(away, Telemetry("1", "w"), allow_private_targets=True, backoff_base=1.0)
    with pytest.raises(Snooze):
        await telling._signing(None)  # type: ignore[arg-type]
