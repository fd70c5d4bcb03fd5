"""The real command as a process: short commands that end, and `jobserver serve` until it is stopped."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from tests.children import environment

COMMAND: Final = (sys.executable, "-m", "jobserver")
COMMAND_SECONDS: Final = 30.0
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 30.0
_BANNER: Final = re.compile(r"^jobserver \S+  (http://\S+)$", re.MULTILINE)
_STARTED: Final = re.compile(r'"event":"server_started".*"url":"(http://[^"]+)"')


class Ended(msgspec.Struct, frozen=True):
    code: int
    out: str
    err: str


def jobserver(*args: str, cwd: Path, stdin: str | None = None, **variables: str) -> Ended:
    """Run a command to its end."""
    done = subprocess.run(
        [*COMMAND, *args],
        cwd=cwd,
        env=environment(**variables),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_SECONDS,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


class Serving:
    """`with Serving(folder, "--workers", "4") as server:` it listens. Its data is in the folder."""

    def __init__(self, folder: Path, *args: str, **variables: str) -> None:
        self._folder: Final = folder
        self._args: Final = args
        self._variables: Final = variables
        self._log: Final = folder / "serve.err"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "serve", "--port", "0", *self._args],
                cwd=self._folder,
                env=environment(**self._variables),
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            # Who asks for JSON gets no banner.
            self.url = self.wait_for(_STARTED if "json" in self._args else _BANNER).group(1)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                # Killed, it would leave its engines behind; told again, it gives up the drain and stops them.
                self.process.terminate()
                self.process.wait(STOP_SECONDS)
                raise

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def err(self) -> str:
        """What it has said on stderr so far."""
        return self._log.read_text(encoding="utf-8")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Its exit code, as soon as it has ended."""
        return self.process.wait(STOP_SECONDS)

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """The first place on stderr that matches."""
        deadline = time.monotonic() + START_SECONDS
        while (found := pattern.search(self.err)) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no {pattern.pattern!r} on stderr:\n{self.err}")
            time.sleep(0.02)
        return found

    def run(self, *args: str, stdin: str | None = None) -> Ended:
        """A client command that talks to this server."""
        return jobserver(*args, cwd=self._folder, stdin=stdin, JOBSERVER_URL=self.url)
