"""What runs across a crash: the gated handlers, and one that snoozes first."""

from __future__ import annotations

from jobserver import Attempt, Handlers, Snooze
from tests.life.handlers_gated import handlers as gated
from tests.life.notes import write_note

handlers = Handlers()
handlers.include(gated)


@handlers.handler("snoozes_once")
async def snoozes_once(attempt: Attempt, file: str) -> None:
    """Asks under its first fence to be run later."""
    write_note(file, attempt, "started")
    if attempt.fence == 1:
        raise Snooze(0.1)
