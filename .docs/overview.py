"""Makes overview.png: the first view of the web page, in a real browser, while real jobs run on PostgreSQL and Valkey.

    pip install -e '.[dev]' && python .docs/overview.py [light|dark|narrow] [FILE.png]

Two processes work for a shop for 100 seconds: mails, invoices, pictures, reports; some fail, one queue is paused.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import async_playwright, expect

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.dashboard.browser import NARROW, chromium, new_context  # noqa: E402
from tests.engines import PostgresServer, RedisServer  # noqa: E402
from tests.life.process import ServerProcess  # noqa: E402

PICTURE = Path(__file__).with_name("overview.png")
SECONDS = 100
SIZE = (1_200, 990)
TURN_SECONDS = 0.25
HANDLERS = '''
"""Handlers of a shop."""

import asyncio
import random

from jobserver import Attempt, Handlers, NotRetryable

handlers = Handlers()


@handlers.handler("mail.send", queue="mail", max_retries=5)
async def send(to: str) -> str:
    await asyncio.sleep(random.uniform(0.01, 0.12))
    if random.random() < 0.03:
        raise ConnectionError("mail.example.com refused the connection")
    return to


@handlers.handler("invoice.charge", queue="billing", max_retries=0)
async def charge(order: int) -> None:
    await asyncio.sleep(random.uniform(0.02, 0.2))
    if order % 29 == 0:
        raise NotRetryable(f"the card of order {order} was declined")
    if order % 83 == 0:
        raise TimeoutError(f"no answer from payments.example.com in {random.randint(5, 9)} s")


@handlers.handler("image.resize", queue="images", max_retries=1)
async def resize(name: str) -> None:
    await asyncio.sleep(random.uniform(0.05, 0.4))
    if name.endswith("77.jpg"):
        raise ValueError(f"'{name}' is not a picture")


@handlers.handler("search.index", queue="search", priority="low")
async def index(product: int) -> None:
    await asyncio.sleep(0.01)


@handlers.handler("report.build", queue="reports", timeout=300)
async def build(attempt: Attempt, month: str, rows: int) -> int:
    for row in range(0, rows, rows // 80):
        attempt.progress(100 * row / rows, f"{row:,} rows")
        await asyncio.sleep(random.uniform(0.5, 1.4))
    return rows
'''


async def work(server: ServerProcess) -> None:
    """Submit what a shop submits, in waves."""
    await server.http.post("/queues/search/pause")
    order = 0
    turns = int(SECONDS / TURN_SECONDS)
    for turn in range(turns):
        wave = 1 + 0.5 * math.sin(turn / 26) + 0.35 * math.sin(turn / 7) + random.uniform(-0.1, 0.1)
        if 0.55 < turn / turns < 0.65:
            wave *= 2.2
        bodies: list[dict[str, Any]] = []
        for _ in range(round(14 * wave)):
            order += 1
            bodies.append({"type": "invoice.charge", "payload": {"order": order}})
        bodies += [{"type": "mail.send", "payload": {"to": f"{n}@example.com"}} for n in range(round(22 * wave))]
        bodies += [
            {"type": "image.resize", "payload": {"name": f"product-{random.randrange(9_000)}.jpg"}}
            for _ in range(round(5 * wave))
        ]
        if turn % 2 == 0:
            bodies.append({"type": "search.index", "payload": {"product": turn}})
        if turn % 20 == 0:
            bodies.append({"type": "mail.send", "payload": {"to": "later@example.com"}, "delay": 900})
        if turn in (90, 150, 210, 268, 310, 372):
            rows = random.randrange(60_000, 200_000)
            bodies.append({"type": "report.build", "payload": {"month": f"2026-{turn % 12 + 1:02}", "rows": rows}})
        await server.submit_all(bodies)
        await asyncio.sleep(TURN_SECONDS)


async def taken(folder: Path, scheme: Literal["light", "dark"], size: tuple[int, int], picture: Path) -> None:
    (folder / "shop.py").write_text(HANDLERS, encoding="utf-8")
    random.seed(7)
    async with contextlib.AsyncExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        redis = stack.enter_context(RedisServer("valkey"))
        devtools = stack.enter_context(chromium())
        where = ("--database-url", postgres.create_database(), "--redis-url", redis.url, "--workers", "16")
        servers = []
        for number in range(2):
            log = folder / f"{number}.log"
            started = await ServerProcess.start(
                ("shop:handlers", *where, "--log-level", "warning"), cwd=folder, log=log, PYTHONPATH=f"{folder}:{ROOT}"
            )
            stack.push_async_callback(started.end)
            servers.append(await started.started())
        working = asyncio.create_task(work(servers[0]))
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.connect_over_cdp(devtools)
        context = await new_context(browser, size=size, scheme=scheme)
        page = await context.new_page()
        await page.goto(f"{servers[1].url}/#/?minutes=5")
        await expect(page.locator(".live")).to_have_attribute("data-state", "live")
        await asyncio.sleep(SECONDS - 4)
        await page.screenshot(path=picture, full_page=size == NARROW)
        await working
        await context.close()


def main() -> None:
    look = sys.argv[1] if len(sys.argv) > 1 else "light"
    picture = Path(sys.argv[2]) if len(sys.argv) > 2 else PICTURE
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        size = NARROW if look == "narrow" else SIZE
        asyncio.run(taken(Path(folder), "dark" if look == "dark" else "light", size, picture))


if __name__ == "__main__":
    main()
