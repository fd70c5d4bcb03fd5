"""The commands that talk HTTP to a server. They import nothing of the server itself."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from jobserver.cli.environment import PREFIX
from jobserver.cli.output import age, as_json, details, moment, printable, raw, table
from jobserver.cli.parameters import DURATION, DURATION_TYPE, FOR_EVER, PATIENCE_TYPE, EnvironmentOption

if TYPE_CHECKING:  # imported by RemoteCommand, when a command runs: --help needs no HTTP client
    from jobserver.client import Answer, Job, Page, SyncClient
    from jobserver.job.wire import AttemptList, Counts, QueueView, StatsView, WorkerList, WorkerView

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8000"
STATUSES: Final = ("scheduled", "queued", "retrying", "running", "completed", "failed", "canceled")
FAILED: Final = 1
UNREACHABLE: Final = 3
# A person at a prompt would rather hear of it and decide.
RETRIES: Final = 2
# The largest payload that any server can be set to accept.
MAX_STDIN_BYTES: Final = 64 * 1_048_576


class Session:
    """The client of one command, and how its answers are shown."""

    def __init__(self, client: SyncClient, *, with_json: bool) -> None:
        self.client: Final = client
        self.with_json: Final = with_json

    def show(self, answer: Answer[T], for_people: Callable[[T], None]) -> T:
        """Print the answer, unchanged or for people."""
        if self.with_json:
            raw(answer.body)
        else:
            for_people(answer.value)
        return answer.value


class RemoteCommand(click.Command):
    """A command whose function gets a Session, and whose failures are one line and an exit code."""

    def __init__(self, name: str | None, *, params: list[click.Parameter] | None = None, **attributes: Any) -> None:
        url = EnvironmentOption(
            ["--url"],
            default=DEFAULT_URL,
            show_default=True,
            envvar=f"{PREFIX}URL",
            show_envvar=True,
            metavar="URL",
            help="The server.",
        )
        body = click.Option(["--json"], is_flag=True, help="Print the body of the answer, unchanged.")
        super().__init__(name, params=[*(params or []), url, body], **attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_bare_wait(args))

    def invoke(self, ctx: click.Context) -> None:
        # Importing httpx imports its own command line with it, which takes 200 ms; we are another.
        sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

        from jobserver.client import ClientError, ServerUnreachable, SyncClient
        from jobserver.errors import Invalid

        url, with_json = ctx.params.pop("url"), ctx.params.pop("json")
        try:
            with SyncClient(url, retries=RETRIES) as client:
                ctx.params["session"] = Session(client, with_json=with_json)
                code = super().invoke(ctx)
        except ServerUnreachable as error:
            _complain(f"{error} Is `jobserver serve` running?")
            code = UNREACHABLE
        except (ClientError, Invalid) as error:
            _complain(str(error))
            code = FAILED
        ctx.exit(code or 0)


def _with_bare_wait(args: Sequence[str]) -> list[str]:
    """--wait may stand alone: what follows it and is no duration is not its value."""
    found = list(args)
    for at, argument in enumerate(args):
        if argument == "--":
            break
        if argument == "--wait" and (at + 1 == len(args) or DURATION.fullmatch(args[at + 1]) is None):
            found[at] = f"--wait={FOR_EVER}"
    return found


def _complain(message: str) -> None:
    click.echo(f"jobserver: {printable(message)}", err=True)


# Submit.


@click.command("submit", cls=RemoteCommand, short_help="Submit a job.")
@click.argument("type_", metavar="TYPE")
@click.argument("payload", metavar="[JSON|-]", required=False)
@click.option("--queue", metavar="NAME", help="Instead of the type's queue.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="Instead of the type's priority.")
@click.option("--delay", type=DURATION_TYPE, metavar="DURATION", help="Run it this much later.")
@click.option("--key", metavar="TEXT", help="Idempotency key: repeating the command makes no second job.")
@click.option("--max-retries", type=click.IntRange(0, 100), metavar="N", help="Instead of the type's.")
@click.option("--timeout", type=DURATION_TYPE, metavar="DURATION", help="Of one attempt, instead of the type's.")
@click.option("--tag", "tags", multiple=True, metavar="TEXT", help="May be repeated.")
@click.option(
    "--wait",
    type=PATIENCE_TYPE,
    metavar="[SECONDS]",
    help="Wait for the end of the job and print its result; for so long at most.",
)
def submit_command(
    session: Session,
    type_: str,
    payload: str | None,
    wait: float | None,
    key: str | None,
    tags: tuple[str, ...],
    **options: Any,
) -> int:
    """Submit a job and print its id.

    \b
      jobserver submit echo '{"hello": "world"}' --wait
      jobserver submit email.send - --delay 10m --key welcome-42 < email.json

    With --wait, print its result; the exit code is 1 when it failed, was canceled or is not finished.
    """
    value = None if payload is None else _payload(payload)
    calls, run = session.client.calls, session.client.run
    if tags:
        options["tags"] = tags
    answer = run(calls.submit(type_, value, key, options))  # type: ignore[arg-type]  # as --help names them
    if wait is None:
        session.show(answer, lambda job: click.echo(str(job.id)))
        return 0
    answer = run(calls.wait(answer.value.id, None if wait == math.inf else wait))
    return _outcome(session.show(answer, _show_result))


def _payload(text: str) -> msgspec.Raw:
    """The payload as it was written. Raises UsageError for what is not JSON."""
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1) if text == "-" else os.fsencode(text)
    if len(data) > MAX_STDIN_BYTES:
        raise click.UsageError("The payload is larger than any server accepts.")
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = "" if text == "-" else " Text needs quotes of its own: '\"text\"'."
        raise click.UsageError(f"The payload is not JSON: {error}.{hint}") from None
    return msgspec.Raw(data)


def _show_result(job: Job) -> None:
    if job.status == "completed":
        click.echo(as_json(job.result))


def _outcome(job: Job) -> int:
    if job.status == "completed":
        return 0
    if job.status == "failed" and job.error is not None:
        said = f"failed: {job.error.type}: {job.error.message}"
    elif job.ended:
        said = "failed" if job.status == "failed" else "was canceled"
    else:
        said = f"is not finished, but {job.status}"
    _complain(f"The job {job.id} {said}")
    return FAILED


# Look.


@click.command("show", cls=RemoteCommand, short_help="Show a job and its attempts.")
@click.argument("job_id", metavar="ID")
def show_command(session: Session, job_id: str) -> None:
    """Show a job and its attempts. With --json the job alone."""
    job = session.show(session.client.run(session.client.calls.get(job_id)), _show_job)
    if not session.with_json and job.attempt:
        _show_attempts(session.client.run(session.client.calls.attempts(job_id)).value)


@click.command("list", cls=RemoteCommand, short_help="List jobs, newest first.")
@click.option("--status", type=click.Choice(STATUSES), multiple=True, help="May be repeated.")
@click.option("--type", metavar="TYPE", help="Of this type.")
@click.option("--queue", metavar="NAME", help="In this queue.")
@click.option("--tag", metavar="TEXT", help="With this tag.")
@click.option("--created-after", metavar="TIME", help="Such as 2026-03-07T10:00:00Z.")
@click.option("--created-before", metavar="TIME", help="Such as 2026-03-07T10:00:00Z.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, metavar="N", help="At most.")
@click.option("--offset", type=click.IntRange(0), default=0, metavar="N", help="Leave out the first N.")
@click.option("--cursor", metavar="TEXT", help="Go on where the page before ended.")
def list_command(session: Session, limit: int, offset: int, cursor: str | None, **filters: Any) -> None:
    """List jobs, newest first."""
    calls = session.client.calls
    page = calls.page(filters, limit=limit, offset=offset, cursor=cursor)  # type: ignore[arg-type]  # as above
    session.show(session.client.run(page), _show_page)


@click.command("stats", cls=RemoteCommand, short_help="Show the server in numbers.")
def stats_command(session: Session) -> None:
    """Show the server in numbers."""
    session.show(session.client.run(session.client.calls.stats()), _show_stats)


@click.command("queues", cls=RemoteCommand, short_help="List the queues.")
def queues_command(session: Session) -> None:
    """List the queues and their jobs by status."""
    session.show(session.client.run(session.client.calls.queues()), lambda found: _show_queues(found.items))


@click.command("workers", cls=RemoteCommand, short_help="List the server's processes.")
def workers_command(session: Session) -> None:
    """List the server's processes; those that died are there for 24 hours."""
    session.show(session.client.run(session.client.calls.workers()), _show_workers)


