"""A handler that says how long after its submit it started: the jobs of `bench.latency`."""

from __future__ import annotations

import time

from jobserver import Handlers

handlers = Handlers()


@handlers.handler("bench.timed")
async def timed(sent: float, text: str = "") -> float:
    """Seconds since the request was sent; client and server share the machine's clock."""
    return time.time() - sent
