"""SIGSTOP and SIGCONT of a process: it was paused, and that is no hung event loop."""

from __future__ import annotations

import signal
import time

from tests.engines import eventually
from tests.life.conftest import Serve


async def test_a_process_that_was_paused_takes_jobs_again(serve: Serve) -> None:
    server = await serve("--max-loop-block", "1s", handlers=None)
    server.send(signal.SIGSTOP)
    await passed(2.0)
    server.send(signal.SIGCONT)
    # Longer than a loop may be blocked, so that it would have been found hung.
    await passed(3.0)
    job_id = await server.submit("echo", "awake")
    assert (await server.finished(job_id))["result"] == "awake"
    assert "event_loop_hung" not in server.stderr


async def passed(seconds: float) -> None:
    since = time.monotonic()
    await eventually(lambda: time.monotonic() - since > seconds)
