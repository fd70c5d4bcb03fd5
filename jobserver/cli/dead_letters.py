"""`jobserver dlq`: failed jobs, looked at, queued again or deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import click

from jobserver.cli.output import as_json, moment, table
from jobserver.cli.remote import (
    DRY_RUN,
    FAILED,
    FINGERPRINT,
    LIMIT,
    QUEUE,
    TYPE,
    YES,
    RemoteCommand,
    Session,
    agreed,
    check_can_ask,
    complain,
    page_options,
    show_rest,
)

if TYPE_CHECKING:  # see remote.py
    from jobserver.client import Page
    from jobserver.client.views import Selection
    from jobserver.job.wire import FailedGroupList

ALL = click.option("--all", is_flag=True, help="Every failed job.")
IDS = click.argument("ids", metavar="[ID]...", nargs=-1, type=click.UUID)


# Whom the server does not permit one, it permits none of them.
_OF_THE_KEY: Final = (401, 403)


@click.group("dlq", short_help="List, replay or delete failed jobs.")
def dlq_command() -> None:
    """The dead letters: jobs that have failed, kept until they are replayed or deleted.

    \b
    Examples:
      jobserver dlq list --type email.send
      jobserver dlq groups
      jobserver dlq replay --type email.send
      jobserver dlq purge --queue mail --yes
    """


@dlq_command.command("list", cls=RemoteCommand, short_help="List failed jobs.")
@page_options
def list_command(session: Session, limit: int, offset: int, cursor: str | None, **filters: Any) -> None:
    """List failed jobs, the most recently failed first.

    \b
    Examples:
      jobserver dlq list
      jobserver dlq list --type email.send --limit 100
    """
    calls = session.client.calls
    page = calls.page(filters, limit=limit, offset=offset, cursor=cursor, dead=True)  # type: ignore[arg-type]  # as above
    session.show(session.client.run(page), _show_page)


@dlq_command.command("groups", cls=RemoteCommand, short_help="Failed jobs by what their errors have in common.")
@TYPE
@QUEUE
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, metavar="N", help="At most.")
def groups_command(session: Session, limit: int, **selection: Any) -> None:
    """Show failed jobs by type and by what their errors have in common, the most recently failed first.

    \b
    Examples:
      jobserver dlq groups
      jobserver dlq groups --type email.send --limit 100
    """
    calls = session.client.calls
    session.show(session.client.run(calls.groups(limit=limit, **selection)), _show_groups)


@dlq_command.command("replay", cls=RemoteCommand, short_help="Queue failed jobs again.")
@IDS
@TYPE
@QUEUE
@FINGERPRINT
@ALL
@LIMIT
@DRY_RUN
@YES
def replay_command(
    session: Session, ids: tuple[UUID, ...], limit: int, dry_run: bool, yes: bool, **selection: Any
) -> int:
    """Queue failed jobs again: those named, of a type, queue or group, or all. Asks first.

    \b
    Examples:
      jobserver dlq replay 019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11
      jobserver dlq replay --type email.send --dry-run
      jobserver dlq replay --fingerprint 5f1d7a84db00d2fc --limit 10
      jobserver dlq replay --all --limit 10000 --yes
    """
    from jobserver.job.wire import ReplayBody

    _check_selected(ids, selection)
    calls, run = session.client.calls, session.client.run

    def body(*, dry: bool) -> ReplayBody:
        return ReplayBody(ids=ids or None, limit=limit, dry_run=dry, **selection)

    if not dry_run and not yes:
        check_can_ask(yes=yes)
        count = run(calls.replay(body(dry=True))).value.replayed
        if not agreed(f"Queue {_jobs(count)} again?", yes=yes):
            return FAILED
    answer = run(calls.replay(body(dry=dry_run)))
    verb = "would be queued again" if dry_run else "queued again"
    session.show(answer, lambda done: click.echo(f"{_jobs(done.replayed)} {verb}"))
    if answer.value.replayed == limit:
        click.echo("There may be more: repeat the command, or raise --limit.", err=True)
    return 0


@dlq_command.command("purge", cls=RemoteCommand, short_help="Delete failed jobs.")
@IDS
@TYPE
@QUEUE
@FINGERPRINT
@ALL
@DRY_RUN
@YES
def purge_command(session: Session, ids: tuple[UUID, ...], dry_run: bool, yes: bool, **selection: Any) -> int:
    """Delete failed jobs and their history: those named, of a type, queue or group, or all. Asks first.

    \b
    Examples:
      jobserver dlq purge 019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11
      jobserver dlq purge --queue mail --dry-run
      jobserver dlq purge --all --yes
    """
    _check_selected(ids, selection)
    if ids and (dry_run or any(selection.values())):
        raise click.UsageError("Name jobs, or give filters; not both.")
    calls, run = session.client.calls, session.client.run
    if ids:
        if not agreed(f"Delete {_jobs(len(ids))} for good?", yes=yes):
            return FAILED
        return _delete(session, ids)
    chosen: Selection = {**selection}  # type: ignore[typeddict-item]  # as --help names them
    if not dry_run and not yes:
        check_can_ask(yes=yes)
        count = run(calls.purge({**chosen, "dry_run": True})).value.deleted
        if not agreed(f"Delete {_jobs(count)} for good?", yes=yes):
            return FAILED
    answer = run(calls.purge({**chosen, "dry_run": dry_run}))
    verb = "would be deleted" if dry_run else "deleted"
    session.show(answer, lambda done: click.echo(f"{_jobs(done.deleted)} {verb}"))
    return 0


def _delete(session: Session, ids: Sequence[UUID]) -> int:
    """Each by itself: what is refused of one is said, and the others are deleted."""
    from jobserver.client import RequestRefused

    deleted = 0
    for job_id in ids:
        try:
            session.client.run(session.client.calls.delete(job_id))
        except RequestRefused as error:
            if error.status in _OF_THE_KEY:
                raise
            complain(f"{job_id}: {error}")
        else:
            deleted += 1
    if not session.with_json and deleted:
        click.echo(f"{_jobs(deleted)} deleted")
    return 0 if deleted == len(ids) else FAILED


def _check_selected(ids: tuple[UUID, ...], selection: dict[str, Any]) -> None:
    if not ids and not any(selection.values()):
        raise click.UsageError("Say which: ids, --type, --queue, --fingerprint or --all.")


def _jobs(count: int) -> str:
    return f"{count:,} failed job{'' if count == 1 else 's'}"


def _show_page(page: Page) -> None:
    table(
        ("id", "type", "queue", "attempt", "failed", "error", "payload"),
        (
            (
                str(job.id),
                job.type,
                job.queue,
                str(job.attempt),
                moment(job.finished_at),
                "" if job.error is None else _shortened(f"{job.error.type}: {job.error.message}"),
                _shortened(as_json(job.payload, indent=-1)),
            )
            for job in page.items
        ),
        numbers=("attempt",),
    )
    show_rest(page)


def _show_groups(groups: FailedGroupList) -> None:
    table(
        ("fingerprint", "type", "jobs", "first", "last", "error"),
        (
            (
                group.fingerprint,
                group.type,
                f"{group.count:,}",
                moment(group.first_failed_at),
                moment(group.last_failed_at),
                _shortened(f"{group.error_type}: {group.message}"),
            )
            for group in groups.items
        ),
        numbers=("jobs",),
    )
    if groups.partial:
        click.echo("There was no time to count all failed jobs.", err=True)


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
