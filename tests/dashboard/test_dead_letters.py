"""Dead letters by type and error: counted, looked at, replayed with care, purged."""

from __future__ import annotations

import re

from playwright.async_api import Locator, expect

from tests.dashboard.browser import Dashboard
from tests.dashboard.conftest import Open
from tests.life.process import ServerProcess


def group(dashboard: Dashboard, text: str) -> Locator:
    return dashboard.page.locator(".group", has_text=text)


async def fail(server: ServerProcess, mark: str, type_: str, *payloads: dict[str, object]) -> list[str]:
    ids = await server.submit_all([{"type": type_, "payload": payload, "queue": mark} for payload in payloads])
    await server.all_finished(ids)
    return ids


async def toast(dashboard: Dashboard, text: str) -> None:
    await expect(dashboard.page.locator("#toasts").get_by_text(text)).to_be_visible()


async def test_failures_are_grouped_and_live(server: ServerProcess, show: Open, mark: str) -> None:
    declined = await fail(server, mark, "shown.fail", *({"order": n} for n in range(3)))
    await fail(server, mark, "shown.fail", {"order": 5, "reason": "timeout"})
    dashboard = await show(server, f"#/dead-letters?queue={mark}")
    page = dashboard.page
    await dashboard.is_live()
    await expect(page.locator(".group")).to_have_count(2)
    # The last to fail is the first to be seen.
    await expect(page.locator(".group").first).to_contain_text("TimeoutError")
    refused = group(dashboard, "NotRetryable")
    await expect(refused.locator(".group-count")).to_have_text("3")
    declined += await fail(server, mark, "shown.fail", {"order": 99})
    await expect(refused.locator(".group-count")).to_have_text("4", timeout=5_000)
    await expect(page.locator(".group").first).to_contain_text("NotRetryable")

    toggle = refused.get_by_role("button", name=re.compile("NotRetryable"))
    await expect(toggle).to_have_attribute("aria-expanded", "false")
    await toggle.click()
    await dashboard.at(re.compile(rf"#/dead-letters\?queue={mark}&fingerprint=[0-9a-f]{{16}}$"))
    jobs = refused.locator("tbody tr")
    await expect(jobs).to_have_count(4)
    await expect(jobs.first).to_contain_text("order 99 was declined")
    await dashboard.is_accessible()
    await dashboard.screenshot("dead-letters-open")
    await page.reload()
    await expect(jobs).to_have_count(4)
    await page.get_by_role("link", name="Show all in the list of jobs").click()
    await expect(page.locator(".jobs-table tbody tr")).to_have_count(4)
    await dashboard.at(re.compile(rf"#/jobs\?status=failed&queue={mark}&type=shown\.fail&fingerprint=[0-9a-f]{{16}}$"))


async def test_a_canary_goes_before_the_rest(server: ServerProcess, show: Open, mark: str) -> None:
    ids = await fail(server, mark, "shown.mended", *({"order": n} for n in range(14)))
    dashboard = await show(server, f"#/dead-letters?queue={mark}")
    page = dashboard.page
    await dashboard.is_live()
    bugs = group(dashboard, "met a bug")
    await expect(bugs.locator(".group-count")).to_have_text("14")
    await bugs.get_by_role("button", name="Canary of 10").click()
    dialog = page.get_by_role("dialog", name="Replay 10 jobs of 14?")
    await expect(dialog).to_contain_text("met a bug")
    assert (await server.get("/dlq", queue=mark))["total"] == 14
    await dialog.get_by_role("button", name="Replay 10 jobs").click()
    canary = bugs.locator(".group-canary")
    await expect(canary).to_contain_text("Canary of 10")
    await expect(canary).to_contain_text("10 completed", timeout=6_000)
    await expect(canary).to_contain_text("All went well.")
    await expect(bugs.locator(".group-count")).to_have_text("4", timeout=5_000)
    await dashboard.screenshot("dead-letters-canary")
    # It is known still when the page is left and found again.
    await dashboard.go("#/queues")
    await page.go_back()
    await canary.get_by_role("button", name="Replay the other 4").click()
    await page.get_by_role("dialog", name="Replay 4 jobs?").get_by_role("button", name="Replay 4 jobs").click()
    await toast(dashboard, "4 jobs queued again")
    await expect(page.get_by_text("Nothing failed here")).to_be_visible(timeout=6_000)
    assert {job["status"] for job in await server.all_finished(ids)} == {"completed"}


async def test_a_canary_that_dies_warns(server: ServerProcess, show: Open, mark: str) -> None:
    await fail(server, mark, "shown.mended", *({"order": n, "again": True} for n in range(12)))
    dashboard = await show(server, f"#/dead-letters?queue={mark}")
    bugs = group(dashboard, "met a bug")
    await bugs.get_by_role("button", name="Replay one").click()
    await (
        dashboard.page.get_by_role("dialog", name="Replay 1 job of 12?")
        .get_by_role("button", name="Replay 1 job")
        .click()
    )
    canary = bugs.locator(".group-canary")
    await expect(canary).to_contain_text("1 failed again", timeout=6_000)
    await expect(canary).to_contain_text("Look at why they failed again")
    await expect(bugs.locator(".group-count")).to_have_text("12")
    await canary.get_by_role("button", name="Dismiss").click()
    await expect(canary).to_be_hidden()


