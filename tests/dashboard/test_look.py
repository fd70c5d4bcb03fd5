"""Every page, light and dark, wide and narrow: nothing serious for axe, nothing wider than the screen; pictures.

Colours do not depend on the width: where no pictures are wanted, two of the four looks are enough.
"""

from __future__ import annotations

import asyncio
import os
from typing import Literal

import pytest
from playwright.async_api import expect

from tests.dashboard.browser import NARROW, SCREENSHOTS, WIDE, Dashboard
from tests.dashboard.conftest import Open
from tests.life.conftest import Serve
from tests.life.process import ServerProcess

LOOKS = [("light", WIDE, "light"), ("narrow-dark", NARROW, "dark"), ("dark", WIDE, "dark"), ("narrow", NARROW, "light")]
PAGES = {
    "overview": "#/",
    "jobs": "#/jobs",
    "dead-letters": "#/dead-letters",
    "queues": "#/queues",
    "workers": "#/workers",
    "submit": "#/submit",
}


async def lively(server: ServerProcess) -> str:
    """Something of everything; the id of a job that runs."""
    job_id = await server.submit("shown.work", {"seconds": 90, "steps": 90}, tags=["nightly", "report"])
    await server.submit("shown.work", {"seconds": 240, "steps": 60})
    for order in range(4):
        await server.submit("shown.fail", {"order": 1_000 + order})
    await server.submit("shown.fail", {"order": 30, "reason": "timeout"}, tags=["billing"])
    await server.submit("shown.flaky", {"failures": 3})
    await server.submit("shown.quick", {"number": 1}, delay=600)
    await server.submit_all([{"type": "shown.quick", "payload": {"number": n}} for n in range(200)])
    await server.http.post("/queues/later/pause")
    await server.submit_all([{"type": "shown.quick", "queue": "later", "tags": ["held"]} for _ in range(30)])
    return job_id


async def settled(dashboard: Dashboard) -> None:
    await expect(dashboard.page.locator("main .page")).to_be_visible()
    await expect(dashboard.page.locator("main .skeleton")).to_have_count(0)
    await asyncio.sleep(1.5)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    LOOKS if os.environ.get(SCREENSHOTS) else LOOKS[:2],
)
async def test_every_page_is_accessible_and_fits(
    name: str, size: tuple[int, int], scheme: Literal["light", "dark"], on_postgresql: Serve, show: Open
) -> None:
    server = await on_postgresql("--workers", "6")
    job_id = await lively(server)
    failed = await server.submit("shown.fail", {"order": 7, "reason": "declined"})
    await server.finished(failed)
    dashboard = await show(server, size=size, scheme=scheme)
    await dashboard.is_live()
    wrong = []
    for page, hash_ in {**PAGES, "job": f"#/jobs/{job_id}", "job-failed": f"#/jobs/{failed}"}.items():
        await dashboard.go(hash_)
        await settled(dashboard)
        await dashboard.screenshot(f"{page}-{name}")
        for check in (dashboard.is_accessible, dashboard.fits):
            try:
                await check()
            except AssertionError as error:
                wrong.append(f"{page}: {error}")
    assert not wrong, "\n\n".join(wrong)
