"""One half of a mixed fleet."""

from __future__ import annotations

import os

from jobserver import Handlers

handlers = Handlers()


@handlers.handler("mail.send", max_retries=7, timeout=11, priority="high")
async def send(to: str, copies: int = 1) -> dict[str, int]:
    return {"pid": os.getpid(), "letters": copies}
