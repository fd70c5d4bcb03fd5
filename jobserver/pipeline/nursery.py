"""The nursery: where child processes come from. Keeps the template, asks it to fork, and hears how children end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from jobserver.pipeline.frames import BARREN, BORN, ENDED, FORK, KILL, NOTICE, ORDER, READY

# The template imports what children need, on a machine that may be busy.
TEMPLATE_SECONDS: Final = 30.0
FORK_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 2.0
_ENDED: Final = "the template of the child processes has ended"


class Forked:
    """A process that the template has forked, as its grandparent sees it."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        # As of a subprocess; None while it lives, or when nobody can know any more.
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def kill(self) -> None:
        if not self.ended:
            self._nursery.kill(self.pid)

    async def wait(self) -> None:
        """Until it has ended. The caller limits the time."""
        await self._ended.wait()

    def end(self, returncode: int | None) -> None:
        self.returncode = returncode
        self._ended.set()


class Nursery:
    """Owns the template, which is started with the first child. Lives on one event loop.

    The template imports `modules`, once for all children: modules that start no threads.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._modules = tuple(modules)
        self._starting = asyncio.Lock()
        self._process: Process | None = None
        self._control: socket.socket | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._expected: deque[asyncio.Future[Forked]] = deque()
        self._children: dict[int, Forked] = {}

    async def fork(self, stream: socket.socket) -> Forked:
        """A new child that serves the other end of `stream`. Raises OSError and TimeoutError."""
        async with self._starting:
            if self._control is None:
                await self._start()
        if self._control is None:
            raise ConnectionError(_ENDED)
        born: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self._expected.append(born)
        try:
            socket.send_fds(self._control, [ORDER.pack(FORK, 0)], [stream.fileno()])
        except OSError:
            self._expected.remove(born)
            raise
        async with asyncio.timeout(FORK_SECONDS):
            # Shielded: the answers come in the order of the questions, also to those who have gone.
            return await asyncio.shield(born)

    def kill(self, pid: int) -> None:
        if self._control is None:
            return
        # Its buffer holds more orders than there are children.
        with contextlib.suppress(OSError):
            self._control.send(ORDER.pack(KILL, pid))

    async def close(self) -> None:
        """End the template. Children end by the ends of their streams."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._give_up()
        if self._process is not None:
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TEMPLATE_SECONDS):
                try:
                    self._process = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "jobserver.pipeline.template", str(theirs.fileno()), *self._modules),
                        stdin=DEVNULL,
                        pass_fds=(theirs.fileno(),),
                        env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path())},
                        # Ctrl-C in the terminal is for the parent, which drains; children would die of it.
                        start_new_session=True,
                    )
                finally:
                    theirs.close()
                self._control, self._ready = ours, loop.create_future()
                self._reading = asyncio.create_task(self._read(ours, self._ready), name="nursery")
                await self._ready
        except BaseException:
            if self._reading is not None:
                self._reading.cancel()
            self._give_up()
            ours.close()
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
            raise

    async def _read(self, control: socket.socket, ready: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        received = b""
        with contextlib.suppress(OSError):
            # No time limit: it ends with the template.
            while data := await loop.sock_recv(control, 4_096):
                received += data
                while len(received) >= NOTICE.size:
                    self._hear(received[: NOTICE.size], ready)
                    received = received[NOTICE.size :]
        self._give_up()

    def _hear(self, notice: bytes, ready: asyncio.Future[None]) -> None:
        what, pid, number = NOTICE.unpack(notice)
        if what == READY and not ready.done():
            ready.set_result(None)
        elif what == ENDED:
            self._children.pop(pid).end(number)
        elif what in (BORN, BARREN) and self._expected:
            born = self._expected.popleft()
            if what == BORN:
                # When nobody waits for it any more, its stream is closed, and it ends.
                child = self._children[pid] = Forked(self, pid)
                born.set_result(child)
            else:
                _refuse(born, OSError(number, os.strerror(number)))

    def _give_up(self) -> None:
        """The template is gone: nobody will tell how its children end."""
        if self._control is not None:
            self._control.close()
        self._control = None
        if self._ready is not None and not self._ready.done():
            _refuse(self._ready, ConnectionError("the template of the child processes did not start"))
        while self._expected:
            _refuse(self._expected.popleft(), ConnectionError(_ENDED))
        for child in self._children.values():
            # They belong to init now, which reaps them.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            child.end(None)
        self._children.clear()


def _refuse(future: asyncio.Future[Any], error: OSError) -> None:
    future.set_exception(error)
    # Whoever asked may have gone: then nobody retrieves it.
    future.exception()


def search_path() -> list[str]:
    """Where this process imports from; an empty entry stands for the current folder."""
    return [entry or os.getcwd() for entry in sys.path]
