"""How long recovery takes, measured on real `jobserver serve` processes and real engines that are broken on purpose.

    python -m bench.recovery [--only kill,flush,...] [--repetitions N]

PostgreSQL with fsync and synchronous_commit on, Valkey without persistence, SQLite and Valkey with AOF where the pair
is embedded; all on loopback of one machine. Handlers tell a file when they start, outside of the system. A whole
run (about 8 minutes) goes into `bench/results/recovery.json`; one with an option is only shown.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import platform
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import httpx
import msgspec

import jobserver
from jobserver.job.model import Priority
from jobserver.stream.keys import Keys
from jobserver.torture.resp import ask
from tests.engines import PostgresServer, RedisServer, eventually, find_postgres, free_port
from tests.life.process import ServerProcess

RESULTS: Final = Path(__file__).parent / "results" / "recovery.json"
HANDLERS: Final = "bench.noted:handlers"
STREAM: Final = Keys("jobserver").jobs("default", Priority.NORMAL)

OUTAGE_SECONDS: Final = 10.0
PROBE_SECONDS: Final = 0.1
# Only a process that has lived for 5 s judges others.
OLD_ENOUGH_SECONDS: Final = 5.5
WITHIN_SECONDS: Final = 60.0
RUNNING: Final = 100
WAITING: Final = 10_000
EMBEDDED_RUNNING: Final = 50

# figure: what its median may be at most.
TARGETS: Final[dict[str, float]] = {
    "kill.all_running_again_seconds": 5.0,
    "flush.first_started_seconds": 5.0,
}
# Every value of these is 0, or the run has failed.
NEVER: Final = ("lost", "crashes", "attempts_burned", "errors_after_retries", "not_201")

Figures = dict[str, list[float]]


class Note(msgspec.Struct, frozen=True):
    """A handler has started, by the clock that all processes of the machine share."""

    job_id: str
    pid: int
    at: float


class Notes:
    """What the handlers of one repetition told, and the gate that the gated ones wait for."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._file: Final = folder / "notes"
        self._gate: Final = folder / "gate"
        self._file.touch()

    def noted(self, seconds: float = 0.0, **fields: object) -> dict[str, object]:
        return {"type": "bench.noted", "payload": {"file": str(self._file), "seconds": seconds}, **fields}

    @property
    def gated(self) -> dict[str, object]:
        return {"type": "bench.gated", "payload": {"file": str(self._file), "gate": str(self._gate)}}

    def open_gate(self) -> None:
        self._gate.touch()

    def all(self) -> list[Note]:
        lines = (line.split() for line in self._file.read_text(encoding="ascii").splitlines())
        return [Note(job_id, int(pid), float(at)) for job_id, pid, at in lines]

    def first_starts(self, job_ids: Collection[str], *, not_by: int = 0) -> dict[str, float]:
        """When each of these jobs started first (on another process than `not_by`), if it did."""
        wanted, starts = set(job_ids), dict[str, float]()
        for note in self.all():
            if note.job_id in wanted and note.pid != not_by:
                starts[note.job_id] = min(note.at, starts.get(note.job_id, note.at))
        return starts

    async def all_started(self, job_ids: Collection[str], *, not_by: int = 0) -> list[float]:
        """When each of these jobs started, earliest first, as soon as all have."""

        def starts() -> list[float] | None:
            # Cheap to look at again and again while ten thousand start.
            if self._file.read_bytes().count(b"\n") < len(job_ids):
                return None
            found = self.first_starts(job_ids, not_by=not_by)
            return sorted(found.values()) if len(found) == len(set(job_ids)) else None

        return await eventually(starts, within=WITHIN_SECONDS, every=0.05)


