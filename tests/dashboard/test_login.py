"""Sign in by an API key: held in a cookie that no script reads, and what the key may do is what the page offers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.dashboard.browser import UNAUTHORIZED
from tests.dashboard.conftest import Open
from tests.life.conftest import Serve
from tests.life.process import command


async def make_key(shared_engines: tuple[str, ...], scope: str, cwd: Path) -> str:
    """A key of this scope."""
    done = await command("keys", "create", f"{scope}-person", "--scope", scope, *shared_engines[:2], cwd=cwd)
    assert done.code == 0, done.err
    return done.out.strip()


async def test_a_visitor_signs_in_and_comes_back_to_where_they_were(
    on_postgresql: Serve, shared_engines: tuple[str, ...], workdir: Path, show: Open
) -> None:
    key = await make_key(shared_engines, "read", workdir)
    server = await on_postgresql("--workers", "2")
    dashboard = await show(server, "#/queues")
    page = dashboard.page
    dashboard.tolerates(UNAUTHORIZED)
    await expect(page.locator("h1")).to_have_text("Sign in")
    await expect(page.get_by_role("navigation")).to_be_hidden()
    await dashboard.is_accessible()
    await dashboard.screenshot("login")
    await page.get_by_label("API key").fill("jsk_wrong")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("not known")
    await page.get_by_label("API key").fill(key)
    await page.keyboard.press("Enter")
    await dashboard.at("#/queues")
    await expect(page.locator("h1")).to_have_text("Queues")
    await dashboard.is_live()
    # No script can read it, and no other site sends it.
    assert await page.evaluate("document.cookie") == ""
    (cookie,) = await page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert key not in await page.evaluate("JSON.stringify([localStorage, sessionStorage, location.href])")
    await page.reload()
    await expect(page.locator("h1")).to_have_text("Queues")
    await page.get_by_label("Session").click()
    await expect(page.locator(".who-facts")).to_have_text("read-personread key")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.locator("h1")).to_have_text("Sign in")
    await page.go_back()
    await expect(page.locator("h1")).to_have_text("Sign in")
    assert await page.context.cookies() == []


@pytest.mark.parametrize("scope", ["read", "submit", "admin"])
async def test_a_key_sees_what_it_may_do(
    scope: str, on_postgresql: Serve, shared_engines: tuple[str, ...], workdir: Path, show: Open
) -> None:
    admin = await make_key(shared_engines, "admin", workdir)
    key = admin if scope == "admin" else await make_key(shared_engines, scope, workdir)
    server = await on_postgresql("--workers", "2")
    server.http.headers["Authorization"] = f"Bearer {admin}"
    await server.submit("shown.fail")
    dashboard = await show(server, key=key)
    page = dashboard.page
    await dashboard.is_live()
    await expect(dashboard.tile("Dead letters")).to_have_text("1")
    await expect(dashboard.row("Queues", "slow")).to_be_visible()
    await expect(page.get_by_role("link", name="Submit")).to_have_count(1 if scope != "read" else 0)
    await expect(page.get_by_role("button", name=re.compile("^Pause"))).to_have_count(
        await page.get_by_role("table", name="Queues").locator("tbody tr").count() if scope == "admin" else 0
    )


async def test_a_revoked_key_ends_the_visit(
    on_postgresql: Serve, shared_engines: tuple[str, ...], workdir: Path, show: Open
) -> None:
    await make_key(shared_engines, "admin", workdir)
    key = await make_key(shared_engines, "read", workdir)
    server = await on_postgresql("--workers", "2")
    dashboard = await show(server, key=key)
    dashboard.tolerates(UNAUTHORIZED)
    await dashboard.is_live()
    done = await command("keys", "revoke", "read-person", *shared_engines[:2], cwd=workdir)
    assert done.code == 0, done.err
    await expect(dashboard.page.locator("h1")).to_have_text("Sign in", timeout=15_000)
    await dashboard.at(re.compile(r"#/login\?next=%23%2F$"))


async def test_a_visitor_meets_nothing_before_the_login(
    on_postgresql: Serve, shared_engines: tuple[str, ...], workdir: Path, show: Open
) -> None:
    await make_key(shared_engines, "read", workdir)
    server = await on_postgresql("--workers", "1")
    dashboard = await show(server, None)
    page = dashboard.page
    await page.add_init_script(
        """window.heads = [];
        new MutationObserver(() => window.heads.push(document.querySelector('h1')?.textContent))
          .observe(document, { childList: true, subtree: true });"""
    )
    # The session is asked for again, by the page or by its visitor.
    dashboard.tolerates(r"status of 503")
    await page.route("**/session", lambda route: route.fulfill(status=503, json={"title": "Service Unavailable"}))
    await dashboard.open("#/queues")
    await expect(page.get_by_role("alert")).to_contain_text("Service Unavailable")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("alert")).to_contain_text("Service Unavailable")
    await page.unroute("**/session")
    await expect(page.locator("h1")).to_have_text("Sign in")
    await dashboard.at("#/login?next=%23%2Fqueues")
    assert set(await page.evaluate("window.heads")) <= {None, "Not available", "Sign in"}


async def test_the_address_to_return_to_is_one_of_this_page(
    on_postgresql: Serve, shared_engines: tuple[str, ...], workdir: Path, show: Open
) -> None:
    key = await make_key(shared_engines, "read", workdir)
    server = await on_postgresql("--workers", "1")
    dashboard = await show(server, None)
    for next_ in ("https://example.com/", "//example.com", "javascript:alert(1)", "#/login?next=%23%2Flogin"):
        await dashboard.page.context.clear_cookies()
        await dashboard.open(f"#/login?next={next_}")
        await dashboard.page.get_by_label("API key").fill(key)
        await dashboard.page.keyboard.press("Enter")
        await expect(dashboard.page.locator("h1")).to_have_text("Overview")
