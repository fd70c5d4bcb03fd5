"""The page under load: its own thread stays free, its memory flat, its nodes few."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest
from playwright.async_api import CDPSession, expect

from tests.clocks import judged_by_the_clock
from tests.dashboard.conftest import Open
from tests.dashboard.flood import Flood
from tests.life.conftest import Serve
from tests.long import LONG

_OBSERVE = """() => {
  window.long = [];
  window.observer = new PerformanceObserver(list => window.long.push(...list.getEntries().map(each => each.duration)));
  window.observer.observe({ type: 'longtask' });
  window.frames_ = 0;
  const frame = () => { window.frames_ += 1; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
}"""


async def measured(devtools: CDPSession) -> dict[str, float]:
    """What the page holds, after its garbage was collected."""
    await devtools.send("HeapProfiler.collectGarbage")
    metrics: list[dict[str, Any]] = (await devtools.send("Performance.getMetrics"))["metrics"]
    return {each["name"]: each["value"] for each in metrics}


@judged_by_the_clock
@pytest.mark.timeout(180)
async def test_five_thousand_events_a_second_do_not_freeze_the_page(on_postgresql: Serve, show: Open) -> None:
    server = await on_postgresql("--workers", "2")
    async with Flood(server.url) as flood:
        dashboard = await show(flood.url)
        page = dashboard.page
        await dashboard.is_live()
        await expect(dashboard.tile("Workers")).to_have_text("1")
        devtools = await page.context.new_cdp_session(page)
        await devtools.send("Performance.enable")
        flood.rate = 5_000
        await asyncio.sleep(2)
        before = await measured(devtools)
        await page.evaluate(_OBSERVE)
        sent, began = flood.sent, time.monotonic()
        await asyncio.sleep(5)
        seconds = time.monotonic() - began
        assert (flood.sent - sent) / seconds > 4_000, "this machine was too busy to send them"
        long, frames = await page.evaluate("[window.long, window.frames_]")
        # A click is answered at once.
        clicked = time.monotonic()
        await page.get_by_role("button", name="5 min", exact=True).click()
        await expect(page.get_by_role("button", name="5 min", exact=True)).to_have_attribute("aria-pressed", "true")
        clicked = time.monotonic() - clicked
        after = await measured(devtools)
        shown = await dashboard.tile("Completed").text_content()
        flood.rate = 0
        print(f"long tasks {[round(each) for each in long]} ms, {frames / seconds:.0f} frames/s, click {clicked:.2f} s")
        busy = after["TaskDuration"] - before["TaskDuration"]
        print(f"main thread {busy / seconds:.0%} busy, heap {after['JSHeapUsedSize'] - before['JSHeapUsedSize']:+.0f}")
        assert shown is not None
        assert 1_000 < float(re.sub(r"[^\d.]", "", shown)) < 2_600, shown
        assert max(long, default=0) < 200, long
        assert sum(long) < 0.2 * 1_000 * seconds, long
        assert clicked < 1.0
        assert after["Nodes"] < before["Nodes"] + 500
        assert after["JSHeapUsedSize"] < before["JSHeapUsedSize"] + 10e6


@LONG
@pytest.mark.timeout(180)
async def test_pages_that_were_left_leave_nothing_behind(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "4")
    ids = await server.submit_all([{"type": "shown.quick", "payload": {"number": n}} for n in range(60)])
    await server.submit("shown.fail")
    await server.all_finished(ids[:1])
    dashboard = await show(server)
    await dashboard.is_live()
    page = dashboard.page
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("Performance.enable")

    async def around() -> None:
        for hash_, name in (("#/jobs", "Jobs"), ("#/queues", "Queues"), ("#/workers", "Workers"), ("#/", "Overview")):
            await dashboard.go(hash_)
            await expect(page.locator("h1")).to_have_text(name)
            await page.wait_for_timeout(150)

    for _ in range(3):
        await around()
    before = await measured(devtools)
    for _ in range(8):
        await around()
    after = await measured(devtools)
    for what, most in (("Nodes", 1_500), ("JSEventListeners", 150), ("JSHeapUsedSize", 3e6)):
        assert after[what] < before[what] + most, f"{what}: {before[what]:.0f} → {after[what]:.0f}"
