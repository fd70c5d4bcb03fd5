"""One torture from its start to its verdict: start, load with faults, quiesce, check."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

from jobserver.errors import ConfigurationError, DatabaseUnavailable
from jobserver.store.engine import Database
from jobserver.torture import evidence
from jobserver.torture.check import check
from jobserver.torture.engines import EmbeddedEngines, Engines, OwnEngines
from jobserver.torture.faults import (
    FAULTS,
    LEASE_SECONDS,
    MAX_LOOP_BLOCK_SECONDS,
    NotInjected,
    Stage,
    explained_by,
    faults_of,
    while_applied,
)
from jobserver.torture.history import History, Remains, Run, Window
from jobserver.torture.load import Load
from jobserver.torture.oracle import read_runs
from jobserver.torture.processes import Processes
from jobserver.torture.report import Measured, Progress, Report, Setup, report, show
from jobserver.torture.resp import RedisError
from jobserver.torture.schedule import QUIET_SECONDS, Event, fault_events
from jobserver.torture.watch import Watch

MAX_CRASHES: Final = 3
# A process counts as alive for a minute after its last heartbeat, and the sweep for consumers of dead ones comes
# every half minute.
QUIESCE_SECONDS: Final = 150.0
POLL_SECONDS: Final = 0.25
SETTLE_POLL_SECONDS: Final = 1.0
FAULTY_HANDLERS: Final[Mapping[str, str]] = {
    "torture.poison": "poison",
    "torture.block": "loop_block",
    "torture.hang": "loop_hang",
}
SERVER_OPTIONS: Final = (
    *("--workers", "16", "--threads", "8", "--process-pool", "2"),
    *("--lease-seconds", f"{LEASE_SECONDS:g}s", "--drain-seconds", "3s", "--max-crashes", str(MAX_CRASHES)),
    *("--max-loop-block", f"{MAX_LOOP_BLOCK_SECONDS:g}s"),
    *("--backoff-base", "1", "--backoff-cap", "1s", "--log-format", "json"),
)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. `faults` None: all that the pair of engines can have."""

    seed: int
    minutes: float = 1.0
    processes: int = 3
    faults: tuple[str, ...] | None = None
    pair: str = "postgresql"
    rate: float = 60.0

    def chosen(self) -> tuple[str, ...]:
        """The names of the faults to inject. Raises ConfigurationError."""
        possible = faults_of(self.pair)
        if self.faults is None:
            return tuple(possible)
        for name in self.faults:
            if name not in FAULTS:
                raise ConfigurationError(f"There is no fault {name}: they are {', '.join(FAULTS)}.")
            if name not in possible:
                raise ConfigurationError(f"The fault {name} cannot be injected on the pair {self.pair}.")
        return self.faults


async def torture(options: Options, progress: Progress) -> Report:
    """Run it and tell. Raises ConfigurationError when it cannot be started."""
    names = options.chosen()
    folder = _fresh_folder()
    lanes = [
        fault_events(
            options.seed,
            lane,
            {name: FAULTS[name].seconds for name in names if FAULTS[name].lane == lane},
            seconds=options.minutes * 60,
            processes=options.processes,
        )
        for lane in QUIET_SECONDS
    ]
    progress.say(
        f"torture: seed {options.seed}, {options.minutes:g} min, {options.processes} processes on {options.pair}, "
        f"{sum(map(len, lanes))} faults, lease {LEASE_SECONDS:g} s, in {folder}"
    )
    keep = False
    try:
        said, history = await Torture(options, folder, lanes, progress).run()
        keep = not said.holds
        show(said, history, progress.say)
    finally:
        if keep:
            progress.say(f"logs are kept in {folder}")
        else:
            await asyncio.to_thread(_remove, folder)
    return said


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """How everything came to rest: after so many seconds nothing was to be done, and then nothing was left."""

    left: Remains
    quiesced_seconds: float
    settled_seconds: float


