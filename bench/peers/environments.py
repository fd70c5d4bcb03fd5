"""An environment for each peer, made once and kept: packages of a peer never meet ours or another peer's."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.peers.contenders import Contender

REQUIREMENTS: Final = Path(__file__).parent / "requirements"
INSTALL_SECONDS: Final = 600.0
ASK_SECONDS: Final = 30.0
REASON_CHARACTERS: Final = 400
# Written last: a folder without it is half made.
READY: Final = "versions.json"

_VERSION: Final = "import sys; print(*sys.version_info[:2])"
_PACKAGES: Final = """
import importlib.metadata, json, platform
found = {each.metadata["Name"].lower(): each.version for each in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version(), **found}))
"""


class UnavailableError(Exception):
    """This peer cannot be had on this machine; says why."""


class Environment(msgspec.Struct, frozen=True):
    """Runs a peer's scripts."""

    program: Path
    variables: dict[str, str]
    versions: dict[str, str]


def default_cache() -> Path:
    """Where environments are kept from run to run."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "jobserver-bench"


def prepared(peer: Contender, cache: Path) -> Environment:
    """The peer's environment, made if it is not there or its requirements have changed. Raises UnavailableError."""
    requirements = REQUIREMENTS / f"{peer.name}.txt"
    make = _node if peer.node else _python
    return make(peer, requirements, cache)


def _python(peer: Contender, requirements: Path, cache: Path) -> Environment:
    interpreter = _interpreter(peer.python)
    folder = _folder(cache, peer.name, requirements.read_text(encoding="utf-8"), str(interpreter))
    program = folder / "bin" / "python"
    if not (folder / READY).exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([str(interpreter), "-m", "venv", str(folder)], INSTALL_SECONDS)
        command = [str(program), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*command, "--requirement", str(requirements)], INSTALL_SECONDS)
        (folder / READY).write_text(_run([str(program), "-c", _PACKAGES], ASK_SECONDS), encoding="utf-8")
    return Environment(program, {}, _versions(folder))


def _node(peer: Contender, requirements: Path, cache: Path) -> Environment:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise UnavailableError("there is no node with npm on PATH")
    wanted = requirements.read_text(encoding="utf-8").split()
    folder = _folder(cache, peer.name, *wanted, node)
    modules = folder / "node_modules"
    if not (folder / READY).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _run([npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", *wanted], INSTALL_SECONDS)
        versions = {"node": _run([node, "--version"], ASK_SECONDS).strip().removeprefix("v")}
        for package in modules.glob("*/package.json"):
            versions[package.parent.name] = msgspec.json.decode(package.read_bytes())["version"]
        (folder / READY).write_bytes(msgspec.json.encode(versions))
    return Environment(Path(node), {"NODE_PATH": str(modules)}, _versions(folder))


def _versions(folder: Path) -> dict[str, str]:
    return msgspec.json.decode((folder / READY).read_bytes(), type=dict[str, str])


def _folder(cache: Path, name: str, *ingredients: str) -> Path:
    digest = hashlib.sha256("\n".join(ingredients).encode()).hexdigest()
    return cache / f"{name}-{digest[:12]}"


def _interpreter(at_least: tuple[int, int]) -> Path:
    """Ours if it is new enough, so that figures compare; else the oldest one on the machine that is."""
    if sys.version_info >= at_least:
        return Path(sys.executable)
    found = {version: path for path in _candidates() if (version := _version_of(path)) >= at_least}
    if not found:
        raise UnavailableError(f"it needs Python {'.'.join(map(str, at_least))}, which this machine does not have")
    return found[min(found)]


def _candidates() -> Iterator[Path]:
    for minor in range(11, 20):
        path = shutil.which(f"python3.{minor}")
        if path is not None:
            yield Path(path)
    pyenv = Path(os.environ.get("PYENV_ROOT", "") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob("versions/3.*/bin/python"))


def _version_of(interpreter: Path) -> tuple[int, int]:
    try:
        major, minor = _run([str(interpreter), "-c", _VERSION], ASK_SECONDS).split()
    except UnavailableError:
        # A shim of pyenv for a version that is not switched on, for instance.
        return (0, 0)
    return (int(major), int(minor))


def _run(command: Sequence[str], seconds: float) -> str:
    """What it prints. Raises UnavailableError with the end of what it said."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{Path(command[0]).name}: {error}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise UnavailableError(f"{Path(command[0]).name}: {said[-REASON_CHARACTERS:]}")
    return done.stdout
