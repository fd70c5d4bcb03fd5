"""One job: its timeline, its progress, why it is where it is, and what can be done about it."""

from __future__ import annotations

import re
import shlex

from playwright.async_api import Locator, Route, expect

from tests.dashboard.browser import Dashboard
from tests.dashboard.conftest import Open
from tests.life.conftest import Serve
from tests.life.process import ServerProcess

BIG = 12345678901234567890
TRACE = "0af7651916cd43dd8448eb211c80319c"


def badge(dashboard: Dashboard) -> Locator:
    return dashboard.page.locator(".job-head .badge")


def reason(dashboard: Dashboard, code: str) -> Locator:
    return dashboard.page.locator(f".why-reason[data-code={code}]")


def card(dashboard: Dashboard, title: str) -> Locator:
    return dashboard.page.locator("section.card", has=dashboard.page.get_by_role("heading", name=title, exact=True))


async def test_a_running_job_is_live_and_canceled(server: ServerProcess, show: Open, mark: str) -> None:
    job_id = await server.submit("shown.work", {"seconds": 30, "steps": 30}, queue=mark, tags=["nightly"])
    dashboard = await show(server, f"#/jobs/{job_id}")
    page = dashboard.page
    await expect(page.get_by_role("heading", name="shown.work")).to_be_visible()
    await expect(badge(dashboard)).to_have_text("running")
    bar = page.get_by_role("progressbar")
    await expect(page.locator(".job-progress")).to_contain_text(re.compile(r"step [2-9] of 30"), timeout=6_000)
    before = int(await bar.get_attribute("aria-valuenow") or 0)
    await expect(page.locator(".job-progress")).to_contain_text(re.compile(r"step [5-9] of 30"), timeout=8_000)
    assert int(await bar.get_attribute("aria-valuenow") or 0) > before
    await expect(page.locator(".log li[data-kind=progress]").nth(1)).to_be_visible()
    # The bar of what runs grows with the time.
    row = page.locator(".waterfall-row", has_text="Attempt 1")
    await expect(row).to_contain_text(re.compile(r"runs \d"))
    await expect(card(dashboard, "Facts")).to_contain_text("nightly")
    await expect(reason(dashboard, "running")).to_be_visible()
    await dashboard.screenshot("job-running")

    await page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog", name="Cancel this running job?")
    await dialog.get_by_role("button", name="Back").click()
    assert (await server.job(job_id))["status"] == "running"
    await page.get_by_role("button", name="Cancel").click()
    await dialog.get_by_role("button", name="Cancel the job").click()
    await expect(badge(dashboard)).to_have_text("canceled", timeout=5_000)
    await expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    await expect(page.locator(".waterfall-row")).to_contain_text(["canceled"])
    await expect(reason(dashboard, "canceled")).to_be_visible()
    assert (await server.job(job_id))["status"] == "canceled"


async def test_a_failed_job_says_why_and_is_retried(server: ServerProcess, show: Open, mark: str) -> None:
    job_id = await server.submit("shown.mended", {"order": 4711}, queue=mark)
    await server.finished(job_id)
    dashboard = await show(server, f"#/jobs/{job_id}")
    page = dashboard.page
    await expect(badge(dashboard)).to_have_text("failed")
    await expect(card(dashboard, "Error")).to_contain_text("order 4711 met a bug")
    await expect(card(dashboard, "Error").get_by_label("Traceback")).to_contain_text("handlers_forms.py")
    await expect(reason(dashboard, "failed")).to_contain_text("NotRetryable")
    await expect(page.locator(".attempt")).to_have_count(1)
    await page.locator(".attempt summary").click()
    await expect(page.locator(".attempt-body")).to_contain_text("order 4711 met a bug")

    await page.get_by_role("button", name="Retry").click()
    await page.get_by_role("dialog").get_by_role("button", name="Retry 1 job").click()
    await expect(badge(dashboard)).to_have_text("completed", timeout=6_000)
    await expect(card(dashboard, "Result")).to_contain_text("4711")
    await expect(page.locator(".attempt")).to_have_count(2)
    # What was opened stays open.
    await expect(page.locator(".attempt-body")).to_contain_text("order 4711 met a bug")
    await expect(page.locator(".attempt-body")).to_be_visible()
    await expect(page.locator(".waterfall-row").last).to_contain_text(re.compile(r"until it was replayed .* completed"))
    await expect(page.locator(".log li").last).to_contain_text("completed")
    await dashboard.screenshot("job-retried")


