"""How a command that runs a program reads its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


class ProgramCommand(click.Command):
    """Options end at SCRIPT or `-m MODULE`; what follows belongs to the script, as with `python`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `--` where the script's own arguments begin."""
        flags = {
            name
            for item in self.params
            if getattr(item, "is_flag", False)
            for name in (*item.opts, *item.secondary_opts)
        }
        flags.update(ctx.help_option_names)
        position = 0
        while position < len(args):
            word = args[position]
            if not word.startswith("-") or word in ("-", "--"):
                break
            if word == "-m" or (word.startswith("-m") and not word.startswith("--")):
                end = position + (2 if word == "-m" else 1)
                args = [*args[:end], "--", *args[end:]]
                break
            position += 1 if word in flags or "=" in word or (word[1] != "-" and len(word) > 2) else 2
        return super().parse_args(ctx, args)


def program_command(name: str) -> Callable[[Callable[..., Any]], ProgramCommand]:
    """`click.command` for a command that runs `SCRIPT [ARGS]` or `-m MODULE [ARGS]`.

    Args:
        name: Of the command.
    """
    make = click.command(
        name, cls=ProgramCommand, context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS]"
    )

    def decorate(function: Callable[..., Any]) -> ProgramCommand:
        function = click.argument("args", nargs=-1, type=click.UNPROCESSED)(function)
        function = click.argument("script", required=False)(function)
        module = "Run a module, as `python -m` does, instead of a script."
        made: ProgramCommand = make(click.option("-m", "module", metavar="MODULE", help=module)(function))
        return made

    return decorate


def level_option(meaning: str) -> Callable[[_F], _F]:
    """Add `--level` to a command.

    Args:
        meaning: What its help says before the defaults.
    """
    return click.option(
        "--level",
        type=click.Choice(("auto", "steps", "blocks", "tensors")),
        help=f"{meaning} [default: auto; tensors with --simulate]",
    )


def device_option(command: _F) -> _F:
    """Add `--device` to a command."""
    return click.option(
        "--device",
        type=click.Choice(("auto", "cpu", "cuda")),
        default="auto",
        show_default=True,
        help="Whose memory to read.",
    )(command)
