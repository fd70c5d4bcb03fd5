"""The table does not rot: every guard is where it says, its tests exist, no statement that changes jobs lacks one."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.__main__ import selected
from tests.mutants.run import PROJECT, Edit, Fate, MovedError, Mutant, copies, judge, mutated
from tests.mutants.table import MUTANTS

POLICY = "jobserver/job/lifecycle.py"
CAP = "if crashes >= policy.max_crashes:"
NOTICES = "tests/job/test_lifecycle.py::test_crashes_have_a_cap_of_their_own"


@pytest.mark.parametrize("mutant", [pytest.param(each, id=each.guard) for each in MUTANTS])
def test_a_guard_stands_once_where_the_table_says(mutant: Mutant) -> None:
    text = (PROJECT / mutant.file).read_text(encoding="utf-8")
    without = mutated(mutant, text)
    assert without != text
    if mutant.file.endswith(".py"):
        ast.parse(without)


def test_every_guard_has_a_name_of_its_own() -> None:
    names = [mutant.guard for mutant in MUTANTS]
    assert len(names) == len(set(names))


def test_every_test_that_the_table_names_exists() -> None:
    named = {test for mutant in MUTANTS for test in mutant.tests}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "-p", "no:cacheprovider", *sorted(named)]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100)
    assert listed.returncode == 0, listed.stdout + listed.stderr


def changing() -> Iterator[str]:
    """Every statement that changes or deletes jobs."""
    sql = PROJECT / "jobserver" / "store" / "sql"
    for path in sorted([*sql.rglob("*.sql"), *sql.rglob("*.part")]):
        if re.search(r"\b(UPDATE jobs|DELETE FROM jobs)\b", path.read_text(encoding="utf-8")):
            yield path.relative_to(PROJECT).as_posix()


def test_no_statement_that_changes_jobs_is_without_a_guard() -> None:
    assert set(changing()) <= {mutant.file for mutant in MUTANTS}


def test_every_script_has_a_guard_but_those_that_only_look() -> None:
    scripts = {path.name for path in (PROJECT / "jobserver" / "stream" / "scripts").glob("*.lua")}
    assert scripts - {Path(mutant.file).name for mutant in MUTANTS} == {"sizes.lua"}


def test_names_select_guards_by_a_part_of_their_name_or_file() -> None:
    assert selected([]) == list(MUTANTS)
    assert [each.guard for each in selected(["crash cap"])] == ["policy: crash cap"]
    assert {each.file for each in selected(["promote.lua"])} == {"jobserver/stream/scripts/promote.lua"}
    assert selected(["no such guard"]) == []


# The runs themselves, on guards that need no engine.


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    with copies(1) as [made]:
        yield made


@pytest.mark.parametrize(
    ("find", "replace", "fate"),
    [
        (CAP, "if False:", Fate.NOTICED),
        ("The server's rules for what follows a failure.", "The rules.", Fate.SURVIVED),
        # No test has noticed anything: there is nothing left to test.
        (CAP, "if crashes >= undefined_name:", Fate.BROKEN),
        (CAP, "if crashes >=:", Fate.BROKEN),
    ],
    ids=["noticed", "survived", "cannot run", "cannot be collected"],
)
def test_a_mutant_is_noticed_by_a_test_that_fails_and_by_nothing_else(
    copy: Path, find: str, replace: str, fate: Fate
) -> None:
    before = (copy / POLICY).read_text(encoding="utf-8")
    verdict = judge(Mutant("a guard", POLICY, (Edit(find, replace),), (NOTICES,)), copy)
    assert verdict.fate is fate, verdict.said
    assert (fate is Fate.NOTICED) == verdict.by.startswith(f"{NOTICES}[2-")
    assert (copy / POLICY).read_text(encoding="utf-8") == before


@pytest.mark.parametrize("find", ["a text that is not there", "return"])
def test_a_guard_that_moved_is_said(find: str) -> None:
    text = (PROJECT / POLICY).read_text(encoding="utf-8")
    with pytest.raises(MovedError, match="not once"):
        mutated(Mutant("a guard", POLICY, (Edit(find, ""),), (NOTICES,)), text)


def test_a_run_that_imports_anything_but_the_copy_is_refused(copy: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import tests.mutants.witness as w; w.pytest_configure(None)"]
    for folder, refused in ((copy, False), (tmp_path, True)):
        ran = subprocess.run(
            command, cwd=folder, env={"PYTHONPATH": str(copy)}, capture_output=True, text=True, timeout=60
        )
        assert (ran.returncode != 0) is refused, ran.stderr
        assert ("is not of the copy" in ran.stderr) is refused
