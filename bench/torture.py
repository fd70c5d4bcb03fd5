"""The tortures that a release must survive, one after another, and their reports in one file.

    python -m bench.torture              # runs all of them: about 45 minutes
    python -m bench.torture REPORT...    # only puts reports of `jobserver torture --report` together

Writes `bench/results/torture.json`. Exit code 0 only if every invariant held in every one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

RESULTS: Final = Path(__file__).parent / "results" / "torture.json"
ALL: Final = ("--processes", "3", "--minutes", "10")
RUNS: Final[tuple[tuple[str, ...], ...]] = (
    ("--seed", "1001", *ALL),
    ("--seed", "1002", *ALL),
    ("--seed", "1003", *ALL),
    ("--seed", "2001", "--pair", "embedded", "--minutes", "5"),
    ("--seed", "3001", "--processes", "3", "--faults", "rolling", "--minutes", "6"),
)


def run_all(folder: Path) -> list[Path]:
    """Run each, and return the files of their reports. One that could not be started leaves none."""
    files = []
    for number, options in enumerate(RUNS):
        file = folder / f"{number}.json"
        subprocess.run(
            [sys.executable, "-m", "jobserver", "torture", *options, "--report", str(file)], check=False, timeout=3_600
        )
        files.append(file)
    return [file for file in files if file.exists()]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(name) for name in sys.argv[1:]] or run_all(Path(folder))
        reports: list[dict[str, Any]] = [msgspec.json.decode(file.read_bytes()) for file in files]
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode({"runs": reports}), indent=2) + b"\n")
    held = [not report["violations"] for report in reports]
    print(f"{sum(held)} of {len(held)} held; {RESULTS.name} is written")
    sys.exit(0 if held and all(held) else 1)


if __name__ == "__main__":
    main()
