"""Group commit: who waits for whom, what is bounded, and whose error is whose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jobserver.errors import DatabaseUnavailable, Overloaded
from jobserver.pipeline.batch import Batcher


class Store:
    """What flushes into it answers with tenfold, once its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.flushes: list[list[int]] = []
        self.fails: Callable[[Sequence[int]], Exception | None] = lambda items: None
        self.at_once = 0
        self.most_at_once = 0

    async def flush(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.flushes.append(list(items))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.entered.set()
        try:
            await self.gate.wait()
        finally:
            self.at_once -= 1
        error = self.fails(items)
        if error is not None:
            raise error
        return [item * 10 for item in items]


@asynccontextmanager
async def batching(store: Store, **options: Any) -> AsyncIterator[Batcher[int, int]]:
    batcher: Batcher[int, int] = Batcher("test", store.flush, **options)
    batcher.start()
    yield batcher
    store.gate.set()
    await batcher.close()


async def put_behind(store: Store, batcher: Batcher[int, int], items: Sequence[int]) -> list[asyncio.Future[int]]:
    """Items that arrive while the flush of item 0 is under way."""
    store.gate.clear()
    first = batcher.put(0)
    await store.entered.wait()
    return [first, *(batcher.put(item) for item in items)]


async def test_an_item_alone_is_flushed_at_once() -> None:
    store = Store()
    async with batching(store) as batcher:
        assert await batcher.submit(4) == 40
    assert store.flushes == [[4]]


async def test_one_flush_carries_what_arrived_during_the_one_before() -> None:
    store = Store()
    async with batching(store) as batcher:
        futures = await put_behind(store, batcher, range(1, 101))
        assert batcher.waiting == 100
        store.gate.set()
        assert await asyncio.gather(*futures) == [number * 10 for number in range(101)]
    assert store.flushes == [[0], list(range(1, 101))]


async def test_a_flush_is_bounded_by_weight_and_in_order() -> None:
    store = Store()
    async with batching(store, max_weight=10, weigh=lambda item: item) as batcher:
        futures = await put_behind(store, batcher, [4, 6, 1, 50, 9, 1, 1])
        store.gate.set()
        await asyncio.gather(*futures)
    # What is heavier than a flush may be goes alone.
    assert store.flushes == [[0], [4, 6], [1], [50], [9, 1], [1]]


async def test_a_full_queue_refuses_at_once_and_forgets_nobody() -> None:
    store = Store()
    async with batching(store, max_waiting=3) as batcher:
        futures = await put_behind(store, batcher, [1, 2, 3])
        with pytest.raises(Overloaded):
            batcher.put(4)
        with pytest.raises(Overloaded):
            await batcher.submit(5)
        store.gate.set()
        assert await asyncio.gather(*futures) == [0, 10, 20, 30]
        assert await batcher.submit(6) == 60


async def test_flights_overlap_up_to_their_number() -> None:
    store = Store()
    async with batching(store, flights=2, max_weight=1) as batcher:
        store.gate.clear()
        futures = [batcher.put(number) for number in range(6)]
        async with asyncio.timeout(5):
            while store.at_once < 2:
                await asyncio.sleep(0)
        store.gate.set()
        assert await asyncio.gather(*futures) == [0, 10, 20, 30, 40, 50]
    assert store.most_at_once == 2


async def test_a_caller_that_goes_away_cancels_nothing() -> None:
    store = Store()
    async with batching(store) as batcher:
        store.gate.clear()
        gone = asyncio.create_task(batcher.submit(1))
        stays = asyncio.create_task(batcher.submit(2))
        await store.entered.wait()
        late = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0)
        gone.cancel()
        late.cancel()
        await asyncio.gather(gone, late, return_exceptions=True)
        store.gate.set()
        assert await stays == 20
    # Both were carried all the same.
    assert sorted(item for items in store.flushes for item in items) == [1, 2, 3]


@pytest.mark.parametrize("bad", [[7], [1, 32], [1, 2, 3, 4], list(range(1, 33))])
async def test_only_the_callers_of_bad_items_see_their_error(bad: list[int]) -> None:
    store = Store()
    store.fails = lambda items: ValueError(f"bad {items}") if set(items) & set(bad) else None
    async with batching(store) as batcher:
        futures = await put_behind(store, batcher, range(1, 33))
        store.gate.set()
        answers = await asyncio.gather(*futures, return_exceptions=True)
        for number, answer in enumerate(answers):
            if number in bad:
                assert isinstance(answer, ValueError)
                assert str(answer) == f"bad [{number}]"
            else:
                assert answer == number * 10
        # The batcher lives on.
        assert await batcher.submit(100) == 1_000


async def test_an_error_among_the_answers_is_raised_to_its_caller_alone() -> None:
    async def flush(items: Sequence[int]) -> Sequence[int | Exception]:
        return [KeyError(item) if item == 2 else item for item in items]

    batcher: Batcher[int, int] = Batcher("test", flush)
    batcher.start()
    answers = await asyncio.gather(*(batcher.submit(number) for number in range(4)), return_exceptions=True)
    await batcher.close()
    assert [isinstance(answer, KeyError) for answer in answers] == [False, False, True, False]


async def test_an_engine_that_is_away_is_said_to_all_and_not_asked_again_for_each() -> None:
    store = Store()
    store.fails = lambda items: DatabaseUnavailable("away")
    async with batching(store) as batcher:
        futures = await put_behind(store, batcher, range(1, 9))
        store.gate.set()
        answers = await asyncio.gather(*futures, return_exceptions=True)
        assert all(isinstance(answer, DatabaseUnavailable) for answer in answers)
        store.fails = lambda items: None
        assert await batcher.submit(5) == 50
    assert len(store.flushes) == 3


async def test_a_flush_that_answers_too_little_is_an_error_and_not_the_end() -> None:
    answers: list[int] = []

    async def flush(items: Sequence[int]) -> Sequence[int]:
        return answers

    batcher: Batcher[int, int] = Batcher("test", flush)
    batcher.start()
    with pytest.raises(RuntimeError, match="0 answers to 1 items"):
        await batcher.submit(1)
    answers = [10]
    async with asyncio.timeout(5):
        assert await batcher.submit(1) == 10
    await batcher.close()


async def test_close_flushes_what_waits_and_takes_nothing_more() -> None:
    store = Store()
    batcher: Batcher[int, int] = Batcher("test", store.flush)
    batcher.start()
    futures = await put_behind(store, batcher, [1, 2])
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        batcher.put(3)
    store.gate.set()
    await closing
    assert await asyncio.gather(*futures) == [0, 10, 20]


async def test_what_is_not_flushed_in_time_gets_overloaded() -> None:
    store = Store()
    batcher: Batcher[int, int] = Batcher("test", store.flush)
    batcher.start()
    futures = await put_behind(store, batcher, [1, 2])
    await batcher.close(within_seconds=0.01)
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Overloaded] * 3


async def test_a_batcher_that_never_started_closes() -> None:
    store = Store()
    batcher: Batcher[int, int] = Batcher("test", store.flush)
    waiting = batcher.put(1)
    await batcher.close()
    with pytest.raises(Overloaded):
        await waiting


async def test_flushes_are_observed() -> None:
    seen: list[tuple[str, int]] = []
    store = Store()
    async with batching(store, observe=lambda name, items, seconds: seen.append((name, items))) as batcher:
        futures = await put_behind(store, batcher, [1, 2])
        store.gate.set()
        await asyncio.gather(*futures)
    assert seen == [("test", 1), ("test", 2)]
