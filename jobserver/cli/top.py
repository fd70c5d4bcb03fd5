"""`jobserver top`: the server at a glance, looked at again every second, with keys to act on what is shown."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from jobserver.cli.output import STATUS_STYLES, age, printable, rate
from jobserver.cli.parameters import DURATION_TYPE
from jobserver.cli.remote import RemoteCommand, Session

if TYPE_CHECKING:  # imported on use, like the client
    from datetime import datetime

    from rich.console import RenderableType
    from rich.table import Table

    from jobserver.client import Client, Job
    from jobserver.job.wire import QueueView, StatsView, WorkerView

SHOWN: Final = 50
# On less, ids are shown by their end, which tells them apart; the last line names the chosen one in full.
WIDE: Final = 120
SHORT: Final = 12
# Rates are those of the last seconds, so that one slow answer does not make them jump.
RATE_SECONDS: Final = 5.0
SECONDS_A_LOOK: Final = 5.0
KEYS: Final = "↑↓ choose   tab next table   c cancel   p pause or resume   r replay   q quit"
ARROWS: Final = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}
KEY_NAMES: Final = {"\t": "tab", "\x04": "q"}
MOVES: Final = {"up": -1, "k": -1, "down": 1, "j": 1}


@click.command("top", cls=RemoteCommand, short_help="Watch the server live.")
@click.option(
    "--interval", type=DURATION_TYPE, default=1.0, show_default=True, metavar="DURATION", help="Between two looks."
)
def top_command(session: Session, interval: float) -> int | None:
    """Watch the server live: rates, queues, running jobs with their progress, workers, the last failures.

    Keys: arrows or j and k choose a line, tab goes to the next table; c cancels the chosen running job, p pauses or
    resumes the chosen queue, r replays the chosen failure; q ends. With --json look once, and print the body of stats.

    \b
    Examples:
      jobserver top
      jobserver top --interval 5s --url http://jobs.example.com:8000
    """
    if session.with_json:
        session.show(session.client.run(session.client.calls.stats()), lambda stats: None)
        return None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("top needs a terminal: `jobserver stats` does not.")
    # What cannot be reached, or refuses us, is told before the screen is taken.
    session.client.stats()
    asyncio.run(_run(session, max(0.1, interval)))
    return None


async def _run(session: Session, interval: float) -> None:
    from jobserver.client import Client

    async with Client(session.url, api_key=session.api_key, timeout=SECONDS_A_LOOK, retries=0) as client:
        await Top(client, session.url, interval).run()


class Look(msgspec.Struct, frozen=True):
    """The server at one moment, of the clock of this process."""

    at: float
    stats: StatsView
    workers: list[WorkerView]
    running: list[Job]
    failed: list[Job]

    @property
    def now(self) -> datetime | None:
        """The database's time, to a second: jobs are told by it, and ours may be another."""
        return max((worker.heartbeat_at for worker in self.workers), default=None)


class Rates:
    """How many jobs a second, from the counts of the last looks."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, int]]] = deque()

    def add(self, at: float, counts: dict[str, int]) -> None:
        self._seen.append((at, counts))
        while len(self._seen) > 2 and at - self._seen[1][0] >= RATE_SECONDS:
            self._seen.popleft()

    def of(self, name: str) -> float:
        """Jobs a second. Counts fall where jobs are deleted or replayed: that is no rate below zero."""
        if len(self._seen) < 2:
            return 0.0
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return max(0.0, (last[name] - first[name]) / max(ended - began, 0.001))


class Chosen:
    """The chosen line of a table; it stays with its name while lines come and go."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._index = 0

    def update(self, names: list[str]) -> None:
        name = self.name
        self._names = names
        if name in names:
            self._index = names.index(name)
        self._index = max(0, min(self._index, len(names) - 1))

    def move(self, by: int) -> None:
        self._index = max(0, min(self._index + by, len(self._names) - 1))

    @property
    def name(self) -> str | None:
        return self._names[self._index] if self._names else None


