"""`jobserver migrate`: the schema, brought to this release. Works beside running servers."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from jobserver.cli.options import ServerCommand, server_options, settings_from
from jobserver.errors import ConfigurationError, Unavailable


def migrate(**values: Any) -> None:
    # Only SQL is needed, so that --database-url may come without --redis-url.
    given = values.pop("database_url")
    settings = settings_from(values)

    from jobserver.embedded import database_url, prepare
    from jobserver.store.engine import check_reachable
    from jobserver.store.engine import migrate as migrate_schema

    url = given or database_url(prepare(settings.data_dir))

    async def run() -> str:
        version = await check_reachable(url)
        await migrate_schema(url)
        return version

    try:
        version = asyncio.run(run())
    except (Unavailable, TimeoutError) as error:
        raise ConfigurationError(
            f"The schema could not be migrated: {error or 'the database took too long'}"
        ) from error
    click.echo(f"The schema is current ({version}).", err=True)


migrate_command = ServerCommand(
    "migrate",
    callback=migrate,
    params=server_options(["database_url", "data_dir"]),
    help=(
        "Bring the database's schema to this release. `serve` does it by itself, unless --no-migrate.\n\n"
        "\b\nExamples:\n"
        "  jobserver migrate --database-url postgresql://jobs@db.example.com/jobs\n"
        "  jobserver migrate --data-dir .jobserver\n"
    ),
    short_help="Bring the database's schema to this release.",
)
