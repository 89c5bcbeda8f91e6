"""`memprof completion`."""

from __future__ import annotations

import click

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def command(shell: str) -> None:
    """Print the completion script for SHELL; for bash: eval "$(memprof completion bash)"."""
    from click.shell_completion import get_completion_class

    from memprof.cli import cli

    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(completion(cli, {}, "memprof", "_MEMPROF_COMPLETE").source())