class Torture:
    """Owns everything that one torture starts."""

    def __init__(self, options: Options, folder: Path, lanes: Sequence[Sequence[Event]], progress: Progress) -> None:
        self._options: Final = options
        self._folder: Final = folder
        self._lanes: Final = lanes
        self._progress: Final = progress
        self._windows: Final[list[Window]] = []
        self._not_injected: Final[Counter[str]] = Counter()

    async def run(self) -> tuple[Report, History]:
        options = self._options
        async with AsyncExitStack() as stack:
            engines = await stack.enter_async_context(self._engines())
            processes = await stack.enter_async_context(
                Processes(engines, self._folder, count=options.processes, options=SERVER_OPTIONS)
            )
            database = await stack.enter_async_context(evidence.opened(engines))
            before_bytes = await evidence.used_bytes(engines)
            versions = await evidence.versions(engines)
            watch = await stack.enter_async_context(Watch(processes))
            load = Load(processes, seed=options.seed, rate=options.rate)
            started = time.monotonic()
            load.start()
            ticker = asyncio.create_task(self._tick(load, started), name="progress")
            try:
                stage = Stage(engines, processes, load.submit_single)
                async with asyncio.TaskGroup() as lanes:
                    for events in self._lanes:
                        lanes.create_task(self._inject(events, stage, load, started), name="faults")
                await _until(started + options.minutes * 60)
            finally:
                ticker.cancel()
                await asyncio.gather(ticker, return_exceptions=True)
                await load.close()
            for slot in range(options.processes):
                try:
                    await processes.ready(slot)
                except ConfigurationError as error:
                    load.odd_answers.append(str(error))
            rest = await self._rest(engines, processes, database, before_bytes)
            history = await self._history(processes, load, database, watch, rest.left)
        violations = check(history)
        said = report(
            Setup(
                seed=options.seed,
                minutes=options.minutes,
                processes=options.processes,
                pair=options.pair,
                rate=options.rate,
            ),
            history,
            violations,
            Measured(
                client=dict(load.counts),
                not_injected=dict(self._not_injected),
                versions=versions,
                tracebacks=self._tracebacks(),
                quiesced_seconds=rest.quiesced_seconds,
                settled_seconds=rest.settled_seconds,
                stop_seconds=tuple(processes.stop_seconds),
                samples=watch.samples,
                stale_writes_rejected=watch.stale_writes_rejected,
            ),
        )
        return said, history

    def _engines(self) -> Engines:
        if self._options.pair == "embedded":
            return EmbeddedEngines(self._folder)
        return OwnEngines(self._folder, self._options.processes)

    async def _inject(self, events: Sequence[Event], stage: Stage, load: Load, started: float) -> None:
        """The faults of one lane, one after another."""
        for number, event in enumerate(events):
            await _until(started + event.at)
            if time.monotonic() > started + self._options.minutes * 60:
                # Processes take their time to start, above all on a busy machine.
                self._progress.say(f"{'':11}the time is over, {len(events) - number} faults are left out")
                return
            where = f" · process {event.slot}"
            if event.fault.startswith("proxy"):
                where += f", {event.engine}"
            self._progress.say(f"{time.monotonic() - started:7.1f} s  {event.fault:<16}{event.seconds:5.1f} s{where}")
            name, begun, explains = event.fault, time.time(), explained_by(event)
            pids: frozenset[int] | None = None
            try:
                pids = await while_applied(stage, event)
            except (NotInjected, RedisError, OSError, subprocess.SubprocessError) as error:
                # Another fault's aftermath: the engine does not answer yet.
                self._progress.say(f"{'':11}{event.fault} could not be injected: {error}")
                self._not_injected[event.fault] += 1
                # It may have done a part, which excuses nothing but a start that was refused.
                name, explains = f"half a {event.fault}", frozenset()
            except ConfigurationError as error:
                load.odd_answers.append(str(error))
            if pids != frozenset():
                window = Window(fault=name, start=begun, end=time.time(), pids=pids, explains=explains)
                self._windows.append(window)

    async def _tick(self, load: Load, started: float) -> None:
        while True:
            counts = load.counts
            self._progress.tick(
                f"{time.monotonic() - started:7.1f} s  {counts['accepted']:,} jobs accepted, "
                f"{counts['repeats']:,} repeats, {len(self._windows)} of {sum(map(len, self._lanes))} faults"
            )
            await asyncio.sleep(POLL_SECONDS)

    async def _rest(self, engines: Engines, processes: Processes, database: Database, before_bytes: int) -> Rest:
        """Until every job is terminal and Redis is empty, then until the dead are forgotten; or the time is over."""
        started = time.monotonic()
        quiesced: float | None = None
        self._progress.say(f"{'':11}quiescing")
        while True:
            left, waiting = Remains(), -1
            try:
                waiting = await evidence.unfinished(database)
                left = await evidence.remains(engines, live=processes.pids(), before_bytes=before_bytes)
            except (DatabaseUnavailable, RedisError, OSError) as error:
                self._progress.tick(f"{'':11}{error}")
            seconds = time.monotonic() - started
            if quiesced is None and waiting == 0 and evidence.is_empty(left):
                quiesced = seconds
            if seconds > QUIESCE_SECONDS or (quiesced is not None and evidence.is_settled(left)):
                return Rest(
                    left=left, quiesced_seconds=seconds if quiesced is None else quiesced, settled_seconds=seconds
                )
            self._progress.tick(
                f"{'':11}{waiting:,} jobs are not terminal yet, {sum(left.entries.values())} messages, "
                f"{len(left.dead_consumers)} consumers of dead processes"
            )
            await asyncio.sleep(POLL_SECONDS if quiesced is None else SETTLE_POLL_SECONDS)

    async def _history(
        self, processes: Processes, load: Load, database: Database, watch: Watch, left: Remains
    ) -> History:
        runs = await asyncio.to_thread(read_runs, processes.oracle_folder)
        attempts = await evidence.stored_attempts(database)
        return History(
            lease_seconds=LEASE_SECONDS,
            max_crashes=MAX_CRASHES,
            submits=tuple(ledger.submit() for ledger in load.ledgers),
            commands=tuple(load.commands),
            sightings=tuple(load.sightings),
            runs=runs,
            attempts=attempts,
            jobs=await evidence.stored_jobs(database),
            windows=(*self._windows, *windows_of_handlers(runs, {each.pid for each in attempts})),
            deaths=tuple(processes.deaths),
            remains=left,
            buffers=watch.buffers,
            odd_answers=tuple(load.odd_answers),
        )

    def _tracebacks(self) -> int:
        return sum(path.read_bytes().count(b"Traceback (most") for path in self._folder.glob("server-*.log"))


def windows_of_handlers(runs: Sequence[Run], servers: Set[int]) -> list[Window]:
    """Handlers that are faults tell themselves which server process they hit, and when."""
    found = []
    for run in runs:
        name = FAULTY_HANDLERS.get(run.type)
        if name is not None and run.pid in servers:
            found.append(
                Window(
                    fault=name,
                    start=run.started,
                    end=run.started if run.ended is None else run.ended,
                    pids=frozenset({run.pid}),
                    explains=FAULTS[name].explains,
                )
            )
    return found


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


def _fresh_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="jobserver-torture-"))
    if os.geteuid() == 0:
        # PostgreSQL runs as somebody else then.
        folder.chmod(0o711)
    return folder


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
