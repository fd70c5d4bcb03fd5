"""`python -m tests.mutants`: the table of guards, and the test that fails without each. Exits 1 when one has none."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from tests.mutants.run import (
    BASELINE_SECONDS,
    PROJECT,
    Fate,
    MovedError,
    Mutant,
    Verdict,
    copies,
    judge_all,
    mutated,
    run_tests,
)
from tests.mutants.table import MUTANTS

_MOST_WORKERS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a part of a guard's name or file; default: all")
    parser.add_argument("--list", action="store_true", help="show the guards and the tests that should notice")
    parser.add_argument("--workers", type=int, default=_MOST_WORKERS, choices=range(1, _MOST_WORKERS + 1))
    options = parser.parse_args(arguments)
    chosen = selected(options.names)
    if not chosen:
        parser.error("no guard has such a name")
    if options.list:
        print_table(("guard", "in", "should be noticed by"), [(m.guard, m.file, ", ".join(m.tests)) for m in chosen])
        return 0
    return check(chosen, options.workers)


def selected(names: Sequence[str]) -> list[Mutant]:
    """The mutants that one of these is a part of; all without any."""
    wanted = [name.lower() for name in names] or [""]
    return [each for each in MUTANTS if any(name in f"{each.guard} {each.file}".lower() for name in wanted)]


def check(mutants: Sequence[Mutant], workers: int) -> int:
    started = time.monotonic()
    try:
        for mutant in mutants:
            mutated(mutant, (PROJECT / mutant.file).read_text(encoding="utf-8"))
    except MovedError as error:
        print(error, file=sys.stderr)
        return 1
    with copies(min(workers, len(mutants))) as made:
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        baseline = run_tests(tests, made[0], options=(f"-n{workers}",), limit_seconds=BASELINE_SECONDS)
        if baseline.code != 0:
            print(baseline.output, file=sys.stderr)
            print("The tests must pass before a guard is removed.", file=sys.stderr)
            return 1
        print(f"{len(tests)} tests pass on {len(mutants)} guards, {time.monotonic() - started:.0f} s", flush=True)
        verdicts: dict[str, Verdict] = {}
        for verdict in judge_all(mutants, made):
            verdicts[verdict.mutant.guard] = verdict
            count = f"{len(verdicts)}/{len(mutants)}"
            print(f"{count:>7} {verdict.fate.value:8} {verdict.seconds:5.1f} s  {verdict.mutant.guard}", flush=True)
            if verdict.fate is not Fate.NOTICED:
                print(verdict.said, file=sys.stderr, flush=True)
    print()
    print_table(
        ("guard", "removed from", "test that fails without it", "s"),
        [row(verdicts[mutant.guard]) for mutant in mutants],
    )
    bad = [each for each in verdicts.values() if each.fate is not Fate.NOTICED]
    minutes = (time.monotonic() - started) / 60
    print(f"\nWithout {len(mutants) - len(bad)} of {len(mutants)} guards a test fails; {minutes:.1f} minutes")
    return 1 if bad else 0


def row(verdict: Verdict) -> tuple[str, ...]:
    by = verdict.by if verdict.fate is Fate.NOTICED else f"{verdict.fate.value} {verdict.by}".strip()
    return verdict.mutant.guard, verdict.mutant.file.removeprefix("jobserver/"), by, f"{verdict.seconds:.1f}"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As Markdown."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for cells in rows:
        print("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
