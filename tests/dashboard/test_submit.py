"""Submit from the page: a form of the type's schema, errors at their fields, JSON as the other way."""

from __future__ import annotations

import re

from playwright.async_api import Route, expect

from tests.dashboard.browser import NO_ANSWER, Dashboard
from tests.dashboard.conftest import Open
from tests.life.process import ServerProcess


async def submitted(dashboard: Dashboard, server: ServerProcess) -> dict[str, object]:
    """Press the button, and wait for the job that came of it."""
    await dashboard.page.get_by_role("button", name="Submit the job").click()
    await dashboard.at(re.compile(r"#/jobs/[0-9a-f-]{36}$"))
    return await server.finished(dashboard.hash.rpartition("/")[2])


async def test_a_form_is_made_from_the_schema(server: ServerProcess, show: Open, mark: str) -> None:
    dashboard = await show(server, "#/submit")
    page = dashboard.page
    await page.get_by_role("button", name="order.ship").click()
    await dashboard.at("#/submit?type=order.ship")
    await expect(page.get_by_text("Who receives it")).to_be_visible()
    await page.get_by_label(re.compile("^to")).fill("Ada Lovelace")
    await page.get_by_label(re.compile("^items")).fill("3")
    address = page.get_by_role("group", name=re.compile("^address"))
    await address.get_by_label(re.compile("^street")).fill("St James's Square 12")
    await address.get_by_label(re.compile("^city")).fill("London")
    await page.get_by_label(re.compile("^invoice")).select_option("paper")
    await page.get_by_label(re.compile("^speed")).select_option("express")
    await page.get_by_label("Kind of pay").select_option("Card")
    await page.get_by_label(re.compile("^number")).fill("4711")
    await page.get_by_role("button", name="Add labels").click()
    await page.get_by_label(re.compile(r"^labels\[0\]")).fill("fragile")
    await page.get_by_role("button", name="Add an item").click()
    await page.get_by_label(re.compile(r"^labels\[1\]")).fill("wet")
    await page.get_by_role("button", name="Add an item").click()
    await page.get_by_label("Remove this item of labels").nth(1).click()
    await page.get_by_label(re.compile(r"^labels\[1\]")).fill("blue")
    await page.get_by_role("button", name="Add limits").click()
    await page.get_by_role("button", name="Add an entry").click()
    await page.get_by_label("Key of an entry of limits").fill("height")
    await page.get_by_label(re.compile("^value")).fill("12345678901234567890")
    await page.get_by_label(re.compile("^gift")).check()
    await page.get_by_label(re.compile("^weight")).fill("1.0")
    await page.get_by_label(re.compile("^note")).fill('{"any": ["thing", null]}')
    await page.get_by_label("Queue").fill(mark)
    await page.get_by_label("Priority").select_option("high")
    await page.get_by_label("Retries").fill("2")
    await page.get_by_label("Time limit").fill("12.5")
    await page.get_by_label("Tags").fill("billing, urgent")
    await page.get_by_label("Idempotency key").fill(f"key-{mark}")
    await dashboard.is_accessible()
    await dashboard.screenshot("submit-form")
    job = await submitted(dashboard, server)
    assert job["payload"] == {
        "to": "Ada Lovelace",
        "items": 3,
        "address": {"street": "St James's Square 12", "city": "London"},
        "invoice": "paper",
        "speed": "express",
        "pay": {"type": "card", "number": "4711"},
        "labels": ["fragile", "blue"],
        "limits": {"height": 12345678901234567890},
        "gift": True,
        "weight": 1.0,
        "note": {"any": ["thing", None]},
    }
    given = {name: job[name] for name in ("queue", "priority", "max_retries", "timeout", "tags", "idempotency_key")}
    assert given == {
        "queue": mark,
        "priority": "high",
        "max_retries": 2,
        "timeout": 12.5,
        "tags": ["billing", "urgent"],
        "idempotency_key": f"key-{mark}",
    }
    await expect(page.locator(".job-head .badge")).to_have_text("completed")

    # Submit again with changes: the same form, filled in.
    await page.get_by_role("link", name="Submit again…").click()
    await expect(page.get_by_label(re.compile("^items"))).to_have_value("3")
    await expect(page.get_by_label(re.compile(r"^labels\[1\]"))).to_have_value("blue")
    await expect(page.get_by_label(re.compile("^number"))).to_have_value("4711")
    await expect(page.get_by_label("Idempotency key")).to_have_value("")
    await page.get_by_label(re.compile("^items")).fill("4")
    again = await submitted(dashboard, server)
    assert again["payload"] == job["payload"] | {"items": 4}
    assert again["id"] != job["id"]


