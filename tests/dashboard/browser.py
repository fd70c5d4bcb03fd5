"""A real Chromium, and a page of it that fails for whatever a user should never meet.

`Dashboard.problems` collects what went wrong on the page: errors on the console, exceptions, violations of its policy,
requests beyond its server. A test that takes the server away says so with `tolerates`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, expect

CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
ARGUMENTS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-extensions",
    "--mute-audio",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
START_SECONDS: Final = 30.0
# Told by the browser itself of calls that were refused or got no answer; what the page says of them is tested.
NO_ANSWER: Final = r"Failed to load resource: net::ERR_"
UNAUTHORIZED: Final = r"Failed to load resource: .* 401"
SCREENSHOTS: Final = "JOBSERVER_TEST_SCREENSHOTS"
WIDE: Final = (1_360, 900)
NARROW: Final = (360, 740)
_LISTENING: Final = re.compile(r"DevTools listening on (ws://\S+)")
# Ends the browser when whoever started it died.
_GUARD: Final = 'read _; kill -9 -- "-$1" 2>/dev/null'
_WATCH: Final = """
addEventListener('securitypolicyviolation', event => console.error(
  `policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber} ${event.sample}`));
"""
# What is wider than the screen, and not within something that scrolls by itself.
_OVER: Final = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
  [...document.querySelectorAll('body *')]
    .filter(node => !node.closest('.table-frame, .nav, .code'))
    .map(node => [node, Math.round(node.getBoundingClientRect().right)])
    .filter(([, right]) => right > innerWidth + 1)
    .slice(0, 10).map(([node, right]) => `${node.tagName}.${node.className} ${right}`)
"""


def find_chromium() -> str | None:
    """The program, from $JOBSERVER_TEST_CHROMIUM or the PATH."""
    named = os.environ.get("JOBSERVER_TEST_CHROMIUM")
    return named or next((found for name in CHROMIUM if (found := shutil.which(name))), None)


@contextlib.contextmanager
def chromium() -> Iterator[str]:
    """A browser without a page; the address of its DevTools. Skips where there is none."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on this machine; $JOBSERVER_TEST_CHROMIUM names one")
    folder = tempfile.mkdtemp(prefix="chromium-")
    log = Path(folder) / "log"
    # Nothing of the desktop that it might find.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DBUS_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *ARGUMENTS, f"--user-data-dir={folder}/profile", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=environment,
        )
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "guard", str(process.pid)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield _address(process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(START_SECONDS)
        guard.kill()
        guard.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        found = _LISTENING.search(log.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found[1]
        assert process.poll() is None, f"the browser ended: {log.read_text(errors='replace')}"
        time.sleep(0.02)
    raise AssertionError(f"the browser does not listen: {log.read_text(errors='replace')}")


class Dashboard:
    """One tab on one server."""

    def __init__(self, page: Page, url: str, screenshots: Path) -> None:
        self.page: Final = page
        self.url: Final = url
        self.problems: list[str] = []
        self._tolerated: list[str] = []
        self._screenshots = screenshots
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.on("request", self._requested)
        page.on("dialog", lambda dialog: self.problems.append(f"a dialog of the browser: {dialog.message}"))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", "data:", "blob:")):
            self.problems.append(f"a request beyond the server: {request.url}")

    def tolerates(self, *patterns: str) -> None:
        """What this test brings about itself."""
        self._tolerated.extend(patterns)

    def check(self) -> None:
        """Fail for what went wrong so far."""
        wrong = [said for said in self.problems if not any(re.search(each, said) for each in self._tolerated)]
        assert not wrong, "\n".join(wrong)

    # where it is

    async def open(self, hash_: str = "#/") -> None:
        """Load the page anew at an address of its own."""
        await self.page.goto("about:blank")
        await self.page.goto(f"{self.url}/{hash_}")

    async def go(self, hash_: str) -> None:
        """Follow an address within the page, as a link does."""
        await self.page.evaluate("hash => { location.hash = hash }", hash_)

    @property
    def hash(self) -> str:
        return self.page.url.removeprefix(f"{self.url}/")

    async def at(self, hash_: str | re.Pattern[str]) -> None:
        """Wait until the address is this one."""
        pattern = re.compile(re.escape(f"{self.url}/{hash_}") + "$") if isinstance(hash_, str) else hash_
        await expect(self.page).to_have_url(pattern, timeout=10_000)

    # what it shows

    def tile(self, name: str) -> Locator:
        """The value of a tile of the overview."""
        named = self.page.locator(".tile-name", has_text=re.compile(f"^{name}$"))
        return self.page.locator(".tile", has=named).locator(".tile-value")

    def row(self, table: str, text: str) -> Locator:
        """The rows of a table, by its label, that hold a text."""
        return self.page.get_by_role("table", name=table).locator("tbody tr", has_text=text)

    async def is_live(self, state: Literal["live", "stale", "connecting"] = "live", within: float = 15.0) -> None:
        """Wait for the state of the live events that the frame shows."""
        await expect(self.page.locator(".live")).to_have_attribute("data-state", state, timeout=within * 1_000)

    async def screenshot(self, name: str, *, whole: bool = True) -> Path:
        """A picture for people: in the folder $JOBSERVER_TEST_SCREENSHOTS, or that of the test."""
        path = self._screenshots / f"{name}.png"
        await self.page.screenshot(path=path, full_page=whole, animations="disabled")
        return path

    async def is_accessible(self) -> None:
        """axe-core finds nothing serious; nothing is wider than the screen."""
        await self.page.evaluate(AXE_SCRIPT)
        results = await self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        found: list[dict[str, Any]] = results["violations"]
        serious = [
            f"{each['id']} ({each['impact']}): {each['help']}\n  "
            + "\n  ".join(f"{node['target']} {node['html'][:200]} {_reasons(node)}" for node in each["nodes"])
            for each in found
            if each["impact"] in ("serious", "critical", "moderate")
        ]
        assert not serious, "\n".join(serious)

    async def fits(self) -> None:
        """Nothing makes the page scroll sideways."""
        over = await self.page.evaluate(_OVER)
        width = await self.page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], f"{width[0]} px wide on {width[1]} px: {json.dumps(over, indent=1)}"


def _reasons(node: dict[str, Any]) -> str:
    checks = [*node.get("any", []), *node.get("all", []), *node.get("none", [])]
    return "; ".join(check["message"] for check in checks)


async def new_context(
    browser: Browser, *, size: tuple[int, int] = WIDE, scheme: Literal["light", "dark"] = "light", **more: Any
) -> BrowserContext:
    """A browser as if it were somebody's own: nothing of other tests."""
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        # What pulses is drawn sixty times a second, by the cores that the tests run on.
        reduced_motion="reduce",
        locale="en-GB",
        timezone_id="Europe/Berlin",
        has_touch=size[0] < 600,
        **more,
    )
    context.set_default_timeout(10_000)
    await context.add_init_script(_WATCH)
    return context
