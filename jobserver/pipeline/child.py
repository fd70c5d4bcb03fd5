"""A child process: runs one job at a time for its parent, and ends when the parent does.

Forked by `template.py`, which imports this file before; the stream is a socket to the parent.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import os
import signal
import socket
import sys
from types import FrameType

from jobserver.errors import ConfigurationError
from jobserver.job.handlers import Handlers, load_handlers
from jobserver.job.model import Claimed, Progress, Raised, bounded_error
from jobserver.pipeline import frames
from jobserver.pipeline.execute import Executor, ExecutorOptions
from jobserver.pipeline.running import Running
from jobserver.settings import MEBIBYTE
from jobserver.telemetry.child import ChildTracing


def serve(stream: int) -> None:
    """Serve the parent at the other end of this descriptor until the stream ends."""
    # The parent decides when a child ends. Handled and not ignored: what a handler starts would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave_to_parent)
    asyncio.run(_serve(socket.socket(fileno=stream)))


def leave_to_parent(number: int, frame: FrameType | None) -> None:
    """Ctrl-C and the SIGTERM of a service manager reach the whole group."""


async def _serve(parent: socket.socket) -> None:
    parent.set_inheritable(False)
    reader, writer = await asyncio.open_connection(sock=parent)
    setup = await frames.read_frame(reader, frames.to_child)
    if not isinstance(setup, frames.Setup):
        return
    handlers = Handlers()
    tracing = _set_up(setup)
    error = _import_handlers(setup, handlers)
    writer.write(frames.encode_frame(frames.Ready(error)))
    child = _Child(writer, handlers, setup.max_result_bytes, tracing)
    async with child.executor:
        # No time limit: an idle child waits for its parent, whose end ends the stream.
        while (frame := await frames.read_frame(reader, frames.to_child)) is not None:
            child.handle(frame)
        # The parent has closed the stream or is gone: whatever runs here is no longer wanted, at once.
        if tracing is not None:
            tracing.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _set_up(setup: frames.Setup) -> ChildTracing | None:
    """What the parent wants to be called first. Traces are its answer, where they are on."""
    sys.path[:] = setup.path
    if setup.call is None:
        return None
    module_name, _, function = setup.call.partition(":")
    tracing: ChildTracing | None = getattr(importlib.import_module(module_name), function)(**setup.call_arguments)
    return tracing


def _import_handlers(setup: frames.Setup, handlers: Handlers) -> str | None:
    """Fill `handlers` by the references, in their order of precedence; or say in one sentence what is wrong."""
    try:
        for reference in setup.references:
            handlers.include_missing(load_handlers(reference))
    except ConfigurationError as error:
        return str(error)
    return None


class _Child:
    """The one job of this process, if there is one."""

    def __init__(
        self, writer: asyncio.StreamWriter, handlers: Handlers, max_result_bytes: int, tracing: ChildTracing | None
    ) -> None:
        self._writer = writer
        self._handlers = handlers
        self._running: Running | None = None
        self._task: asyncio.Task[None] | None = None
        # The parent kills whatever does not end, so nothing is given up here.
        options = ExecutorOptions(
            threads=1, processes=1, thread_grace_seconds=math.inf, max_result_bytes=max_result_bytes
        )
        self.executor = Executor(handlers, options, report_progress=self._report, spans=tracing)

    def handle(self, frame: frames.ToChild) -> None:
        if isinstance(frame, frames.Run):
            self._running = Running(frame.job)
            self._task = asyncio.create_task(self._run(self._running), name=f"child of {frame.job.id}")
        elif isinstance(frame, frames.Stop) and self._running is not None:
            self._running.cancel(frame.reason)

    async def _run(self, running: Running) -> None:
        if running.job.type in self._handlers:
            self._writer.write(frames.encode_frame(frames.Started()))
            outcome = await self.executor.run(running)
        else:
            message = f"the child process knows no handler of the type {running.job.type!r}"
            outcome = Raised(bounded_error("HandlerNotFound", message))
        self._running = None
        self._writer.write(frames.encode_frame(frames.ended(outcome)))

    def _report(self, job: Claimed, progress: Progress) -> None:
        # Only the latest matters: while the parent is slow to read, some are left out.
        if self._writer.transport.get_write_buffer_size() < MEBIBYTE:
            self._writer.write(frames.encode_frame(frames.Reported(progress)))
