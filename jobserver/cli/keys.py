"""`jobserver keys`: makes, lists and revokes API keys, in SQL directly, beside a running server or without one."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from jobserver.access import GIVEN, NAME, PREFIX, RANKS, SCOPES, ApiKey, Caller, digest_of, new_key
from jobserver.cli.options import ServerCommand, server_options, settings_from
from jobserver.cli.output import moment, printable, raw, table
from jobserver.cli.parameters import DURATION_TYPE
from jobserver.errors import ConfigurationError, Refused, Unavailable
from jobserver.settings import YEAR_SECONDS

if TYPE_CHECKING:  # the store is imported when a command runs: --help need not wait for it
    from jobserver.store.access import AccessStore

T = TypeVar("T")
REFUSED: Final = 1
_ENGINES: Final = ("database_url", "data_dir")


def create(name: str, scope: str, expires: float | None, from_environment: str | None, json: bool, **where: Any) -> int:
    if NAME.fullmatch(name) is None:
        raise click.UsageError(f"{name!a} is no name for a key: letters, digits and . _ : @ -, at most 64.")
    if name.startswith(PREFIX):
        raise click.UsageError(f"A name does not begin with {PREFIX}, as keys do.")
    if expires is not None and not 0 < expires <= 100 * YEAR_SECONDS:
        raise click.UsageError("A key is good for more than no time, and for 100 years at most.")
    key = new_key() if from_environment is None else _given(from_environment)

    async def run(store: AccessStore) -> ApiKey | None:
        if from_environment is not None and await _is_there(store, name, scope, key):
            return None
        target: dict[str, object] = {"name": name, "scope": scope}
        return await _noted(store, "create key", target, lambda: _created(store, name, scope, key, expires))

    made = _with_store(run, where)
    if made is None:
        click.echo(f"The key {name} is there already.", err=True)
    elif from_environment is not None:
        # Whoever gave it has it: its copies end up in logs.
        click.echo(f"The key {name} is stored.", err=True)
    elif json:
        shown = {field: getattr(made, field) for field in ("id", "name", "scope")}
        times = {"created_at": made.created_at, "expires_at": made.expires_at}
        raw(msgspec.json.encode({**shown, "key": key, **times}))
    else:
        click.echo(key)
    return 0


def list_keys(json: bool, **where: Any) -> int:
    async def run(store: AccessStore) -> list[ApiKey]:
        return await store.keys()

    keys = _with_store(run, where)
    if json:
        raw(msgspec.json.encode({"items": keys}))
        return 0
    columns = ("id", "name", "scope", "created", "expires", "last used", "revoked")
    rows = [
        (
            str(key.id),
            key.name,
            key.scope,
            *(moment(at) for at in (key.created_at, key.expires_at, key.last_used_at, key.revoked_at)),
        )
        for key in keys
    ]
    table(columns, rows)
    return 0


def revoke(key: str, **where: Any) -> int:
    async def run(store: AccessStore) -> str | None:
        # What was leaked is what is pasted: it must not end up in the audit log, or be echoed.
        given = digest_of(key.encode("utf-8", "surrogateescape"))
        if key.startswith(PREFIX) or not key.isprintable() or await store.holder(given) is not None:
            raise _Refused("That is no name and no id of a key, by which it is revoked: see jobserver keys list.")

        async def revoked() -> str | None:
            found = await store.revoke(key)
            return None if found is None else found[1]

        return await _noted(store, "revoke key", {"key": key}, revoked)

    name = _with_store(run, where)
    if name is None:
        raise _Refused(f"There is no key in use with the name or id {key!a}.")
    click.echo(f"The key {name} is revoked: no server takes it from 5 s from now on.", err=True)
    return 0


class _Refused(Exception):
    """Well-formed, and not done: exit code 1."""


async def _is_there(store: AccessStore, name: str, scope: str, key: str) -> bool:
    """Whether this very key is in use already. Raises _Refused for one that lets nobody in any more."""
    holder = await store.holder(digest_of(key.encode()))
    if holder is None:
        return False
    if holder.revoked or holder.expired:
        end = "was revoked" if holder.revoked else "has expired"
        raise _Refused(
            f"This key was stored under the name {holder.name} before, and {end}: no server takes it again. "
            "Bring another one."
        )
    return (holder.name, holder.scope) == (name, scope)


async def _created(store: AccessStore, name: str, scope: str, key: str, expires: float | None) -> ApiKey:
    from jobserver.pipeline.ids import Ids

    key_id = Ids(lambda: time.time_ns() // 1_000).next()
    assert scope in SCOPES
    made = await store.create(key_id, name, scope, digest_of(key.encode()), lifetime_seconds=expires)
    if made is None:
        raise _Refused(f"There is a key in use with the name {name}, or this key is stored under another one.")
    return made


async def _noted(store: AccessStore, action: str, target: dict[str, object], do: Callable[[], Awaitable[T]]) -> T:
    """With an entry of the audit log: who sits here, as far as the system tells."""
    from jobserver.pipeline.ids import Ids

    action_id = Ids(lambda: time.time_ns() // 1_000).next()
    who = Caller(None, f"command line: {_user()}@{socket.gethostname()}", RANKS["admin"])
    await store.begin_action(action_id, who, None, action, target)
    done: T | None = None
    try:
        done = await do()
    finally:
        await store.end_action(action_id, int(done is not None))
    return done


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's number without a name.
        return str(os.getuid())


def _given(variable: str) -> str:
    key = os.environ.get(variable, "")
    if GIVEN.fullmatch(key) is None:
        raise ConfigurationError(
            f"The variable {variable} holds no key: 32 to 256 random letters, digits and . _ ~ + / = -."
        )
    return key


def _with_store(run: Callable[[AccessStore], Awaitable[T]], where: dict[str, Any]) -> T:
    """`run` on the database that the options name, brought to this release's schema. Raises ConfigurationError."""
    # Only SQL is needed, so that --database-url may come without --redis-url.
    given = where.pop("database_url")
    settings = settings_from(where)

    from jobserver.embedded import database_url, prepare
    from jobserver.store.access import AccessStore
    from jobserver.store.engine import Database, check_reachable, migrate

    url = given or database_url(prepare(settings.data_dir))

    async def connected() -> T:
        await check_reachable(url)
        await migrate(url)
        database = Database(url, pool_size=2)
        try:
            return await run(AccessStore(database))
        finally:
            await database.close()

    try:
        return asyncio.run(connected())
    except Refused as error:
        raise _Refused(str(error)) from error
    except (Unavailable, TimeoutError) as error:
        raise ConfigurationError(f"The keys cannot be reached: {error or 'the database took too long'}") from error