class Top:
    """What is on the screen, and what the keys do to it."""

    def __init__(self, client: Client, url: str, interval: float) -> None:
        self._client = client
        self._url = url
        self._interval = interval
        self._look: Look | None = None
        self._rates = Rates()
        self._chosen = {"queues": Chosen(), "running": Chosen(), "failed": Chosen()}
        self._focus = "running"
        self._said = ""
        self._narrow = False
        self._over = False
        # What y does; anything else forgets it.
        self._asked: Callable[[], Awaitable[str]] | None = None
        self._keys: asyncio.Queue[str] = asyncio.Queue(maxsize=100)
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until q or Ctrl-C."""
        from rich.console import Console
        from rich.live import Live

        console = Console(markup=False, highlight=False, emoji=False)
        with _keys_into(self._keys), Live(console=console, screen=True, auto_refresh=False) as live:
            async with asyncio.TaskGroup() as tasks:
                others = [
                    tasks.create_task(self._look_on(), name="top: look"),
                    tasks.create_task(self._show_on(live), name="top: show"),
                ]
                try:
                    while (key := await self._keys.get()) != "q":
                        await self._press(key)
                        self._changed.set()
                finally:
                    self._over = True
                    for task in others:
                        task.cancel()

    async def _look_on(self) -> None:
        from jobserver.client import ClientError

        # A look that fails in the moment in which it is cancelled hides that: asyncio.gather raises its failure.
        while not self._over:
            try:
                self._take(await self._look_once())
            except ClientError as error:
                self._said = str(error)
            self._changed.set()
            await asyncio.sleep(self._interval)

    async def _look_once(self) -> Look:
        run, calls = self._client.run, self._client.calls
        stats, workers, running, failed = await asyncio.gather(
            run(calls.stats()),
            run(calls.workers()),
            run(calls.page({"status": "running"}, limit=SHOWN)),
            run(calls.page({}, limit=SHOWN, dead=True)),
        )
        alive = [worker for worker in workers.value.items if worker.alive]
        return Look(time.monotonic(), stats.value, alive, running.value.items, failed.value.items)

    def _take(self, look: Look) -> None:
        if self._look is None or self._said.startswith("No answer"):
            self._said = ""
        self._look = look
        self._rates.add(look.at, {"total": look.stats.total, **msgspec.structs.asdict(look.stats.by_status)})
        self._chosen["queues"].update([queue.name for queue in look.stats.queues])
        self._chosen["running"].update([str(job.id) for job in look.running])
        self._chosen["failed"].update([str(job.id) for job in look.failed])

    # Keys.

    async def _press(self, key: str) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            self._said = await self._done(asked) if key == "y" else "Nothing was changed."
        elif key == "tab":
            tables = list(self._chosen)
            self._focus = tables[(tables.index(self._focus) + 1) % len(tables)]
        elif key in MOVES:
            self._chosen[self._focus].move(MOVES[key])
        elif key == "c":
            self._ask("running", "Cancel the job {}", self._cancel)
        elif key == "r":
            self._ask("failed", "Replay the job {}", self._replay)
        elif key == "p" and (name := self._chosen["queues"].name) is not None:
            self._said = await self._done(lambda: self._pause(name))

    def _ask(self, table: str, question: str, act: Callable[[str], Awaitable[str]]) -> None:
        name = self._chosen[table].name
        if name is None:
            self._said = "There is none."
            return
        self._said = f"{question.format(name)}? y or n"
        self._asked = lambda: act(name)

    async def _done(self, act: Callable[[], Awaitable[str]]) -> str:
        from jobserver.client import ClientError

        try:
            return await act()
        except ClientError as error:
            return str(error)

    async def _cancel(self, name: str) -> str:
        job = await self._client.cancel(name)
        return f"Asked {name} to end." if job.status == "running" else f"{name} is {job.status}."

    async def _replay(self, name: str) -> str:
        return f"{name} is {(await self._client.retry(name)).status} again."

    async def _pause(self, name: str) -> str:
        paused = any(queue.paused for queue in await self._client.queues() if queue.name == name)
        await (self._client.resume(name) if paused else self._client.pause(name))
        return f"The queue {name} {'goes on' if paused else 'is paused'}."

    # The screen.

    async def _show_on(self, live: Any) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._narrow = live.console.width < WIDE
            live.update(self.screen(live.console.height), refresh=True)

    def screen(self, height: int) -> RenderableType:
        """Everything that is shown, on so many lines at most."""
        from rich.console import Group
        from rich.text import Text

        look = self._look
        said = Text(printable(self._said), style="yellow")
        if look is None:
            return Group(Text(f"jobserver {self._url}"), said)
        stats = look.stats
        head = Text.assemble(
            ("jobserver ", "bold"),
            f"{self._url}   {stats.total:,} jobs   {len(look.workers)} workers   {stats.dlq:,} dead   oldest waiting ",
            age(stats.oldest_waiting_seconds) or "none",
        )
        rates = Text.assemble(
            *(
                part
                for label, name in (("submitted", "total"), ("completed", "completed"), ("failed", "failed"))
                for part in ((f"{label} ", "dim"), (f"{self._rates.of(name):,.1f}/s   ", STATUS_STYLES.get(name, "")))
            )
        )
        # Four titles and headers, head, rates, the last line and the keys take their own; the tables share the rest.
        rows = max(2, (height - 16) // 4)
        return Group(
            head,
            rates,
            Text(),
            self._queues(stats.queues, rows),
            self._running(look.running, look.now, rows),
            self._workers(look.workers, rows),
            self._failed(look.failed, rows),
            said,
            Text(KEYS, style="dim"),
        )

    def _queues(self, queues: list[QueueView], rows: int) -> Table:
        numbers = ("waiting", "running", "failed", "in/s", "done/s")
        made = _table("queue", "waiting", "running", "failed", "in/s", "done/s", "oldest", "", numbers=numbers)
        for queue in self._window("queues", queues, lambda queue: queue.name, rows):
            counts = queue.counts
            waiting = counts.queued + counts.scheduled + counts.retrying
            rates = queue.rates
            cells = (
                *(queue.name, f"{waiting:,}", f"{counts.running:,}", f"{counts.failed:,}"),
                "" if rates is None else rate(rates.submitted_per_second),
                "" if rates is None else rate(rates.completed_per_second),
            )
            self._row(
                made,
                "queues",
                queue.name,
                (*cells, age(queue.oldest_waiting_seconds), "paused" if queue.paused else ""),
            )
        return made

    def _running(self, jobs: list[Job], now: datetime | None, rows: int) -> Table:
        made = _table("running", "type", "queue", "attempt", "for", "progress", numbers=("attempt", "for"))
        for job in self._window("running", jobs, lambda job: str(job.id), rows):
            since = (
                "" if job.started_at is None or now is None else age(max(0.0, (now - job.started_at).total_seconds()))
            )
            name = str(job.id)
            if job.cancel_requested:
                said = "cancel requested"
            else:
                said = "" if job.progress is None else _bar(job.progress.percent, job.progress.message)
            self._row(made, "running", name, (self._id(job), job.type, job.queue, str(job.attempt), since, said))
        return made

    def _workers(self, workers: list[WorkerView], rows: int) -> Table:
        made = _table("worker", "host", "pid", "busy", "done/s", "loop lag", "", numbers=("pid", "done/s", "loop lag"))
        for worker in workers[:rows]:
            busy = _bar(100 * worker.running / max(1, worker.concurrency), f"{worker.running} of {worker.concurrency}")
            lag = f"{worker.loop_lag_seconds * 1_000:.0f} ms"
            state = "draining" if worker.draining else ""
            self._row(
                made,
                "",
                worker.id,
                (worker.id, worker.host, str(worker.pid), busy, rate(worker.completed_per_second), lag, state),
            )
        return made

    def _failed(self, jobs: list[Job], rows: int) -> Table:
        made = _table("failed", "type", "queue", "at", "error")
        for job in self._window("failed", jobs, lambda job: str(job.id), rows):
            at = "" if job.finished_at is None else job.finished_at.strftime("%H:%M:%S")
            error = "" if job.error is None else f"{job.error.type}: {job.error.message}"
            self._row(made, "failed", str(job.id), (self._id(job), job.type, job.queue, at, error[:120]))
        return made

    def _id(self, job: Job) -> str:
        return f"…{str(job.id)[-SHORT:]}" if self._narrow else str(job.id)

    def _window(self, table: str, items: list[Any], name: Callable[[Any], str], rows: int) -> list[Any]:
        """Those around the chosen one."""
        chosen = self._chosen[table].name
        index = next((at for at, item in enumerate(items) if name(item) == chosen), 0)
        start = max(0, min(index - rows // 2, len(items) - rows))
        return items[start : start + rows]

    def _row(self, made: Table, table: str, name: str, cells: tuple[str, ...]) -> None:
        from rich.text import Text

        chosen = table in self._chosen and self._chosen[table].name == name
        style = ("reverse" if self._focus == table else "bold") if chosen else ""
        made.add_row(*(Text(printable(cell), style=STATUS_STYLES.get(cell, "")) for cell in cells), style=style)


def _table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold underline", expand=True)
    for at, column in enumerate(columns):
        # The last one takes what is left: it is the longest, and may be cut.
        made.add_column(
            column,
            justify="right" if column in numbers else "left",
            no_wrap=True,
            min_width=SHORT + 1 if at == 0 else None,
            ratio=1 if at == len(columns) - 1 else None,
        )
    return made


def _bar(percent: float, message: str | None, width: int = 12) -> str:
    filled = round(width * max(0.0, min(100.0, percent)) / 100)
    return f"{'█' * filled}{'░' * (width - filled)} {percent:.0f} % {message or ''}".rstrip()


@contextmanager
def _keys_into(queue: asyncio.Queue[str]) -> Iterator[None]:
    """Keys go into the queue, one by one and unseen, while this lasts; those of an impatient hand are dropped."""
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    loop = asyncio.get_running_loop()

    def read() -> None:
        data = os.read(terminal, 1_024)
        if data in ARROWS:
            names = [ARROWS[data]]
        else:
            names = [KEY_NAMES.get(char, char) for char in data.decode("utf-8", "replace")]
        # A terminal that is gone reads as nothing, for ever.
        for name in names or ["q"]:
            if not queue.full():
                queue.put_nowait(name)

    tty.setcbreak(terminal)
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