# Change.


@click.command("cancel", cls=RemoteCommand, short_help="Cancel a job.")
@click.argument("job_id", metavar="ID")
def cancel_command(session: Session, job_id: str) -> None:
    """Cancel a job. One that runs is asked to end."""
    session.show(session.client.run(session.client.calls.cancel(job_id)), _show_cancel)


@click.command("retry", cls=RemoteCommand, short_help="Queue a failed or canceled job again.")
@click.argument("job_id", metavar="ID")
def retry_command(session: Session, job_id: str) -> None:
    """Queue a failed or canceled job again. Its counters start anew, its history stays."""
    session.show(session.client.run(session.client.calls.retry(job_id)), lambda job: click.echo(job.status.value))


def _show_cancel(job: Job) -> None:
    click.echo("cancel requested" if job.status == "running" else job.status.value)


# For people.


def _show_job(job: Job) -> None:
    error = job.error
    progress = job.progress
    requested = ", cancel requested" if job.cancel_requested and not job.ended else ""
    details(
        [
            ("id", str(job.id)),
            ("type", job.type),
            ("status", job.status.value),
            ("queue", f"{job.queue}, {job.priority} priority{requested}"),
            ("attempt", f"{job.attempt}, {job.retry_count} of {job.max_retries} retries, {job.crashes} crashes"),
            ("timeout", f"{job.timeout:g} s"),
            ("tags", ", ".join(job.tags)),
            ("key", job.idempotency_key or ""),
            ("created", moment(job.created_at)),
            ("due", moment(job.run_at) if job.status in ("scheduled", "retrying") else ""),
            ("started", moment(job.started_at)),
            ("finished", moment(job.finished_at)),
            ("expires", moment(job.expires_at)),
            ("worker", job.worker_id or ""),
            ("trace", job.trace_id or ""),
            ("progress", "" if progress is None else f"{progress.percent:g} % {progress.message or ''}"),
            ("payload", as_json(job.payload)),
            ("result", as_json(job.result) if job.status == "completed" else ""),
            ("error", "" if error is None else f"{error.type}: {error.message}"),
            ("", "" if error is None else error.traceback or ""),
        ]
    )


