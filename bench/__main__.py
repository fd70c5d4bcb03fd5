"""All benchmarks, one after the other, then the tables and plots of what they found.

    python -m bench [--quick] [--runs N] [--into FOLDER] [NAME...]

NAME: throughput, latency, ceilings, scale, soak, ablations, peers; all of them, if none is given. One that fails
does not keep the others from running.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench.record import QUICK, RESULTS

BENCHES: Final = ("throughput", "latency", "ceilings", "scale", "soak", "ablations", "peers")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one run, into results/quick")
    parser.add_argument("--runs", type=int, help="how often each part is measured")
    parser.add_argument("--into", type=Path, help="folder of the results")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    folder = options.into or (QUICK if options.quick else RESULTS)
    arguments = ["--into", str(folder), *(["--quick"] if options.quick else [])]
    if options.runs is not None:
        arguments += ["--runs", str(options.runs)]
    failed = []
    for name in options.names or BENCHES:
        print(f"--- {name}", file=sys.stderr, flush=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"bench.{name}", *arguments], check=False)
        if done.returncode:
            failed.append(name)
        print(f"--- {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "bench.table", str(folder)], check=False)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
