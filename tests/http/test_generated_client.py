"""A client that openapi-python-client made from our document does what its functions say, against a real server."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobserver.http.app import OPERATIONS

pytestmark = pytest.mark.usefixtures("patient")

PACKAGE = "generated_client"


async def test_a_generated_client_works(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("openapi-python-client", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("openapi-python-client is not installed")
    async with httpx.AsyncClient() as web:
        (tmp_path / "openapi.json").write_bytes((await web.get(f"{server}/schema/openapi.json")).content)
    process = await asyncio.create_subprocess_exec(
        *(program, "generate", "--path", "openapi.json", "--meta", "none", "--output-path", PACKAGE),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode == 0, output.decode()
    # A warning is a route that it could not read.
    assert "WARNING" not in output.decode(), output.decode()
    made = {path.stem for path in (tmp_path / PACKAGE / "api").glob("*/*.py")} - {"__init__"}
    assert made == {operation.name for operation in OPERATIONS}
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        monkeypatch.delitem(sys.modules, name)
    await _use(server)


async def _use(server: str) -> None:
    def call(name: str) -> Any:
        return importlib.import_module(f"{PACKAGE}.api.{name}")

    models = importlib.import_module(f"{PACKAGE}.models")
    async with importlib.import_module(f"{PACKAGE}.client").Client(base_url=server) as client:
        await _every_tag(client, call, models)


async def _every_tag(client: Any, call: Callable[[str], Any], models: Any) -> None:
    body = models.SubmitBody(type_="echo", payload={"n": 1}, idempotency_key="generated", tags=["made"])
    first = await call("jobs.submit_job").asyncio_detailed(client=client, body=body)
    again = await call("jobs.submit_job").asyncio_detailed(client=client, body=body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.headers["idempotency-replayed"] == "true"
    job_id = first.parsed.id
    done = await call("jobs.show_job").asyncio(job_id, client=client, wait=20.0)
    assert (done.status, done.result, done.id) == ("completed", {"n": 1}, job_id)
    attempts = await call("jobs.list_attempts").asyncio(job_id, client=client)
    assert [attempt.outcome for attempt in attempts.items] == ["completed"]
    batch = models.BatchBody(jobs=[models.SubmitBody(type_="fail", payload={"times": 9}, max_retries=0)] * 2)
    stored = await call("jobs.submit_batch").asyncio(client=client, body=batch)
    for item in stored.jobs:
        assert (await call("jobs.show_job").asyncio(item.id, client=client, wait=20.0)).status == "failed"
    page = await call("jobs.list_jobs").asyncio(client=client, status=[models.Status.FAILED], limit=1)
    assert (page.total, len(page.items), bool(page.next_cursor)) == (2, 1, True)
    refused = await call("jobs.cancel_job").asyncio_detailed(job_id, client=client)
    assert (refused.status_code, refused.parsed.status) == (409, 409)
    replay = models.ReplayBody(type_="fail", dry_run=True)
    assert (await call("dead_letters.replay_dead_letters").asyncio(client=client, body=replay)).replayed == 2
    assert (await call("dead_letters.delete_dead_letters").asyncio(client=client, all_=True)).deleted == 2
    assert (await call("queues_and_workers.pause_queue").asyncio("mail", client=client)).paused is True
    stats = await call("queues_and_workers.show_stats").asyncio(client=client)
    assert (stats.total, stats.by_status.completed) == (1, 1)
    assert (await call("system.show_readiness").asyncio(client=client)).status == "ok"
