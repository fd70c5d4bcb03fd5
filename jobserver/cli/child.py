"""One of several server processes behind a port: `python -m jobserver.cli.child NUMBER CONTROL LISTENER`.

Started by `parent.py`, which tells it what to be over CONTROL, and when to end. It ends by itself, gracefully, when
its parent is gone. LISTENER is -1 where there is no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobserver.cli.orders import DRAIN, MAX_LINE, NOW, RETIRE, Told, decode_task, encode
from jobserver.cli.serve import (
    STOP_SIGNALS,
    Serving,
    collect_seldom,
    import_from_here,
    leave_what_does_not_end,
    loop_factory,
    rows_of,
    server_of,
)
from jobserver.errors import ConfigurationError

if TYPE_CHECKING:  # imported once it is known that a server is to be started
    from jobserver.server import Facts, Server

# Not by __name__: this is __main__.
logger = logging.getLogger("jobserver.cli.child")

REFUSED: Final = 2


class Child(Serving):
    """A run of a server that obeys its parent. Signals to it alone end it too, and its parent starts another."""

    def __init__(self, server: Server, control: socket.socket) -> None:
        super().__init__(server, on_started=self._tell)
        self._control: Final = control
        self.orphaned = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        # Not for processes: who reloads all of a service's reaches them too.
        loop.add_signal_handler(signal.SIGHUP, _ignore)
        loop.add_reader(self._control, self._hear)
        try:
            await super().run()
        finally:
            loop.remove_reader(self._control)
            # Told once more while it ends, it has heard already. Ignored by the system: Python takes handlers of
            # its own away when the interpreter ends, and starts no programs any more.
            for number in (*STOP_SIGNALS, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)

    def _signal_numbers(self) -> tuple[signal.Signals, ...]:
        return STOP_SIGNALS

    def _on_signal(self, number: signal.Signals) -> None:
        # However often: service managers signal the parent and all its processes at once.
        self.stop()

    def _hear(self) -> None:
        try:
            orders = self._control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            orders = b""
        if not orders:
            asyncio.get_running_loop().remove_reader(self._control)
            self.orphaned = True
            logger.warning("parent_died")
            self.stop()
        for order in orders:
            self._obey(bytes((order,)))

    def _obey(self, order: bytes) -> None:
        if order == RETIRE:
            self.server.retire()
        elif order == DRAIN:
            self.stop()
        elif order == NOW:
            self.stop_now()

    def _tell(self, facts: Facts) -> None:
        _send(self._control, Told(url=facts.url, rows=tuple(rows_of(facts))))


def _send(control: socket.socket, told: Told) -> None:
    # One line: it fits the buffer of the socket. A parent that is gone will be noticed.
    with contextlib.suppress(OSError):
        control.sendall(encode(told))


def _ignore(*_: object) -> None:
    """A handler, and not SIG_IGN, which the programs that handlers start would inherit."""


def run(arguments: list[str]) -> int:
    """The life of the process; its exit code."""
    number, control_fd, listener_fd = (int(argument) for argument in arguments)
    signal.signal(signal.SIGHUP, _ignore)
    control = _taken(control_fd)
    listener = None if listener_fd < 0 else _taken(listener_fd)
    # Unbuffered: what follows the line are orders.
    with control.makefile("rb", buffering=0) as lines:
        line = lines.readline(MAX_LINE)
    if not line.endswith(b"\n"):
        return 0  # the parent is gone
    task = decode_task(line)
    control.setblocking(False)
    import_from_here()
    collect_seldom()
    folder = Path(task.folder)

    from jobserver.server import Place
    from jobserver.telemetry.logs import configure_logs

    settings = task.settings
    configure_logs(settings.log_format, settings.log_level)
    try:
        place = Place(number=number, processes=settings.processes, listener=listener, folder=folder)
        child = Child(server_of(settings, place), control)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(child.run())
            if child.orphaned:
                _tidy(folder, number)
            runner.run(leave_what_does_not_end())
    except ConfigurationError as error:
        _send(control, Told(refused=str(error)))
        return REFUSED
    return 0


def _taken(descriptor: int) -> socket.socket:
    """What was handed down to this process, and is not to be handed on."""
    taken: socket.socket = socket.socket(fileno=descriptor)
    taken.set_inheritable(False)
    return taken


def _tidy(folder: Path, number: int) -> None:
    """What the parent would have done: the last of its processes removes their folder."""
    with contextlib.suppress(OSError):
        (folder / str(number)).unlink()
        folder.rmdir()


def main(arguments: list[str]) -> Any:
    sys.exit(run(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
