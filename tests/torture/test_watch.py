"""The watch sees what servers say of themselves, and remembers the most of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from jobserver.torture import watch as module
from jobserver.torture.watch import Watch
from tests.conftest import Pair
from tests.engines import eventually
from tests.servers import running

PAGES = (
    """# TYPE jobserver_buffer_items gauge
jobserver_buffer_items{buffer="submit"} 3.0
jobserver_buffer_bound{buffer="submit"} 20.0
jobserver_stale_writes_rejected_total{step="finish"} 1.0
jobserver_stale_writes_rejected_total{step="heartbeat"} 1.0
""",
    """jobserver_buffer_items{buffer="submit"} 7.0
jobserver_buffer_bound{buffer="submit"} 20.0
jobserver_stale_writes_rejected_total{step="finish"} 2.0
""",
    """jobserver_buffer_items{buffer="submit"} 5.0
jobserver_buffer_bound{buffer="submit"} 20.0
jobserver_stale_writes_rejected_total{step="finish"} 1.0
""",
)


class Servers:
    """Processes of which only the metrics are there. `pids` are given out one a look."""

    def __init__(self, client: httpx.AsyncClient, url: str, pid: int = 1) -> None:
        self.ports = (1,)
        self.http = client
        self.now = pid
        self._url = url

    def pid(self, slot: int) -> int:
        return self.now

    def url(self, slot: int) -> str:
        return self._url


@asynccontextmanager
async def saying(pages: list[tuple[int, str | None]]) -> AsyncIterator[Watch]:
    """A watch over one slot, whose process (by its id) says these pages, and then nothing."""
    left = list(pages)

    def answer(request: httpx.Request) -> httpx.Response:
        page = None
        if left:
            servers.now, page = left.pop(0)
        if page is None:
            raise httpx.ConnectError("it starts")
        return httpx.Response(200, text=page)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        servers = Servers(client, "http://watched", pages[0][0])
        async with Watch(servers) as watch:
            await eventually(lambda: not left)
            await asyncio.sleep(0)
            yield watch


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL_SECONDS", 0.01)


async def test_the_most_that_was_seen_is_remembered() -> None:
    async with saying([(1, PAGES[0]), (1, PAGES[1]), (1, None), (1, PAGES[2])]) as watch:
        await eventually(lambda: watch.samples == 3)
        [buffer] = watch.buffers
        assert (buffer.pid, buffer.name, buffer.most, buffer.bound) == (1, "submit", 7, 20)


async def test_counters_of_a_process_and_its_successor_are_added() -> None:
    async with saying([(1, PAGES[0]), (1, PAGES[1]), (2, ""), (2, PAGES[0])]) as watch:
        # The page during which the process changed is nobody's.
        await eventually(lambda: watch.samples == 3)
        assert watch.stale_writes_rejected == 3 + 2


async def test_a_real_server_tells_all_its_buffers(pair: Pair) -> None:
    async with running(pair) as server, httpx.AsyncClient(trust_env=False) as client:
        async with Watch(Servers(client, server.url)) as watch:
            await eventually(lambda: watch.samples >= 2)
        bounds = {buffer.name: buffer.bound for buffer in watch.buffers}
    assert set(bounds) == {"submit", "claim", "finish", "deliveries", "events"}
    assert all(bound > 0 for bound in bounds.values())
