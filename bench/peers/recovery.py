"""Seconds from the kill -9 of a worker until the job that it ran is running again, for ours and for its peers.

    python -m bench.peers.recovery [--quick] [--runs 3] [--peers arq,saq] [--into FOLDER] [--cache FOLDER]

Two workers of a kind are up, for 10 jobs at once each; one of them runs one job that goes on for minutes, the other
one is idle. The first one's whole process group is killed, and the clock runs until the other one starts the same job.
It stops after 180 s, and 180 is written then. Machines idle meanwhile, so all are measured at once, each on a database
and a Valkey of its own, and nobody is killed before all are prepared. A run takes about 5 minutes. What a peer's
documents tell its users to turn on for this is on; its side says so. The glues are left out: they recover as their
queues do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

from bench.peers.contenders import OURS, PEERS, Contender
from bench.peers.environments import Environment
from bench.peers.run import Bout, PeerError, arguments, described, environments
from bench.record import Figures, Options, telling, write
from bench.served import Engines, RealPair
from tests.engines import EngineError, PostgresServer, RedisServer, find_postgres

QUEUES: Final = tuple(peer for peer in PEERS if not peer.glue)
# Longer than anybody waits for it.
HOLD_SECONDS: Final = 600
PREPARED_AT_ONCE: Final = 3
START_SECONDS: Final = 60.0
# Of a worker: some ask once for each job that they could take, and are served in the order in which they asked.
CONCURRENCY: Final = 10
# Of jobs that both workers may take, until the one that is to be killed does.
SUBMITS: Final = 60
# Beats differ: the kill comes at any moment of them, as long after the job began as a lease or a lock takes to settle.
SETTLE_SECONDS: Final = 10.0
SPREAD_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.02


class Prepared(msgspec.Struct, frozen=True):
    """One worker that runs the job, and another one that is idle."""

    contender: Contender
    victim: asyncio.subprocess.Process
    heir_process: asyncio.subprocess.Process
    heir: Bout
    job: int


async def prepare(
    contender: Contender, program: Environment, postgres: PostgresServer, stack: AsyncExitStack
) -> Prepared:
    """Start both workers, and submit until the one that holds has a job. Raises PeerError."""
    valkey = stack.enter_context(RedisServer("valkey"))
    pair = await stack.enter_async_context(Engines(postgres, valkey).fresh())
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-recovery-")))
    variables = {"BENCH_RECOVERY": "1", "BENCH_CONCURRENCY": str(CONCURRENCY)}
    heir = _bout(contender, program, pair, folder / "heir", variables)
    holder = _bout(contender, program, pair, folder / "holder", {**variables, "BENCH_HOLD": str(HOLD_SECONDS)})
    await heir.tell("setup")
    # It ends what it is given at once, and so proves that it is there.
    heir_process = await _started(contender, heir, stack)
    await heir.tell("submit", 0, 1)
    await _start_of(0, (heir,), heir_process, START_SECONDS)
    victim = await _started(contender, holder, stack)
    for job in range(1, SUBMITS + 1):
        await heir.tell("submit", job, 1)
        await _start_of(job, (heir, holder), victim, START_SECONDS)
        if job in holder.starts():
            return Prepared(contender, victim, heir_process, heir, job)
    raise PeerError(f"the second worker took none of {SUBMITS} jobs")


async def recovered(it: Prepared, limit_seconds: float, after_seconds: float) -> float:
    """Kill the worker after so many seconds; how long its job then took to run again, or the limit."""
    await asyncio.sleep(after_seconds)
    for process in (it.victim, it.heir_process):
        it.heir.check(process, "worker")
    if it.job in it.heir.starts():
        raise PeerError("its job ran on both workers before the kill")
    killed = time.monotonic()
    await slay(it.victim)
    with contextlib.suppress(TimeoutError):
        return await _start_of(it.job, (it.heir,), it.heir_process, limit_seconds) - killed
    return limit_seconds


async def slay(process: asyncio.subprocess.Process) -> None:
    """kill -9 of the process and of all that it has started: it leads a group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _bout(
    contender: Contender, program: Environment, pair: RealPair, folder: Path, variables: Mapping[str, str]
) -> Bout:
    folder.mkdir()
    return Bout(contender, program, pair, folder, variables)


