"""Ours beside its peers and beside the glue that users build, on the same engines, by the same rule.

    python -m bench.peers [--quick] [--runs 5] [--jobs 20000] [--peers arq,saq [--name NAME]] [--into FOLDER]
                          [--cache FOLDER]

Ours is measured again before each peer, and all of them again in each run; a queue that drains less than a quarter of
ours, in the first two runs only, or they would take most of the hour. The rule: half of the jobs are submitted
one by one and half in bulk, then a worker starts (100 at once), and each no-op handler marks its start with the
shared clock. Drain is from the first mark to the last one; ours must also have committed all ends by then. Latency is
from the call that submits to the mark. A glue: 64 connections `POST /jobs`; a life ends when its row says so.
A peer that cannot be had, or fails, is named with its reason. A run of all goes into `bench/results/peers.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from bench import record
from bench.peers.contenders import OURS, PEERS, SIDES, Contender
from bench.peers.environments import Environment, UnavailableError, default_cache, prepared
from bench.peers.sides.protocol import BULK, MARK
from bench.record import Figures, Options
from bench.served import ROOT, Engines, RealPair, engines, environment, post
from tests.engines import free_port

CONCURRENCY: Final = 100
CONNECTIONS: Final = 64
COMMAND_SECONDS: Final = 600.0
START_SECONDS: Final = 60.0
# Less than the slowest peer's rate by far.
DRAIN_SECONDS_A_JOB: Final = 0.02
STOP_SECONDS: Final = 15.0
# A queue that drains less than this share of ours is measured in so many runs only.
SLOW_SHARE: Final = 0.25
SLOW_RUNS: Final = 2
POLL_SECONDS: Final = 0.01
SAID_CHARACTERS: Final = 600

COMPLETED: Final = "SELECT count(*) FROM jobs WHERE status = 'completed'"


class PeerError(Exception):
    """A contender did not do what was asked; says what it said."""


class Sizes(msgspec.Struct, frozen=True):
    """How much of everything."""

    jobs: int
    latency_jobs: int
    requests: int


class Latency(msgspec.Struct, frozen=True):
    milliseconds: list[float]


class Seconds(msgspec.Struct, frozen=True):
    seconds: float


class Prepared(msgspec.Struct, frozen=True):
    bulks: bool


class Bout:
    """One contender on fresh engines: its commands and its processes."""

    def __init__(
        self,
        contender: Contender,
        program: Environment,
        pair: RealPair,
        folder: Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._variables: Final = variables or {}
        self._contender: Final = contender
        self._program: Final = program
        self._pair: Final = pair
        self._folder: Final = folder
        self.marks: Final = folder / "marks"
        self.marks.touch()
        self.port: Final = free_port()

    async def tell(self, *words: object) -> bytes:
        """Run one command of the side to its end; returns what it printed."""
        with self._log("command") as log:
            process = await asyncio.create_subprocess_exec(
                *self._command(*words),
                cwd=SIDES,
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
            try:
                output, _ = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS)
            except TimeoutError:
                raise PeerError(f"{words[0]} takes more than {COMMAND_SECONDS:g} s") from None
            finally:
                await _end(process)
        if process.returncode:
            raise PeerError(f"{words[0]}: {self._said('command')}")
        # Some print a line of their own first.
        return output.strip().rpartition(b"\n")[2]

    @asynccontextmanager
    async def running(self, role: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """The contender's worker or its server, ended afterwards with whatever it has started."""
        with self._log(role) as log:
            process = await asyncio.create_subprocess_exec(
                *self._command(role),
                cwd=SIDES,
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            await _end(process)

    @asynccontextmanager
    async def serving(self, role: str = "server") -> AsyncIterator[asyncio.subprocess.Process]:
        """As `running`, from the moment that its port answers."""
        async with self.running(role) as process:
            async with self._limit(f"{role} does not start", START_SECONDS, role):
                while not await self._answers():
                    self.check(process, role)
                    await asyncio.sleep(POLL_SECONDS)
            yield process

    async def marked(self, jobs: int, process: asyncio.subprocess.Process) -> list[float]:
        """When each of these jobs started first, sorted, as soon as all have."""
        async with self._limit("does not run all jobs", START_SECONDS + jobs * DRAIN_SECONDS_A_JOB, "worker"):
            while True:
                # Cheap to look at while all cores are busy.
                if self.marks.stat().st_size >= jobs * MARK.size:
                    starts = self.starts()
                    if len(starts) >= jobs:
                        return sorted(starts.values())
                self.check(process, "worker")
                await asyncio.sleep(POLL_SECONDS)

    def starts(self) -> dict[int, float]:
        """When each job that has started did so first."""
        starts: dict[int, float] = {}
        data = self.marks.read_bytes()
        for at, number in MARK.iter_unpack(data[: len(data) // MARK.size * MARK.size]):
            starts.setdefault(number, at)
        return starts

    async def completed(self, jobs: int, process: asyncio.subprocess.Process) -> float:
        """When so many rows were seen to say that they are completed."""
        async with (
            self._limit("does not complete all jobs", START_SECONDS + jobs * DRAIN_SECONDS_A_JOB, "worker"),
            self._pair.connection() as connection,
        ):
            while await connection.fetchval(COMPLETED, timeout=30) < jobs:
                self.check(process, "worker")
                await asyncio.sleep(POLL_SECONDS)
            return time.monotonic()

    def check(self, process: asyncio.subprocess.Process, role: str) -> None:
        """Raises PeerError if it has ended by itself."""
        if process.returncode is not None:
            raise PeerError(f"the {role} ended with {process.returncode}: {self._said(role)}")

    @asynccontextmanager
    async def _limit(self, what: str, seconds: float, role: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise PeerError(f"{what} within {seconds:g} s: {self._said(role)}") from None

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            return True
        return False

    def _command(self, *words: object) -> list[str]:
        return [str(self._program.program), str(self._contender.script), *map(str, words)]

    def _environment(self) -> dict[str, str]:
        paths = [SIDES, ROOT] if self._contender is OURS else [SIDES]
        return {
            **environment(),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "BENCH_REDIS": self._pair.redis.url,
            "BENCH_POSTGRES": self._pair.database_url.replace("+asyncpg", "", 1),
            "BENCH_MARKS": str(self.marks),
            "BENCH_CONCURRENCY": str(CONCURRENCY),
            "BENCH_PORT": str(self.port),
            **self._program.variables,
            **self._variables,
        }

    def _log(self, role: str) -> BinaryIO:
        return (self._folder / f"{role}.log").open("ab")

    def _said(self, role: str) -> str:
        log = self._folder / f"{role}.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return " ".join(text.split())[-SAID_CHARACTERS:] or "it said nothing"


@asynccontextmanager
async def bout(contender: Contender, program: Environment, on: Engines) -> AsyncIterator[Bout]:
    """Fresh engines, with what the contender needs in its database."""
    async with on.fresh() as pair:
        with tempfile.TemporaryDirectory(prefix="bench-peer-") as folder:
            yield Bout(contender, program, pair, Path(folder))


async def queue_figures(contender: Contender, program: Environment, on: Engines, sizes: Sizes) -> dict[str, float]:
    """Submit, drain and latency of a queue."""
    figures: dict[str, float] = {}
    async with bout(contender, program, on) as it:
        bulks = msgspec.json.decode(await it.tell("setup"), type=Prepared).bulks
        one_by_one = sizes.jobs // 2 if bulks else sizes.jobs
        async with it.serving() if contender.serves else contextlib.nullcontext():
            took = msgspec.json.decode(await it.tell("submit", 0, one_by_one), type=Seconds)
            figures["submit_per_second"] = one_by_one / took.seconds
            if bulks:
                rest = sizes.jobs - one_by_one
                took = msgspec.json.decode(await it.tell("bulk", one_by_one, rest), type=Seconds)
                figures["bulk_per_second"] = rest / took.seconds
        async with it.serving("worker") if contender.worker_serves else it.running("worker") as worker:
            starts = await it.marked(sizes.jobs, worker)
            last = await it.completed(sizes.jobs, worker) if contender is OURS else starts[-1]
            figures["drain_per_second"] = (sizes.jobs - 1) / (last - starts[0])
            answer = await it.tell("latency", sizes.jobs, sizes.latency_jobs)
        latencies = sorted(msgspec.json.decode(answer, type=Latency).milliseconds)
        figures["latency_p50_ms"] = latencies[len(latencies) // 2]
        figures["latency_p99_ms"] = latencies[int(len(latencies) * 0.99)]
    return figures


async def glue_figures(contender: Contender, program: Environment, on: Engines, sizes: Sizes) -> dict[str, float]:
    """`POST /jobs` without a worker, then whole lives with one."""
    warm_up = max(sizes.requests // 10, CONNECTIONS)
    async with bout(contender, program, on) as it:
        await it.tell("setup")
        async with it.serving():
            await post(it.port, CONNECTIONS, warm_up)
            posted = await post(it.port, CONNECTIONS, sizes.requests)
    async with bout(contender, program, on) as it:
        await it.tell("setup")
        async with contextlib.AsyncExitStack() as stack:
            if contender.worker_serves:
                worker = await stack.enter_async_context(it.serving("worker"))
            else:
                await stack.enter_async_context(it.serving())
                worker = await stack.enter_async_context(it.running("worker"))
            await post(it.port, CONNECTIONS, warm_up)
            await it.completed(warm_up, worker)
            began = time.monotonic()
            await post(it.port, CONNECTIONS, sizes.requests)
            lived = await it.completed(warm_up + sizes.requests, worker) - began
    return {
        "post_per_second": posted.per_second,
        "post_p50_ms": posted.p50_ms,
        "post_p99_ms": posted.p99_ms,
        "lives_per_second": sizes.requests / lived,
    }


async def measured(
    programs: dict[str, Environment], runs: int, sizes: Sizes, on: Engines, failed: dict[str, str]
) -> Figures:
    """All contenders again and again, ours before each: `peer.figure`, and `peer.ours.figure` next to it."""
    ours = Environment(Path(sys.executable), {}, {})
    figures: Figures = {}
    for number in range(runs):
        for peer in PEERS:
            if peer.name not in programs or peer.name in failed or (number >= SLOW_RUNS and _slow(peer.name, figures)):
                continue
            measure = glue_figures if peer.glue else queue_figures
            beside = await measure(OURS, ours, on, sizes)
            try:
                found = await measure(peer, programs[peer.name], on, sizes)
            except (PeerError, RuntimeError, msgspec.DecodeError) as error:
                failed[peer.name] = str(error) or type(error).__name__
                print(f"run {number + 1} of {runs}: {peer.name} failed: {failed[peer.name]}", file=sys.stderr)
                continue
            for name, value in found.items():
                figures.setdefault(f"{peer.name}.{name}", []).append(round(value, 3))
            for name, value in beside.items():
                figures.setdefault(f"{peer.name}.ours.{name}", []).append(round(value, 3))
            shown = ", ".join(f"{name} {value:,.5g} ({beside[name]:,.5g})" for name, value in found.items())
            print(f"run {number + 1} of {runs}: {peer.name} (ours): {shown}", file=sys.stderr, flush=True)
    return figures


def _slow(peer: str, figures: Figures) -> bool:
    """Whether more runs could not change what is said of it: not even its best drain comes near our worst."""
    drained, beside = figures.get(f"{peer}.drain_per_second"), figures.get(f"{peer}.ours.drain_per_second")
    return drained is not None and beside is not None and max(drained) < SLOW_SHARE * min(beside)


def table(figures: Figures, glue: bool) -> str:
    """Medians, a peer a line, with ours of the same moments beside them."""
    columns = (
        ("post_per_second", "post_p99_ms", "lives_per_second")
        if glue
        else ("submit_per_second", "bulk_per_second", "drain_per_second", "latency_p50_ms", "latency_p99_ms")
    )
    lines = [" ".join([f"{'median (ours beside it)':24}", *(f"{column:>22}" for column in columns)])]
    for peer in PEERS:
        if peer.glue != glue or f"{peer.name}.{columns[0]}" not in figures:
            continue
        cells = [_cell(figures, peer.name, column) for column in columns]
        lines.append(" ".join([f"{peer.name:24}", *(f"{cell:>22}" for cell in cells)]))
    return "\n".join(lines) if len(lines) > 1 else ""


def _cell(figures: Figures, peer: str, column: str) -> str:
    values, beside = figures.get(f"{peer}.{column}"), figures.get(f"{peer}.ours.{column}")
    digits = 1 if column.endswith("_ms") else 0
    shown = "-" if values is None else f"{statistics.median(values):,.{digits}f}"
    return shown if beside is None else f"{shown} ({statistics.median(beside):,.{digits}f})"


def environments(wanted: tuple[str, ...], cache: Path) -> tuple[dict[str, Environment], dict[str, str]]:
    """An environment for each peer, and why there is none for the others."""
    found: dict[str, Environment] = {}
    missing: dict[str, str] = {}
    for peer in PEERS:
        if wanted and peer.name not in wanted:
            continue
        print(f"environment of {peer.name}", file=sys.stderr, flush=True)
        try:
            found[peer.name] = prepared(peer, cache)
        except UnavailableError as error:
            missing[peer.name] = str(error)
    return found, missing


async def _end(process: asyncio.subprocess.Process) -> None:
    """End it and what it has started: it leads a group of its own."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def arguments(
    description: str | None,
    peers: tuple[Contender, ...],
    runs: int,
    more: Callable[[argparse.ArgumentParser], object] = lambda _: None,
) -> tuple[Options, argparse.Namespace]:
    """The command line of what is measured beside these peers."""
    parser = record.parser(description, runs=runs, only="peers")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder of the peers' environments")
    more(parser)
    given = parser.parse_args()
    wanted = record.given_options(given, runs)
    names = tuple(peer.name for peer in peers)
    if unknown := set(wanted.only) - set(names):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return wanted, given


def described(
    what: str, said: Mapping[str, str], programs: Mapping[str, Environment], failed: Mapping[str, str]
) -> dict[str, dict[str, object]]:
    """For the results: what is said of each contender under this name, its versions, and why it was not measured."""
    return {
        name: {
            what: text,
            "versions": programs[name].versions if name in programs else {},
            **({"not_measured": failed[name]} if name in failed else {}),
        }
        for name, text in said.items()
    }


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, help="jobs of a queue's drain (20000, or 2000 with --quick)")
    parser.add_argument("--name", help="write the results under this name, those of --peers too")


def main() -> None:
    wanted, given = arguments(__doc__, PEERS, 5, _more)
    wanted = msgspec.structs.replace(wanted, named=given.name is not None)
    # Whole batches in the half that is submitted in bulk.
    jobs = max((given.jobs or wanted.size(20_000, 2_000)) // (2 * BULK), 1) * 2 * BULK
    sizes = Sizes(jobs, wanted.size(200, 20), wanted.size(5_000, 500))
    programs, failed = environments(wanted.only, given.cache)
    with engines() as on, asyncio.Runner() as runner:
        # Killed politely, it still ends what it has started.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        figures = runner.run(measured(programs, wanted.runs, sizes, on, failed))
        versions = runner.run(on.versions())
    persists = {each.name: each.persists for each in (OURS, *PEERS)}
    record.write(
        given.name or "peers",
        wanted,
        figures,
        versions,
        # Whatever the results are called.
        command=" ".join(["python -m bench.peers", *record.telling(sys.argv[1:])]),
        jobs=sizes.jobs,
        peers=described("persists", persists, programs, failed),
    )
    for glue in (False, True):
        print(table(figures, glue))
    for name, reason in failed.items():
        print(f"{name} was not measured: {reason}")