class Bench:
    """Engines of one part of the run, and the processes started on them."""

    def __init__(self, folder: Path, postgres: PostgresServer, redis: RedisServer, stack: AsyncExitStack) -> None:
        self.folder: Final = folder
        self.postgres: Final = postgres
        self.redis: Final = redis
        self._stack: Final = stack
        self._numbers: Final = itertools.count(1)
        self._url: Final = postgres.create_database()

    def notes(self) -> Notes:
        return Notes(self.folder / f"notes-{next(self._numbers)}")

    async def start(self, *options: str) -> ServerProcess:
        """One more process on the shared engines."""
        return await self.start_with("--database-url", self._url, "--redis-url", self.redis.url, *options)

    async def start_with(self, *options: str) -> ServerProcess:
        """One more process, on whatever the options say."""
        log = self.folder / f"server-{next(self._numbers)}.log"
        arguments = (HANDLERS, "--log-level", "warning", *options)
        process = await ServerProcess.start(arguments, cwd=self.folder, log=log)
        self._stack.push_async_callback(process.end)
        return await process.started()

    async def sql(self, query: str) -> list[str]:
        """The rows of a query, straight from the database."""
        return (await asyncio.to_thread(self.postgres.execute, query, self._url.rpartition("/")[2])).splitlines()

    async def ask_redis(self, *words: object) -> Any:
        [answer] = await ask(self.redis.port, [words])
        return answer

    async def lost(self, job_ids: Collection[str]) -> int:
        """How many of these jobs are not completed in the end."""

        async def ended() -> bool:
            return not await self.sql("SELECT id FROM jobs WHERE status NOT IN ('completed', 'failed') LIMIT 1")

        await eventually(ended, within=WITHIN_SECONDS, every=0.25)
        return len(set(job_ids) - set(await self.sql("SELECT id FROM jobs WHERE status = 'completed'")))

    async def crashes(self) -> int:
        return int((await self.sql("SELECT coalesce(sum(crashes), 0) FROM jobs"))[0])


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recovery-")))
        postgres = stack.enter_context(PostgresServer(find_postgres(), fsync=True))
        redis = stack.enter_context(RedisServer("valkey"))
        yield Bench(folder, postgres, redis, stack)


class Answer(msgspec.Struct, frozen=True):
    """What became of one submit; status 0: no answer."""

    sent: float
    answered: float
    status: int
    job_id: str | None

    @property
    def seconds(self) -> float:
        return self.answered - self.sent


