"""The template: a process that has imported what every child needs, and forks one whenever the parent asks.

Started by `nursery.py` as `python -m jobserver.pipeline.template FD MODULE...`. It has one thread, no event loop and
none of the user's modules, so that a fork of it is as good as a new process, and a hundred of them take a second.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import select
import signal
import socket
import sys

from jobserver.pipeline import child
from jobserver.pipeline.frames import BARREN, BORN, ENDED, FORK, KILL, NOTICE, ORDER, READY


def main(arguments: list[str]) -> None:
    """Import the modules, then fork until the parent closes the stream or is gone."""
    control = socket.socket(fileno=int(arguments[0]))
    control.set_inheritable(False)
    for name in arguments[1:]:
        # What cannot be imported here cannot be in a child either, which says so.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # The parent decides when children end: Ctrl-C and the SIGTERM of a service manager reach the whole group.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, child.leave_to_parent)
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, child.leave_to_parent)
    # What is there now is shared by all children: collections would copy its pages into each of them.
    gc.freeze()
    children: set[int] = set()
    # The parent may go at any moment, with notices of ours unread.
    with contextlib.suppress(ConnectionError):
        control.sendall(NOTICE.pack(READY, os.getpid(), 0))
        more = True
        while more:
            # No time limit: the parent's end ends the stream.
            ready, _, _ = select.select([control.fileno(), woken], [], [])
            if woken in ready:
                os.read(woken, 4_096)
                _reap(control, children)
            if control.fileno() in ready:
                more = _obey(control, children, (woken, wake))
    # Children see the end of their own streams, and end by themselves.
    os._exit(0)


def _obey(control: socket.socket, children: set[int], pipe: tuple[int, int]) -> bool:
    """Carry out one order; whether there will be more."""
    order, descriptors, _, _ = socket.recv_fds(control, ORDER.size, 1)
    if len(order) < ORDER.size:
        return False
    what, pid = ORDER.unpack(order)
    if what == KILL and pid in children:
        # One that was reaped is not in there any more: its number may be somebody else's by now.
        os.kill(pid, signal.SIGKILL)
    elif what == FORK and descriptors:
        _fork(control, descriptors[0], children, pipe)
    return True


def _fork(control: socket.socket, stream: int, children: set[int], pipe: tuple[int, int]) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        os.close(stream)
        control.sendall(NOTICE.pack(BARREN, 0, error.errno or errno.EAGAIN))
        return
    if pid == 0:
        _become_child(control, stream, pipe)
    os.close(stream)
    children.add(pid)
    control.sendall(NOTICE.pack(BORN, pid, 0))


def _become_child(control: socket.socket, stream: int, pipe: tuple[int, int]) -> None:
    """In the new process: forget what was the template's, and serve the parent. Does not return."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        for end in pipe:
            os.close(end)
        os.setsid()
        gc.unfreeze()
        child.serve(stream)
        status = 0
    except BaseException:
        # As an uncaught exception would: with its traceback, and the status 1.
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _reap(control: socket.socket, children: set[int]) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            children.discard(pid)
            control.sendall(NOTICE.pack(ENDED, pid, os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    main(sys.argv[1:])
