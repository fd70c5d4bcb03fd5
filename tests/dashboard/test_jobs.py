"""The list of jobs: its filters, its search, pages that stay, and actions on many."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from playwright.async_api import Locator, Route, expect

from tests.dashboard.browser import NARROW, WIDE, Dashboard
from tests.dashboard.conftest import Open
from tests.life.process import ServerProcess

PAGE = 50


def rows(dashboard: Dashboard) -> Locator:
    return dashboard.page.locator(".jobs-table tbody tr")


async def ids(dashboard: Dashboard) -> list[str]:
    found: list[str] = await rows(dashboard).evaluate_all("rows => rows.map(row => row.dataset.key)")
    return found


async def quick(server: ServerProcess, mark: str, many: int, **fields: Any) -> list[str]:
    """So many jobs of this test."""
    jobs = [{"type": "shown.quick", "payload": {"number": n}, "queue": mark, **fields} for n in range(many)]
    return await server.submit_all(jobs)


async def toast(dashboard: Dashboard, text: str) -> None:
    await expect(dashboard.page.locator("#toasts").get_by_text(text)).to_be_visible()


async def test_filters_are_in_the_address(server: ServerProcess, show: Open, mark: str) -> None:
    done = await quick(server, mark, 3, tags=["billing"])
    failed = [await server.submit("shown.fail", {"order": n}, queue=mark) for n in range(2)]
    later = await quick(server, mark, 2, delay=600)
    await server.all_finished([*done, *failed])
    dashboard = await show(server, f"#/jobs?queue={mark}")
    page = dashboard.page
    await expect(rows(dashboard)).to_have_count(7)
    assert await ids(dashboard) == [*reversed(later), *reversed(failed), *reversed(done)]

    await page.get_by_role("group", name="Status").get_by_role("button", name=re.compile("failed")).click()
    await expect(rows(dashboard)).to_have_count(2)
    await dashboard.at(f"#/jobs?queue={mark}&status=failed")
    await expect(rows(dashboard).first).to_contain_text("NotRetryable order 1 was declined")
    await page.get_by_role("group", name="Status").get_by_role("button", name=re.compile("scheduled")).click()
    await expect(rows(dashboard)).to_have_count(4)
    await page.get_by_label("Type").fill("shown.quick")
    await page.get_by_label("Type").press("Enter")
    await expect(rows(dashboard)).to_have_count(2)
    assert "status=scheduled&status=failed" in dashboard.hash
    assert "type=shown.quick" in dashboard.hash

    # Everything is in the address: it says the same to somebody else, and back goes back.
    await page.reload()
    await expect(rows(dashboard)).to_have_count(2)
    await expect(page.get_by_label("Type")).to_have_value("shown.quick")
    await page.go_back()
    await expect(rows(dashboard)).to_have_count(4)
    await expect(page.get_by_label("Type")).to_have_value("")
    await page.get_by_role("link", name="Clear").click()
    await dashboard.at("#/jobs")

    await dashboard.go(f"#/jobs?queue={mark}&tag=billing")
    await expect(rows(dashboard)).to_have_count(3)
    await page.get_by_label("Submitted").select_option("last hour")
    await dashboard.at(f"#/jobs?queue={mark}&tag=billing&since=1h")
    await expect(rows(dashboard)).to_have_count(3)
    await page.get_by_label("Submitted").select_option("between…")
    await page.get_by_label("To", exact=True).fill("2020-05-01T12:00:00")
    await page.get_by_label("To", exact=True).press("Tab")
    await expect(page.get_by_text("No job matches")).to_be_visible()
    # The field is in the time of the browser, which is in Berlin.
    assert "created_before=2020-05-01T10%3A00%3A00.000Z" in dashboard.hash
    await dashboard.is_accessible()


async def test_pages_stay_where_they_are_while_jobs_arrive(server: ServerProcess, show: Open, mark: str) -> None:
    older = list(reversed(await quick(server, mark, 2 * PAGE + 20)))
    await server.all_finished(older[:1])
    dashboard = await show(server, f"#/jobs?queue={mark}")
    page = dashboard.page
    await dashboard.is_live()
    await expect(rows(dashboard)).to_have_count(PAGE)
    assert await ids(dashboard) == older[:PAGE]

    arriving = [*await quick(server, mark, 30), *await quick(server, "elsewhere", 10)]
    new = page.locator(".new-jobs")
    await expect(new).to_have_text("30 new", timeout=5_000)
    assert await ids(dashboard) == older[:PAGE]
    await page.get_by_role("link", name="Older").click()
    await expect(rows(dashboard).first).to_have_attribute("data-key", older[PAGE])
    assert await ids(dashboard) == older[PAGE : 2 * PAGE]
    await page.get_by_role("link", name="Older").click()
    await expect(rows(dashboard)).to_have_count(20)
    assert await ids(dashboard) == older[2 * PAGE :]
    await expect(page.get_by_role("link", name="Older")).to_have_count(0)
    await page.get_by_role("link", name="Newer").click()
    await expect(rows(dashboard).first).to_have_attribute("data-key", older[PAGE])
    # A page is as stable as its address.
    await page.reload()
    await expect(rows(dashboard)).to_have_count(PAGE)
    assert await ids(dashboard) == older[PAGE : 2 * PAGE]

    await page.get_by_role("link", name="Newest").click()
    await expect(rows(dashboard).first).to_have_attribute("data-key", arriving[29])
    await quick(server, mark, 1)
    await expect(new).to_have_text("1 new", timeout=5_000)
    await new.click()
    await expect(rows(dashboard).nth(1)).to_have_attribute("data-key", arriving[29])
    await expect(new).to_be_hidden()


async def test_rows_are_live(server: ServerProcess, show: Open, mark: str) -> None:
    dashboard = await show(server, f"#/jobs?queue={mark}")
    await dashboard.is_live()
    await expect(dashboard.page.get_by_text("No job matches")).to_be_visible()
    # An empty list has nothing that could jump.
    works = await server.submit("shown.work", {"seconds": 6, "steps": 12}, queue=mark)
    row = rows(dashboard).and_(dashboard.page.locator(f"[data-key='{works}']"))
    await expect(row).to_contain_text("running", timeout=6_000)
    await expect(row).to_contain_text(re.compile(r"\d\d %"), timeout=6_000)
    flaky = await server.submit("shown.flaky", {"failures": 9}, queue=mark, max_retries=1)
    await dashboard.page.locator(".new-jobs").click()
    failing = rows(dashboard).and_(dashboard.page.locator(f"[data-key='{flaky}']"))
    await expect(failing).to_contain_text("failed", timeout=10_000)
    await expect(failing).to_contain_text("ConnectionError mail.example.com refused")
    await expect(failing).to_contain_text("2 / 2")
    await expect(row).to_contain_text("completed", timeout=8_000)
    await expect(row).to_contain_text(re.compile(r"6(\.\d)? s"))


async def test_search_finds_payloads_errors_and_ids(server: ServerProcess, show: Open, mark: str) -> None:
    needle = await server.submit("echo", {"order": f"needle-{mark}"}, queue=mark)
    await quick(server, mark, 5)
    failed = await server.submit("shown.fail", {"order": 77, "reason": f"lost in {mark}"}, queue=mark)
    await server.finished(failed)
    dashboard = await show(server, "#/jobs")
    page = dashboard.page
    search = page.get_by_role("searchbox", name="Search")
    await expect(search).to_be_visible()
    await page.keyboard.press("/")
    await expect(search).to_be_focused()
    await search.fill(f"needle-{mark}")
    await search.press("Enter")
    await expect(rows(dashboard)).to_have_count(1)
    assert await ids(dashboard) == [needle]
    await dashboard.at(f"#/jobs?q=needle-{mark}")
    await page.get_by_label("Search in").select_option("in errors")
    await search.fill(f"lost in {mark}")
    await search.press("Enter")
    await dashboard.at(re.compile(r"#/jobs\?error=lost"))
    await expect(rows(dashboard)).to_contain_text(["NotRetryable"])
    assert await ids(dashboard) == [failed]
    again = await server.submit("shown.fail", {"order": 78, "reason": f"lost in {mark}"}, queue=mark)
    await server.finished(again)
    await page.get_by_role("button", name="Search").click()
    await expect(rows(dashboard)).to_have_count(2)
    await search.fill(needle.upper())
    await search.press("Enter")
    await dashboard.at(f"#/jobs/{needle}")


async def test_a_search_that_stopped_goes_on(server: ServerProcess, show: Open, mark: str) -> None:
    wanted = list(reversed(await quick(server, mark, 7)))

    async def slowly(route: Route) -> None:
        # As on a table that is too large for two seconds: three at a time, and the cursor to go on.
        answer = await route.fetch(url=route.request.url.replace(f"limit={PAGE}", "limit=3"))
        found = await answer.json()
        if found["next_cursor"]:
            found |= {"partial": True, "total_capped": True, "total": len(found["items"])}
        await route.fulfill(response=answer, json=found)

    dashboard = await show(server)
    await dashboard.page.route(re.compile(r"/jobs\?.*q="), slowly)
    await dashboard.go(f"#/jobs?queue={mark}&q=number")
    await expect(rows(dashboard)).to_have_count(3)
    note = dashboard.page.get_by_text("The search stopped after two seconds")
    await expect(note).to_contain_text("3 jobs found")
    await dashboard.screenshot("jobs-partial")
    await dashboard.page.get_by_role("button", name="Go on").click()
    await expect(rows(dashboard)).to_have_count(6)
    await dashboard.page.get_by_role("button", name="Go on").click()
    await expect(rows(dashboard)).to_have_count(7)
    await expect(note).to_be_hidden()
    assert await ids(dashboard) == wanted


async def test_chosen_jobs_are_canceled_retried_and_deleted(server: ServerProcess, show: Open, mark: str) -> None:
    later = await quick(server, mark, 3, delay=600)
    done = await quick(server, mark, 2)
    await server.all_finished(done)
    dashboard = await show(server, f"#/jobs?queue={mark}")
    page = dashboard.page
    await dashboard.is_live()
    await page.get_by_label("Select all rows").check()
    bar = page.get_by_role("region", name="Actions on the chosen jobs")
    await expect(bar).to_contain_text("5 chosen")
    await bar.get_by_role("button", name="Cancel").click()
    # The dry run says how many, and changes nothing.
    dialog = page.get_by_role("dialog", name="Cancel 3 jobs?")
    await expect(dialog).to_contain_text("3 of the 5 chosen")
    await dashboard.is_accessible()
    await dashboard.screenshot("jobs-dry-run", whole=False)
    await dialog.get_by_role("button", name="Back").click()
    assert [(await server.job(one))["status"] for one in later] == ["scheduled"] * 3
    await bar.get_by_role("button", name="Cancel").click()
    await dialog.get_by_role("button", name="Cancel 3 jobs").click()
    await toast(dashboard, "3 jobs canceled")
    await expect(rows(dashboard).filter(has_text="canceled")).to_have_count(3)
    await expect(bar).to_be_hidden()
    assert [(await server.job(one))["status"] for one in later] == ["canceled"] * 3

    await page.get_by_label(f"Select {later[0]}").check()
    await bar.get_by_role("button", name="Retry").click()
    await page.get_by_role("dialog", name="Retry 1 job?").get_by_role("button", name="Retry 1 job").click()
    await toast(dashboard, "1 job queued again")
    await expect(rows(dashboard).and_(page.locator(f"[data-key='{later[0]}']"))).to_contain_text(
        "completed", timeout=6_000
    )
    # It has ended: there is nothing to retry.
    await page.get_by_label(f"Select {later[0]}").check()
    await bar.get_by_role("button", name="Retry").click()
    await toast(dashboard, "None of these can be retried: only failed and canceled jobs can.")
    await page.get_by_label(f"Select {done[0]}").check()
    await bar.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog", name="Delete 2 jobs?").get_by_role("button", name="Delete 2 jobs").click()
    await toast(dashboard, "2 jobs deleted")
    await expect(rows(dashboard)).to_have_count(3)
    assert (await server.http.get(f"/jobs/{done[0]}")).status_code == 404


async def test_an_action_reaches_all_that_match(server: ServerProcess, show: Open, mark: str) -> None:
    many = await quick(server, mark, PAGE + 15, delay=600, tags=["old"])
    kept = await quick(server, mark, 2, delay=600, tags=["young"])
    dashboard = await show(server, f"#/jobs?queue={mark}&tag=old")
    page = dashboard.page
    await page.get_by_label("Select all rows").check()
    bar = page.get_by_role("region", name="Actions on the chosen jobs")
    await bar.get_by_role("button", name=f"Choose all {len(many)} that match").click()
    await expect(bar).to_contain_text(f"All {len(many)} that match")
    await bar.get_by_role("button", name="Cancel").click()
    await (
        page.get_by_role("dialog", name=f"Cancel {len(many)} jobs?")
        .get_by_role("button", name=f"Cancel {len(many)} jobs")
        .click()
    )
    await toast(dashboard, f"{len(many)} jobs canceled")
    found = await server.get("/jobs", queue=mark, status="scheduled")
    assert {job["id"] for job in found["items"]} == set(kept)
    assert (await server.get("/jobs", queue=mark, status="canceled"))["total"] == len(many)


async def test_a_choice_outlives_news_of_its_rows(server: ServerProcess, show: Open, mark: str) -> None:
    many = await quick(server, mark, PAGE + 10, delay=600)
    working = await server.submit("shown.work", {"seconds": 60, "steps": 300}, queue=mark)
    dashboard = await show(server, f"#/jobs?queue={mark}")
    page = dashboard.page
    await dashboard.is_live()
    row = rows(dashboard).and_(page.locator(f"[data-key='{working}']"))
    await expect(row).to_contain_text(re.compile(r"\d %"), timeout=6_000)
    await page.get_by_label("Select all rows").check()
    bar = page.get_by_role("region", name="Actions on the chosen jobs")
    everything = f"All {len(many) + 1} that match"
    await bar.get_by_role("button", name=f"Choose all {len(many) + 1} that match").click()
    await expect(bar).to_contain_text(everything)
    pressed = await bar.get_by_role("button", name="Cancel").element_handle()
    assert pressed is not None
    await pressed.focus()
    # Two reports of progress are drawn in its row.
    for _ in range(2):
        before = await row.inner_text()
        await expect(row).not_to_have_text(before, use_inner_text=True, timeout=6_000)
    await expect(bar).to_contain_text(everything)
    assert await pressed.evaluate("node => node.isConnected && node === document.activeElement")
    await pressed.click()
    dialog = page.get_by_role("dialog", name=f"Cancel {len(many) + 1} jobs?")
    await dialog.get_by_role("button", name=f"Cancel {len(many) + 1} jobs").click()
    await toast(dashboard, f"{len(many) + 1} jobs canceled")


async def test_a_late_answer_does_not_enter_another_list(server: ServerProcess, show: Open, mark: str) -> None:
    wanted = await quick(server, mark, 5)
    other = list(reversed(await quick(server, f"{mark}-other", 2)))
    await server.all_finished([*wanted, *other])
    dashboard = await show(server)
    page = dashboard.page
    asked, answered = asyncio.Event(), asyncio.Event()

    async def partly(route: Route) -> None:
        cursor = "cursor=" in route.request.url
        if cursor:
            asked.set()
            await answered.wait()
        answer = await route.fetch(url=route.request.url.replace(f"limit={PAGE}", "limit=2"))
        await route.fulfill(response=answer, json=(await answer.json()) | {"partial": True})

    await page.route(re.compile(r"/jobs\?.*q="), partly)
    await dashboard.go(f"#/jobs?queue={mark}&q=number")
    await expect(rows(dashboard)).to_have_count(2)
    await page.get_by_role("button", name="Go on").click()
    await asked.wait()
    await dashboard.go(f"#/jobs?queue={mark}-other")
    await expect(rows(dashboard).first).to_have_attribute("data-key", other[0])
    async with page.expect_response(re.compile(r"cursor=")):
        answered.set()
    await page.evaluate("() => new Promise(done => setTimeout(done, 100))")
    assert await ids(dashboard) == other


async def test_rows_are_reached_by_keys(server: ServerProcess, show: Open, mark: str) -> None:
    newest = list(reversed(await quick(server, mark, 4, delay=600)))
    dashboard = await show(server, f"#/jobs?queue={mark}")
    page = dashboard.page
    await expect(rows(dashboard)).to_have_count(4)
    for key in "jjjk":
        await page.keyboard.press(key)
    await expect(rows(dashboard).nth(1)).to_be_focused()
    await page.keyboard.press("x")
    await expect(page.get_by_label(f"Select {newest[1]}")).to_be_checked()
    await expect(page.get_by_role("region", name="Actions on the chosen jobs")).to_contain_text("1 chosen")
    await page.keyboard.press("x")
    await expect(page.get_by_role("region", name="Actions on the chosen jobs")).to_be_hidden()
    await page.keyboard.press("Enter")
    await dashboard.at(f"#/jobs/{newest[1]}")
    await page.go_back()
    await expect(rows(dashboard)).to_have_count(4)


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_the_list_is_usable_under_load(
    server: ServerProcess, show: Open, mark: str, size: tuple[int, int]
) -> None:
    """Jobs end on the page, and others arrive, while it is used."""
    dashboard = await show(server, f"#/jobs?queue={mark}", size=size)

    async def load() -> None:
        while True:
            await quick(server, mark, 200)
            await asyncio.sleep(0.2)

    await quick(server, mark, 60)
    loading = asyncio.create_task(load())
    try:
        await expect(rows(dashboard)).to_have_count(PAGE, timeout=6_000)
        before = await ids(dashboard)
        await expect(dashboard.page.locator(".new-jobs")).to_contain_text(re.compile(r"\d"), timeout=5_000)
        await expect(rows(dashboard).filter(has_text="completed")).to_have_count(PAGE, timeout=10_000)
        assert await ids(dashboard) == before
        await dashboard.page.get_by_role("link", name="Older").click()
        await expect(rows(dashboard).first).not_to_have_attribute("data-key", before[0])
        await dashboard.fits()
    finally:
        loading.cancel()
