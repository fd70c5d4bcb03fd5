"""What the web page costs the server, and itself: a real Chromium on it, under load.

    python -m bench.page [--quick] [--runs 3] [--only first_view,drain,...]

`first_view`: a server with 1 M finished jobs, a browser that has never been there: milliseconds until the overview
shows its figures. `drain`, `drain_with_page`: a backlog drained with 100 consumers, with nobody looking and with the
overview open. `steady`, `steady_with_page`: 2,000 jobs a second for a minute, and for five with the page open: what
the server completes and uses, and what the page holds after a minute and at the end. Browser, load and engines share
the machine with the server. Everything goes into `bench/results/page.json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import psutil
from playwright.async_api import CDPSession, Page, async_playwright, expect

from bench.record import Options, Part, interleaved, options, write
from bench.scale import FINISHED, filled
from bench.served import Engines, Served, api_of, engines, post_jobs, served
from jobserver.store.engine import migrate
from tests.dashboard.browser import chromium, new_context

RATE: Final = 2_000
TURN_SECONDS: Final = 0.05
CONSUMERS: Final = "100"
SEES_SECONDS: Final = 30.0


@asynccontextmanager
async def looking(devtools: str, port: int) -> AsyncIterator[Page]:
    """The overview in a browser of its own, once it is live."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(devtools)
        context = await new_context(browser)
        page = await context.new_page()
        await page.goto(f"http://127.0.0.1:{port}/#/?minutes=5")
        await expect(page.locator(".live")).to_have_attribute("data-state", "live", timeout=SEES_SECONDS * 1_000)
        try:
            yield page
        finally:
            await context.close()


async def first_view(on: Engines, devtools: str, wanted: Options) -> dict[str, float]:
    async with on.fresh() as pair:
        await migrate(pair.database_url)
        await pair.sql("INSERT INTO queues (name, paused, created_at) VALUES ('default', false, clock_timestamp())")
        await filled(pair, FINISHED, wanted.size(1_000_000, 10_000), days_ago=1)
        async with served(*pair.options, "--workers", CONSUMERS) as server, async_playwright() as playwright:
            await server.client.get("/admin/stats")
            browser = await playwright.chromium.connect_over_cdp(devtools)
            taken = []
            for _ in range(5):
                context = await new_context(browser)
                page = await context.new_page()
                began = time.monotonic()
                await page.goto(f"http://127.0.0.1:{server.port}/", wait_until="commit")
                await page.wait_for_function(
                    """() => [...document.querySelectorAll('.tile-value')].some(node => node.textContent === '1')
                      && document.querySelector('main tbody tr')""",
                    polling="raf",
                )
                taken.append(1_000 * (time.monotonic() - began))
                await context.close()
            return {"cold_ms": taken[0], "median_ms": sorted(taken)[2], "worst_ms": max(taken)}


async def drain(on: Engines, devtools: str, wanted: Options, *, page: bool) -> dict[str, float]:
    jobs = wanted.size(60_000, 5_000)
    async with on.fresh() as pair:
        async with api_of(pair) as api:
            await post_jobs(api.port, jobs)
        async with served(*pair.options, "--workers", CONSUMERS) as server, contextlib.AsyncExitStack() as stack:
            if page:
                # At the process that works, which then has the events to send. The first jobs run before it is there.
                await stack.enter_async_context(looking(devtools, server.port))
            since = time.time()
            await server.completed(jobs)
            lives = await pair.lives(since)
    return {"per_second": lives.drained_per_second}


