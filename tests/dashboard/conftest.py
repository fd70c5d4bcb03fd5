"""Fixtures of the dashboard's tests: one browser a worker, a context a page, servers as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol

import pytest
from playwright.async_api import Browser, async_playwright

from tests.dashboard.browser import SCREENSHOTS, WIDE, Dashboard, chromium, new_context
from tests.engines import PostgresServer, RedisServer
from tests.life.conftest import Serve, data_dir, migrated_dir, serve, shared_engines, workdir
from tests.life.process import ServerProcess

__all__ = ["data_dir", "migrated_dir", "serve", "shared_engines", "workdir"]

SHOWN = "tests.dashboard.handlers_shown:handlers"
FORMS = "tests.dashboard.handlers_forms:handlers"
TRACES = "http://127.0.0.1:16686/trace/{trace_id}"


class Open(Protocol):
    """Opens the dashboard of a server in a browser of its own, at an address within it; None: it is opened later."""

    async def __call__(
        self,
        server: ServerProcess | str,
        hash_: str | None = "#/",
        *,
        size: tuple[int, int] = WIDE,
        scheme: Literal["light", "dark"] = "light",
        key: str | None = None,
    ) -> Dashboard: ...


@pytest.fixture(scope="session")
def devtools() -> Iterator[str]:
    """The browser of this worker."""
    with chromium() as address:
        yield address


@pytest.fixture
async def browser(devtools: str) -> AsyncIterator[Browser]:
    """Its handle in the event loop of this test."""
    async with async_playwright() as playwright:
        yield await playwright.chromium.connect_over_cdp(devtools)


@pytest.fixture
async def show(browser: Browser, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens dashboards; the test fails for whatever went wrong on one of them."""
    folder = Path(os.environ.get(SCREENSHOTS) or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    shown: list[Dashboard] = []

    async def open_(
        server: ServerProcess | str,
        hash_: str | None = "#/",
        *,
        size: tuple[int, int] = WIDE,
        scheme: Literal["light", "dark"] = "light",
        key: str | None = None,
    ) -> Dashboard:
        url = server if isinstance(server, str) else server.url
        context = await new_context(browser, size=size, scheme=scheme)
        contexts.push_async_callback(context.close)
        if key is not None:
            answer = await context.request.post(f"{url}/session", data={"key": key}, headers={"origin": url})
            assert answer.ok, await answer.text()
        dashboard = Dashboard(await context.new_page(), url, folder)
        shown.append(dashboard)
        if hash_ is not None:
            await dashboard.open(hash_)
        return dashboard

    async with contextlib.AsyncExitStack() as contexts:
        yield open_
    for dashboard in shown:
        dashboard.check()


@pytest.fixture(scope="module")
def standing(
    postgres: PostgresServer, postgresql_template: str, valkey: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that the tests of a module share: each uses queues and tags of its own, and leaves it as it was."""
    database_url = postgres.create_database(postgresql_template)
    folder = tmp_path_factory.mktemp("standing")
    engines = ("--database-url", database_url, "--redis-url", valkey.url, "--redis-prefix", f"d{uuid.uuid4().hex[:12]}")

    async def start() -> ServerProcess:
        arguments = (FORMS, *engines, "--workers", "12", "--trace-url-template", TRACES)
        process = await ServerProcess.start(arguments, cwd=folder, log=folder / "log")
        return await process.started()

    with ThreadPoolExecutor(1) as outside:
        process = outside.submit(asyncio.run, start()).result()
        yield process
        outside.submit(asyncio.run, process.end()).result()
    postgres.drop_database(database_url)
    assert "Traceback" not in process.stderr, process.stderr


@pytest.fixture
async def server(standing: ServerProcess) -> AsyncIterator[ServerProcess]:
    """The module's server, asked from this test."""
    async with standing.asked_here():
        yield standing


@pytest.fixture
def mark() -> str:
    """A name for the queue or the tag of one test."""
    return f"m{uuid.uuid4().hex[:8]}"


@pytest.fixture
def on_postgresql(shared_engines: tuple[str, ...], serve: Serve) -> Serve:
    """Processes on a PostgreSQL and a Redis that any number of them may share."""

    async def start(*arguments: str, handlers: str | None = SHOWN, **variables: str) -> ServerProcess:
        return await serve(*shared_engines, *arguments, handlers=handlers, **variables)

    return start


@pytest.fixture
def embedded(migrated_dir: Path, serve: Serve) -> Serve:
    """On embedded engines, always on the same folder: what a new user sees."""

    async def start(*arguments: str, handlers: str | None = SHOWN, **variables: str) -> ServerProcess:
        return await serve("--data-dir", str(migrated_dir), *arguments, handlers=handlers, **variables)

    return start
