"""The engines of a server to which none was configured: SQLite and Valkey, in one data folder.

Imported by the edge only. The folder is locked before anything in it is touched, and given back last.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from jobserver.embedded.folder import DataFolder, database_url, is_new, is_running, lock_database, prepare
from jobserver.embedded.valkey import EmbeddedValkey, find_server

__all__ = [
    "DataFolder",
    "EmbeddedEngines",
    "EmbeddedValkey",
    "database_url",
    "find_server",
    "is_new",
    "is_running",
    "lock_database",
    "prepare",
]


class EmbeddedEngines:
    """`async with EmbeddedEngines(data_dir) as engines:` the folder is ours and Valkey answers.

    `on_restart` is called after a Valkey that died was started again: its last second of writes may be gone.
    Raises ConfigurationError when the folder or the server binary cannot be used.
    """

    def __init__(self, data_dir: Path | str, *, on_restart: Callable[[], None] | None = None) -> None:
        self._data_dir: Final = data_dir
        self._on_restart: Final = on_restart
        self._engines: tuple[DataFolder, EmbeddedValkey] | None = None

    async def __aenter__(self) -> Self:
        folder = DataFolder(self._data_dir)
        try:
            valkey = EmbeddedValkey(folder, on_restart=self._on_restart)
            await valkey.start()
        except BaseException:
            folder.close()
            raise
        self._engines = (folder, valkey)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        folder, valkey = self._started
        try:
            await valkey.stop()
        finally:
            folder.close()

    @property
    def folder(self) -> Path:
        return self._started[0].path

    @property
    def database_url(self) -> str:
        return self._started[0].database_url

    @property
    def redis_url(self) -> str:
        return self._started[1].url

    @property
    def valkey_version(self) -> str:
        return self._started[1].version

    @property
    def valkey_pid(self) -> int | None:
        return self._started[1].pid

    @property
    def _started(self) -> tuple[DataFolder, EmbeddedValkey]:
        if self._engines is None:
            raise RuntimeError("the embedded engines are not started")
        return self._engines
