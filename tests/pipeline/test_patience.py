"""Patience: one time limit for many that wait."""

from __future__ import annotations

import asyncio
import time

import pytest

from jobserver.pipeline.patience import Patience


async def test_an_answer_in_time_is_the_answer() -> None:
    patience = Patience(5.0)
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, future.set_result, 7)
    assert await patience.wait(future) == 7
    patience.close()


async def test_each_waits_for_its_own_time() -> None:
    patience = Patience(0.2)
    loop = asyncio.get_running_loop()
    started = time.monotonic()
    ended: list[float] = []

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await patience.wait(loop.create_future())
        ended.append(time.monotonic() - started)

    first = asyncio.create_task(wait())
    await asyncio.sleep(0.1)
    await asyncio.gather(first, wait())
    assert 0.19 <= ended[0] < 0.28
    assert 0.29 <= ended[1] < 0.6
    patience.close()


async def test_those_that_were_answered_hold_up_nobody_and_are_forgotten() -> None:
    patience = Patience(0.1)
    loop = asyncio.get_running_loop()
    late: asyncio.Future[None] = loop.create_future()
    answered = [loop.create_future() for _ in range(100)]
    waits = [asyncio.create_task(patience.wait(future)) for future in (*answered, late)]
    await asyncio.sleep(0)
    for future in answered:
        future.set_result(None)
    with pytest.raises(TimeoutError):
        await waits[-1]
    await asyncio.gather(*waits[:-1])
    assert patience.waiting == 0


async def test_who_goes_away_is_forgotten() -> None:
    patience = Patience(5.0)
    gone = asyncio.create_task(patience.wait(asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    assert patience.waiting == 1
    gone.cancel()
    await asyncio.wait([gone])
    assert patience.waiting == 0
    patience.close()
