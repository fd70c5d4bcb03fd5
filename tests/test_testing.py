"""`jobserver.testing`: what a sandbox does is what a server does, without one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from jobserver import (
    Attempt,
    Cancel,
    Client,
    Handlers,
    Invalid,
    JobFailed,
    JobRequest,
    NotFinished,
    NotRetryable,
    RequestRefused,
    Retry,
    Snooze,
    SyncClient,
)
from jobserver.job.model import Status
from jobserver.testing import Sandbox, perform

handlers = Handlers()
sent: list[tuple[str, int]] = []


@handlers.handler("email.send", queue="mail", max_retries=2)
async def send(attempt: Attempt, to: str, subject: str = "hello") -> str:
    await attempt.progress(10)
    sent.append((to, attempt.fence))
    attempt.progress(50, "half")
    await asyncio.sleep(0)
    return f"{to}: {subject}"


@handlers.handler("moody", max_retries=1)
def moody(attempt: Attempt, how: str) -> Any:
    match how:
        case "retry":
            raise Retry("later", after=30)
        case "snooze":
            raise Snooze(seconds=60)
        case "cancel":
            raise Cancel("enough")
        case "never":
            raise NotRetryable("no use")
        case "odd":
            return {1, float("nan")}
        case "exit":
            raise SystemExit(3)
        case "look":
            return attempt.cancel_requested
    raise ValueError(how)


@handlers.handler("endless", timeout=0.05, max_retries=0)
async def endless() -> None:
    await asyncio.sleep(600)


@handlers.handler("starts.others")
async def start_others(count: int) -> None:
    async with Client("http://jobs.example.com") as client:
        await client.submit_many(send.job(to=str(n)) for n in range(count))


@pytest.fixture(autouse=True)
def nothing_sent() -> None:
    sent.clear()


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox(handlers)


@pytest.fixture
def jobserver_handlers() -> Handlers:
    return handlers


# One attempt.


async def test_one_attempt_is_performed() -> None:
    done = await perform(send, to="a@b.c", subject="hi")
    assert (done.status, done.result, done.error) == (Status.COMPLETED, "a@b.c: hi", None)
    assert [(each.percent, each.message) for each in done.progress] == [(10, None), (50, "half")]


OUTCOMES = {
    # how -> status, seconds until it runs again, type of the error
    "retry": (Status.RETRYING, 30.0, "Retry"),
    "snooze": (Status.SCHEDULED, 60.0, None),
    "cancel": (Status.CANCELED, 0.0, "Canceled"),
    "never": (Status.FAILED, 0.0, "NotRetryable"),
    "odd": (Status.FAILED, 0.0, "InvalidResult"),
    "exit": (Status.RETRYING, 1.0, "SystemExit"),
    "other": (Status.RETRYING, 1.0, "ValueError"),
}


@pytest.mark.parametrize(("how", "expected"), OUTCOMES.items(), ids=OUTCOMES)
async def test_an_attempt_comes_to_what_a_server_would_make_of_it(
    how: str, expected: tuple[Status, float, str | None]
) -> None:
    done = await perform(moody, how)
    assert (done.status, done.delay_seconds, done.error and done.error.type) == expected


async def test_an_attempt_that_takes_too_long_times_out() -> None:
    done = await perform(endless)
    assert (done.status, done.error and done.error.type) == (Status.FAILED, "Timeout")


async def test_arguments_that_do_not_fit_are_refused_at_once() -> None:
    with pytest.raises(Invalid, match=r"\$\.payload\.to"):
        await perform(send, to=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await perform(send, whom="a@b.c")  # type: ignore[call-arg]


# What a program submits.


async def test_what_is_submitted_can_be_asserted(jobserver_sandbox: Sandbox) -> None:
    async with Client("https://elsewhere.example.com", api_key="k") as client:
        await client.submit(send.job(to="a@b.c"), key="welcome", priority="high", delay=60, tags=("new",))
    SyncClient().submit("email.send", {"to": "x@y.z", "subject": "sync"})
    found = jobserver_sandbox.assert_submitted(send.job(to="a@b.c"), queue="mail", delay=60, idempotency_key="welcome")
    assert (found.priority.label, found.tags, found.status) == ("high", ("new",), Status.SCHEDULED)
    assert jobserver_sandbox.assert_submitted(send).created_at == jobserver_sandbox.now
    jobserver_sandbox.assert_submitted(send.job(to="a@b.c").with_options(priority="high"))
    jobserver_sandbox.assert_not_submitted("moody")
    with pytest.raises(AssertionError, match=r"email\.send.*Submitted was:\n  email\.send"):
        jobserver_sandbox.assert_submitted(send.job(to="nobody"))
    with pytest.raises(AssertionError, match="Not submitted"):
        jobserver_sandbox.assert_submitted(send, queue="other")
    with pytest.raises(AssertionError, match="all the same"):
        jobserver_sandbox.assert_not_submitted()
    assert len(jobserver_sandbox.jobs) == 2


def test_clients_made_later_are_real_again(sandbox: Sandbox) -> None:
    with sandbox.capture():
        captured = SyncClient("http://127.0.0.1:1")
    captured.submit("moody", {"how": "look"})
    with SyncClient("http://127.0.0.1:1", retries=0) as client, pytest.raises(Exception, match="No answer"):
        client.submit("moody", {"how": "look"})
    assert len(sandbox.jobs) == 1


async def test_a_sandbox_refuses_what_a_server_refuses(sandbox: Sandbox) -> None:
    client = sandbox.client()
    job = await client.submit(send.job(to="a"), key="k")
    assert (await client.submit(send.job(to="a"), key="k")).id == job.id
    with pytest.raises(RequestRefused, match="another body"):
        await client.submit(send.job(to="b"), key="k")
    with pytest.raises(RequestRefused, match=r"\$\.payload"):
        await client.submit("email.send", {"to": 1})
    with pytest.raises(RequestRefused, match=r"\$\.type"):
        await client.submit("unknown")
    with pytest.raises(RequestRefused, match=r"\$\.jobs\[1\]\.payload"):
        await client.submit_many([send.job(to="c"), JobRequest(type="email.send", payload={"to": 1})])
    with pytest.raises(RequestRefused, match="does not answer GET /workers"):
        await client.workers()
    assert len(sandbox.jobs) == 1


async def test_without_handlers_every_type_is_kept_and_none_run() -> None:
    sandbox = Sandbox()
    await sandbox.client().submit("anything", [1])
    assert await sandbox.settle() == []
    sandbox.assert_submitted(JobRequest(type="anything", payload=[1]))


# Their lives.


async def test_a_life_with_retries_takes_the_time_that_it_takes(sandbox: Sandbox) -> None:
    client = sandbox.client()
    job = await client.submit(moody.job("retry"))
    [tried] = await sandbox.run()
    assert (tried.status, tried.due_at - sandbox.now) == (Status.RETRYING, timedelta(seconds=30))
    assert await sandbox.advance(29) == []
    [ended] = await sandbox.advance(timedelta(seconds=1))
    assert (ended.status, ended.attempt, ended.retry_count) == (Status.FAILED, 2, 1)
    assert [each.outcome for each in await client.attempts(job.id)] == ["retrying", "failed"]
    assert [each.id async for each in client.dlq()] == [job.id]
    again = await client.retry(job.id)
    assert (again.status, again.attempt, again.fence) == (Status.QUEUED, 0, 5)


async def test_the_result_is_there_as_soon_as_it_is_asked_for(sandbox: Sandbox) -> None:
    client = sandbox.client()
    job = await client.submit(send.job(to="a"), delay=3_000)
    began = sandbox.now
    assert await client.result(job.id, timeout=None) == "a: hello"
    assert sandbox.now - began == timedelta(seconds=3_000)
    with pytest.raises(JobFailed, match="no use"):
        await client.result((await client.submit(moody.job("never"))).id)
    with pytest.raises(NotFinished):
        await client.wait((await client.submit(moody.job("snooze"))).id, timeout=100)


async def test_code_without_a_loop_gets_its_results_too(sandbox: Sandbox) -> None:
    def work() -> str:
        with sandbox.sync_client() as client:
            return client.result(client.submit(send.job(to="b")).id)

    assert work() == "b: hello"
    assert await asyncio.to_thread(work) == "b: hello"


async def test_jobs_that_submit_jobs_settle(sandbox: Sandbox) -> None:
    with sandbox.capture():
        await sandbox.client().submit(start_others.job(3), delay=5)
        done = await sandbox.settle()
    assert [job.type for job in done] == ["starts.others", *["email.send"] * 3]
    assert {job.status for job in done} == {Status.COMPLETED}


async def test_what_never_settles_is_told(sandbox: Sandbox) -> None:
    await sandbox.client().submit(moody.job("snooze"))
    with pytest.raises(RuntimeError, match="still something to run"):
        await sandbox.settle()


async def test_a_crash_runs_the_job_again_under_a_higher_fence(sandbox: Sandbox) -> None:
    await sandbox.client().submit(send.job(to="a"))
    sandbox.crash(send)
    sandbox.crash(send, at=5)
    done = await sandbox.settle()
    assert [job.status for job in done] == [Status.RETRYING, Status.RETRYING, Status.COMPLETED]
    assert (done[-1].crashes, done[-1].retry_count, done[-1].attempt) == (2, 0, 3)
    # The first one had sent it already; the second died before it did.
    assert sent == [("a", 1), ("a", 5)]


async def test_crashes_have_their_own_cap(sandbox: Sandbox) -> None:
    await sandbox.client().submit(send.job(to="a"))
    for _ in range(3):
        sandbox.crash("email.send")
    done = await sandbox.settle()
    assert (done[-1].status, done[-1].crashes) == (Status.FAILED, 3)


async def test_a_cancel_reaches_the_handler(sandbox: Sandbox) -> None:
    client = sandbox.client()
    sandbox.cancel_during(send)
    sandbox.cancel_during(moody)
    await client.submit(send.job(to="a"))
    looking = await client.submit(moody.job("look"))
    assert [job.status for job in await sandbox.run()] == [Status.CANCELED, Status.COMPLETED]
    # A plain function is asked, and what it returned wins.
    assert (await client.get(looking.id)).result is True
    sandbox.cancel_during(send, at=50)
    await client.submit(send.job(to="b"))
    [job] = await sandbox.run()
    assert (job.status, job.progress and job.progress.percent) == (Status.CANCELED, 50)
    # Each was cancelled at its first await: what it had done by then is done.
    assert sent == [("a", 1), ("b", 1)]


async def test_a_running_job_is_canceled_by_its_client(sandbox: Sandbox) -> None:
    client = sandbox.client()
    job = await client.submit("endless", timeout=30)
    running = asyncio.create_task(sandbox.run())
    while (await client.get(job.id)).status is not Status.RUNNING:
        await asyncio.sleep(0)
    assert (await client.cancel(job.id)).cancel_requested
    assert [each.status for each in await running] == [Status.CANCELED]
    waiting = await client.submit(send.job(to="x"))
    assert (await client.cancel(waiting.id)).status is Status.CANCELED
    with pytest.raises(RequestRefused) as refused:
        await client.cancel(waiting.id)
    assert refused.value.status == 409


async def test_jobs_run_by_priority_then_by_age(sandbox: Sandbox) -> None:
    client = sandbox.client()
    order: list[tuple[str, Any]] = [("c", "low"), ("b", None), ("a", "high")]
    for to, priority in order:
        await client.submit(send.job(to=to), priority=priority)
    await sandbox.run()
    assert [to for to, _ in sent] == ["a", "b", "c"]


async def test_an_expired_job_fails_without_a_run(sandbox: Sandbox) -> None:
    client = sandbox.client()
    await client.submit(send.job(to="a"), delay=60, expires_at=sandbox.now + timedelta(seconds=30))
    [job] = await sandbox.advance(60)
    assert (job.status, job.error and job.error.type, sent) == (Status.FAILED, "Expired", [])


async def test_one_job_is_attempted_before_it_is_due(sandbox: Sandbox) -> None:
    job = await sandbox.client().submit(moody.job("snooze"), delay=600)
    done = await sandbox.attempt(job.id)
    assert (done.status, done.delay_seconds) == (Status.SCHEDULED, 60)
    assert [each async for each in sandbox.client().list(status="scheduled", type="moody")] != []
