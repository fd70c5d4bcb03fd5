"""Addresses, history, keys and themes: everything on the screen has its URL, and the mouse is not needed."""

from __future__ import annotations

import re

from playwright.async_api import expect

from tests.dashboard.browser import NARROW
from tests.dashboard.conftest import Open
from tests.life.conftest import Serve

HEADING = "main h1"


async def test_every_page_has_an_address_and_the_back_button_works(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "2")
    dashboard = await show(server, "#/?minutes=5")
    page = dashboard.page
    await expect(page.get_by_role("button", name="5 min", exact=True)).to_have_attribute("aria-pressed", "true")
    for name in ("Jobs", "Dead letters", "Queues", "Workers"):
        await page.get_by_role("navigation").get_by_role("link", name=name).click()
        await expect(page.locator(HEADING)).to_have_text(name)
        await expect(page.get_by_role("navigation").get_by_role("link", name=name)).to_have_attribute(
            "aria-current", "page"
        )
        await expect(page).to_have_title(f"{name} · jobserver")
    await page.go_back()
    await expect(page.locator(HEADING)).to_have_text("Queues")
    await page.go_back()
    await page.go_back()
    await expect(page.locator(HEADING)).to_have_text("Jobs")
    await page.go_back()
    await dashboard.at("#/?minutes=5")
    await expect(page.get_by_role("button", name="5 min", exact=True)).to_have_attribute("aria-pressed", "true")
    await page.go_forward()
    await expect(page.locator(HEADING)).to_have_text("Jobs")


async def test_an_address_that_nobody_made_says_so(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "1")
    dashboard = await show(server, None)
    for hash_ in ("#/nowhere", "#/jobs/%E0%A4%A", "#/queues/deep/er"):
        await dashboard.open(hash_)
        await expect(dashboard.page.locator(HEADING)).to_have_text("Not found")
        await dashboard.page.get_by_role("link", name="To the overview").click()
        await expect(dashboard.page.locator(HEADING)).to_have_text("Overview")


async def test_the_place_on_a_page_is_found_again(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "2")
    dashboard = await show(server, size=NARROW)
    page = dashboard.page
    await expect(dashboard.tile("Workers")).to_have_text("1")
    await page.evaluate("scrollTo(0, 400)")
    before = await page.evaluate("scrollY")
    assert before > 100
    # Not by a click of the mouse, which would scroll to the link first.
    await dashboard.page.get_by_role("link", name="All queues").evaluate("node => node.click()")
    await expect(page.locator(HEADING)).to_have_text("Queues")
    assert await page.evaluate("scrollY") == 0
    await page.go_back()
    await expect(page.locator(HEADING)).to_have_text("Overview")
    await page.wait_for_function("before => Math.abs(scrollY - before) < 60", arg=before)


async def test_keys_lead_everywhere(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "2")
    ids = [await server.submit("shown.fail", {"order": order}) for order in range(3)]
    await server.all_finished(ids)
    dashboard = await show(server)
    page = dashboard.page
    await expect(dashboard.tile("Dead letters")).to_have_text("3")
    for key, name in (("j", "Jobs"), ("d", "Dead letters"), ("q", "Queues"), ("w", "Workers"), ("o", "Overview")):
        await page.keyboard.press("g")
        await page.keyboard.press(key)
        await expect(page.locator(HEADING)).to_have_text(name)
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_contain_text("go to dead letters")
    # A dialog has the keys for itself.
    await page.keyboard.press("g")
    await page.keyboard.press("j")
    await expect(page.locator(HEADING)).to_have_text("Overview")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(page.get_by_role("table", name="Queues").locator("tbody tr")).not_to_have_count(0)
    await page.keyboard.press("j")
    assert await page.evaluate("document.activeElement.matches('main tbody tr')")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.closest('main tbody tr') !== null")
    # What is typed is no command.
    await dashboard.go("#/jobs")
    await expect(page.locator("main input[data-search]")).to_be_visible()
    await page.keyboard.press("/")
    await expect(page.locator("main input[data-search]")).to_be_focused()
    await page.keyboard.type("gw?")
    await expect(page.locator("main input[data-search]")).to_have_value("gw?")
    await expect(page.locator(HEADING)).to_have_text("Jobs")


async def test_a_page_is_used_without_a_mouse(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "2")
    dashboard = await show(server)
    page = dashboard.page
    await expect(dashboard.tile("Workers")).to_have_text("1")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "main"
    await dashboard.at("#/")
    # The chart is told value by value.
    chart = page.get_by_role("slider", name="Throughput: values over time")
    await chart.focus()
    await page.keyboard.press("ArrowLeft")
    said = await chart.get_attribute("aria-valuetext")
    assert said is not None
    assert re.fullmatch(r"\d\d:\d\d:\d\d: Submitted .*, Completed .*, Failed .*, Retried .*", said)


async def test_the_theme_is_chosen_and_stays(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "1")
    dashboard = await show(server, scheme="dark")
    page = dashboard.page

    async def ground() -> str:
        found: str = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        return found

    dark = await ground()
    button = page.get_by_role("button", name="Theme")
    await button.click()
    await expect(button).to_have_accessible_name("Theme: light. Change it")
    light = await ground()
    assert light != dark
    await page.reload()
    await expect(page.locator(HEADING)).to_have_text("Overview")
    assert await ground() == light
    await button.click()
    assert await ground() == dark
    await button.click()
    await expect(button).to_have_accessible_name("Theme: system. Change it")
    await page.emulate_media(color_scheme="light")
    assert await ground() == light


async def test_a_question_does_not_outlive_its_page(embedded: Serve, show: Open) -> None:
    server = await embedded("--workers", "2")
    await server.finished(await server.submit("shown.quick"))
    dashboard = await show(server, "#/queues")
    page = dashboard.page
    await page.get_by_role("button", name="Pause quick").click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    await dashboard.go("#/workers")
    await expect(page.locator(HEADING)).to_have_text("Workers")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert not any(each["paused"] for each in (await server.get("/queues"))["items"])
