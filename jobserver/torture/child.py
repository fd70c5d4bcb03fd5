"""A child process with a log, to be stopped, paused and killed. A guard ends it when we are gone ourselves."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

STOP_SECONDS: Final = 30.0
_GUARD: Final = 'read _; kill -9 "$1" 2>/dev/null'


class Child:
    """One process, from `spawn` to its end."""

    def __init__(self, process: asyncio.subprocess.Process, guard: subprocess.Popen[bytes]) -> None:
        self._process: Final = process
        self._guard: Final = guard

    @classmethod
    async def spawn(
        cls,
        command: Sequence[str],
        *,
        folder: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> Child:
        """Start `command` in `folder`, its output appended to `log`. Raises OSError."""
        with _appending(log) as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=None if environment is None else dict(environment),
                # Not the terminal's: Ctrl-C is for us, and we end what we started.
                start_new_session=True,
                **as_user(user),
            )
        return cls(process, _guard(process.pid))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def send(self, number: signal.Signals) -> None:
        if self.running:
            # Not Popen's own: it would reap the process before asyncio's watcher, which then knows no exit code.
            signal_to([self.pid], number)

    async def ended(self) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        code = await self._process.wait()
        if self._guard.poll() is None:
            self._guard.kill()
            self._guard.communicate()
        return code

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; SIGKILL if that takes too long."""
        self.send(number)
        # What is paused hears no signal but the last one.
        self.send(signal.SIGCONT)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self.ended()
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.ended()


def as_user(user: str | None) -> dict[str, Any]:
    """The arguments that start a process as somebody else."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": grp.getgrgid(entry.pw_gid).gr_gid, "extra_groups": []}


def children_of(pid: int) -> list[int]:
    """The processes that `pid` has started and that live, theirs not included."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            # The name, in brackets, may contain anything.
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
            if parent == pid:
                found.append(int(entry.parent.name))
    return found


def signal_to(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _appending(log: Path) -> BinaryIO:
    return open(log, "ab")


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """Its standard input closes with us, however we end."""
    return subprocess.Popen(  # noqa: S603
        ["/bin/sh", "-c", _GUARD, "guard", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
