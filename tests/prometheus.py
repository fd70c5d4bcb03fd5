"""A real Prometheus and its promtool, for the tests of what they are to understand.

Found on PATH or in the folder that JOBSERVER_TEST_PROMETHEUS names; a test without them is skipped.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engines import eventually, free_port

VARIABLE = "JOBSERVER_TEST_PROMETHEUS"
_HOW = (
    f"not on PATH nor in the folder of {VARIABLE}. On Debian: apt-get download prometheus && "
    f"dpkg-deb -x prometheus_*.deb unpacked && export {VARIABLE}=$PWD/unpacked/usr/bin"
)


def program(name: str) -> str:
    """The path of prometheus or promtool; skips the test when this machine has none."""
    found = shutil.which(name, path=os.environ.get(VARIABLE) or os.environ.get("PATH"))
    if found is None:
        pytest.skip(f"{name} is {_HOW}")
    return found


def promtool(*arguments: str, page: str | None = None) -> str:
    """What promtool says; it must be content."""
    done = subprocess.run(
        [program("promtool"), *arguments], input=page, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Prometheus:
    """One that runs; asked over its HTTP API."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self._client = client

    async def _get(self, path: str, **parameters: Any) -> Any:
        answer = await self._client.get(f"/api/v1/{path}", params=parameters)
        body = answer.json()
        assert body["status"] == "success", (parameters, body)
        return body["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The rows of an instant query."""
        found: list[dict[str, Any]] = (await self._get("query", query=expression))["result"]
        return found

    async def values(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The rows of an instant query, by their labels."""
        rows = await self.query(expression)
        return {tuple(sorted(row["metric"].items())): float(row["value"][1]) for row in rows}

    async def course(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The rows of a range query."""
        found: list[dict[str, Any]] = (
            await self._get("query_range", query=expression, start=start, end=end, step=step)
        )["result"]
        return found

    async def exemplars(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._get("query_exemplars", query=expression, start=start, end=end)
        return found

    async def rules(self) -> list[dict[str, Any]]:
        """Every rule, with its health and what went wrong."""
        groups = (await self._get("rules"))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._get("targets", state="active"))["activeTargets"]
        return found


@asynccontextmanager
async def prometheus(folder: Path, targets: Sequence[str], rules: Path | None = None) -> AsyncIterator[Prometheus]:
    """Scrapes these `host:port` every second, and evaluates the rules as often."""
    executable = program("prometheus")
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{'' if rules is None else rules}]\n"
        "scrape_configs:\n"
        f"  - {{job_name: jobserver, static_configs: [{{targets: {list(targets)}}}]}}\n",
        encoding="utf-8",
    )
    port = free_port()
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                executable,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=20.0, trust_env=False, verify=False) as client:

            async def ready() -> bool:
                assert process.poll() is None, log.read_text(encoding="utf-8")
                try:
                    return (await client.get("/-/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(ready, within=30.0)
            yield Prometheus(url, client)
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
