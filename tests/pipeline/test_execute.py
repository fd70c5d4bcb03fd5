"""One attempt, whatever its handler does: on real tasks and threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from jobserver.job.model import Canceled, HandedBack, Raised, Returned, Snoozed
from jobserver.pipeline.running import CancelReason, Running
from jobserver.pipeline.slots import Slots
from tests.pipeline.attempts import Recorded, claimed, error_of
from tests.pipeline.sample_handlers import release


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    """Handlers that block until they are released end with the test."""
    release.clear()
    yield
    release.set()


@pytest.fixture
async def recorded() -> AsyncIterator[Recorded]:
    async with Recorded() as recorded:
        yield recorded
        release.set()


async def until_started(running: Running) -> None:
    """With a place free, the attempt begins in the first turn of the loop, and its handler in the second."""
    for _ in range(2):
        await asyncio.sleep(0)
    assert running.started
    await asyncio.sleep(0)


async def cancelled(recorded: Recorded, job_type: str, reason: CancelReason, **fields: object) -> object:
    """The outcome of an attempt that is asked to end once it runs."""
    running = Running(claimed(job_type, **fields))
    run = asyncio.create_task(recorded.executor.run(running))
    await until_started(running)
    running.cancel(reason)
    async with asyncio.timeout(10):
        return await run


@pytest.mark.parametrize("payload", [None, 1, 1.5, "text", [1, None], {"a": {"b": [None]}}, 2**80, "\x00"])
async def test_echo_returns_its_payload_whatever_it_is(recorded: Recorded, payload: object) -> None:
    outcome = await recorded.run("echo", payload)
    assert isinstance(outcome, Returned)
    assert msgspec.json.decode(outcome.result) == payload


async def test_log_lines_of_a_task_carry_the_ids_of_its_job(recorded: Recorded) -> None:
    job = claimed("context", queue="mail")
    outcome = await recorded.executor.run(Running(job))
    assert isinstance(outcome, Returned)
    assert msgspec.json.decode(outcome.result) == {
        "job_id": str(job.id),
        "type": "context",
        "queue": "mail",
        "attempt": 2,
    }
    assert await recorded.run("echo", 1) == Returned(b"1")


async def test_log_lines_of_a_thread_carry_the_ids_of_its_job(recorded: Recorded) -> None:
    job = claimed("context.thread")
    outcome = await recorded.executor.run(Running(job))
    assert isinstance(outcome, Returned)
    seen = msgspec.json.decode(outcome.result)
    assert seen["job_id"] == str(job.id)
    assert seen["thread"] == f"job context.thread {job.id}"


async def test_progress_may_be_awaited_or_not(recorded: Recorded) -> None:
    assert await recorded.run("progress") == Returned(b'"done"')
    assert [(p.percent, p.message) for p in recorded.progress] == [(10, "awaited"), (20, None)]


async def test_progress_of_a_thread_arrives_before_its_outcome(recorded: Recorded) -> None:
    await recorded.run("progress.thread")
    assert [(p.percent, p.message) for p in recorded.progress] == [(30, "from a thread")]


RAISED = [
    ("value", "ValueError", True),
    ("notretryable", "NotRetryable", False),
    ("exit", "SystemExit", True),
    ("interrupt", "KeyboardInterrupt", True),
    ("cancelled", "CancelledError", True),
    ("memory", "MemoryError", True),
    ("generator", "GeneratorExit", True),
    ("recursion", "RecursionError", True),
    ("unprintable", "tests.pipeline.sample_handlers.UnprintableError", True),
    ("surrogate", "ValueError", True),
    ("exiting", "UnreadableError", True),
    ("throttled", "tests.pipeline.sample_handlers.Throttled", True),
    ("asleep", "tests.pipeline.sample_handlers.Sleeping", True),
    ("asleep for ever", "tests.pipeline.sample_handlers.Sleeping", True),
    ("asleep not at all", "tests.pipeline.sample_handlers.Sleeping", True),
    ("guessing", "tests.pipeline.sample_handlers.Guessing", True),
]


@pytest.mark.parametrize("job_type", ["raise", "raise.thread"])
@pytest.mark.parametrize(("what", "kind", "retryable"), RAISED)
async def test_whatever_a_handler_raises_is_its_own_failure(
    recorded: Recorded, job_type: str, what: str, kind: str, retryable: bool
) -> None:
    async with asyncio.timeout(10):
        outcome = await recorded.run(job_type, {"what": what})
    assert error_of(outcome) == (kind, retryable)
    assert isinstance(outcome, Raised)
    assert outcome.after_seconds is None
    msgspec.json.encode(outcome)
    assert await recorded.run("echo", "still here") == Returned(b'"still here"')


@pytest.mark.parametrize("job_type", ["raise", "raise.thread"])
async def test_a_handler_says_by_a_signal_how_its_attempt_ends(recorded: Recorded, job_type: str) -> None:
    retry = await recorded.run(job_type, {"what": "retry"})
    assert isinstance(retry, Raised)
    assert (retry.error.type, retry.error.message, retry.after_seconds) == ("Retry", "later", 7)
    assert await recorded.run(job_type, {"what": "snooze"}) == Snoozed(3)
    assert await recorded.run(job_type, {"what": "cancel"}) == Canceled("not needed")


async def test_a_signal_that_lacks_what_it_says_keeps_its_message_and_costs_no_thread() -> None:
    async with Recorded(threads=1) as recorded, asyncio.timeout(10):
        for _ in range(3):
            outcome = await recorded.run("raise.thread", {"what": "throttled"})
            assert isinstance(outcome, Raised)
            assert outcome.error.message == "noon"
        assert isinstance(await recorded.run("context.thread"), Returned)


@pytest.mark.parametrize("job_type", ["raise", "raise.thread"])
async def test_a_traceback_shows_the_frames_of_the_handler_alone(recorded: Recorded, job_type: str) -> None:
    outcome = await recorded.run(job_type, {"what": "value"})
    assert isinstance(outcome, Raised)
    assert outcome.error.traceback is not None
    assert "sample_handlers.py" in outcome.error.traceback
    assert "raise errors[what]" in outcome.error.traceback
    assert "execute.py" not in outcome.error.traceback


@pytest.mark.parametrize("job_type", ["return", "return.thread"])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", "NaN"),
        ("nested nan", "NaN"),
        ("object", "object"),
        ("surrogate", "surrogates"),
        ("cycle", "cycle"),
        ("large", "2000002 bytes"),
        ("tuple key", "keys"),
        ("coroutine", "not JSON"),
    ],
)
async def test_a_result_that_is_not_json_fails_for_good(
    recorded: Recorded, job_type: str, what: str, message: str
) -> None:
    outcome = await recorded.run(job_type, {"what": what})
    assert error_of(outcome) == ("InvalidResult", False)
    assert isinstance(outcome, Raised)
    expected = "coroutine" if what == "coroutine" else message
    assert expected in outcome.error.message


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"what": 1}, "$.payload.what: Expected `str`, got `int`"),
        (None, "$.payload: Object missing required field `what`"),
        ({"what": "value", "more": 1}, "$.payload: Object contains unknown field `more`"),
        ([], "$.payload: Expected `object`, got `array`"),
    ],
)
@pytest.mark.parametrize("job_type", ["raise", "raise.thread"])
async def test_a_payload_that_does_not_fit_fails_for_good(
    recorded: Recorded, job_type: str, payload: object, message: str
) -> None:
    outcome = await recorded.run(job_type, payload)
    assert error_of(outcome) == ("InvalidPayload", False)
    assert isinstance(outcome, Raised)
    assert outcome.error.message == message


async def test_a_type_without_a_handler_is_handed_on_later_the_more_often_it_was(recorded: Recorded) -> None:
    delays = []
    for fence in (1, 3, 21, 41, 10_001):
        outcome = await recorded.run("nobody", fence=fence)
        assert isinstance(outcome, HandedBack)
        delays.append(round(outcome.delay_seconds, 2))
    assert delays == [1.0, 1.2, 6.19, 30.0, 30.0]


# Timeouts.


async def test_a_task_that_runs_too_long_is_cancelled_and_times_out(recorded: Recorded) -> None:
    outcome = await recorded.run("sleep", timeout_seconds=0.05)
    assert error_of(outcome) == ("Timeout", True)
    assert isinstance(outcome, Raised)
    assert outcome.error.message == "ran longer than 0.05 s"
    assert recorded.abandoned == []


async def test_a_task_that_fails_in_its_cleanup_has_timed_out(recorded: Recorded) -> None:
    assert error_of(await recorded.run("cleanup.fails", timeout_seconds=0.05)) == ("Timeout", True)


async def test_a_task_that_returns_although_it_was_cancelled_has_returned(recorded: Recorded) -> None:
    outcome = await recorded.run("returns.anyway", timeout_seconds=0.05)
    assert outcome == Returned(b'"returned all the same"')


async def test_a_signal_counts_after_the_timeout(recorded: Recorded) -> None:
    assert await recorded.run("snoozes.instead", timeout_seconds=0.05) == Snoozed(5)


async def test_a_task_that_refuses_to_end_is_abandoned_after_the_grace(recorded: Recorded) -> None:
    outcome = await recorded.run("refuses", timeout_seconds=0.05)
    assert error_of(outcome) == ("Timeout", True)
    assert [job.type for job in recorded.abandoned] == ["refuses"]


async def test_a_thread_that_ends_within_the_grace_has_timed_out_and_is_not_abandoned() -> None:
    async with Recorded(thread_grace_seconds=20) as recorded:
        assert error_of(await recorded.run("cooperates.thread", timeout_seconds=0.05)) == ("Timeout", True)
        assert recorded.abandoned == []


async def test_abandoned_threads_leave_their_places_to_others_up_to_as_many_again() -> None:
    async with Recorded(threads=1) as recorded:
        assert error_of(await recorded.run("blocks.thread", timeout_seconds=0.05)) == ("Timeout", True)
        assert len(recorded.abandoned) == 1
        assert isinstance(await recorded.run("context.thread"), Returned)
        # The second one beyond the limit keeps its place until it ends.
        assert error_of(await recorded.run("blocks.thread", timeout_seconds=0.05)) == ("Timeout", True)
        third = Running(claimed("context.thread"))
        waiting = asyncio.create_task(recorded.executor.run(third))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        assert not third.started
        release.set()
        async with asyncio.timeout(10):
            assert isinstance(await waiting, Returned)


async def test_waiting_for_a_thread_costs_nothing_of_the_timeout() -> None:
    async with Recorded(threads=1, thread_grace_seconds=20) as recorded:
        first = asyncio.create_task(recorded.run("blocks.thread"))
        second = Running(claimed("context.thread", timeout_seconds=0.05))
        waiting = asyncio.create_task(recorded.executor.run(second))
        done, _ = await asyncio.wait([waiting], timeout=0.3)  # many times its timeout
        assert not done
        assert not second.started
        release.set()
        assert await first == Returned(b'"released"')
        assert isinstance(await waiting, Returned)


# Being asked to end.


@pytest.mark.parametrize("job_type", ["sleep", "cleanup.fails", "snoozes.instead", "refuses", "blocks.thread"])
async def test_a_cancel_request_ends_in_canceled_unless_the_handler_returns(recorded: Recorded, job_type: str) -> None:
    assert await cancelled(recorded, job_type, CancelReason.REQUESTED) == Canceled("cancel requested")
    assert bool(recorded.abandoned) == (job_type in ("refuses", "blocks.thread"))


@pytest.mark.parametrize(
    ("job_type", "result"), [("returns.anyway", b'"returned all the same"'), ("cooperates.thread", b'"stopped"')]
)
async def test_a_handler_that_returns_wins_over_a_cancel_request(job_type: str, result: bytes) -> None:
    async with Recorded(thread_grace_seconds=20) as recorded:
        assert await cancelled(recorded, job_type, CancelReason.REQUESTED) == Returned(result)


@pytest.mark.parametrize("job_type", ["sleep", "cleanup.fails", "refuses", "blocks.thread"])
async def test_a_shutdown_hands_the_job_back(recorded: Recorded, job_type: str) -> None:
    assert await cancelled(recorded, job_type, CancelReason.SHUTDOWN) == HandedBack()


async def test_a_shutdown_does_not_wait_for_the_grace_of_threads() -> None:
    async with Recorded(thread_grace_seconds=3_600) as recorded:
        assert await cancelled(recorded, "blocks.thread", CancelReason.SHUTDOWN) == HandedBack()


async def test_a_cancel_request_counts_more_than_a_shutdown(recorded: Recorded) -> None:
    running = Running(claimed("refuses"))
    run = asyncio.create_task(recorded.executor.run(running))
    await until_started(running)
    running.cancel(CancelReason.SHUTDOWN)
    running.cancel(CancelReason.REQUESTED)
    running.cancel(CancelReason.SHUTDOWN)
    assert await run == Canceled("cancel requested")


async def test_a_refused_lease_ends_the_attempt(recorded: Recorded) -> None:
    assert await cancelled(recorded, "sleep", CancelReason.LEASE_REFUSED) == HandedBack()


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [(CancelReason.REQUESTED, Canceled("cancel requested")), (CancelReason.SHUTDOWN, HandedBack())],
)
async def test_a_job_that_waits_for_a_thread_can_be_asked_to_end(reason: CancelReason, outcome: object) -> None:
    async with Recorded(threads=1) as recorded:
        first = asyncio.create_task(recorded.run("blocks.thread"))
        waiting = Running(claimed("context.thread"))
        run = asyncio.create_task(recorded.executor.run(waiting))
        await asyncio.wait([run], timeout=0.05)
        waiting.cancel(reason)
        async with asyncio.timeout(10):
            assert await run == outcome
        release.set()
        assert await first == Returned(b'"released"')
        assert isinstance(await recorded.run("context.thread"), Returned)


async def test_a_stop_in_the_turn_in_which_a_place_is_given_counts() -> None:
    """And the place is free again."""
    slots = Slots(1)
    assert await slots.acquire(Running(claimed("sleep")))
    waiting = Running(claimed("sleep"))
    asked = asyncio.create_task(slots.acquire(waiting))
    await asyncio.sleep(0)
    slots.release()
    waiting.cancel(CancelReason.REQUESTED)
    assert not await asked
    async with asyncio.timeout(5):
        assert await slots.acquire(Running(claimed("sleep")))


@pytest.mark.parametrize("job_type", ["sleep", "context.thread"])
async def test_a_job_cancelled_before_its_start_does_not_start(recorded: Recorded, job_type: str) -> None:
    running = Running(claimed(job_type))
    running.cancel(CancelReason.REQUESTED)
    assert await recorded.executor.run(running) == Canceled("cancel requested")
    assert not running.started


@pytest.mark.parametrize("job_type", ["sleep", "refuses", "blocks.thread"])
async def test_cancelling_the_caller_stops_now(recorded: Recorded, job_type: str) -> None:
    running = Running(claimed(job_type))
    run = asyncio.create_task(recorded.executor.run(running))
    await until_started(running)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await run


async def test_many_threads_finish_many_jobs() -> None:
    async with Recorded(threads=8) as recorded:
        outcomes = await asyncio.gather(*(recorded.run("context.thread") for _ in range(500)))
    assert all(isinstance(outcome, Returned) for outcome in outcomes)
