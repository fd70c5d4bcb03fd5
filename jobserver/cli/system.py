"""The commands about the whole: queues, workers, stats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from jobserver.cli.output import age, details, moment, rate, table
from jobserver.cli.remote import STATUSES, RemoteCommand, Session, complete_queue

if TYPE_CHECKING:  # see remote.py
    from jobserver.job.wire import Counts, QueueView, StatsView, WorkerList, WorkerView


@click.command("stats", cls=RemoteCommand, short_help="Show the server in numbers.")
def stats_command(session: Session) -> None:
    """Show the server in numbers.

    \b
    Examples:
      jobserver stats
      jobserver stats --json
    """
    session.show(session.client.run(session.client.calls.stats()), _show_stats)


@click.command("queues", cls=RemoteCommand, short_help="List the queues; pause or resume one.")
@click.argument("action", metavar="[pause|resume]", type=click.Choice(["pause", "resume"]), required=False)
@click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_queue)
def queues_command(session: Session, action: str | None, name: str | None) -> None:
    """List the queues and their jobs by status; or pause one, so that no more of its jobs start, or resume it.

    The rates are jobs a second, over the last half minute.

    \b
    Examples:
      jobserver queues
      jobserver queues pause mail
      jobserver queues resume mail
    """
    calls, run = session.client.calls, session.client.run
    if action is None:
        session.show(run(calls.queues()), lambda found: _show_queues(found.items))
        return
    if name is None:
        raise click.UsageError("Name the queue.")
    answer = run(calls.pause(name) if action == "pause" else calls.resume(name))
    session.show(answer, lambda queue: click.echo("paused" if queue.paused else "running"))


@click.command("workers", cls=RemoteCommand, short_help="List the server's processes.")
def workers_command(session: Session) -> None:
    """List the server's processes; those that died are there for 24 hours.

    \b
    Examples:
      jobserver workers
      jobserver workers --json
    """
    session.show(session.client.run(session.client.calls.workers()), _show_workers)


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
        ("queue", *STATUSES, "oldest waiting", "in/s", "done/s", "failed/s", ""),
        (
            (
                queue.name,
                *(f"{count:,}" for _, count in _by_status(queue.counts)),
                age(queue.oldest_waiting_seconds),
                *_rates(queue),
                "paused" if queue.paused else "",
            )
            for queue in queues
        ),
        numbers=(*STATUSES, "oldest waiting", "in/s", "done/s", "failed/s"),
    )


def _show_workers(workers: WorkerList) -> None:
    table(
        ("id", "state", "running", "done/s", "host", "pid", "version", "heartbeat", "queues", "types"),
        (
            (
                worker.id,
                _state(worker),
                f"{worker.running} of {worker.concurrency}",
                rate(worker.completed_per_second),
                worker.host,
                str(worker.pid),
                worker.version,
                moment(worker.heartbeat_at),
                "all" if worker.queues is None else ", ".join(worker.queues),
                ", ".join(worker.types),
            )
            for worker in workers.items
        ),
        numbers=("done/s", "pid"),
    )


def _rates(queue: QueueView) -> tuple[str, str, str]:
    rates = queue.rates
    if rates is None:
        return "", "", ""
    return rate(rates.submitted_per_second), rate(rates.completed_per_second), rate(rates.failed_per_second)


def _state(worker: WorkerView) -> str:
    if not worker.alive:
        return "dead"
    return "draining" if worker.draining else "alive"


def _by_status(counts: Counts) -> list[tuple[str, int]]:
    return [(status, getattr(counts, status)) for status in STATUSES]
