"""`jobserver torture`: faults on purpose, and a check of what became of every job."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path
from typing import Final

import click

from jobserver.errors import ConfigurationError

HELP: Final = """Break a server on purpose, and check that nothing was lost.

Starts engines and server processes of its own, submits a bounded load, injects faults in an order that follows
from the seed, lets everything come to rest, and compares what was sent, what the handlers saw and what SQL says.

The exit code is 0 only if every invariant holds. What is violated is printed with the whole history of its job.

\b
Examples:
  jobserver torture --minutes 5
  jobserver torture --seed 7 --pair embedded --report torture.json
"""


@click.command("torture", help=HELP, short_help="Break a server on purpose, and check that nothing was lost.")
@click.option("--seed", type=click.IntRange(min=0), help="Repeats a run: the same faults and jobs. Default: random.")
@click.option("--minutes", type=click.FloatRange(0.05, 1_440), default=1.0, show_default=True, help="Of load.")
@click.option("--processes", type=click.IntRange(1, 32), help="Server processes. Default: 3, embedded always 1.")
@click.option("--faults", metavar="A,B", help="Only these. Default: all that the engines can have.")
@click.option(
    "--pair",
    type=click.Choice(["postgresql", "embedded"]),
    default="postgresql",
    show_default=True,
    help="The engines: PostgreSQL and Valkey, or the embedded SQLite and Valkey.",
)
@click.option("--rate", type=click.FloatRange(0.1, 2_000), default=60.0, show_default=True, help="Jobs a second.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures there, as JSON.")
def torture_command(
    seed: int | None,
    minutes: float,
    processes: int | None,
    faults: str | None,
    pair: str,
    rate: float,
    report: Path | None,
) -> int:
    from jobserver.torture.report import Progress, Report
    from jobserver.torture.run import Options, torture

    if pair == "embedded" and processes not in (None, 1):
        raise ConfigurationError("The embedded engines are for one process: leave --processes out.")
    options = Options(
        seed=random.randrange(2**31) if seed is None else seed,  # noqa: S311
        minutes=minutes,
        processes=1 if pair == "embedded" else (processes or 3),
        faults=None if faults is None else tuple(dict.fromkeys(name.strip() for name in faults.split(","))),
        pair=pair,
        rate=rate,
    )

    async def until_stopped() -> Report:
        task = asyncio.current_task()
        assert task is not None
        # As Ctrl-C does: everything that was started is ended.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await torture(options, Progress(live=sys.stderr.isatty()))

    try:
        said = asyncio.run(until_stopped())
    except asyncio.CancelledError:
        raise click.Abort from None
    if report is not None:
        said.write(report)
    return 0 if said.holds else 1
