"""A task that is to last: what ends it, and what does not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from jobserver.errors import Overloaded
from jobserver.job.handlers import Handlers
from jobserver.job.model import Status
from jobserver.pipeline import lasting as module
from jobserver.pipeline.lasting import lasting
from tests.conftest import Pair
from tests.engines import eventually
from tests.parts import ended, submitted
from tests.servers import running


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)


class Work:
    """Ends as told, the first times; then lasts."""

    def __init__(self, *ends: Callable[[], BaseException]) -> None:
        self._ends = list(ends)
        self.begun = 0

    async def __call__(self) -> None:
        self.begun += 1
        if self._ends:
            raise self._ends.pop(0)()
        await asyncio.Event().wait()


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
async def test_work_that_ends_by_an_error_is_begun_again_and_named(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(error, error)
    task = asyncio.create_task(lasting("the work", work))
    with caplog.at_level(logging.ERROR):
        await eventually(lambda: work.begun == 3)
    said = [(record.getMessage(), vars(record)["task"]) for record in caplog.records]
    assert said == [("task_restarted", "the work")] * 2
    assert all(record.exc_info for record in caplog.records)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_work_that_returns_is_over_and_a_cancelled_task_is_not_begun_again() -> None:
    async def once() -> None:
        await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await lasting("once", once)
    work = Work()
    task = asyncio.create_task(lasting("the work", work))
    await eventually(lambda: work.begun)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert (task.cancelled(), work.begun) == (True, 1)


async def test_a_fetcher_a_flight_and_the_deliveries_that_end_by_themselves_go_on(
    sqlite_url: str,
    redis_url: str,
    redis_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What they await may end in a CancelledError that nobody asked for."""
    async with running(Pair("sqlite", sqlite_url, redis_url, redis_prefix), Handlers()) as server:
        leaks = {"fetch": 1, "apply": 1, "insert": 1}

        def leaking(owner: object, name: str) -> None:
            original = getattr(owner, name)

            async def call(*args: object, **options: object) -> object:
                if leaks[name]:
                    leaks[name] -= 1
                    raise asyncio.CancelledError
                return await original(*args, **options)

            monkeypatch.setattr(owner, name, call)

        leaking(server.stream, "fetch")
        leaking(server.stream, "apply")
        leaking(server.store, "insert")
        # Not acknowledged, and the next one finds a flight.
        with pytest.raises(Overloaded):
            await submitted(server)
        await eventually(lambda: leaks["fetch"] == 0)
        job = await submitted(server)
        # Its message was lost with the task that carried it; the next is not.
        await eventually(lambda: leaks["apply"] == 0)
        assert (await ended(server, (await submitted(server)).id)).status is Status.COMPLETED
        server.reconcile.resumed()
        assert (await ended(server, job.id)).status is Status.COMPLETED
        restarted = [vars(each)["task"] for each in caplog.records if each.getMessage() == "task_restarted"]
        assert sorted(name.rstrip("01 ") for name in restarted) == ["batcher submit", "deliveries", "fetcher"]
