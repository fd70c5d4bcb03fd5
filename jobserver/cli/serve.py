"""`jobserver serve`: settings from flags, environment and `.env`; then a server until a signal stops it."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from jobserver import __version__
from jobserver.cli.environment import adopt_otel
from jobserver.cli.options import HANDLERS_HELP, ServerCommand, handlers_argument, server_options, settings_from
from jobserver.cli.output import printable
from jobserver.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:  # the server is imported when one is started: --help need not wait for it
    from jobserver.server import Facts, Place, Server
    from jobserver.settings import Settings

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
# Allocations between collections of the youngest, and of those above: measured, not guessed.
GC_THRESHOLDS: Final = (20_000, 20, 20)
STOP_NOW_SECONDS: Final = 15.0
LAST_SECONDS: Final = 1.0

HELP: Final = f"""Run a server: the HTTP API, and consumers of jobs.

\b
Examples:
  jobserver serve
  jobserver serve mail:handlers --workers 8 --queues mail,default

The first one starts engines of its own and keeps their data in the folder .jobserver. {HANDLERS_HELP}
The current folder is on the module path.

Every option is a variable of the environment too, named in brackets, and of the file .env in the current
folder. The command line is stronger than the environment, and that than .env. A DURATION is a number with
s, m, h or d.
"""


def serve(**values: Any) -> int:
    """Until a signal stops it; the exit code."""
    asked = values.pop("log_format")
    # JSON is for machines: who watches a terminal reads text, unless the format was given.
    settings = settings_from({**values, "log_format": asked or ("console" if sys.stderr.isatty() else "json")})
    # Where JSON was asked for, `server_started` says the banner's facts to machines.
    with_banner = asked != "json"
    # Before any other process is started: its environment is this one's.
    adopt_otel(click.get_current_context().find_root().obj or {})
    if settings.processes > 1:
        from jobserver.cli.parent import run_processes

        return run_processes(settings, with_banner=with_banner)
    import_from_here()
    collect_seldom()

    from jobserver.telemetry.logs import configure_logs

    configure_logs(settings.log_format, settings.log_level)
    # Before there is a loop: modules of users may run one of their own while they are imported.
    server = server_of(settings)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(Serving(server, on_started=_show if with_banner else lambda facts: None).run())
        runner.run(leave_what_does_not_end())
    return 0


def server_of(settings: Settings, place: Place | None = None) -> Server:
    """The one server of this process, with the traces that its environment asks for. Raises ConfigurationError."""
    from jobserver.server import Server
    from jobserver.telemetry.otel import read_otel

    server = Server(settings, place=place, otel=read_otel(os.environ))
    if server.tracing is not None:
        server.tracing.provider.make_global()
    return server


def import_from_here() -> None:
    """Put the current folder on the module path, where it is not there yet: `python -m jobserver` has it already."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _show(facts: Facts) -> None:
    click.echo(banner(facts), err=True)


serve_command = ServerCommand(
    "serve",
    callback=serve,
    params=[handlers_argument(), *server_options()],
    help=HELP,
    short_help="Run a server: the HTTP API, and consumers of jobs.",
)


def collect_seldom() -> None:
    """What a job leaves behind is freed by counting; cycles may wait for a while.

    Called before the server is imported: imports leave nothing to collect, and would take an eighth longer.
    """
    gc.set_threshold(*GC_THRESHOLDS)


def spare_the_collector() -> None:
    """Modules and what a start has built live as long as the process: not looked at again and again."""
    gc.collect()
    gc.freeze()


class Serving:
    """One run of a server in the foreground, and what signals do to it."""

    def __init__(self, server: Server, *, on_started: Callable[[Facts], None]) -> None:
        self.server: Final = server
        self._on_started = on_started
        self._starting: asyncio.Task[Any] | None = None
        self._started = False
        self._stopped = False
        self._signals = 0

    async def run(self) -> None:
        """Until it was stopped and has drained. Raises ConfigurationError."""
        loop = asyncio.get_running_loop()
        self._starting = starting = asyncio.current_task()
        assert starting is not None
        numbers = self._signal_numbers()
        for number in numbers:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            async with self.server as server:
                self._started = True
                spare_the_collector()
                self._on_started(server.facts)
                await server.serve()
        except asyncio.CancelledError:
            # Stopped before it had started: nothing to drain, and nothing wrong.
            if self._started or not self._stopped:
                raise
            starting.uncancel()
        except (Unavailable, TimeoutError) as error:
            if self._started:
                raise
            raise ConfigurationError(f"The server could not start: {error or 'an engine took too long'}.") from error
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Drain, or give up the start. Repeating it does nothing."""
        if self._stopped:
            return
        self._stopped = True
        if self._started:
            self.server.stop()
        elif self._starting is not None:
            self._starting.cancel()

    def stop_now(self) -> None:
        """Give up the drain."""
        self.stop()
        if self._started:
            self.server.stop_now()
            # A handler that refuses to be cancelled would hold up the end of the event loop for ever.
            asyncio.get_running_loop().call_later(STOP_NOW_SECONDS, os._exit, 1)

    def _signal_numbers(self) -> tuple[signal.Signals, ...]:
        # Who started it by nohup wants it to outlive the terminal.
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        return STOP_SIGNALS if ignored else (*STOP_SIGNALS, signal.SIGHUP)

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            # The terminal is gone. Shell and system both say so: that does not mean to stop now.
            self.stop()
            return
        self._signals += 1
        if self._signals == 2:
            self.stop_now()
        self.stop()
        if self._signals == 1 and self._started and (number == signal.SIGINT or sys.stderr.isatty()):
            jobs = self.server.draining_jobs
            click.echo(f"draining {jobs} {'job' if jobs == 1 else 'jobs'}, Ctrl-C again to stop now", err=True)


async def leave_what_does_not_end() -> None:
    """End the process where a handler refuses to be cancelled, or left a thread: asyncio waits for both for ever.

    Everything is written and closed by now, and such a job was handed back.
    """
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    # Not to be cancelled: it would wait for the threads then, and block the loop.
    left.add(asyncio.create_task(asyncio.get_running_loop().shutdown_default_executor(), name="last threads"))
    _, endless = await asyncio.wait(left, timeout=LAST_SECONDS)
    if endless:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def banner(facts: Facts) -> str:
    """What a person wants to see once the server listens."""
    return laid_out(facts.url, rows_of(facts))


def rows_of(facts: Facts) -> list[tuple[str, str]]:
    """The banner's names and values."""
    consumers = f"{facts.consumers} {'consumer' if facts.consumers == 1 else 'consumers'}"
    rows = [
        ("data", facts.data),
        ("engines", " + ".join(facts.engines)),
        ("runs", consumers if facts.consumers else "no jobs: this process is the API only"),
    ]
    if facts.types:
        rows.append(("types", ", ".join(facts.types)))
    return rows + [("warning", warning) for warning in facts.warnings]


def laid_out(url: str | None, rows: Sequence[tuple[str, str]]) -> str:
    """The text of a banner."""
    lines = [f"jobserver {__version__}  {url or 'no HTTP API (--no-http)'}", ""]
    width = max(8, *(len(name) for name, _ in rows))
    lines += [f"  {name:<{width}} {printable(value)}" for name, value in rows]
    if url is not None:
        example = '{"type": "echo", "payload": "hello"}'
        lines += ["", f"  {'try':<{width}} curl --json '{example}' {url}/jobs"]
    lines.append("")
    return "\n".join(lines)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
