"""The running server against its own OpenAPI document: generated requests, valid ones and others; no 500, ever."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

# Left out: that whatever fits the document is accepted. Known types, cursors and past times are the server's to know.
SERVER_KNOWS = "positive_data_acceptance"
# Answers that go on until their reader leaves, which this one does not: they have tests of their own.
ENDLESS = ("follow_events", "follow_job")


@pytest.mark.timeout(300)
async def test_the_server_does_what_its_document_says(server: str, tmp_path: Path) -> None:
    # A process of its own: the server runs on the event loop of this test.
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{server}/schema/openapi.json",
        f"--exclude-checks={SERVER_KNOWS}",
        *(f"--exclude-operation-id={name}" for name in ENDLESS),
        "--max-examples=6",
        "--generation-deterministic",
        "--phases=examples,coverage,fuzzing,stateful",
        "--request-timeout=70",
        "--warnings=off",
        "--continue-on-failure",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 240)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode(errors="replace")
