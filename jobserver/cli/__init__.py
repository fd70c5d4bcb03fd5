"""The command line. Commands are imported on use, so that those that talk HTTP load nothing of the server.

Exit codes: 0 done, 1 the job or the request failed, 2 wrong usage or configuration, 3 server not reachable.
Whatever goes wrong is one line on stderr.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Mapping
from typing import Final, NoReturn

import click

from jobserver import __version__
from jobserver.cli.environment import read_dotenv
from jobserver.errors import ConfigurationError

# In the order of --help.
COMMANDS: Final[Mapping[str, str]] = {
    "serve": "jobserver.cli.serve",
    "migrate": "jobserver.cli.migrate",
    "recover": "jobserver.cli.recover",
    "secrets": "jobserver.cli.secrets",
    "keys": "jobserver.cli.keys",
    "torture": "jobserver.cli.torture",
    "submit": "jobserver.cli.submit",
    "show": "jobserver.cli.jobs",
    "why": "jobserver.cli.jobs",
    "list": "jobserver.cli.jobs",
    "cancel": "jobserver.cli.jobs",
    "retry": "jobserver.cli.jobs",
    "watch": "jobserver.cli.watch",
    "dlq": "jobserver.cli.dead_letters",
    "queues": "jobserver.cli.system",
    "workers": "jobserver.cli.system",
    "stats": "jobserver.cli.system",
    "top": "jobserver.cli.top",
    "completion": "jobserver.cli.completion",
}

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130


class CommandsOnUse(click.Group):
    """A group that imports the module of a command when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(importlib.import_module(module), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command


@click.group(cls=CommandsOnUse, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="jobserver", message="%(prog)s %(version)s")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Submit stores it, the stream delivers it, a consumer executes it, finish decides.

    `jobserver serve` runs a server; the commands from `submit` on talk to one.
    """
    # For the options that the environment can give too: see EnvironmentOption.
    ctx.obj = read_dotenv()


def main() -> NoReturn:
    """The command `jobserver`. Ends the process."""
    for stream in (sys.stdout, sys.stderr):
        # What a terminal of another encoding cannot show is shown by its number.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command; its exit code."""
    try:
        try:
            code = group.main(arguments, prog_name="jobserver", standalone_mode=False)
        finally:
            # Here, where a reader that went away is still noticed quietly.
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        _say(f"{error.format_message()} {_where_help_is(error)}")
        return USAGE
    except ConfigurationError as error:
        _say(str(error))
        return USAGE
    except UnicodeEncodeError:
        # Bytes that are not UTF-8 come as lone surrogates, with which no request and no statement can be made.
        if all(_is_text(argument) for argument in arguments):
            raise
        _say("An argument is not text in UTF-8.")
        return USAGE
    except click.Abort:
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads us any more. What is still buffered must not complain at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code if isinstance(code, int) else 0


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _say(message: str) -> None:
    click.echo(f"jobserver: {' '.join(message.split())}", err=True)


def _where_help_is(error: click.UsageError) -> str:
    return "" if error.ctx is None else f"See {error.ctx.command_path} --help."