async def test_errors_are_shown_at_their_fields(server: ServerProcess, show: Open, mark: str) -> None:
    dashboard = await show(server, "#/submit?type=order.ship")
    dashboard.tolerates("status of 422")
    page = dashboard.page
    send = page.get_by_role("button", name="Submit the job")
    receiver = page.get_by_label(re.compile("^to"))
    await send.click()
    await expect(receiver).to_be_focused()
    await expect(receiver).to_have_attribute("aria-invalid", "true")
    await expect(receiver).to_have_accessible_description(re.compile("Required"))
    await receiver.fill("Al")
    await expect(receiver).not_to_have_attribute("aria-invalid", "true")
    items = page.get_by_label(re.compile("^items"))
    await items.fill("many")
    await page.get_by_label(re.compile("^street")).fill("St James's Square 12")
    await page.get_by_label(re.compile("^city")).fill("L" * 41)
    await send.click()
    await expect(items).to_have_accessible_description(re.compile("Expected an integer"))
    # The rest only the server knows: one at a time, each at its field.
    await items.fill("9")
    for label, message, mended in (
        ("^to", "length >= 3", "Ada"),
        ("^items", "<= 5", "2"),
        ("^city", "length <= 40", "London"),
    ):
        await send.click()
        field = page.get_by_label(re.compile(label))
        await expect(field).to_have_accessible_description(re.compile(re.escape(message)))
        await expect(field).to_be_focused()
        await field.fill(mended)
    await page.get_by_label("Delay").fill("5")
    await page.get_by_label("Not before").fill("2030-01-01T10:00:00")
    await send.click()
    await expect(page.get_by_label("Delay")).to_have_accessible_description(re.compile("either `delay` or `run_at`"))
    await dashboard.screenshot("submit-errors")
    await dashboard.is_accessible()
    await page.get_by_label("Delay").fill("")
    await page.get_by_label("Queue").fill("no such queue")
    await send.click()
    await expect(page.get_by_label("Queue")).to_have_attribute("aria-invalid", "true")
    await page.get_by_label("Queue").fill(mark)
    await send.click()
    await dashboard.at(re.compile(r"#/jobs/[0-9a-f-]{36}$"))
    (job,) = (await server.get("/jobs", queue=mark))["items"]
    # The field is in the time of the browser, which is in Berlin.
    assert (job["status"], job["run_at"]) == ("scheduled", "2030-01-01T09:00:00Z")


async def test_a_payload_is_written_as_json(server: ServerProcess, show: Open, mark: str) -> None:
    dashboard = await show(server, "#/submit?type=shown.work")
    dashboard.tolerates("status of 422")
    page = dashboard.page
    await page.get_by_label(re.compile("^seconds")).fill("0.1")
    await page.get_by_role("button", name="JSON").click()
    written = page.get_by_label("Payload as JSON")
    await expect(written).to_have_value(re.compile(r'"seconds": 0.1'))
    await written.fill('{"seconds": 0.2, "steps": 2,}')
    await page.get_by_role("button", name="Submit the job").click()
    await expect(page.get_by_text(re.compile("^Not JSON"))).to_be_visible()
    await written.fill('{"seconds": 0.2, "steps": 2, "more": 1}')
    await page.get_by_role("button", name="Form").click()
    await expect(page.get_by_text("The form cannot show all of this")).to_be_visible()
    await page.get_by_role("button", name="Submit the job").click()
    await expect(page.get_by_text(re.compile("unknown field `more`"))).to_be_visible()
    await written.fill('{"seconds": 0.2, "steps": 2}')
    await page.get_by_role("button", name="Form").click()
    await expect(page.get_by_label(re.compile("^steps"))).to_have_value("2")
    await page.get_by_label("Queue").fill(mark)
    job = await submitted(dashboard, server)
    assert job["payload"] == {"seconds": 0.2, "steps": 2}

    # A type of any payload has no form; one that nobody knows is refused with near names.
    await dashboard.go("#/submit?type=echo")
    await expect(page.get_by_role("button", name="Form")).to_be_disabled()
    await page.get_by_label("Type", exact=True).fill("ecko")
    await page.get_by_role("button", name="Submit the job").click()
    await expect(page.get_by_label("Type", exact=True)).to_have_accessible_description(re.compile("echo"))
    await page.get_by_label("Type", exact=True).fill("echo")
    await page.get_by_label("Payload as JSON").fill("[12345678901234567890, 1.0]")
    await page.get_by_label("Payload as JSON").press("Control+Enter")
    await dashboard.at(re.compile(r"#/jobs/[0-9a-f-]{36}$"))
    answer = await server.http.get(f"/jobs/{dashboard.hash.rpartition('/')[2]}")
    assert '"payload":[12345678901234567890,1.0]' in answer.text


