"""The overview against real servers: what it shows is what is so."""

from __future__ import annotations

import re

from playwright.async_api import expect

from tests.dashboard.conftest import SHOWN, Open
from tests.engines import PostgresServer, eventually
from tests.life.conftest import Serve


async def test_the_overview_shows_what_is_so(on_postgresql: Serve, show: Open) -> None:
    server = await on_postgresql("--workers", "8")
    await server.http.post("/queues/later/pause")
    await server.submit_all([{"type": "shown.quick", "queue": "later"} for _ in range(7)])
    failed = [await server.submit("shown.fail", {"order": order}) for order in range(3)]
    failed.append(await server.submit("shown.fail", {"order": 30, "reason": "timeout"}))
    await server.all_finished(failed)
    dashboard = await show(server)
    await expect(dashboard.tile("Waiting")).to_have_text("7")
    await expect(dashboard.tile("Dead letters")).to_have_text("4")
    await expect(dashboard.tile("Workers")).to_have_text("1")
    await expect(dashboard.tile("Oldest waiting")).to_have_text(re.compile(r"^\d.* m?s$"))
    await expect(dashboard.row("Queues", "later")).to_contain_text("paused")
    # Their numbers differ, their fingerprint does not.
    group = dashboard.row("Latest failures", "NotRetryable")
    await expect(group.locator("td").nth(2)).to_have_text("3")
    await expect(dashboard.row("Latest failures", "TimeoutError").locator("td").nth(2)).to_have_text("1")
    await group.get_by_role("link").click()
    await dashboard.at(re.compile(r"#/dead-letters\?type=shown\.fail&fingerprint=[0-9a-f]{16}$"))


async def test_a_queue_is_paused_and_resumed(on_postgresql: Serve, show: Open) -> None:
    server = await on_postgresql("--workers", "2")
    await server.finished(await server.submit("shown.quick"))
    dashboard = await show(server)
    page = dashboard.page
    await page.get_by_role("button", name="Pause quick").click()
    dialog = page.get_by_role("dialog", name="Pause quick?")
    await expect(dialog.get_by_role("button", name="Back")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(dialog).to_have_count(0)
    await page.get_by_role("button", name="Pause quick").click()
    await dialog.get_by_role("button", name="Pause").click()
    await expect(dashboard.row("Queues", "quick")).to_contain_text("paused")
    # The switch is another button now; who came by the keyboard stays there.
    await expect(page.get_by_role("button", name="Resume quick")).to_be_focused()
    await expect(page.get_by_role("status").filter(has_text="quick is paused")).to_be_visible()
    [queue] = [each for each in (await server.get("/queues"))["items"] if each["name"] == "quick"]
    assert queue["paused"]
    await server.submit("shown.quick")
    await expect(dashboard.tile("Waiting")).to_have_text("1", timeout=3_000)
    await page.get_by_role("button", name="Resume quick").click()
    await expect(dashboard.row("Queues", "quick")).not_to_contain_text("paused")
    await expect(dashboard.tile("Waiting")).to_have_text("0", timeout=3_000)


async def test_the_last_minutes_are_there_at_once(on_postgresql: Serve, show: Open) -> None:
    """They are the server's: whoever opens the page later sees them too."""
    server = await on_postgresql("--workers", "8")
    ids = await server.submit_all([{"type": "shown.quick", "payload": {"number": n}} for n in range(200)])
    await server.all_finished(ids[-1:])

    async def told() -> bool:
        return sum(each["completed"] for each in (await server.get("/admin/activity"))["items"]) == 200

    await eventually(told, within=15)
    dashboard = await show(server)
    chart = dashboard.page.get_by_role("slider", name="Throughput: values over time")
    # Drawn, and with what the server told.
    await expect(chart).to_have_attribute("aria-valuemax", re.compile("[1-9]"))
    await expect(chart.locator(".chart-nothing")).to_have_count(0)
    most = 0.0
    await chart.focus()
    for _ in range(12):
        await dashboard.page.keyboard.press("ArrowLeft")
        await dashboard.page.wait_for_timeout(60)
        said = re.search(r"Completed ([\d.]+)/s", await chart.get_attribute("aria-valuetext") or "")
        most = max(most, float(said[1])) if said else most
    # 200 jobs in one or two buckets of five seconds.
    assert most >= 10
    # By the pointer, too.
    await chart.hover()
    await expect(dashboard.page.get_by_role("figure", name="Throughput").locator(".chart-when")).to_have_text(
        re.compile(r"\d\d:\d\d:\d\d")
    )


async def test_a_chart_without_values_yet_is_not_looked_at(embedded: Serve, show: Open) -> None:
    """A key or the pointer that comes before the first answer does not choose the oldest value of it."""
    dashboard = await show(await embedded("--workers", "1"))
    told = await dashboard.page.evaluate(
        """async () => {
          const { lineChart } = await import('/assets/chart.js');
          const series = [{ key: 'n', name: 'N', color: '--good' }];
          const chart = lineChart({ label: 'Trial', unit: String, series });
          const drawn = async () => { for (let n = 0; n < 3; n += 1) await new Promise(requestAnimationFrame); };
          // Not in the page itself, which is made anew when its first answers come.
          document.body.append(chart.element);
          while (!chart.element.querySelector('svg').getAttribute('width')) await drawn();
          const plot = chart.element.querySelector('[role=slider]'), told = [];
          const press = async () => {
            plot.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }));
            await drawn();
            told.push(plot.getAttribute('aria-valuenow'));
          };
          await press();
          plot.dispatchEvent(new PointerEvent('pointermove', { clientX: 1 }));
          chart.update({ times: [1_000, 2_000, 3_000], values: { n: [1, 2, 3] } });
          await drawn();
          told.push(plot.getAttribute('aria-valuenow'));
          await press();
          chart.stop();
          return told;
        }"""
    )
    assert told == ["0", "2", "1"]


async def test_a_database_that_is_down_is_told(
    own_postgres: PostgresServer, redis_url: str, redis_prefix: str, serve: Serve, show: Open
) -> None:
    where = ("--database-url", own_postgres.create_database(), "--redis-url", redis_url, "--redis-prefix", redis_prefix)
    server = await serve(*where, "--workers", "2", handlers=SHOWN)
    dashboard = await show(server)
    other = await show(server, "#/queues")
    await expect(dashboard.tile("Workers")).to_have_text("1")
    await other.is_live()
    for each in (dashboard, other):
        each.tolerates(r"status of 503")
    own_postgres.kill()
    for each in (dashboard, other):
        await expect(each.page.locator("#banner")).to_contain_text("Service Unavailable", timeout=20_000)
        # Its figures are of before.
        await each.is_live("stale")
    await dashboard.screenshot("overview-without-database")
    own_postgres.restart()
    for each in (dashboard, other):
        await expect(each.page.locator("#banner")).to_be_hidden(timeout=20_000)
        await each.is_live()
    await server.submit("shown.fail")
    await expect(dashboard.tile("Dead letters")).to_have_text("1", timeout=5_000)
    await expect(other.row("Queues", "slow")).to_be_visible()
