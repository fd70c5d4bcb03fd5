"""`jobserver secrets`: what callbacks are signed with. Talks to SQL, also beside running servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from jobserver.cli.options import ServerCommand, server_options, settings_from
from jobserver.cli.output import moment, raw, table
from jobserver.cli.parameters import DURATION_TYPE
from jobserver.errors import ConfigurationError, Refused, Unavailable
from jobserver.settings import YEAR_SECONDS

if TYPE_CHECKING:  # imported on use: --help needs no SQL
    from jobserver.store.secrets import Secret, SecretStore

ACTIONS: Final = ("list", "create", "rotate", "revoke")
OVERLAP_SECONDS: Final = 86_400.0

HELP: Final = """The secrets that callbacks are signed with.

\b
list            every secret, as it is only with --reveal
create          one more, which signs beside the others
rotate          a new one; the others sign beside it for --overlap, then no more
revoke ID       it signs no more, within five seconds everywhere

`create` and `rotate` print only the new secret, on stdout.

\b
Examples:
  jobserver secrets rotate --overlap 12h
  jobserver secrets list --reveal
  jobserver secrets revoke cs_1f8a33c0
"""


def manage(
    action: str, secret_id: str | None, reveal: bool, overlap: float | None, with_json: bool, **values: Any
) -> int | None:
    if (secret_id is None) == (action == "revoke"):
        raise click.UsageError("revoke needs an ID." if action == "revoke" else f"{action} takes no ID.")
    if reveal and action != "list":
        raise click.UsageError(f"--reveal is for list, not for {action}.")
    if overlap is not None and action != "rotate":
        raise click.UsageError(f"--overlap is for rotate, not for {action}.")
    if overlap is not None and overlap > 100 * YEAR_SECONDS:
        raise click.UsageError("--overlap is 100 years at most.")
    # Only SQL is needed, so that --database-url may come without --redis-url.
    given = values.pop("database_url")
    settings = settings_from(values)

    from jobserver.embedded import database_url, prepare
    from jobserver.store.engine import Database, check_reachable, migrate
    from jobserver.store.secrets import SecretStore

    url = given or database_url(prepare(settings.data_dir))

    async def run() -> Sequence[Secret]:
        await check_reachable(url)
        await migrate(url)
        database = Database(url, pool_size=2)
        try:
            return await _done(SecretStore(database), action, secret_id or "", reveal=reveal, overlap=overlap)
        finally:
            await database.close()

    try:
        found = asyncio.run(run())
    except Refused as error:
        click.echo(f"jobserver: {error}.", err=True)
        return 1
    except (Unavailable, TimeoutError) as error:
        raise ConfigurationError(f"The secrets are not to be had: {error or 'the database took too long'}") from error
    _show(found, action, with_json=with_json)
    return None


async def _done(
    store: SecretStore, action: str, secret_id: str, *, reveal: bool, overlap: float | None
) -> Sequence[Secret]:
    if action == "create":
        return [await store.create()]
    if action == "rotate":
        return [await store.rotate(overlap_seconds=OVERLAP_SECONDS if overlap is None else overlap)]
    if action == "revoke":
        await store.revoke(secret_id)
        return []
    return await store.stored(reveal=reveal)


def _show(found: Sequence[Secret], action: str, *, with_json: bool) -> None:
    if with_json and action != "revoke":
        raw(msgspec.json.encode({"items": found} if action == "list" else found[0]))
    elif action == "list":
        table(
            ("id", "state", "created", "signs until", "secret"),
            (
                (each.id, each.state, moment(each.created_at), moment(each.expires_at), each.secret or "")
                for each in found
            ),
        )
    else:
        for each in found:
            click.echo(each.secret)


secrets_command = ServerCommand(
    "secrets",
    callback=manage,
    params=[
        click.Argument(["action"], type=click.Choice(ACTIONS), required=False, default="list"),
        click.Argument(["secret_id"], metavar="[ID]", required=False),
        click.Option(["--reveal"], is_flag=True, help="Show the secrets themselves."),
        click.Option(
            ["--overlap"], type=DURATION_TYPE, metavar="DURATION", help="How long the others still sign. [default: 24h]"
        ),
        click.Option(["--json", "with_json"], is_flag=True, help="Print JSON."),
        *server_options(["database_url", "data_dir"]),
    ],
    help=HELP,
    short_help="What callbacks are signed with.",
)
