"""Runs of a benchmark: interleaved, with their medians, and written down with what they were measured on."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

import jobserver
from bench.served import PERSISTENCE

RESULTS: Final = Path(__file__).parent / "results"
QUICK: Final = RESULTS / "quick"
_FOLDERS: Final = ("--into", "--cache")

Figures = dict[str, list[float]]
# Measures once: the figures by name.
Part = Callable[[], Awaitable[Mapping[str, float]]]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`quick`: small sizes and one run, to see that it works; its figures mean nothing."""

    quick: bool
    runs: int
    only: tuple[str, ...]
    folder: Path
    # Written although only some parts were measured: the results have a name of their own.
    named: bool = False

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


def options(description: str | None, *, runs: int = 5) -> Options:
    """The command line that all benchmarks share."""
    return given_options(parser(description, runs=runs).parse_args(), runs)


def parser(description: str | None, *, runs: int, only: str = "parts") -> argparse.ArgumentParser:
    """The options that all benchmarks share, for one that adds its own; `--only`, or `--peers`, names some of them."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="tiny sizes, one run, into results/quick")
    found.add_argument("--runs", type=int, help=f"how often each part is measured ({runs}, or 1 with --quick)")
    found.add_argument(
        "--only" if only == "parts" else f"--{only}",
        dest="only",
        metavar=only.upper(),
        default="",
        help=f"these {only}, separated by commas; shown, not written",
    )
    found.add_argument("--into", type=Path, help="folder of the results")
    return found


def given_options(given: argparse.Namespace, runs: int) -> Options:
    """What `parser` has understood; so many runs where none are named."""
    return Options(
        quick=given.quick,
        runs=given.runs or (1 if given.quick else runs),
        only=tuple(filter(None, given.only.split(","))),
        folder=given.into or (QUICK if given.quick else RESULTS),
    )


async def interleaved(parts: Mapping[str, Part], wanted: Options) -> Figures:
    """Each part once, then each again: a slow minute of the machine hits all alike. Figures are `part.name`."""
    if unknown := set(wanted.only) - set(parts):
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    figures: Figures = {}
    for number in range(wanted.runs):
        for name, part in parts.items():
            if wanted.only and name not in wanted.only:
                continue
            began = time.monotonic()
            found = {f"{name}.{figure}": value for figure, value in (await part()).items()}
            for figure, value in found.items():
                figures.setdefault(figure, []).append(round(value, 3))
            shown = ", ".join(f"{figure} {value:,.5g}" for figure, value in found.items())
            print(f"run {number + 1} of {wanted.runs}, {time.monotonic() - began:.0f} s: {shown}", file=sys.stderr)
    return figures


def write(name: str, wanted: Options, figures: Figures, versions: Mapping[str, str], **more: Any) -> None:
    """Write `NAME.json`, unless only some parts were measured, and show the medians."""
    medians = {figure: round(statistics.median(values), 3) for figure, values in figures.items()}
    content = {
        "machine": machine(),
        "versions": {"python": platform.python_version(), "jobserver": jobserver.__version__, **versions},
        "persistence": PERSISTENCE,
        "command": " ".join([f"python -m bench.{name}", *telling(sys.argv[1:])]),
        "quick": wanted.quick,
        "runs": figures,
        "medians": medians,
        **more,
    }
    for figure, median in medians.items():
        print(f"{figure:44} {median:14,.2f}  [{min(figures[figure]):,.2f} .. {max(figures[figure]):,.2f}]")
    if wanted.only and not wanted.named:
        return
    wanted.folder.mkdir(parents=True, exist_ok=True)
    file = wanted.folder / f"{name}.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    print(f"{file.name} is written")


def telling(arguments: Sequence[str]) -> list[str]:
    """Without the folders of this machine, which mean nothing elsewhere."""
    found: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument in _FOLDERS:
            next(left, None)
        elif not argument.startswith(tuple(f"{option}=" for option in _FOLDERS)):
            found.append(argument)
    return found


def machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "platform": f"{platform.system()} {platform.machine()}",
        # 0 is quiet: what else the machine had to do, the benchmark itself included.
        "load_average": [round(value, 1) for value in os.getloadavg()],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