def _show_attempts(attempts: AttemptList) -> None:
    click.echo()
    table(
        ("attempt", "outcome", "started", "took", "worker", "error"),
        (
            (
                str(attempt.number),
                attempt.outcome,
                moment(attempt.started_at),
                age((attempt.ended_at - attempt.started_at).total_seconds()) if attempt.ended_at else "",
                attempt.worker_id or "",
                f"{attempt.error.type}: {attempt.error.message}" if attempt.error else "",
            )
            for attempt in attempts.items
        ),
        numbers=("attempt", "took"),
    )


def _show_page(page: Page) -> None:
    table(
        ("id", "status", "type", "queue", "priority", "attempt", "created"),
        (
            (
                str(job.id),
                job.status.value,
                job.type,
                job.queue,
                job.priority,
                str(job.attempt),
                moment(job.created_at),
            )
            for job in page.items
        ),
        numbers=("attempt",),
    )
    if page.next_cursor is not None:
        total = f"more than {page.total:,}" if page.total_capped else f"{page.total:,}"
        click.echo(f"{len(page.items)} of {total}; the next: --cursor {printable(page.next_cursor)}", err=True)


def _show_stats(stats: StatsView) -> None:
    details(
        [
            ("jobs", f"{stats.total:,}"),
            *((status, f"{count:,}") for status, count in _by_status(stats.by_status)),
            ("workers", f"{stats.workers:,} alive"),
            ("oldest waiting", age(stats.oldest_waiting_seconds)),
        ]
    )
    click.echo()
    _show_queues(stats.queues)


def _show_queues(queues: Iterable[QueueView]) -> None:
    table(
        ("queue", *STATUSES, "oldest waiting", ""),
        (
            (
                queue.name,
                *(f"{count:,}" for _, count in _by_status(queue.counts)),
                age(queue.oldest_waiting_seconds),
                "paused" if queue.paused else "",
            )
            for queue in queues
        ),
        numbers=(*STATUSES, "oldest waiting"),
    )


def _show_workers(workers: WorkerList) -> None:
    table(
        ("id", "state", "running", "host", "pid", "version", "heartbeat", "queues", "types"),
        (
            (
                worker.id,
                _state(worker),
                f"{worker.running} of {worker.concurrency}",
                worker.host,
                str(worker.pid),
                worker.version,
                moment(worker.heartbeat_at),
                "all" if worker.queues is None else ", ".join(worker.queues),
                ", ".join(worker.types),
            )
            for worker in workers.items
        ),
        numbers=("pid",),
    )


def _state(worker: WorkerView) -> str:
    if not worker.alive:
        return "dead"
    return "draining" if worker.draining else "alive"


def _by_status(counts: Counts) -> list[tuple[str, int]]:
    return [(status, getattr(counts, status)) for status in STATUSES]