def _command(name: str, callback: Callable[..., int], *params: click.Parameter, text: str) -> click.Command:
    def run(**values: Any) -> int:
        try:
            return callback(**values)
        except _Refused as error:
            click.echo(f"jobserver: {printable(str(error))}", err=True)
            return REFUSED

    return ServerCommand(
        name,
        callback=run,
        params=[*params, *server_options(_ENGINES)],
        help=text,
        short_help=text.partition(".")[0] + ".",
    )


_JSON: Final = click.Option(["--json"], is_flag=True, help="Print JSON.")

keys_command = click.Group(
    "keys",
    commands=[
        _command(
            "create",
            create,
            click.Argument(["name"]),
            click.Option(
                ["--scope"],
                type=click.Choice(SCOPES),
                required=True,
                help="read: look at everything. submit: and submit and cancel jobs. admin: everything.",
            ),
            click.Option(["--expires"], type=DURATION_TYPE, metavar="DURATION", help="Of no use after this time."),
            click.Option(
                ["--from-environment"],
                metavar="VARIABLE",
                help="Store the key in this variable instead of making one. It may be stored already.",
            ),
            _JSON,
            text="Make an API key and print it. It is shown this once: only its hash is stored.\n\n"
            "\b\nExamples:\n  jobserver keys create ci --scope submit --expires 90d\n"
            "  jobserver keys create me --scope admin",
        ),
        _command(
            "list",
            list_keys,
            _JSON,
            text="List the API keys, revoked ones too: when they were used, when they end.\n\n"
            "\b\nExamples:\n  jobserver keys list\n  jobserver keys list --json",
        ),
        _command(
            "revoke",
            revoke,
            click.Argument(["key"], metavar="NAME|ID"),
            text="Revoke an API key.\n\nEvery server refuses it within 5 s. Its name is free again.\n\n"
            "\b\nExamples:\n  jobserver keys revoke ci",
        ),
    ],
    help="Make, list and revoke API keys. As soon as there is one, servers want one of every caller.\n\n"
    "\b\nExamples:\n  jobserver keys create me --scope admin\n  jobserver keys list\n  jobserver keys revoke me",
    short_help="Make, list and revoke API keys.",
)
