"""A command in a terminal of its own: what it shows, and keys that are pressed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.children import environment
from tests.cli.process import COMMAND

SECONDS: Final = 30.0
# Colours, cursor, screens and titles: all that is not text.
_CONTROL: Final = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])")


class Terminal:
    """`with Terminal(folder, "top") as terminal:` it runs in 160 columns and 50 lines."""

    def __init__(self, folder: Path, *args: str, **variables: str) -> None:
        self._args = args
        self._folder = folder
        self._variables = {"TERM": "xterm-256color", **variables}
        self._shown = ""

    def __enter__(self) -> Self:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        self.before = termios.tcgetattr(follower)
        variables = environment(**self._variables)
        self._process = subprocess.Popen(
            [*COMMAND, *self._args],
            cwd=self._folder,
            env={name: value for name, value in variables.items() if name not in ("COLUMNS", "LINES")},
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            # Nothing else runs in this process that could lock it.
            preexec_fn=_take_terminal,  # noqa: PLW1509
        )
        # Kept open: how it leaves the terminal is looked at.
        self._follower = follower
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._leader)
        os.close(self._follower)

    def press(self, keys: str) -> None:
        os.write(self._leader, keys.encode())

    def expect(self, pattern: str) -> re.Match[str]:
        """Waits until something new on the screen matches; what stood before it is forgotten."""
        deadline = time.monotonic() + SECONDS
        while (found := re.search(pattern, self._shown, re.DOTALL)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self._shown[-4_000:]}"
            self._read(0.1)
        self._shown = self._shown[found.end() :]
        return found

    def fresh(self) -> None:
        """Forgets what was shown so far."""
        self._read(0)
        self._shown = ""

    def ended(self) -> int:
        """The exit code, once it has ended."""
        deadline = time.monotonic() + SECONDS
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"it has not ended, and shows:\n{self._shown.rstrip()[-4_000:]}"
            self._read(0.05)
        self._read(0)
        return self._process.returncode

    def ended_by(self, key: str) -> int:
        """The exit code, after a key that is pressed again every five seconds, three times at the most."""
        for _ in range(3):
            if self._process.poll() is None:
                self.press(key)
            deadline = time.monotonic() + SECONDS / 6
            while self._process.poll() is None and time.monotonic() < deadline:
                self._read(0.05)
        return self.ended()

    def is_as_before(self) -> bool:
        """Whether the terminal is left as it was found: it echoes, and reads lines."""
        return termios.tcgetattr(self._follower)[:4] == self.before[:4]

    def _read(self, seconds: float) -> None:
        while select.select([self._leader], [], [], seconds)[0]:
            data = os.read(self._leader, 65_536)
            self._shown += _CONTROL.sub("", data.decode("utf-8", "replace"))
            seconds = 0


def _take_terminal() -> None:
    """In the child: a terminal of its own, so that Ctrl-C comes as a signal, and heeded as for a command typed there.

    Tests that a shell runs in the background begin with SIGINT ignored, and would leave that to it.
    """
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
