"""The child processes of one server process: started on demand, one job each at a time, killed singly.

A child that dies is a crash of the job that it ran and of no other. Children end by themselves when their parent does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any, Final

import msgspec

from jobserver.job.model import HandedBack, LeaseLost, Outcome, Progress, Raised, bounded_error
from jobserver.pipeline import frames
from jobserver.pipeline.nursery import Forked, Nursery, search_path
from jobserver.pipeline.running import Running
from jobserver.pipeline.slots import Slots

logger = logging.getLogger(__name__)

START_SECONDS: Final = 60.0  # a child imports the user's modules
KILL_GRACE_SECONDS: Final = 2.0  # from being asked to end to being killed
_REAP_SECONDS: Final = 5.0
_UNSTARTED_DELAY_SECONDS: Final = 1.0
_PACKAGE: Final = __name__.partition(".")[0]


class ChildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a child needs to know. `setup` names a function that it calls first, such as one that sets up logs."""

    references: tuple[str, ...]
    max_result_bytes: int
    setup: str | None = None
    setup_arguments: dict[str, Any] = {}

    def own_modules(self) -> list[str]:
        """What is ours of the modules that a child imports: the same for each child, and the most of its start."""
        names = [name.partition(":")[0] for name in (self.setup, *self.references) if name is not None]
        return [name for name in names if name.partition(".")[0] == _PACKAGE]


class Children:
    """At most `limit` children for handlers that want one, and `isolated_limit` for suspects. On one event loop."""

    def __init__(self, options: ChildOptions, limit: int, isolated_limit: int) -> None:
        self._options = options
        self._limit = limit
        self._slots = Slots(limit)
        # When a process dies, everything that it ran is a suspect: those wait for nobody.
        self._isolated = Slots(isolated_limit)
        self._nursery = Nursery(options.own_modules())
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()

    async def run(self, running: Running, report: Callable[[Progress], None]) -> Outcome | None:
        """Run the attempt in a child. None: it was asked to stop before it began, or was killed for that."""
        slots = self._slots if running.job.crashes == 0 else self._isolated
        if not await slots.acquire(running):
            return None
        try:
            outcome: Outcome | None = None
            while (child := self._take()) is not None:
                outcome = await self._run_in(child, running, report)
                # One that died while it was idle says so only now: the job has not begun, and goes to another.
                if outcome is not None or running.started or running.is_stopping():
                    break
            else:
                child = _Child(self._options, self._nursery)
                outcome = await self._start(child, running)
                if outcome is None and not running.is_stopping():
                    outcome = await self._run_in(child, running, report)
            if outcome is None and not running.is_stopping():
                outcome = child.death()
            return outcome
        finally:
            slots.release()

    async def close(self) -> None:
        """End every child, at the latest by a kill."""
        children = list(self._all)
        if children:
            await asyncio.gather(*(child.close() for child in children), return_exceptions=True)
        self._idle.clear()
        self._all.clear()
        await self._nursery.close()

    def pids(self) -> list[int]:
        """The children that live."""
        return [child.pid for child in self._all if child.pid is not None and not child.dead]

    def _take(self) -> _Child | None:
        while self._idle:
            child = self._idle.pop()
            if not child.dead:
                return child
            self._all.discard(child)
        return None

    async def _start(self, child: _Child, running: Running) -> Outcome | None:
        """Make `child` ready for a job. Answers only when that fails; the child is gone then."""
        self._all.add(child)
        running.stop_with(child.kill)
        try:
            error = await child.start()
        except BaseException as failure:
            await self._discard(child)
            if not isinstance(failure, OSError):
                raise
            logger.error("child_not_started", extra={"error": str(failure)})
            return HandedBack(delay_seconds=_UNSTARTED_DELAY_SECONDS)
        finally:
            running.stop_with(None)
        if error is None and not running.is_stopping():
            return None
        await self._discard(child)
        return None if error is None or running.is_stopping() else Raised(bounded_error("HandlerNotFound", error))

    async def _run_in(self, child: _Child, running: Running, report: Callable[[Progress], None]) -> Outcome | None:
        try:
            outcome = await child.run(running, report)
        except BaseException:
            await self._discard(child)
            raise
        if outcome is None or child.dead:
            await self._discard(child)
        elif len(self._idle) < self._limit:
            self._idle.append(child)
        else:
            self._all.discard(child)
            await child.close()
        return outcome

    async def _discard(self, child: _Child) -> None:
        child.kill()
        self._all.discard(child)
        await child.reap()


