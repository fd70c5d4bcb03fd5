"""The commands about single jobs and lists of them: show, list, cancel, retry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jobserver.cli.output import age, as_json, details, moment, table
from jobserver.cli.remote import (
    DRY_RUN,
    FAILED,
    LIMIT,
    STATUS,
    YES,
    RemoteCommand,
    Session,
    agreed,
    check_can_ask,
    complain,
    filter_options,
    page_options,
    show_rest,
)

if TYPE_CHECKING:  # see remote.py
    from jobserver.client import Answer, Job, Page
    from jobserver.job.query import Verb
    from jobserver.job.wire import ActionView, AttemptList, WhyView

IDS = click.argument("ids", metavar="[ID]...", nargs=-1)


@click.command("show", cls=RemoteCommand, short_help="Show a job and its attempts.")
@click.argument("job_id", metavar="ID")
def show_command(session: Session, job_id: str) -> None:
    """Show a job and its attempts. With --json the job alone.

    \b
    Examples:
      jobserver show 019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11
      jobserver show 019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11 --json
    """
    job = session.show(session.client.run(session.client.calls.get(job_id)), _show_job)
    if not session.with_json and job.attempt:
        _show_attempts(session.client.run(session.client.calls.attempts(job_id)).value)


@click.command("why", cls=RemoteCommand, short_help="Say why a job waits, runs or has ended.")
@click.argument("job_id", metavar="ID")
def why_command(session: Session, job_id: str) -> None:
    """Say why a job waits, what it is doing, or why it ended as it did: reasons, and what to do about them.

    \b
    Examples:
      jobserver why 019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11
      jobserver why 019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11 --json
    """
    session.show(session.client.run(session.client.calls.why(job_id)), _show_why)


@click.command("list", cls=RemoteCommand, short_help="List jobs, newest first.")
@STATUS
@page_options
def list_command(session: Session, limit: int, offset: int, cursor: str | None, **filters: Any) -> None:
    """List jobs, newest first.

    \b
    Examples:
      jobserver list --status failed --status canceled
      jobserver list --queue mail --created-after 2026-03-07T10:00:00Z --limit 100
      jobserver list --search user@example.com --error Timeout
    """
    calls = session.client.calls
    page = calls.page(filters, limit=limit, offset=offset, cursor=cursor)  # type: ignore[arg-type]  # as above
    session.show(session.client.run(page), show_page)


@click.command("cancel", cls=RemoteCommand, short_help="Cancel jobs.")
@IDS
@filter_options
@LIMIT
@DRY_RUN
@YES
def cancel_command(session: Session, ids: tuple[str, ...], **options: Any) -> int:
    """Cancel a job, or many: those named, or those of a filter. One that runs is asked to end. A filter asks first.

    \b
    Examples:
      jobserver cancel 019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11
      jobserver cancel --type email.send --status queued --dry-run
    """
    if len(ids) == 1 and not _chosen(options):
        session.show(session.client.run(session.client.calls.cancel(ids[0])), _show_cancel)
        return 0
    return _act(session, "cancel", ids, "canceled", **options)


@click.command("retry", cls=RemoteCommand, short_help="Queue failed or canceled jobs again.")
@IDS
@filter_options
@LIMIT
@DRY_RUN
@YES
def retry_command(session: Session, ids: tuple[str, ...], **options: Any) -> int:
    """Queue failed or canceled jobs again: those named, or those of a filter. A filter asks first.

    Their counters start anew, their history stays.

    \b
    Examples:
      jobserver retry 019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11
      jobserver retry --status canceled --tag billing --yes
    """
    if len(ids) == 1 and not _chosen(options):
        session.show(session.client.run(session.client.calls.retry(ids[0])), lambda job: click.echo(job.status.value))
        return 0
    return _act(session, "retry", ids, "queued again", **options)


def _chosen(options: dict[str, Any]) -> dict[str, Any]:
    """What was said to choose jobs, or to change none."""
    return {name: value for name, value in options.items() if value and name not in ("limit", "yes")}


def _act(
    session: Session, verb: Verb, ids: tuple[str, ...], past: str, *, limit: int, dry_run: bool, yes: bool, **said: Any
) -> int:
    filters = _chosen(said)
    if ids and filters:
        raise click.UsageError("Name jobs, or give filters; not both.")
    if not ids and not filters:
        raise click.UsageError("Say which: ids, or filters such as --type and --status.")

    def act(*, dry: bool) -> Answer[ActionView]:
        chosen: Any = filters  # as --help names them
        return session.client.run(session.client.calls.act(verb, chosen, ids or None, limit=limit, dry_run=dry))

    if filters and not dry_run and not yes:
        check_can_ask(yes=yes)
        count = act(dry=True).value.matched
        if not agreed(f"{verb.capitalize()} {_jobs(count)}?", yes=yes):
            return FAILED
    done = session.show(act(dry=dry_run), lambda done: _show_done(done, past, dry_run=dry_run))
    if done.partial:
        complain("Not all jobs were looked at: there may be more. Repeat the command, or raise --limit.")
    return 0


def _show_done(done: ActionView, past: str, *, dry_run: bool) -> None:
    if dry_run:
        click.echo(f"{_jobs(done.matched)} would be {past}")
    else:
        click.echo(f"{_jobs(done.changed)} {past}" + ("" if done.changed == done.matched else f" of {done.matched:,}"))


def _jobs(count: int) -> str:
    return f"{count:,} job{'' if count == 1 else 's'}"


def _show_cancel(job: Job) -> None:
    click.echo("cancel requested" if job.status == "running" else job.status.value)


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


def _show_why(why: WhyView) -> None:
    details([("status", why.status.value)])
    for reason in why.reasons:
        click.echo()
        details([(reason.code, f"{reason.message}\n{reason.hint}")])


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


def show_page(page: Page) -> None:
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
    show_rest(page)
