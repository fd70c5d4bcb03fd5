"""The data folder: one server at a time.

Whoever starts engines on a folder holds an exclusive lock in it for as long as it lives. The kernel drops the
lock with the process, so a crash never leaves a folder locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from jobserver.errors import ConfigurationError

_LOCK: Final = "lock"
_DATABASE: Final = "jobs.db"

# A probe (`is_running`) holds the lock for microseconds: somebody who starts just then must not be refused.
_LOCK_ATTEMPTS: Final = 5
_LOCK_PAUSE_SECONDS: Final = 0.02


class FileLock:
    """A lock on a file that belongs to this process until `close`, or until the process ends.

    `what` names the locked thing in messages. Raises ConfigurationError when it cannot be used or is taken.
    """

    def __init__(self, file: Path, what: str, option: str = "--data-dir") -> None:
        try:
            fd = _open_lock(file, os.O_CREAT)
        except OSError as error:
            raise _unusable(what, error) from error
        try:
            if not _locked(fd, _LOCK_ATTEMPTS):
                raise ConfigurationError(_taken(what, option, _holder(fd)))
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(fd)
            raise _unusable(what, error) from error
        except ConfigurationError:
            os.close(fd)
            raise
        self._fd: int | None = fd

    def close(self) -> None:
        """Give the lock back. Repeating it does nothing."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
            os.close(fd)


def lock_database(file: Path | str) -> FileLock:
    """The lock of an SQLite database that was given by URL: it is for one process, like a data folder."""
    path = _absolute(file)
    return FileLock(path.with_name(path.name + ".lock"), f"the database {path}", "--database-url")


class DataFolder:
    """A folder that belongs to this process until `close`, or until the process ends.

    Raises ConfigurationError when the folder cannot be used, or when another process has it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path: Final = prepare(path)
        self._lock = FileLock(self.path / _LOCK, f"the data folder {self.path}")

    @property
    def database_url(self) -> str:
        return database_url(self.path)

    def close(self) -> None:
        """Give the folder back. Repeating it does nothing."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prepare(path: Path | str) -> Path:
    """Make the folder if need be, private and unknown to git, and return it as an absolute path.

    Takes no lock: commands that work beside a running server use it too.
    """
    folder = _absolute(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigurationError(f"The data folder {folder} is not writable.")
        _hide_from_git(folder)
    except OSError as error:
        raise _unusable(f"the data folder {folder}", error) from error
    return folder


def is_new(path: Path | str) -> bool:
    """Whether no server has kept anything in this folder yet. Creates nothing."""
    return not (_absolute(path) / _DATABASE).exists()


def is_running(path: Path | str) -> bool:
    """Whether a server holds this folder. Creates nothing and keeps no lock."""
    folder = _absolute(path)
    try:
        fd = _open_lock(folder / _LOCK)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unusable(f"the data folder {folder}", error) from error
    try:
        return not _locked(fd, 1)
    except OSError as error:
        raise _unusable(f"the data folder {folder}", error) from error
    finally:
        os.close(fd)


def database_url(path: Path | str) -> str:
    """The URL of the SQLite database in this folder, whether or not it is there yet."""
    return "sqlite+aiosqlite:///" + quote(str(_absolute(path) / _DATABASE))


def _absolute(path: Path | str) -> Path:
    text = os.path.abspath(path)
    # Both engines are named by URLs, which carry only text.
    if "\0" in text or text != text.encode("utf-8", "replace").decode("utf-8"):
        raise ConfigurationError(f"The path of the data folder is not UTF-8 text: {text!a}.")
    return Path(text)


def _hide_from_git(folder: Path) -> None:
    # In a working tree's own top folder it would hide the tree from its owner.
    if (folder / ".git").exists():
        return
    with contextlib.suppress(FileExistsError), open(folder / ".gitignore", "x", encoding="ascii") as file:
        file.write("*\n")


def _open_lock(file: Path, flags: int = 0) -> int:
    # O_NOFOLLOW and O_NONBLOCK: a link or a pipe of that name must neither lead elsewhere nor hang us.
    fd = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{file.name} is not a file")
    return fd


def _locked(fd: int, attempts: int) -> bool:
    for attempt in range(attempts):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < attempts:
                time.sleep(_LOCK_PAUSE_SECONDS)
        else:
            return True
    return False


def _holder(fd: int) -> int | None:
    try:
        return int(os.pread(fd, 32, 0))
    except (OSError, ValueError):
        return None


def _taken(what: str, option: str, pid: int | None) -> str:
    who = "Another jobserver" if pid is None else f"Another jobserver (process {pid})"
    return f"{who} is running on {what}: stop it, or choose another one ({option})."


def _unusable(what: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{what[0].upper()}{what[1:]} cannot be used: {error.strerror or error}.")