class _Child:
    """One child process, from the parent's side."""

    def __init__(self, options: ChildOptions, nursery: Nursery) -> None:
        self._options = options
        self._nursery = nursery
        self._process: Forked | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._watch: asyncio.Task[None] | None = None
        self._killed = False
        self._fault: str | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def dead(self) -> bool:
        at_end = self._reader is None or self._reader.at_eof()
        return self._killed or at_end or self._process is None or self._process.ended

    async def start(self) -> str | None:
        """Spawn and wait until it takes jobs. Says why it does not. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            async with asyncio.timeout(START_SECONDS):
                try:
                    self._process = await self._nursery.fork(theirs)
                finally:
                    theirs.close()
                self._reader, self._writer = await asyncio.open_connection(sock=ours)
        except TimeoutError:
            ours.close()
            return f"the child process did not start within {START_SECONDS:g} s"
        except BaseException:
            ours.close()
            raise
        self._watch = asyncio.create_task(self._watch_exit(self._process), name=f"child {self._process.pid}")
        if self._killed:
            self._process.kill()
        self._send(
            frames.Setup(
                path=search_path(),
                references=self._options.references,
                max_result_bytes=self._options.max_result_bytes,
                call=self._options.setup,
                call_arguments=self._options.setup_arguments,
            )
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                frame = await self._read()
        except TimeoutError:
            return f"the child process did not import the handlers within {START_SECONDS:g} s"
        if isinstance(frame, frames.Ready):
            return frame.error
        return f"the child process {self._fate()} while it imported the handlers"

    async def run(self, running: Running, report: Callable[[Progress], None]) -> Outcome | None:
        """Run one attempt; None when the child died. Every wait in here ends in a kill."""
        loop = asyncio.get_running_loop()
        kill_timer = loop.call_later(START_SECONDS, self.kill)

        def stop() -> None:
            nonlocal kill_timer
            if running.requested is not None:
                self._send(frames.Stop(running.requested))
                kill_timer.cancel()
                kill_timer = loop.call_later(KILL_GRACE_SECONDS, self.kill)

        def overdue() -> None:
            running.time_out()
            self.kill()

        running.stop_with(stop)
        self._send(frames.Run(running.job_in_trace()))
        try:
            while True:
                frame = await self._read()
                if isinstance(frame, frames.Started):
                    running.started = True
                    if not running.is_stopping():
                        kill_timer.cancel()
                        # The child times its handler itself; this is for one that no longer listens.
                        kill_timer = loop.call_later(running.job.timeout_seconds + KILL_GRACE_SECONDS, overdue)
                elif isinstance(frame, frames.Reported):
                    report(frame.progress)
                elif isinstance(frame, frames.Ended):
                    return self._outcome(frame)
                else:
                    return None
        finally:
            kill_timer.cancel()
            running.stop_with(None)

    def kill(self) -> None:
        """End this child at once, whatever it does."""
        self._killed = True
        if self._process is not None:
            self._process.kill()

    async def close(self) -> None:
        """Let the child end by itself, which it does at the end of the stream; kill it if it does not."""
        if self._writer is not None and not self._killed:
            self._writer.close()
            if self._process is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), KILL_GRACE_SECONDS)
        self.kill()
        await self.reap()

    async def reap(self) -> None:
        """Wait for the end of a killed child."""
        if self._watch is not None:
            await asyncio.wait((self._watch,), timeout=_REAP_SECONDS)
            self._watch.cancel()
        if self._writer is not None:
            self._writer.transport.abort()

    def death(self) -> LeaseLost:
        """What a job comes to whose child died: a crash that is charged to it alone."""
        return LeaseLost(bounded_error("ProcessDied", f"the child process {self._fate()} while it ran the job"))

    def _fate(self) -> str:
        if self._fault is not None:
            return f"sent what is not a frame ({self._fault}) and was killed"
        code = None if self._process is None else self._process.returncode
        if code is None:
            return "stopped answering"
        if code >= 0:
            return f"exited with status {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    def _outcome(self, frame: frames.Ended) -> Outcome | None:
        try:
            return frames.outcome_of(frame)
        except frames.FrameError as error:
            self._fault = str(error)
            return None

    def _send(self, frame: frames.ToChild) -> None:
        # Not drained: one job at a time, so at most one payload waits in the buffer; every answer is timed.
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frames.encode_frame(frame))

    async def _read(self) -> Any:
        if self._reader is None:
            return None
        try:
            frame = await frames.read_frame(self._reader, frames.from_child)
        except frames.FrameError as error:
            self._fault = str(error)
            self.kill()
            frame = None
        if frame is None and self._watch is not None:
            # How it ended is known a moment after the end of the stream.
            await asyncio.wait((self._watch,), timeout=KILL_GRACE_SECONDS)
        return frame

    async def _watch_exit(self, process: Forked) -> None:
        """A grandchild may hold the stream open after the child's end: then it is closed here."""
        await process.wait()
        if self._reader is not None and self._writer is not None and not self._reader.at_eof():
            asyncio.get_running_loop().call_later(KILL_GRACE_SECONDS / 2, self._writer.transport.abort)