async def test_why_a_job_waits_is_told_and_stays_true(server: ServerProcess, show: Open, mark: str) -> None:
    await server.http.post(f"/queues/{mark}/pause")
    job_id = await server.submit("shown.quick", {"number": 1}, queue=mark)
    dashboard = await show(server, f"#/jobs/{job_id}")
    await expect(dashboard.page.get_by_role("heading", name="Why is it not running?")).to_be_visible()
    await expect(reason(dashboard, "queue_paused")).to_contain_text(mark)
    await dashboard.screenshot("job-paused")
    await server.http.post(f"/queues/{mark}/resume")
    await expect(badge(dashboard)).to_have_text("completed", timeout=6_000)
    await expect(reason(dashboard, "completed")).to_be_visible()
    await expect(reason(dashboard, "queue_paused")).to_have_count(0)

    later = await server.submit("shown.quick", {"number": 1}, queue=mark, delay=900)
    await dashboard.go(f"#/jobs/{later}")
    await expect(reason(dashboard, "scheduled")).to_be_visible()
    await expect(dashboard.page.locator(".waterfall-row")).to_contain_text("scheduled")
    await dashboard.page.get_by_role("button", name="Cancel").click()
    await dashboard.page.get_by_role("button", name="Cancel the job").click()
    await expect(badge(dashboard)).to_have_text("canceled")


async def test_why_names_who_is_in_the_way_and_links_to_it(on_postgresql: Serve, show: Open) -> None:
    server = await on_postgresql("--workers", "1")
    holding = await server.submit("shown.wait")
    ahead, waits = [await server.submit("shown.quick", {"number": n}, queue="slow") for n in range(2)]
    dashboard = await show(server, f"#/jobs/{waits}")
    page = dashboard.page
    await expect(reason(dashboard, "consumers_busy").locator(".figures")).to_contain_text("running1")
    await expect(reason(dashboard, "jobs_ahead").locator(".figures")).to_contain_text("ahead1")
    await reason(dashboard, "consumers_busy").get_by_role("link", name="Workers").click()
    await expect(page.locator(".running-job")).to_have_count(1)
    await server.http.post(f"/jobs/{holding}/cancel")
    await server.all_finished([ahead, waits])


async def test_why_says_that_no_worker_is_there(on_postgresql: Serve, show: Open) -> None:
    server = await on_postgresql("--workers", "0", "--accept-unknown-types")
    job_id = await server.submit("shown.nobody", queue="lonely")
    dashboard = await show(server, f"#/jobs/{job_id}")
    await expect(reason(dashboard, "no_live_worker")).to_contain_text("jobserver serve")


async def test_attempts_that_are_behind_their_job_catch_up(server: ServerProcess, show: Open, mark: str) -> None:
    job_id = await server.submit("shown.quick", queue=mark)
    await server.finished(job_id)
    dashboard = await show(server)
    behind = 0

    async def before(route: Route) -> None:
        # As if it had been read just before the end of the attempt.
        nonlocal behind
        answer = await route.fetch()
        found = await answer.json()
        if not behind:
            found["items"][-1] |= {"outcome": "running", "ended_at": None}
        behind += 1
        await route.fulfill(response=answer, json=found)

    await dashboard.page.route(f"**/jobs/{job_id}/attempts", before)
    await dashboard.go(f"#/jobs/{job_id}")
    await expect(dashboard.page.locator(".attempt .badge")).to_have_text("completed")
    assert behind == 2


