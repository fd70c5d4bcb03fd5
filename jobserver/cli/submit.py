"""`jobserver submit`: one job, or a file of them."""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from jobserver.cli.output import as_json
from jobserver.cli.parameters import DURATION_TYPE, PATIENCE_TYPE
from jobserver.cli.remote import RemoteCommand, Session, complete_queue, complete_type, outcome

if TYPE_CHECKING:  # see remote.py
    from jobserver.client import Job

# The largest payload that any server can be set to accept.
MAX_STDIN_BYTES: Final = 64 * 1_048_576


@click.command("submit", cls=RemoteCommand, short_help="Submit a job, or a file of them.")
@click.argument("type_", metavar="TYPE", shell_complete=complete_type)
@click.argument("payload", metavar="[JSON|-]", required=False)
@click.option("--queue", metavar="NAME", help="Instead of the type's queue.", shell_complete=complete_queue)
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="Instead of the type's priority.")
@click.option("--delay", type=DURATION_TYPE, metavar="DURATION", help="Run it this much later.")
@click.option("--key", metavar="TEXT", help="Idempotency key: repeating the command makes no second job.")
@click.option("--max-retries", type=click.IntRange(0, 100), metavar="N", help="Instead of the type's.")
@click.option("--timeout", type=DURATION_TYPE, metavar="DURATION", help="Of one attempt, instead of the type's.")
@click.option("--tag", "tags", multiple=True, metavar="TEXT", help="May be repeated.")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Submit a job for each line of this file, which is its payload as JSON. May be repeated without harm.",
)
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
    file: str | None,
    wait: float | None,
    key: str | None,
    tags: tuple[str, ...],
    **options: Any,
) -> int:
    """Submit a job and print its id.

    With --wait, print its result; the exit code is 1 when it failed, was canceled or is not finished.

    With --file, submit a job for each line. The idempotency key of each is made of the content of the whole file (or
    of --key) and the number of the line: after an interruption, give the same command again, and no job is doubled,
    as long as the server keeps the keys. With --key the file may have grown meanwhile.

    \b
    Examples:
      jobserver submit echo '{"hello": "world"}' --wait
      jobserver submit email.send - --delay 10m --key welcome-42 < email.json
      jobserver submit email.send --file emails.ndjson --queue bulk
    """
    if tags:
        options["tags"] = tags
    if file is not None:
        if payload is not None or wait is not None:
            raise click.UsageError("With --file the payloads are its lines, and nobody waits for them.")
        from jobserver.cli.bulk import submit_file

        return submit_file(session, type_, file, key, options)
    value = None if payload is None else _payload(payload)
    calls, run = session.client.calls, session.client.run
    answer = run(calls.submit(type_, value, key, options))  # type: ignore[arg-type]  # as --help names them
    if wait is None:
        session.show(answer, lambda job: click.echo(str(job.id)))
        return 0
    answer = run(calls.wait(answer.value.id, None if wait == math.inf else wait))
    return outcome(session.show(answer, _show_result))


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
