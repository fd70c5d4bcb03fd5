"""Queues, with their switch, and the processes, with what they run."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from pathlib import Path

from playwright.async_api import Error, Route, expect

from tests.dashboard.conftest import Open
from tests.dashboard.test_login import make_key
from tests.life.conftest import Serve
from tests.life.process import ServerProcess


async def test_a_queue_is_paused_and_resumed(server: ServerProcess, show: Open, mark: str) -> None:
    done = await server.submit("shown.quick", queue=mark)
    await server.finished(done)
    dashboard = await show(server, "#/queues")
    page = dashboard.page
    await dashboard.is_live()
    row = dashboard.row("Queues", mark)
    await row.get_by_role("button", name=f"Pause {mark}").click()
    dialog = page.get_by_role("dialog", name=f"Pause {mark}?")
    await expect(dialog).to_contain_text("It goes on to accept jobs")
    await dialog.get_by_role("button", name="Back").click()
    await expect(row.locator(".badge")).to_have_count(0)
    await row.get_by_role("button", name=f"Pause {mark}").click()
    await dialog.get_by_role("button", name="Pause").click()
    await expect(row.locator(".badge")).to_have_text("paused")
    ids = await server.submit_all([{"type": "shown.quick", "queue": mark}] * 7)
    waiting = row.get_by_role("link", name="7", exact=True)
    await expect(waiting).to_have_attribute("title", "7 queued", timeout=5_000)
    await expect(row).to_contain_text(re.compile(r"\d m?s"))
    await waiting.click()
    await dashboard.at(f"#/jobs?queue={mark}&status=queued&status=scheduled&status=retrying")
    await expect(page.locator(".jobs-table tbody tr")).to_have_count(7)
    await page.go_back()
    await row.get_by_role("button", name=f"Resume {mark}").click()
    await expect(row.locator(".badge")).to_have_count(0)
    await server.all_finished(ids)
    await expect(row.get_by_role("link", name="8", exact=True)).to_be_visible(timeout=5_000)


async def test_queues_have_their_rates(server: ServerProcess, show: Open, mark: str) -> None:
    dashboard = await show(server, "#/queues")

    async def load() -> None:
        while True:
            await server.submit_all([{"type": "shown.quick", "queue": mark}] * 20)
            await asyncio.sleep(0.2)

    loading = asyncio.create_task(load())
    try:
        # In and done, a second.
        cells = dashboard.row("Queues", mark).locator("td")
        await expect(cells.nth(6)).to_have_text(re.compile(r"^[1-9]"), timeout=20_000)
        await expect(cells.nth(7)).to_have_text(re.compile(r"^[1-9]"), timeout=20_000)
    finally:
        loading.cancel()


async def test_pages_left_before_their_first_answer_leave_nothing_behind(server: ServerProcess, show: Open) -> None:
    dashboard = await show(server, "#/jobs")
    page = dashboard.page
    await page.evaluate(
        """() => {
          window.beating = new Set();
          const [begin, end] = [window.setInterval, window.clearInterval];
          window.setInterval = (...given) => { const id = begin(...given); beating.add(id); return id; };
          window.clearInterval = id => { beating.delete(id); end(id); };
        }"""
    )
    await dashboard.is_live()

    async def never(route: Route) -> None:
        await asyncio.sleep(5)
        with contextlib.suppress(Error):
            await route.abort()

    await page.route(re.compile(r"/(queues|workers|dlq/groups)(\?|$)"), never)
    for place, title in (("queues", "Queues"), ("workers", "Workers"), ("dead-letters", "Dead letters")):
        await dashboard.go(f"#/{place}")
        await expect(page.locator("h1")).to_have_text(title)
        assert await page.evaluate("beating.size") > 0
        await dashboard.go("#/jobs")
        await expect(page.locator("h1")).to_have_text("Jobs")
        assert await page.evaluate("beating.size") == 0, place
    await page.unroute_all(behavior="ignoreErrors")


async def test_workers_show_what_they_run_and_how_they_end(on_postgresql: Serve, show: Open) -> None:
    server = await on_postgresql("--workers", "3")
    leaving = await on_postgresql("--workers", "2", "--drain-seconds", "60s")
    dashboard = await show(server, "#/workers")
    page = dashboard.page
    await dashboard.is_live()
    workers = page.locator(".workers").first.locator(".worker")
    await expect(workers).to_have_count(2)
    ids = await server.submit_all([{"type": "shown.work", "payload": {"seconds": 60, "steps": 60}}] * 5)
    await expect(page.get_by_text("2 alive · 5 of 5 consumers busy")).to_be_visible(timeout=6_000)
    here = page.locator(".worker", has_text=f"pid {leaving.pid}")
    await expect(here).to_contain_text("2 of 2 busy")
    await expect(here.locator(".running-job")).to_have_count(2)
    await expect(here.locator(".running-job").first).to_contain_text(
        re.compile(r"shown\.work.*\d %.*\d s"), timeout=6_000
    )
    await expect(here).to_contain_text(re.compile(r"Loop lag\d.* m?s"))
    await dashboard.screenshot("workers-busy")

    leaving.send(signal.SIGTERM)
    await expect(here.locator(".badge")).to_have_text("draining", timeout=5_000)
    leaving.kill()
    await expect(page.get_by_text("1 ended in the last 24 hours")).to_be_visible(timeout=15_000)
    await expect(here.locator(".badge")).to_have_text("dead")
    await dashboard.is_accessible()
    # Their rows lead to the jobs.
    await page.locator(".running-job a").first.click()
    await dashboard.at(re.compile(f"#/jobs/({'|'.join(ids)})$"))


async def test_a_key_that_may_only_read_sees_no_buttons(
    on_postgresql: Serve, shared_engines: tuple[str, ...], workdir: Path, show: Open
) -> None:
    scopes = ("read", "submit", "admin")
    keys = dict(
        zip(scopes, await asyncio.gather(*(make_key(shared_engines, scope, workdir) for scope in scopes)), strict=True)
    )
    server = await on_postgresql("--workers", "2")
    server.http.headers["authorization"] = f"Bearer {keys.pop('admin')}"
    failed = await server.submit("shown.fail")
    await server.finished(failed)
    works = await server.submit("shown.work", {"seconds": 60})
    offered = {
        "#/jobs": ("Jobs", []),
        "#/dead-letters": ("Dead letters", []),
        "#/queues": ("Queues", []),
        f"#/jobs/{works}": ("shown.work", ["Cancel"]),
        f"#/jobs/{failed}": ("shown.fail", []),
    }
    deeds = re.compile("^(Cancel|Retry|Replay|Delete|Purge|Pause|Resume|Canary|Submit)")
    for scope, key in keys.items():
        dashboard = await show(server, key=key)
        page = dashboard.page
        for hash_, (title, expected) in offered.items():
            await dashboard.go(hash_)
            await expect(page.locator("h1")).to_have_text(title)
            await expect(page.locator("main .skeleton")).to_have_count(0)
            buttons = await page.locator("main").get_by_role("button", name=deeds).all_inner_texts()
            assert buttons == (expected if scope == "submit" else []), (scope, hash_)
            await expect(page.locator("main").get_by_role("checkbox")).to_have_count(0)
        # A traceback tells of the code that runs: it is for admins.
        await expect(page.get_by_text("order 1 was declined").first).to_be_visible()
        await expect(page.get_by_label("Traceback")).to_have_count(0)
        await dashboard.go("#/submit")
        may = page.get_by_role("button", name="Submit the job")
        await expect(may if scope == "submit" else page.get_by_text("This key may only read")).to_be_visible()
