"""Several server processes behind one port: starts them, starts those again that die, replaces and drains them.

The parent owns the port: one listener a process, which the process inherits. A listener outlives its process, so what
connects to one that died waits for its successor, and a process is replaced by one that accepts from the same listener
before it stops. Each process is an interpreter of its own, not a fork of this one, so that a reload gets new code.
The parent loads nothing of the server. A process whose parent is gone drains: their socket pair has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import msgspec

from jobserver.cli.orders import DRAIN, MAX_LINE, NOW, RETIRE, Task, Told, decode_told, encode
from jobserver.cli.serve import STOP_SIGNALS, laid_out
from jobserver.errors import ConfigurationError
from jobserver.http.listen import Port
from jobserver.settings import Settings

logger = logging.getLogger(__name__)

# One that dies sooner after its start is not started again at once, but after a pause that grows.
QUICK_SECONDS: Final = 10.0
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
# During a longer pause its listener is closed: connections go to the others instead of waiting.
OPEN_SECONDS: Final = 1.0
# The first start may migrate, and somebody watches it; later ones are given up after this time.
START_SECONDS: Final = 300.0
# How much longer than its drain the end of a process may take, before it is told to hurry.
LATE_SECONDS: Final = 30.0
# And after that, before it is killed.
KILL_SECONDS: Final = 20.0
LAST_WORDS_SECONDS: Final = 0.2
# A path of a unix socket has 108 bytes on Linux.
_LONGEST_FOLDER: Final = 80


def run_processes(settings: Settings, *, with_banner: bool) -> int:
    """Until a signal stops them; the exit code. Raises ConfigurationError."""
    if not sys.platform.startswith("linux"):
        raise ConfigurationError(
            f"--processes {settings.processes} needs Linux, which deals out the connections to one port."
        )

    from jobserver.telemetry.logs import configure_logs

    configure_logs(settings.log_format, settings.log_level)
    return asyncio.run(Parent(settings, with_banner=with_banner).run())


class _Stopped(Exception):
    """A signal came meanwhile."""


class _NotStarted(Exception):
    """A process did not start; the message says why."""


class _Process:
    """One interpreter, from its start to its end."""

    def __init__(self, task: Task, listener: socket.socket | None) -> None:
        self.number: Final = task.number
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                inherited = [theirs.fileno()] + ([] if listener is None else [listener.fileno()])
                self._popen: Final = subprocess.Popen(  # noqa: S603 - this interpreter, and numbers
                    _command(task.number, theirs.fileno(), -1 if listener is None else listener.fileno()),
                    stdin=subprocess.DEVNULL,
                    pass_fds=inherited,
                    # Ctrl-C in the terminal is for the parent, which drains; they are told by it.
                    start_new_session=True,
                )
            # It fits the buffer: nobody has to read it yet.
            ours.sendall(encode(task))
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        self._control: Final = ours
        self.pid: Final = self._popen.pid
        self.began: Final = time.monotonic()
        self.ended: Final = asyncio.Event()
        self.told: Final[asyncio.Future[Told | None]] = asyncio.get_running_loop().create_future()
        self._listening: Final = asyncio.create_task(self._listen(), name=f"process {task.number}")

    @property
    def exit_code(self) -> int | None:
        """As of a subprocess: negative for a signal."""
        return self._popen.returncode

    @property
    def started(self) -> bool:
        told = self.told.result() if self.told.done() else None
        return told is not None and told.refused is None

    def order(self, order: bytes) -> None:
        # One that has ended hears nothing, and need not.
        with contextlib.suppress(OSError):
            self._control.send(order)

    def drain(self) -> None:
        self.order(DRAIN)
        # For one that does not listen yet: it imports a module of the user's, say. Others have heard already.
        self._popen.terminate()

    def kill(self) -> None:
        self._popen.kill()

    def look(self) -> None:
        """Note its end, if it has ended."""
        if not self.ended.is_set() and self._popen.poll() is not None:
            self.ended.set()

    async def start(self) -> Told:
        """Wait until it has started; the caller limits the time. Raises _NotStarted."""
        told = await asyncio.shield(self.told)
        if told is None:
            await self.ended.wait()
            raise _NotStarted(f"Process {self.number} ended while it started: {_reason(self.exit_code)}.")
        if told.refused is not None:
            raise _NotStarted(told.refused)
        return told

    async def close(self) -> None:
        """When it has ended."""
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self._control.close()

    async def _listen(self) -> None:
        """Its one line, or None when it ended without."""
        told: Told | None = None
        hearing = asyncio.create_task(self._hear(), name=f"line of process {self.number}")
        ended = asyncio.create_task(self.ended.wait(), name=f"end of process {self.number}")
        try:
            # A program that a handler left behind may hold the other end open: so the end is looked for too.
            await asyncio.wait([hearing, ended], return_when=asyncio.FIRST_COMPLETED)
            # What was written before the end is there by now.
            await asyncio.wait([hearing], timeout=LAST_WORDS_SECONDS)
            if hearing.done():
                told = hearing.result()
        finally:
            hearing.cancel()
            ended.cancel()
            self.told.set_result(told)

    async def _hear(self) -> Told | None:
        loop = asyncio.get_running_loop()
        line = bytearray()
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            # No time limit: it ends with the process.
            while not line.endswith(b"\n") and len(line) < MAX_LINE:
                data = await loop.sock_recv(self._control, 65_536)
                if not data:
                    return None
                line += data
            return decode_told(bytes(line))
        return None


class _Slot:
    """A number, its listener, and the process that has them now."""

    def __init__(self, number: int, listener: socket.socket | None) -> None:
        self.number: Final = number
        self.listener = listener
        self.process: _Process | None = None
        self.quick_deaths = 0
        # Held by whoever puts another process here.
        self.changing: Final = asyncio.Lock()


class Parent:
    """Owns the processes, the port and the folder in which they find each other."""

    def __init__(self, settings: Settings, *, with_banner: bool) -> None:
        self._settings: Final = settings
        self._with_banner: Final = with_banner
        self._terminal: Final = sys.stderr.isatty()
        self._folder = ""
        self._port: Port | None = None
        self._slots: list[_Slot] = []
        self._processes: set[_Process] = set()
        self._signals = 0
        self._failed = False
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._reloading = asyncio.Event()

    async def run(self) -> int:
        """From the first start to the last end; the exit code. Raises ConfigurationError."""
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            if self._settings.http:
                # First of all: a port that is taken is said at once.
                self._port = Port(self._settings.host, self._settings.port)
                stack.callback(self._port.close)
            self._folder = stack.enter_context(_private_folder())
            for number in STOP_SIGNALS:
                loop.add_signal_handler(number, self._on_stop, number)
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
            loop.add_signal_handler(signal.SIGCHLD, self._on_child)
            hurry = asyncio.create_task(self._hurry(), name="hurry")
            try:
                await self._live()
            except _Stopped:
                pass
            except _NotStarted as error:
                raise ConfigurationError(str(error)) from None
            finally:
                await self._end()
                hurry.cancel()
                await asyncio.gather(hurry, return_exceptions=True)
        return int(self._failed)

    async def _live(self) -> None:
        await self._start_all()
        works = [self._keep(slot) for slot in self._slots] + [self._reload_when_told()]
        tasks = {asyncio.create_task(work, name="supervision") for work in works}
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        try:
            await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, _Stopped):
                raise result

    # start

    async def _start_all(self) -> None:
        """The first one alone: it migrates, and finds out what is wrong with the configuration, once."""
        for number in range(self._settings.processes):
            listener = None if self._port is None else self._port.listener()
            self._slots.append(_Slot(number, listener))
        first, *others = self._slots
        told = await self._put(first, within_seconds=None)
        await asyncio.gather(*(self._put(slot, within_seconds=None) for slot in others))
        if self._with_banner:
            pids = [f"{slot.number} (pid {slot.process.pid})" for slot in self._slots if slot.process is not None]
            click.echo(laid_out(told.url, [*told.rows, ("processes", f"{', '.join(pids)}, each as above")]), err=True)

    async def _put(self, slot: _Slot, *, within_seconds: float | None) -> Told:
        """Start a process, and give it the place when it is ready. Raises _NotStarted and _Stopped."""
        if self._stopping.is_set():
            raise _Stopped
        task = Task(settings=self._of_a_process(), number=slot.number, folder=self._folder)
        try:
            process = _Process(task, slot.listener)
        except OSError as error:
            raise _NotStarted(f"Process {slot.number} could not be started: {error.strerror or error}.") from error
        self._processes.add(process)
        try:
            async with asyncio.timeout(within_seconds):
                told = await process.start()
        except TimeoutError:
            await self._finish(process, within_seconds=0.0)
            raise _NotStarted(f"Process {slot.number} did not start within {within_seconds:g} s.") from None
        except _NotStarted:
            # It is about to end, unless something that a module of the user's has started holds it up.
            await self._finish(process, within_seconds=LATE_SECONDS)
            if self._stopping.is_set():
                raise _Stopped from None
            raise
        slot.process = process
        logger.info("process_started", extra={"number": slot.number, "child": process.pid})
        return told

    def _of_a_process(self) -> Settings:
        if self._port is None:
            return self._settings
        return msgspec.structs.replace(self._settings, port=self._port.number)

    # supervision

    async def _keep(self, slot: _Slot) -> None:
        """Whenever the process of a slot ends, start another."""
        while True:
            process = slot.process
            assert process is not None
            await process.ended.wait()
            await self._forget(process)
            async with slot.changing:
                # A reload may have put another one here.
                if slot.process is process:
                    await self._start_again(slot, process)

    async def _start_again(self, slot: _Slot, died: _Process) -> None:
        lived = time.monotonic() - died.began
        slot.quick_deaths = 0 if lived > QUICK_SECONDS else slot.quick_deaths + 1
        fields = {"number": slot.number, "child": died.pid, "reason": _reason(died.exit_code)}
        logger.warning("process_died", extra=fields | {"again_in_seconds": _pause(slot.quick_deaths)})
        while True:
            await self._rest(slot, _pause(slot.quick_deaths))
            try:
                await self._put(slot, within_seconds=START_SECONDS)
            except _NotStarted as error:
                # The others go on: the database may be away, for instance.
                slot.quick_deaths += 1
                extra = {"number": slot.number, "error": str(error), "again_in_seconds": _pause(slot.quick_deaths)}
                logger.error("process_not_started", extra=extra)
            else:
                return

    async def _rest(self, slot: _Slot, seconds: float) -> None:
        """Let so much time pass. Raises ConfigurationError when the port was taken away meanwhile."""
        if self._port is None or slot.listener is None or seconds <= OPEN_SECONDS:
            await asyncio.sleep(seconds)
            return
        self._port.drop(slot.listener)
        try:
            await asyncio.sleep(seconds)
        finally:
            slot.listener = self._port.listener()

    async def _forget(self, process: _Process) -> None:
        self._processes.discard(process)
        await process.close()

    async def _reload_when_told(self) -> None:
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            try:
                for slot in self._slots:
                    await self._replace(slot)
            except _NotStarted as error:
                logger.error("reload_failed", extra={"error": str(error)})

    async def _replace(self, slot: _Slot) -> None:
        """Another process in a slot, then the end of the one that was there. Raises _NotStarted: nothing changed."""
        async with slot.changing:
            old = slot.process
            assert old is not None
            await self._put(slot, within_seconds=START_SECONDS)
        old.order(RETIRE)
        if not await _ends(old, self._settings.drain_seconds + LATE_SECONDS):
            old.order(NOW)
        await self._finish(old, within_seconds=KILL_SECONDS)

    async def _finish(self, process: _Process, *, within_seconds: float) -> None:
        """Its end: by itself within that time, or else killed."""
        if not await _ends(process, within_seconds):
            process.kill()
            await process.ended.wait()
        await self._forget(process)

    # stop

    async def _end(self) -> None:
        """Drain them all at once."""
        self._drain()
        for process in list(self._processes):
            await process.ended.wait()
            # One that had not started had nothing to drain.
            if process.exit_code and process.started:
                self._failed = True
            await self._forget(process)

    async def _hurry(self) -> None:
        """After a second signal nobody waits for long."""
        await self._hurrying.wait()
        for process in self._processes:
            process.order(NOW)
        await asyncio.sleep(KILL_SECONDS)
        for process in self._processes:
            process.kill()

    # signals

    def _on_stop(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals > 1:
            self._hurrying.set()
            return
        self._drain()
        if number == signal.SIGINT or sys.stderr.isatty():
            count = len(self._processes)
            click.echo(
                f"draining {count} {'process' if count == 1 else 'processes'}, Ctrl-C again to stop now", err=True
            )

    def _on_hangup(self) -> None:
        if self._terminal and not sys.stderr.isatty():
            # Not a wish to reload: the terminal is gone. Shell and system both say so: that does not mean to stop now.
            self._drain()
        else:
            self._reloading.set()

    def _drain(self) -> None:
        if not self._stopping.is_set():
            self._stopping.set()
            for process in self._processes:
                process.drain()

    def _on_child(self) -> None:
        for process in self._processes:
            process.look()


def _command(number: int, control: int, listener: int) -> list[str]:
    # As this interpreter was started: where the current folder is not on the module path, it stays so until the
    # server puts it there, and a module of the user's is not taken for one of ours.
    safe = [] if getattr(sys.modules["__main__"], "__spec__", None) else ["-P"]
    return [sys.executable, *safe, "-m", "jobserver.cli.child", str(number), str(control), str(listener)]


def _pause(quick_deaths: int) -> float:
    """Seconds before the next start."""
    if not quick_deaths:
        return 0.0
    return float(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(quick_deaths - 1, 16)))


def _reason(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-exit_code).name
    return f"signal {-exit_code}"


async def _ends(process: _Process, within_seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_seconds):
            await process.ended.wait()
    return process.ended.is_set()


@contextlib.contextmanager
def _private_folder() -> Iterator[str]:
    """Only this user may enter it. Removed at the end."""
    folder = tempfile.mkdtemp(prefix="jobserver-")
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="jobserver-", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
