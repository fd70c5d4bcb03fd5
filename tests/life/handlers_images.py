"""The other half of a mixed fleet."""

from __future__ import annotations

import os

from jobserver import Handlers

handlers = Handlers()


@handlers.handler("image.resize")
async def resize(width: int) -> dict[str, int]:
    return {"pid": os.getpid(), "width": width}