async def _started(contender: Contender, bout: Bout, stack: AsyncExitStack) -> asyncio.subprocess.Process:
    running = bout.serving("worker") if contender.worker_serves else bout.running("worker")
    process = await stack.enter_async_context(running)
    # Nothing is left to be saved when it ends.
    stack.push_async_callback(slay, process)
    return process


async def _start_of(job: int, bouts: Iterable[Bout], process: asyncio.subprocess.Process, seconds: float) -> float:
    """When one of these workers started the job. Raises TimeoutError, and PeerError if the process has ended."""
    bouts = tuple(bouts)
    async with asyncio.timeout(seconds):
        while True:
            for bout in bouts:
                if job in (starts := bout.starts()):
                    return starts[job]
            bouts[-1].check(process, "worker")
            await asyncio.sleep(POLL_SECONDS)


async def measured(
    programs: Mapping[str, Environment], wanted: Options, postgres: PostgresServer, failed: dict[str, str]
) -> Figures:
    """All of them at once, again and again: `peer.seconds`."""
    limit_seconds = limit(wanted)
    ours = Environment(Path(sys.executable), {}, {})
    spread = random.Random(1)
    figures: Figures = {}
    for number in range(wanted.runs):
        async with AsyncExitStack() as stack:
            gate = asyncio.Semaphore(PREPARED_AT_ONCE)

            async def prepared(contender: Contender, program: Environment) -> Prepared | None:
                own = await stack.enter_async_context(AsyncExitStack())
                async with gate:  # noqa: B023
                    try:
                        return await prepare(contender, program, postgres, own)
                    except (PeerError, EngineError, RuntimeError, TimeoutError, msgspec.DecodeError) as error:
                        failed[contender.name] = f"{error}" or "its worker does not start what it is given"
                        await own.aclose()
                        return None

            contenders = [OURS, *(peer for peer in QUEUES if peer.name in programs and peer.name not in failed)]
            found = await asyncio.gather(*(prepared(each, programs.get(each.name, ours)) for each in contenders))
            ready = [each for each in found if each is not None]
            waits = [SETTLE_SECONDS + spread.uniform(0, SPREAD_SECONDS) for _ in ready]
            answers = await asyncio.gather(
                *(recovered(each, limit_seconds, wait) for each, wait in zip(ready, waits, strict=True)),
                return_exceptions=True,
            )
        for each, answer in zip(ready, answers, strict=True):
            name = each.contender.name
            if isinstance(answer, PeerError):
                failed[name] = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                figures.setdefault(f"{name}.seconds", []).append(round(answer, 3))
                print(f"run {number + 1} of {wanted.runs}: {name} {shown(answer, limit_seconds)}", file=sys.stderr)
    return figures


def limit(wanted: Options) -> float:
    return float(wanted.size(180, 20))


def shown(seconds: float, limit_seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < limit_seconds else f"not within {limit_seconds:g} s"


def table(figures: Figures, limit_seconds: float) -> str:
    """Medians, the fastest first, with the runs."""
    medians = sorted((statistics.median(values), name) for name, values in figures.items())
    return "\n".join(
        f"{name.removesuffix('.seconds'):24} {shown(median, limit_seconds):>20}  "
        f"[{', '.join(shown(value, limit_seconds) for value in figures[name])}]"
        for median, name in medians
    )


def main() -> None:
    wanted, given = arguments(__doc__, QUEUES, 3)
    programs, failed = environments(wanted.only or tuple(peer.name for peer in QUEUES), given.cache)
    with (
        PostgresServer(find_postgres(), fsync=True) as postgres,
        RedisServer("valkey") as valkey,
        asyncio.Runner() as runner,
    ):
        # Killed politely, it still ends what it has started.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        figures = runner.run(measured(programs, wanted, postgres, failed))
        versions = runner.run(Engines(postgres, valkey).versions())
    recoveries = {each.name: each.recovery for each in (OURS, *QUEUES)}
    write(
        "peer_recovery",
        wanted,
        figures,
        versions,
        # Its name is not the module's.
        command=" ".join(["python -m bench.peers.recovery", *telling(sys.argv[1:])]),
        limit_seconds=limit(wanted),
        peers=described("recovery", recoveries, programs, failed),
    )
    print(table(figures, limit(wanted)))
    for name, reason in failed.items():
        print(f"{name} was not measured: {reason}")


if __name__ == "__main__":
    main()