async def steady(on: Engines, devtools: str, wanted: Options, *, page: bool) -> dict[str, float]:
    seconds = wanted.size(300 if page else 60, 15)
    async with on.fresh() as pair, contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(served(*pair.options, "--workers", CONSUMERS))
        process = psutil.Process(server.process.pid)
        offering = asyncio.create_task(offered(server, seconds), name="load")
        await asyncio.sleep(2.0)
        shown = await stack.enter_async_context(looking(devtools, server.port)) if page else None
        session = None
        if shown is not None:
            session = await shown.context.new_cdp_session(shown)
            await session.send("Performance.enable")
            await asyncio.sleep(5.0)
            await shown.evaluate(
                """() => { window.long = 0; new PerformanceObserver(list => { window.long += list.getEntries().length })
                  .observe({ type: 'longtask' }) }"""
            )
        await asyncio.sleep(wanted.size(50, 2))
        used, began = sum(process.cpu_times()[:2]), time.monotonic()
        early = await held(session) if session else {}
        counts = (await server.by_status())["completed"]
        counted = time.monotonic()
        await offering
        completed = ((await server.by_status())["completed"] - counts) / (time.monotonic() - counted)
        figures = {
            "completed_per_second": completed,
            "server_cpu_percent": 100 * (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - began),
            "waiting_at_the_end": float((await server.by_status())["queued"]),
        }
        if session and shown:
            late = await held(session)
            figures |= {
                "page_heap_mib": early["JSHeapUsedSize"] / 2**20,
                "page_heap_grew_mib": (late["JSHeapUsedSize"] - early["JSHeapUsedSize"]) / 2**20,
                "renderer_mib": early["own"] / 2**20,
                "renderer_grew_mib": (late["own"] - early["own"]) / 2**20,
                "page_nodes_grew": late["Nodes"] - early["Nodes"],
                "page_main_thread_percent": 100
                * (late["TaskDuration"] - early["TaskDuration"])
                / (late["Timestamp"] - early["Timestamp"]),
                "page_long_tasks": float(await shown.evaluate("window.long")),
            }
        return figures


async def offered(server: Served, seconds: float) -> None:
    """Jobs at a constant rate, whatever becomes of them."""
    loop = asyncio.get_running_loop()
    began, sent = loop.time(), 0
    while (now := loop.time() - began) < seconds:
        due = int(now * RATE) - sent
        if due > 0:
            count = min(due, 1_000)
            bodies = [{"type": "echo", "payload": {"number": number}} for number in range(count)]
            answer = await server.client.post("/jobs/batch", json={"jobs": bodies})
            answer.raise_for_status()
            sent += count
        await asyncio.sleep(TURN_SECONDS)


async def held(session: CDPSession) -> dict[str, float]:
    """What the page holds once its garbage is collected; `own` is the memory that its renderers have for themselves."""
    await session.send("HeapProfiler.collectGarbage")
    metrics: list[dict[str, Any]] = (await session.send("Performance.getMetrics"))["metrics"]
    own = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "--type=renderer" in process.cmdline():
                own += process.memory_full_info().uss
    return {**{each["name"]: each["value"] for each in metrics}, "own": float(own)}


def compared(medians: Mapping[str, float]) -> dict[str, float]:
    """What the page takes from the server, in percent of what it does without."""
    found = {}
    for name, figure in (("drain", "per_second"), ("steady", "completed_per_second")):
        without, with_page = medians.get(f"{name}.{figure}"), medians.get(f"{name}_with_page.{figure}")
        if without and with_page:
            found[f"{name}_lost_percent"] = 100 * (1 - with_page / without)
    return found


async def measure(wanted: Options) -> None:
    with engines() as on, chromium() as devtools:
        parts: dict[str, Part] = {
            "first_view": lambda: first_view(on, devtools, wanted),
            "drain": lambda: drain(on, devtools, wanted, page=False),
            "drain_with_page": lambda: drain(on, devtools, wanted, page=True),
            "steady": lambda: steady(on, devtools, wanted, page=False),
            "steady_with_page": lambda: steady(on, devtools, wanted, page=True),
        }
        figures = await interleaved(parts, wanted)
        lost = compared({name: sorted(values)[len(values) // 2] for name, values in figures.items()})
        for name, value in lost.items():
            print(f"{name}: {value:.1f} %")
        write("page", wanted, figures, await on.versions(), **lost)


def main() -> None:
    asyncio.run(measure(options(__doc__, runs=3)))


if __name__ == "__main__":
    main()
