"""Remove one guard in a copy of the tree, run the tests that should notice, and say which one did.

A mutant is noticed when a test fails. It is broken, and proves nothing, when it cannot be collected or run: a name
that is not there, a statement that SQL or Lua cannot read.
"""

from __future__ import annotations

import enum
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import msgspec

PROJECT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = ("jobserver", "tests", "pyproject.toml")
# A run: the start of Python, the start of the engines, and a few tests.
LIMIT_SECONDS: Final = 300.0
TEST_SECONDS: Final = 60
BASELINE_SECONDS: Final = 1_800.0

# What says that the mutant is no program any more. At the start of a line: there pytest and logs name an exception.
_BROKEN: Final = re.compile(
    r"^(?:E\s+)?(?:[\w.]+\.)?(?:\w*SyntaxError|IndentationError|NameError|UnboundLocalError|AttributeError|ImportError"
    r"|ModuleNotFoundError|Undefined\w+Error|Ambiguous\w+Error|Indeterminate\w+Error|DatatypeMismatchError"
    r"|GroupingError|sqlite3\.\w*(?:OperationalError|ProgrammingError))(?::|$)"
    r"|the server expects \d+ arguments|Error compiling script|attempt to \w+ (?:a|global|local|field|upvalue)\b",
    re.MULTILINE,
)


class Edit(msgspec.Struct, frozen=True):
    """A text that stands once in the file, and what takes its place."""

    find: str
    replace: str


class Mutant(msgspec.Struct, frozen=True):
    """A guard in words, the file that it is removed from, how, and the tests that should notice."""

    guard: str
    file: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


class MovedError(Exception):
    """The text of a guard is not where it was, or stands there more than once."""


class Fate(enum.Enum):
    NOTICED = "noticed"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"


class Verdict(msgspec.Struct, frozen=True):
    """What became of a mutant. `by` is the test that failed; `said` what a run that proves nothing printed."""

    mutant: Mutant
    fate: Fate
    by: str
    seconds: float
    said: str = ""


class Run(msgspec.Struct, frozen=True):
    """What pytest came to: the tests that failed, with their reasons, and those that could not be run."""

    code: int | None
    failed: dict[str, str]
    errors: dict[str, str]
    output: str


def mutated(mutant: Mutant, text: str) -> str:
    """The text of the file without the guard. Raises MovedError."""
    for edit in mutant.edits:
        found = text.count(edit.find)
        if found != 1:
            raise MovedError(f"{mutant.guard}: {found} times in {mutant.file}, not once: {edit.find!r}")
        text = text.replace(edit.find, edit.replace)
    return text


@contextmanager
def copies(count: int) -> Iterator[list[Path]]:
    """Copies of what the tests need, in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="jobserver-mutants-") as folder:
        made = [Path(folder) / str(number) for number in range(count)]
        for copy in made:
            copy.mkdir()
            for name in COPIED:
                source = PROJECT / name
                if source.is_dir():
                    shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
                else:
                    shutil.copy2(source, copy / name)
        yield made


@contextmanager
def without_guard(mutant: Mutant, copy: Path) -> Iterator[None]:
    """The file of the copy without its guard, and as it was at the end."""
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    try:
        _write(path, mutated(mutant, text))
        yield
    finally:
        _write(path, text)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    # A compiled module counts as current by the second of its source and its length: both may be the same.
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def judge(mutant: Mutant, copy: Path) -> Verdict:
    """Run the mutant's tests without its guard."""
    started = time.monotonic()
    with without_guard(mutant, copy):
        run = run_tests(mutant.tests, copy, options=("-x", "-n0"), limit_seconds=LIMIT_SECONDS)
    seconds = time.monotonic() - started
    reasons = "\n".join([*run.failed.values(), *run.errors.values()])
    if run.code not in (0, 1) or run.errors or _BROKEN.search(reasons):
        return Verdict(mutant, Fate.BROKEN, next(iter(run.failed | run.errors), ""), seconds, reasons or run.output)
    if run.code == 0:
        return Verdict(mutant, Fate.SURVIVED, "", seconds, run.output)
    return Verdict(mutant, Fate.NOTICED, next(iter(run.failed)), seconds, reasons)


def judge_all(mutants: Sequence[Mutant], made: Sequence[Path]) -> Iterator[Verdict]:
    """The verdicts as they come in, with as many at a time as there are copies."""
    free: SimpleQueue[Path] = SimpleQueue()
    for copy in made:
        free.put(copy)

    def on_a_copy(mutant: Mutant) -> Verdict:
        copy = free.get()
        try:
            return judge(mutant, copy)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(made), thread_name_prefix="mutant") as pool:
        asked = [pool.submit(on_a_copy, mutant) for mutant in mutants]
        try:
            for done in as_completed(asked):
                yield done.result()
        finally:
            for each in asked:
                each.cancel()


def run_tests(tests: Iterable[str], copy: Path, *, options: Sequence[str], limit_seconds: float) -> Run:
    """pytest in the copy; `code` is None when it had to be killed."""
    report = copy / "report.xml"
    report.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=short",
        "-p",
        "tests.mutants.witness",
        "-p",
        "no:cacheprovider",
    ]
    command += [f"--timeout={TEST_SECONDS}", f"--junitxml={report}", "-o", "junit_logging=all", *options, *tests]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JOBSERVER_", "PYTEST_"))}
    # Compiled modules: without them every start takes seconds.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPATH"] = str(copy)
    # To a file: what a test leaves running would keep a pipe open.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=copy,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        code: int | None
        try:
            code = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        output.seek(0)
        said = output.read().decode(errors="replace")
    failed, errors = _read(report)
    return Run(code, failed, errors, said)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole group, also what pytest left behind; engines have guards of their own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
    finally:
        process.wait()


def _read(report: Path) -> tuple[dict[str, str], dict[str, str]]:
    if not report.is_file():
        return {}, {}
    failed: dict[str, str] = {}
    errors: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        logs = "\n".join(each.text or "" for kind in ("system-out", "system-err") for each in case.iter(kind))
        for kind, found in (("failure", failed), ("error", errors)):
            for problem in case.iter(kind):
                found[_node_id(case)] = f"{problem.get('message', '')}\n{problem.text or ''}\n{logs}"
    return failed, errors


def _node_id(case: ET.Element) -> str:
    module, name = case.get("classname", ""), case.get("name", "")
    return f"{module.replace('.', '/')}.py::{name}" if module else name