async def test_retries_are_a_waterfall(server: ServerProcess, show: Open, mark: str) -> None:
    job_id = await server.submit("shown.flaky", {"failures": 2}, queue=mark)
    dashboard = await show(server, f"#/jobs/{job_id}")
    await expect(badge(dashboard)).to_have_text("retrying")
    await expect(reason(dashboard, "waiting_for_retry")).to_contain_text("ConnectionError")
    rows = dashboard.page.locator(".waterfall-row")
    await expect(rows).to_contain_text(["failed, to be retried", "waited to be retried"])
    await expect(badge(dashboard)).to_have_text("completed", timeout=20_000)
    await expect(rows).to_contain_text(["Attempt 1", "Attempt 2", "Attempt 3"])
    await expect(rows.last).to_contain_text(re.compile(r"waited to be retried .* completed"))
    await expect(card(dashboard, "Facts")).to_contain_text("2 of 5")


async def test_a_job_is_copied_and_its_trace_found(server: ServerProcess, show: Open, mark: str) -> None:
    payload = {"id": BIG, "said": "it's 'quoted' \u2603", "ratio": 1.5}
    answer = await server.http.post(
        "/jobs",
        json={"type": "echo", "payload": payload, "queue": mark, "tags": ["copied"], "max_retries": 1},
        headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
    )
    job_id = answer.json()["id"]
    await server.finished(job_id)
    dashboard = await show(server, f"#/jobs/{job_id}")
    page = dashboard.page
    # No digit is lost to the arithmetic of browsers.
    await expect(card(dashboard, "Payload")).to_contain_text(str(BIG))
    await expect(card(dashboard, "Result")).to_contain_text(str(BIG))
    trace = page.get_by_role("link", name="Trace")
    await expect(trace).to_have_attribute("href", f"http://127.0.0.1:16686/trace/{TRACE}")

    await page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
    await page.get_by_role("button", name="Copy as curl").click()
    copied = await page.evaluate("navigator.clipboard.readText()")
    words = shlex.split(copied.replace("\\\n", " "))
    assert words[0] == "curl"
    assert f"{server.url}/jobs" in words
    again = await server.http.post(
        "/jobs", content=words[words.index("-d") + 1], headers={"content-type": "application/json"}
    )
    assert again.status_code == 201, again.text
    copy = again.json()
    assert (copy["payload"], copy["queue"], copy["tags"], copy["max_retries"]) == (payload, mark, ["copied"], 1)

    await page.get_by_role("link", name="Submit again…").click()
    await dashboard.at(f"#/submit?from={job_id}")
    await expect(page.get_by_label("Payload as JSON")).to_have_value(re.compile(str(BIG)))
    await page.get_by_label("Tags").fill("copied, twice")
    await page.get_by_role("button", name="Submit the job").click()
    await dashboard.at(re.compile(rf"#/jobs/(?!{job_id})[0-9a-f-]{{36}}$"))
    third = await server.finished(dashboard.hash.rpartition("/")[2])
    assert (third["payload"], third["queue"], third["tags"]) == (payload, mark, ["copied", "twice"])


async def test_a_job_that_is_gone_is_told(server: ServerProcess, show: Open, mark: str) -> None:
    nobody = "01980000-0000-7000-8000-000000000000"
    dashboard = await show(server, f"#/jobs/{nobody}")
    dashboard.tolerates("status of 404")
    await expect(dashboard.page.get_by_role("heading", name="No such job")).to_be_visible()
    await expect(dashboard.page.get_by_text(f"There is no job {nobody}.")).to_be_visible()
    job_id = await server.submit("shown.fail", queue=mark)
    await server.finished(job_id)
    await dashboard.go(f"#/jobs/{job_id}")
    await expect(badge(dashboard)).to_have_text("failed")
    await dashboard.is_live()
    await server.http.delete(f"/dlq/{job_id}")
    await expect(dashboard.page.get_by_role("heading", name="Job deleted")).to_be_visible()
