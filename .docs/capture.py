"""Makes first-run.svg: what `jobserver serve`, curl and two commands really print, on a fresh data folder.

    pip install -e . && python .docs/capture.py

Only what names this machine is replaced: the folder, the host and the port. Log lines are left out.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from jobserver import __version__

WIDTH = 106
WITHIN_SECONDS = 30.0
PICTURE = Path(__file__).with_name("first-run.svg")
ROOT = Path(__file__).resolve().parent.parent

SHOWN_FOLDER = "~/demo"
SHOWN_HOST = "demo"

# Black, red, green, yellow, blue, magenta, cyan, white.
COLOURS = (
    *((24, 26, 33), (240, 113, 120), (152, 211, 121), (234, 196, 109)),
    *((110, 170, 250), (198, 140, 240), (95, 206, 210), (212, 216, 225)),
)
GREY = (120, 126, 140)
THEME = TerminalTheme(COLOURS[0], COLOURS[-1], list(COLOURS), [GREY, *COLOURS[1:]])


class Terminal:
    """A process on a terminal of its own, and everything that it prints there."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, WIDTH, 0, 0))
        self._fd = ours
        self.text = ""
        self.process = subprocess.Popen(  # the commands of main
            command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)

    def read_until(self, wanted: str | None) -> str:
        """What was printed once `wanted` is in it; None: once the process has ended."""
        deadline = time.monotonic() + WITHIN_SECONDS
        while wanted is None or wanted not in self.text:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {wanted!r} in {self.text!r}")
            if not select.select([self._fd], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self._fd, 65_536)
            except OSError:  # EIO: nobody has the other end open any more
                data = b""
            if not data:
                break
            self.text += data.decode()
        return self.text.replace("\r\n", "\n")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(WITHIN_SECONDS)
        os.close(self._fd)


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        port = free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBSERVER_")}
        environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
        screen = Screen(folder, port)
        jobserver = [sys.executable, "-m", "jobserver"]
        # The variable and not an option, so that the picture shows the command that one types.
        server = Terminal([*jobserver, "serve"], folder, {**environment, "JOBSERVER_PORT": str(port)})
        try:
            banner = server.read_until("/jobs\r\n")
            # Log lines of the start come before it.
            screen.command("jobserver serve", banner[banner.index(f"jobserver {__version__}") :])
            screen.note("in another terminal")
            client = {**environment, "JOBSERVER_URL": f"http://127.0.0.1:{port}"}
            submit = 'curl --json \'{"type": "echo", "payload": "hello"}\' http://127.0.0.1:8000/jobs'
            answer = run(["curl", "--silent", *shlex.split(submit.replace(":8000", f":{port}"))[1:]], folder, client)
            screen.command(submit, answer)
            job_id = json.loads(answer)["id"]
            # Two more, so that the list has something to show.
            run([*jobserver, "submit", "sleep", '{"seconds": 5}'], folder, client)
            run([*jobserver, "submit", "fail", '{"retryable": false}', "--wait"], folder, client)
            screen.command(f"jobserver show {job_id}", run([*jobserver, "show", job_id], folder, client))
            screen.note("after two more, of the types sleep and fail")
            screen.command("jobserver list", run([*jobserver, "list"], folder, client))
        finally:
            server.close()
    PICTURE.write_text(screen.svg(), encoding="utf-8")
    print(f"{PICTURE.name}: {PICTURE.stat().st_size:,} bytes")  # whoever runs it wants to know


class Screen:
    """The picture: commands and what they printed."""

    def __init__(self, folder: Path, port: int) -> None:
        self._console = Console(
            record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor", emoji=False
        )
        self._replaced = {str(folder): SHOWN_FOLDER, socket.gethostname(): SHOWN_HOST, f":{port}": ":8000"}

    def command(self, typed: str, printed: str) -> None:
        self._console.print(Text.assemble(("$ ", "bold green"), (typed, "bold")))
        for found, shown in self._replaced.items():
            printed = printed.replace(found, shown)
        self._console.print(Text.from_ansi(printed.strip("\n")))
        self._console.print()

    def note(self, text: str) -> None:
        self._console.print(Text(f"# {text}", style="bright_black"))

    def svg(self) -> str:
        svg = self._console.export_svg(title="jobserver", theme=THEME, unique_id="first-run")
        # A picture loads nothing: the reader's own monospace fonts do.
        svg = re.sub(r"\s*@font-face\s*\{.*?\}", "", svg, flags=re.DOTALL)
        svg = re.sub(r"\s*<!--.*?-->", "", svg, flags=re.DOTALL)
        svg = svg.replace("font-family: arial", "font-family: system-ui, sans-serif")
        svg = svg.replace("Fira Code, monospace", "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace")
        return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """What a command prints on a terminal."""
    terminal = Terminal(command, folder, environment)
    try:
        return terminal.read_until(None)
    finally:
        terminal.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
