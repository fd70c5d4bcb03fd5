"""Handlers that make spans of their own, and end in every way that a trace should tell."""

from __future__ import annotations

import asyncio

from opentelemetry import trace

from jobserver import Attempt, Handlers, Snooze
from tests.life.handlers_gated import handlers as gated
from tests.life.notes import write_note

handlers = Handlers()
handlers.include(gated)
# As libraries do: made before there is a provider.
tracer = trace.get_tracer("of a library")

FAILS = (1, 3)
HANGS = 5


@handlers.handler("stumbles")
async def stumbles(attempt: Attempt, file: str) -> str:
    """Fails twice, hangs once until its process dies, and then completes."""
    with attempt.tracer.start_as_current_span("work") as span, tracer.start_as_current_span("inner work"):
        span.set_attribute("fence", attempt.fence)
    write_note(file, attempt, "started")
    if attempt.fence in FAILS:
        raise RuntimeError(f"fence {attempt.fence}")
    if attempt.fence == HANGS:
        await asyncio.sleep(60)
    return attempt.trace_context or ""


@handlers.handler("says.context")
async def says_context(attempt: Attempt) -> dict[str, object]:
    """What a handler sees of its trace."""
    current = trace.get_current_span()
    current.set_attribute("said.by", "handler")
    with attempt.tracer.start_as_current_span("work"):
        context = current.get_span_context()
        return {
            "span_id": f"{context.span_id:016x}",
            "trace_id": f"{context.trace_id:032x}",
            "recording": current.is_recording(),
            "passes_on": attempt.trace_context,
        }


@handlers.handler("says.context.thread")
def says_context_in_a_thread(attempt: Attempt) -> dict[str, object]:
    """The same in a thread."""
    with attempt.tracer.start_as_current_span("work"):
        return {"trace_id": f"{trace.get_current_span().get_span_context().trace_id:032x}"}


@handlers.handler("says.context.process", executor="process")
def says_context_in_a_process(attempt: Attempt) -> dict[str, object]:
    """The same in a child process."""
    with attempt.tracer.start_as_current_span("work"):
        return {"trace_id": f"{trace.get_current_span().get_span_context().trace_id:032x}"}


@handlers.handler("snoozes")
async def snoozes(attempt: Attempt) -> None:
    """Asks under its first fence to be run later, fails under the second."""
    if attempt.fence == 1:
        raise Snooze(0.05)
    if attempt.fence == 3:
        raise RuntimeError("once")
