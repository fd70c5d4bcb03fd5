"""The shape of every loop: it never dies, wakes at once, and closes."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from jobserver.errors import DatabaseUnavailable
from jobserver.upkeep.loop import Loop
from tests.engines import eventually


class Steps:
    """Counts steps; raises and answers as told."""

    def __init__(self) -> None:
        self.taken = 0
        self.error: Exception | None = None
        self.delay: float | None = 0.0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> float | None:
        self.taken += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.delay


async def test_it_goes_on_after_any_error_and_says_each_once_or_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    steps = Steps()
    steps.error = DatabaseUnavailable("away")
    loop = Loop("test", 0.001, steps)
    with caplog.at_level(logging.WARNING):
        loop.start()
        await eventually(lambda: steps.taken > 5)
        # An outage is one line, however long it is.
        assert [record.getMessage() for record in caplog.records] == ["upkeep_waits"]
        steps.error = ZeroDivisionError("a fault")
        before = steps.taken
        await eventually(lambda: steps.taken > before + 2)
        assert any(record.exc_info and record.getMessage() == "upkeep_failed" for record in caplog.records)
        steps.error = None
        before = steps.taken
        await eventually(lambda: steps.taken > before + 2)
        steps.error = DatabaseUnavailable("away again")
        caplog.clear()
        await eventually(lambda: [record.getMessage() for record in caplog.records] == ["upkeep_waits"])
    await loop.close()


async def test_a_step_that_has_more_to_do_is_followed_at_once() -> None:
    steps = Steps()
    loop = Loop("test", 3600.0, steps)
    loop.start()
    await eventually(lambda: steps.taken > 50)
    await loop.close()


async def test_it_waits_for_its_interval_or_for_a_wake() -> None:
    steps = Steps()
    steps.delay = None
    loop = Loop("test", 3600.0, steps)
    loop.start()
    await eventually(lambda: steps.taken == 1)
    for number in range(2, 6):
        loop.wake()
        await eventually(lambda number=number: steps.taken == number)  # type: ignore[misc]
    await loop.close()


async def test_a_wake_during_a_step_leads_to_one_more() -> None:
    steps = Steps()
    steps.delay = None
    steps.gate.clear()
    loop = Loop("test", 3600.0, steps)
    loop.start()
    await eventually(lambda: steps.taken == 1)
    loop.wake()
    loop.wake()
    steps.gate.set()
    await eventually(lambda: steps.taken == 2)
    await loop.close()
    assert steps.taken == 2


async def test_close_lets_the_step_under_way_end() -> None:
    steps = Steps()
    steps.gate.clear()
    loop = Loop("test", 3600.0, steps)
    loop.start()
    await eventually(lambda: steps.taken == 1)
    closing = asyncio.create_task(loop.close())
    await asyncio.sleep(0)
    assert not closing.done()
    steps.gate.set()
    await closing
    assert steps.taken == 1


async def test_close_does_not_wait_for_a_step_that_hangs() -> None:
    steps = Steps()
    steps.gate.clear()
    loop = Loop("test", 3600.0, steps)
    loop.start()
    await eventually(lambda: steps.taken == 1)
    started = time.monotonic()
    await loop.close(within_seconds=0.05)
    assert time.monotonic() - started < 5


async def test_a_loop_that_never_started_closes() -> None:
    await Loop("test", 1.0, Steps()).close()
