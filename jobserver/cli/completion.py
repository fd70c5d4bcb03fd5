"""`jobserver completion`: the script that makes a shell complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_JOBSERVER_COMPLETE"


@click.command("completion", short_help="Print the completion script for a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, and the names of queues and types that the server knows.

    \b
    Examples:
      eval "$(jobserver completion bash)"                                          # in ~/.bashrc
      eval "$(jobserver completion zsh)"                                           # in ~/.zshrc
      jobserver completion fish > ~/.config/fish/completions/jobserver.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(ctx.find_root().command, {}, "jobserver", VARIABLE).source())
