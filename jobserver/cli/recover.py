"""`jobserver recover`: one pass of what a running server does all the time, for when none is to be started."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import click

from jobserver.cli.options import ServerCommand, server_options, settings_from
from jobserver.errors import ConfigurationError, Unavailable

# What decides over jobs that are mended: the same values as those of the servers.
FIELDS: Final = (
    "database_url",
    "redis_url",
    "redis_prefix",
    "data_dir",
    "migrate",
    "pool_size",
    "lease_seconds",
    "backoff_base",
    "backoff_cap",
    "max_crashes",
    "callback_retries",
)


def recover(**values: Any) -> None:
    settings = settings_from(values)

    from jobserver.embedded import is_running
    from jobserver.telemetry.logs import configure_logs

    if settings.embedded and is_running(settings.data_dir):
        raise ConfigurationError(f"The server that runs on the data folder {settings.data_dir} already does this.")
    configure_logs("console", "warning")

    from jobserver.server import recover as recover_jobs

    try:
        mended = asyncio.run(recover_jobs(settings))
    except (Unavailable, TimeoutError) as error:
        raise ConfigurationError(f"Not everything could be recovered: {error or 'an engine took too long'}") from error
    click.echo(f"reclaimed    {mended.reclaimed:>8,}  jobs whose worker is gone, waiting again")
    click.echo(f"expired      {mended.expired:>8,}  jobs that nobody started in time, failed")
    click.echo(f"republished  {mended.republished:>8,}  jobs that Redis had lost")


recover_command = ServerCommand(
    "recover",
    callback=recover,
    params=server_options(FIELDS),
    help=(
        "Mend once what crashes left behind, and tell what it was. Running servers do this all the time.\n\n"
        "\b\nExamples:\n"
        "  jobserver recover\n"
        "  jobserver recover --data-dir .jobserver\n"
    ),
    short_help="Mend once what crashes left behind.",
)