class Probe:
    """`async with`: a job is submitted every 0.1 s, whether or not the submits before it were answered."""

    def __init__(self, server: ServerProcess, notes: Notes) -> None:
        self._server: Final = server
        self._body: Final = notes.noted()
        self._client: Final = httpx.AsyncClient(
            base_url=server.url, timeout=30.0, trust_env=False, limits=httpx.Limits(max_connections=500)
        )
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._pacer: asyncio.Task[None] | None = None
        self.answers: Final[list[Answer]] = []

    async def __aenter__(self) -> Self:
        self._pacer = asyncio.create_task(self._pace(), name="probe")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Submit no more, and wait for the answers."""
        if self._pacer is not None:
            self._pacer.cancel()
            await asyncio.gather(self._pacer, return_exceptions=True)
        await asyncio.gather(*self._tasks)
        await self._client.aclose()

    def accepted(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status == httpx.codes.CREATED]

    def accepted_after(self, moment: float) -> list[Answer]:
        return [answer for answer in self.accepted() if answer.answered > moment]

    def accepted_ids(self) -> list[str]:
        return [answer.job_id for answer in self.accepted() if answer.job_id is not None]

    async def _pace(self) -> None:
        while True:
            task = asyncio.create_task(self._submit(), name="submit")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(PROBE_SECONDS)

    async def _submit(self) -> None:
        sent = time.monotonic()
        try:
            answer = await self._client.post("/jobs", json=self._body)
        except httpx.TransportError:
            self.answers.append(Answer(sent, time.monotonic(), 0, None))
            return
        job_id = answer.json()["id"] if answer.is_success else None
        self.answers.append(Answer(sent, time.monotonic(), answer.status_code, job_id))


async def kill(repetitions: int) -> Figures:
    """kill -9 of the process that runs 100 jobs; another one is alive and idle."""
    figures: Figures = {}
    spread = random.Random(1)
    async with bench() as on:
        runner = await on.start("--workers", str(RUNNING))
        for _ in range(repetitions):
            notes = on.notes()
            job_ids = await runner.submit_all([notes.gated] * RUNNING)
            await notes.all_started(job_ids)
            heir = await on.start("--workers", str(RUNNING))
            # Spread over the beats of both.
            await asyncio.sleep(OLD_ENOUGH_SECONDS + spread.random())
            killed = time.monotonic()
            runner.send(signal.SIGKILL)
            again = await notes.all_started(job_ids, not_by=runner.pid)
            await runner.exit_code()
            _add(
                figures,
                "kill",
                noticed_seconds=_logged(heir, "worker_died") - killed,
                first_running_again_seconds=again[0] - killed,
                all_running_again_seconds=again[-1] - killed,
            )
            notes.open_gate()
            _add(figures, "kill", lost=await on.lost(job_ids))
            await runner.end()
            runner = heir
    return figures


async def flush(repetitions: int) -> Figures:
    """FLUSHALL with 10,000 waiting jobs, and 3 processes whose consumers are busy until then."""
    figures: Figures = {}
    async with bench() as on:
        servers = [await on.start("--workers", "10") for _ in range(3)]
        for _ in range(repetitions):
            notes = on.notes()
            busy = await servers[0].submit_all([notes.gated] * 30)
            await notes.all_started(busy)
            waiting = []
            for _ in range(WAITING // 1_000):
                waiting += await servers[0].submit_all([notes.noted()] * 1_000)
            await eventually(partial(_holds, on, len(waiting) + len(busy)))
            # Nobody is free to take one of them: what starts from here on had lost its message.
            if notes.first_starts(waiting):
                raise RuntimeError("a waiting job was delivered before the flush")
            flushed = time.monotonic()
            await on.ask_redis("FLUSHALL")
            notes.open_gate()
            starts = await notes.all_started(waiting)
            lost = await on.lost([*busy, *waiting])
            _add(
                figures,
                "flush",
                first_started_seconds=starts[0] - flushed,
                all_started_seconds=starts[-1] - flushed,
                lost=lost,
            )
    return figures


async def _holds(on: Bench, entries: int) -> bool:
    # More, where a call that was slow was repeated.
    return bool(await on.ask_redis("XLEN", STREAM) >= entries)


async def sql_stopped(repetitions: int) -> Figures:
    """PostgreSQL stopped at once (`immediate`), and started again."""

    def away(postgres: PostgresServer) -> None:
        os.kill(postgres.pid, signal.SIGQUIT)

    def back(postgres: PostgresServer) -> None:
        postgres.restart("immediate")

    return await _without_sql("sql_stopped", repetitions, away, back)


async def sql_paused(repetitions: int) -> Figures:
    """PostgreSQL stopped in its tracks (SIGSTOP), and let go on."""
    return await _without_sql("sql_paused", repetitions, PostgresServer.pause, PostgresServer.resume)


async def _without_sql(
    name: str, repetitions: int, away: Callable[[PostgresServer], None], back: Callable[[PostgresServer], None]
) -> Figures:
    figures: Figures = {}
    async with bench() as on:
        one, other = [await on.start("--workers", "20") for _ in range(2)]
        for _ in range(repetitions):
            notes = on.notes()
            running = await one.submit_all([notes.gated] * 20)
            await notes.all_started(running)
            # They fall due while the database is away, and consumers are free for them.
            due = await other.submit_all([notes.noted(delay=OUTAGE_SECONDS / 2)] * 50)
            await asyncio.to_thread(away, on.postgres)
            gone = time.monotonic()
            async with Probe(one, notes) as probe:
                await asyncio.sleep(OUTAGE_SECONDS / 4)
                # What runs ends while nobody can write it down.
                notes.open_gate()
                await asyncio.sleep(gone + OUTAGE_SECONDS - time.monotonic())
                await asyncio.to_thread(back, on.postgres)
                accepts, accepts_at = time.monotonic(), time.time()
                starts = await notes.all_started(due)
                first_201 = await eventually(partial(probe.accepted_after, accepts), WITHIN_SECONDS)
            lost = await on.lost([*running, *due, *probe.accepted_ids()])
            [written] = await on.sql("SELECT extract(epoch FROM max(finished_at)) FROM jobs WHERE type = 'bench.gated'")
            outage = [answer for answer in probe.answers if answer.sent < accepts]
            _add(
                figures,
                name,
                first_201_seconds=min(answer.answered for answer in first_201) - accepts,
                first_started_seconds=starts[0] - accepts,
                all_started_seconds=starts[-1] - accepts,
                ends_written_seconds=float(written) - accepts_at,
                slowest_503_seconds=max((a.seconds for a in outage if a.status == 503), default=0.0),
                answered_503=sum(a.status == 503 for a in outage),
                answered_otherwise=sum(a.status not in (201, 503) for a in probe.answers),
                lost=lost,
                crashes=await on.crashes(),
            )
    return figures


async def redis_killed(repetitions: int) -> Figures:
    """Valkey killed, and started again empty."""
    figures: Figures = {}
    async with bench() as on:
        one, _ = [await on.start("--workers", "20") for _ in range(2)]
        for _ in range(repetitions):
            notes = on.notes()
            running = await one.submit_all([notes.gated] * 20)
            await notes.all_started(running)
            await asyncio.to_thread(on.redis.kill)
            async with Probe(one, notes) as probe:
                await asyncio.sleep(OUTAGE_SECONDS / 2)
                notes.open_gate()
                await asyncio.sleep(OUTAGE_SECONDS / 2)
                await probe.stop()
            meanwhile = probe.accepted_ids()
            await asyncio.to_thread(on.redis.restart)
            accepts = time.monotonic()
            starts = await notes.all_started(meanwhile)
            _add(
                figures,
                "redis_killed",
                slowest_201_seconds=max(answer.seconds for answer in probe.accepted()),
                first_started_seconds=starts[0] - accepts,
                all_started_seconds=starts[-1] - accepts,
                not_201=len(probe.answers) - len(meanwhile),
                lost=await on.lost([*running, *meanwhile]),
                crashes=await on.crashes(),
            )
    return figures


async def message_lost(repetitions: int) -> Figures:
    """One entry of a stream is deleted before it is delivered: with no other job, and with others following it."""
    figures: Figures = {}
    async with bench() as on:
        server = await on.start("--workers", "4")
        for name in ("idle", "busy") * repetitions:
            notes = on.notes()
            running = await server.submit_all([notes.gated] * 4)
            await notes.all_started(running)
            [victim] = await server.submit_all([notes.noted()])
            entry_id = await eventually(partial(_entry_of, on, victim))
            await on.ask_redis("XDEL", STREAM, entry_id)
            lost_at = time.monotonic()
            notes.open_gate()
            async with AsyncExitStack() as stack:
                if name == "busy":
                    await stack.enter_async_context(Probe(server, notes))
                [started] = await notes.all_started([victim])
            _add(figures, f"message_lost_{name}", started_seconds=started - lost_at)
            _add(figures, f"message_lost_{name}", lost=await on.lost([*running, victim]))
    return figures


async def _entry_of(on: Bench, job_id: str) -> str | None:
    for entry_id, (_, message) in await on.ask_redis("XREVRANGE", STREAM, "+", "-", "COUNT", 1):
        if message.startswith(job_id):
            return str(entry_id)
    return None


class Reach(msgspec.Struct):
    """How long a port was without a process behind it that takes requests."""

    last_ready: float = 0.0
    unready_since: float | None = None
    refused_since: float | None = None


async def rolling(repetitions: int) -> Figures:
    """SIGTERM to one of two processes under load, and its successor started on the same port."""
    figures: Figures = {}
    async with bench() as on:
        ports = [str(free_port()), str(free_port())]
        servers = [await on.start("--workers", "20", "--port", port) for port in ports]
        notes = on.notes()
        async with Clients([server.url for server in servers], notes) as clients:
            for number in range(repetitions):
                slot = number % 2
                watch = asyncio.create_task(_watch(servers[slot].url), name="watch")
                began = time.monotonic()
                code = await servers[slot].stop()
                stopped = time.monotonic()
                if code:
                    raise RuntimeError(f"a stop ended with {code}")
                servers[slot] = await on.start("--workers", "20", "--port", ports[slot])
                reach = await watch
                _add(
                    figures,
                    "rolling",
                    stop_seconds=stopped - began,
                    not_ready_seconds=reach.last_ready - (reach.unready_since or reach.last_ready),
                    refused_seconds=reach.last_ready - (reach.refused_since or reach.last_ready),
                )
        [burned] = await on.sql("SELECT coalesce(sum(attempt - 1), 0) FROM jobs WHERE status = 'completed'")
        _add(
            figures,
            "rolling",
            accepted=len(clients.accepted),
            repeats=clients.repeats,
            errors_after_retries=clients.errors,
            lost=await on.lost(clients.accepted),
            attempts_burned=int(burned),
            crashes=await on.crashes(),
        )
    return figures


async def _watch(url: str) -> Reach:
    """Look every 20 ms, on a connection of its own each time, until the process was away and is ready again."""
    reach = Reach()
    async with httpx.AsyncClient(
        trust_env=False, timeout=5.0, limits=httpx.Limits(max_keepalive_connections=0)
    ) as http:
        while True:
            looked = time.monotonic()
            try:
                status = (await http.get(f"{url}/health/ready")).status_code
            except httpx.TransportError:
                status = 0
            if status == 0 and reach.refused_since is None:
                reach.refused_since = looked
            if status != 200 and reach.unready_since is None:
                reach.unready_since = looked
            if status == 200 and reach.refused_since is not None:
                reach.last_ready = time.monotonic()
                return reach
            await asyncio.sleep(0.02)


class Clients:
    """`async with`: 50 jobs a second, each with its key, repeated at the other process when one does not take it."""

    def __init__(self, urls: Sequence[str], notes: Notes) -> None:
        self._urls: Final = urls
        self._notes: Final = notes
        self._client: Final = httpx.AsyncClient(trust_env=False, timeout=10.0)
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._pacer: asyncio.Task[None] | None = None
        self.accepted: Final[list[str]] = []
        self.repeats = 0
        self.errors = 0

    async def __aenter__(self) -> Self:
        self._pacer = asyncio.create_task(self._pace(), name="clients")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._pacer is not None:
            self._pacer.cancel()
            await asyncio.gather(self._pacer, return_exceptions=True)
        await asyncio.gather(*self._tasks)
        await self._client.aclose()

    async def _pace(self) -> None:
        for number in itertools.count():
            task = asyncio.create_task(self._submit(number), name=f"submit {number}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0.02)

    async def _submit(self, number: int) -> None:
        body = self._notes.noted(0.2, idempotency_key=f"rolling {number}")
        for turn in range(20):
            try:
                answer = await self._client.post(f"{self._urls[(number + turn) % len(self._urls)]}/jobs", json=body)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.is_success:
                self.accepted.append(answer.json()["id"])
                return
            if answer is not None and answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            self.repeats += 1
            await asyncio.sleep(0.1)
        self.errors += 1


async def embedded_kill(repetitions: int) -> Figures:
    """kill -9 of the one process on embedded engines that runs 50 jobs, and a new one started on its folder."""
    figures: Figures = {}
    async with bench() as on:
        for number in range(repetitions):
            notes = on.notes()
            options = ("--data-dir", str(on.folder / f"data-{number}"), "--workers", "64")
            first = await on.start_with(*options)
            job_ids = await first.submit_all([notes.gated] * EMBEDDED_RUNNING)
            await notes.all_started(job_ids)
            first.send(signal.SIGKILL)
            await first.exit_code()
            began = time.monotonic()
            second = await on.start_with(*options)
            ready = time.monotonic()
            again = await notes.all_started(job_ids, not_by=first.pid)
            notes.open_gate()
            _add(
                figures,
                "embedded_kill",
                start_to_ready_seconds=ready - began,
                ready_to_all_running_again_seconds=again[-1] - ready,
                start_to_all_running_again_seconds=again[-1] - began,
                lost=await _not_completed(second, job_ids),
            )
            await second.stop()
    return figures


async def embedded_valkey_killed(repetitions: int) -> Figures:
    """kill -9 of the Valkey that a process on embedded engines has started; it starts another."""
    figures: Figures = {}
    async with bench() as on:
        server = await on.start_with("--data-dir", str(on.folder / "data"), "--workers", "4")
        for _ in range(repetitions):
            notes = on.notes()
            running = await server.submit_all([notes.gated] * 4)
            await notes.all_started(running)
            waiting = await server.submit_all([notes.noted()] * 50)
            [valkey] = [child for child in server.children if "valkey" in child.name()]
            killed = time.monotonic()
            valkey.kill()
            notes.open_gate()
            async with Probe(server, notes) as probe:
                starts = await notes.all_started(waiting)
                await asyncio.sleep(2)
            meanwhile = await notes.all_started(probe.accepted_ids())
            _add(
                figures,
                "embedded_valkey_killed",
                first_waiting_started_seconds=starts[0] - killed,
                all_waiting_started_seconds=starts[-1] - killed,
                first_submitted_started_seconds=meanwhile[0] - killed,
                slowest_201_seconds=max(answer.seconds for answer in probe.accepted()),
                not_201=len(probe.answers) - len(probe.accepted()),
                lost=await _not_completed(server, [*running, *waiting, *probe.accepted_ids()]),
            )
    return figures


async def _not_completed(server: ServerProcess, job_ids: Sequence[str]) -> int:
    jobs = await server.all_finished(job_ids)
    return sum(job["status"] != "completed" for job in jobs)


PARTS: Final[dict[str, tuple[Callable[[int], Awaitable[Figures]], int]]] = {
    "kill": (kill, 10),
    "flush": (flush, 5),
    "sql_stopped": (sql_stopped, 3),
    "sql_paused": (sql_paused, 3),
    "redis_killed": (redis_killed, 3),
    "message_lost": (message_lost, 3),
    "rolling": (rolling, 3),
    "embedded_kill": (embedded_kill, 3),
    "embedded_valkey_killed": (embedded_valkey_killed, 5),
}


def _add(figures: Figures, part: str, **values: float) -> None:
    for name, value in values.items():
        figures.setdefault(f"{part}.{name}", []).append(round(value, 3))


def _logged(server: ServerProcess, event: str) -> float:
    """When a process logged this last, on the monotonic clock."""
    [*_, said] = re.findall(rf'^.*"{event}".*$', server.stderr, re.MULTILINE)
    at = datetime.fromisoformat(msgspec.json.decode(said)["timestamp"])
    return at.timestamp() - time.time() + time.monotonic()


async def measured(parts: Sequence[str], wanted: int | None) -> tuple[Figures, dict[str, str]]:
    figures: Figures = {}
    for name in parts:
        part, repetitions = PARTS[name]
        began = time.monotonic()
        found = await part(wanted or repetitions)
        figures |= found
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    async with bench() as on:
        [version] = re.findall(r"valkey_version:(\S+)", await on.ask_redis("INFO", "server"))
        return figures, {"postgresql": on.postgres.version, "valkey": version}


def results(figures: Figures, versions: dict[str, str], load: float) -> dict[str, Any]:
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "platform": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "jobserver": jobserver.__version__,
            **versions,
            # 0 is quiet: what else the machine had to do when this began.
            "load_before": round(load, 1),
        },
        "persistence": "PostgreSQL with fsync and synchronous_commit on; Valkey without AOF; embedded: SQLite and AOF",
        "settings": "defaults (lease 15 s) but --log-level warning and --workers: kill 100 each, flush 3 x 10, SQL "
        "and Redis 2 x 20, message_lost 4, rolling 2 x 20, embedded_kill 64, embedded_valkey_killed 4",
        "command": " ".join(["python -m bench.recovery", *sys.argv[1:]]),
        "outage_seconds": OUTAGE_SECONDS,
        "runs": figures,
        "medians": {name: round(statistics.median(values), 3) for name, values in figures.items()},
    }


def _judged(name: str, values: Sequence[float]) -> bool | None:
    """Whether what was wanted of a figure holds; None where nothing was."""
    if name.rpartition(".")[2] in NEVER:
        return not any(values)
    if name in TARGETS:
        return statistics.median(values) <= TARGETS[name]
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="these parts, separated by commas")
    parser.add_argument("--repetitions", type=int, help="of each part; else each has its own number")
    options = parser.parse_args()
    parts = options.only.split(",")
    load = os.getloadavg()[0]
    figures, versions = asyncio.run(measured(parts, options.repetitions))
    if options.repetitions is None and set(parts) == set(PARTS):
        RESULTS.parent.mkdir(exist_ok=True)
        content = msgspec.json.encode(results(figures, versions, load))
        RESULTS.write_bytes(msgspec.json.format(content, indent=2) + b"\n")
    failed = 0
    for name, values in figures.items():
        held = _judged(name, values)
        failed += held is False
        wanted = "" if held is None else f"  (at most {TARGETS.get(name, 0):g}: {'held' if held else 'NOT HELD'})"
        print(f"{name:52} {statistics.median(values):8.2f}  [{min(values):.2f} .. {max(values):.2f}]{wanted}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
