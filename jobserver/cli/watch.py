"""`jobserver watch`: what happens to jobs, as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from jobserver.cli.output import printable, raw, say
from jobserver.cli.remote import (
    FAILED,
    STATUSES,
    RemoteCommand,
    Session,
    complain,
    complete_queue,
    complete_type,
    outcome,
)

if TYPE_CHECKING:  # see remote.py
    from jobserver.client import Event


@click.command("watch", cls=RemoteCommand, short_help="Watch a job to its end, or all of them.")
@click.argument("job_id", metavar="[ID]", required=False)
@click.option("--type", metavar="TYPE", help="Jobs of this type.", shell_complete=complete_type)
@click.option("--queue", metavar="NAME", help="Jobs in this queue.", shell_complete=complete_queue)
@click.option("--status", type=click.Choice(STATUSES), multiple=True, help="What jobs become; may be repeated.")
def watch_command(session: Session, job_id: str | None, **filters: Any) -> int:
    """Print what happens to jobs, a line each: of one job until it ends, or of all until Ctrl-C.

    With an ID the exit code is 1 when the job failed or was canceled. With --json each event is an object on a line
    of its own.

    \b
    Examples:
      jobserver watch
      jobserver watch --queue mail --status failed --status canceled
      jobserver watch 019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11 --json
    """
    chosen = {name: value for name, value in filters.items() if value}
    if job_id is not None and chosen:
        raise click.UsageError("The events of one job have no filters.")
    for event in session.client.watch(job_id, **chosen):
        if session.with_json:
            raw(_line(event))
        else:
            _show(event)
        if event.event == "deleted" and job_id is not None:
            complain(f"The job {event.id} was deleted")
            return FAILED
    return 0 if job_id is None else outcome(session.client.get(job_id))


def _line(event: Event) -> bytes:
    fields = msgspec.to_builtins(event)
    # Where to resume is between the client and the server.
    del fields["event_id"]
    return msgspec.json.encode(fields)


def _show(event: Event) -> None:
    if event.event == "reset":
        say("events were left out here", "yellow")
        return
    at = event.at.strftime("%H:%M:%S")
    if event.event == "progress":
        said = printable(event.progress.message or "")
        say(f"{at}  {'running':<9}  {event.id}  {event.progress.percent:g} % {said}".rstrip(), "cyan")
        return
    if event.event == "deleted":
        say(f"{at}  {'deleted':<9}  {event.id}  {event.type}  {event.queue}", "yellow")
        return
    say(f"{at}  {event.status:<9}  {event.id}  {event.type}  {event.queue}  attempt {event.attempt}", event.status)