async def test_dead_letters_are_purged(server: ServerProcess, show: Open, mark: str) -> None:
    # The same failure in a queue that is not looked at.
    (elsewhere,) = await fail(server, f"{mark}-other", "shown.fail", {"order": 8})
    declined = await fail(server, mark, "shown.fail", *({"order": n} for n in range(3)))
    await fail(server, mark, "shown.fail", {"order": 5, "reason": "timeout"})
    dashboard = await show(server, f"#/dead-letters?queue={mark}")
    page = dashboard.page
    refused = group(dashboard, "NotRetryable")
    await refused.get_by_role("button", name=re.compile("NotRetryable")).click()
    await refused.get_by_label(f"Delete job {declined[0]}").click()
    await page.get_by_role("dialog", name="Delete this job?").get_by_role("button", name="Delete 1 job").click()
    await toast(dashboard, "1 job deleted")
    await expect(refused.locator("tbody tr")).to_have_count(2)
    await refused.get_by_role("button", name="Purge").click()
    dialog = page.get_by_role("dialog", name="Delete 2 jobs?")
    await dialog.get_by_role("button", name="Back").click()
    assert (await server.get("/dlq", queue=mark))["total"] == 3
    await refused.get_by_role("button", name="Purge").click()
    await dialog.get_by_role("button", name="Delete 2 jobs").click()
    await toast(dashboard, "2 jobs deleted")
    await expect(refused).to_have_count(0)
    await expect(page.locator(".group")).to_have_count(1)
    await page.get_by_role("button", name="Purge all").click()
    dialog = page.get_by_role("dialog", name="Delete 1 job?")
    await expect(dialog).to_contain_text(f"All failed jobs of queue {mark}.")
    await dialog.get_by_role("button", name="Delete 1 job").click()
    await expect(page.get_by_text("Nothing failed here")).to_be_visible()
    assert (await server.get("/dlq", queue=mark))["total"] == 0
    assert (await server.job(elsewhere))["status"] == "failed"


async def test_a_purge_deletes_what_was_confirmed(server: ServerProcess, show: Open, mark: str) -> None:
    ids = await fail(server, mark, "shown.mended", *({"order": n} for n in range(3)))
    dashboard = await show(server, f"#/dead-letters?queue={mark}")
    page = dashboard.page
    await page.get_by_role("button", name="Purge all").click()
    dialog = page.get_by_role("dialog", name="Delete 3 jobs?")
    await expect(dialog).to_be_visible()
    # Meanwhile others fail alike, and somebody else replays one.
    later = await fail(server, mark, "shown.mended", *({"order": n} for n in range(10, 14)))
    await server.http.post(f"/dlq/{ids[0]}/replay")
    await server.finished(ids[0])
    await dialog.get_by_role("button", name="Delete 3 jobs").click()
    await toast(dashboard, "2 jobs deleted")
    assert (await server.job(ids[0]))["status"] == "completed"
    assert {job["id"] for job in (await server.get("/dlq", queue=mark))["items"]} == set(later)


async def test_a_group_a_job_and_all_are_replayed(server: ServerProcess, show: Open, mark: str) -> None:
    await fail(server, mark, "shown.fail", {"order": 5, "reason": "timeout"})
    bugs = await fail(server, mark, "shown.mended", *({"order": n} for n in range(4)))
    dashboard = await show(server, f"#/dead-letters?queue={mark}")
    page = dashboard.page
    mended = group(dashboard, "met a bug")
    await mended.get_by_role("button", name=re.compile("NotRetryable")).first.click()
    await mended.get_by_label(f"Replay job {bugs[1]}").click()
    await page.get_by_role("dialog", name="Replay this job?").get_by_role("button", name="Replay 1 job").click()
    await toast(dashboard, "1 job queued again")
    await expect(mended.locator(".group-count")).to_have_text("3", timeout=5_000)
    assert (await server.finished(bugs[1]))["status"] == "completed"

    # The group, with what has failed since it was asked for left alone.
    await mended.get_by_role("button", name="Replay all").click()
    dialog = page.get_by_role("dialog", name="Replay 3 jobs?")
    await expect(dialog).to_contain_text("met a bug")
    (later,) = await fail(server, mark, "shown.mended", {"order": 9})
    await dialog.get_by_role("button", name="Replay 3 jobs").click()
    await toast(dashboard, "3 jobs queued again")
    assert {job["status"] for job in await server.all_finished(bugs)} == {"completed"}
    assert (await server.job(later))["status"] == "failed"

    await expect(page.locator(".group")).to_have_count(2)
    await page.locator(".page-head").get_by_role("button", name="Replay all").click()
    dialog = page.get_by_role("dialog", name="Replay 2 jobs?")
    await expect(dialog).to_contain_text(f"All failed jobs of queue {mark}.")
    await dialog.get_by_role("button", name="Replay 2 jobs").click()
    await toast(dashboard, "2 jobs queued again")
    assert (await server.finished(later))["status"] == "completed"
    await expect(page.locator(".group")).to_have_count(1, timeout=6_000)
    await expect(page.locator(".group")).to_contain_text("TimeoutError")