async def test_a_submit_whose_answer_was_lost_is_one_job(server: ServerProcess, show: Open, mark: str) -> None:
    dashboard = await show(server, "#/submit?type=shown.quick")
    dashboard.tolerates(NO_ANSWER)
    page = dashboard.page
    await page.get_by_label("Queue").fill(mark)

    async def lose(route: Route) -> None:
        await route.fetch()
        await route.abort()

    lost = re.compile(r"/jobs$")
    await page.route(lost, lose)
    await page.get_by_role("button", name="Submit the job").click()
    await expect(page.get_by_text("The server does not answer").first).to_be_visible()
    await page.unroute(lost)
    job = await submitted(dashboard, server)
    assert [one["id"] for one in (await server.get("/jobs", queue=mark))["items"]] == [job["id"]]
    # The same once more is another job: it was asked for after an answer.
    await dashboard.go("#/submit?type=shown.quick")
    await page.get_by_label("Queue").fill(mark)
    again = await submitted(dashboard, server)
    assert again["id"] != job["id"]


async def test_the_form_follows_the_address(server: ServerProcess, show: Open, mark: str) -> None:
    job_id = await server.submit("shown.work", {"seconds": 0.25, "steps": 3}, queue=mark)
    dashboard = await show(server, "#/submit")
    page = dashboard.page
    type_ = page.get_by_label("Type", exact=True)
    await page.get_by_role("button", name="order.ship").click()
    receiver = page.get_by_label(re.compile("^to"))
    await receiver.fill("Ada")
    await dashboard.at("#/submit?type=order.ship")
    # Its own change of the address leaves the form as it is.
    await expect(receiver).to_have_value("Ada")
    await dashboard.go(f"#/submit?from={job_id}")
    await expect(type_).to_have_value("shown.work")
    await expect(page.get_by_label(re.compile("^seconds"))).to_have_value("0.25")
    await dashboard.go("#/submit?type=shown.quick")
    await expect(type_).to_have_value("shown.quick")
    await expect(page.get_by_label("Queue")).to_have_value("")
    await page.go_back()
    await expect(type_).to_have_value("shown.work")


async def test_a_key_of_a_map_is_given_once(server: ServerProcess, show: Open) -> None:
    dashboard = await show(server, "#/submit?type=order.ship")
    page = dashboard.page
    await page.get_by_role("button", name="Add limits").click()
    for _ in range(2):
        await page.get_by_role("button", name="Add an entry").click()
    keys = page.get_by_label("Key of an entry of limits")
    for at in range(2):
        await keys.nth(at).fill("height")
        await page.get_by_label(re.compile("^value")).nth(at).fill("1")
    await page.get_by_role("button", name="Submit the job").click()
    await expect(page.get_by_text("Key missing or used twice")).to_be_visible()
    await expect(keys.nth(1)).to_have_attribute("aria-invalid", "true")
    await keys.nth(1).fill("width")
    await expect(page.get_by_text("Key missing or used twice")).to_be_hidden()
