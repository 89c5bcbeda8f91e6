"""The command line. One file a command; a command is imported when it runs."""

from __future__ import annotations

import sys
from importlib import import_module
from types import MappingProxyType

import click

from memprof._errors import MemprofError
from memprof._version import __version__

COMMANDS = MappingProxyType(
    {
        "analyze": ("memprof.cli.analyze", "Run a script or module and say what eats its memory."),
        "fix": ("memprof.cli.fix", "Edit what eats a script's memory, and try the edits."),
        "report": ("memprof.cli.report", "Show the diagnosis of a recording again."),
        "compare": ("memprof.cli.compare", "Say what changed from one recording to another."),
        "whatif": ("memprof.cli.whatif", "Replay a recording under other allocator settings or on another GPU."),
        "lint": ("memprof.cli.lint", "Say what will eat memory, from the source alone."),
        "fit": ("memprof.cli.fit", "Find the largest batch with which a script fits a GPU, without one."),
        "export": ("memprof.cli.export", "Turn a recording into a file that other tools open."),
        "status": ("memprof.cli.status", "Show every GPU and who holds its memory."),
        "explain": ("memprof.cli.explain", "Explain a rule."),
        "completion": ("memprof.cli.completion", "Print the completion script for a shell."),
    }
)
"""Command -> module that holds it as `command`, and its one line of help."""


class Interrupted(Exception):
    """The script was interrupted, and all that was to be said about it has been said."""


class _LazyGroup(click.Group):
    """Knows the names of its commands and imports one only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = import_module(entry[0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", prog_name="memprof")
def cli() -> None:
    """Tell where the memory of a PyTorch run went, why, and what to do about it.

    Start with: memprof analyze train.py
    """


def main() -> None:
    """Run the command line; memprof's own errors are one line on standard error and exit status 2."""
    try:
        cli(prog_name="memprof")
    except Interrupted:
        # Ends as an interrupted `python` does, of SIGINT, so that a shell loop around it stops too.
        sys.excepthook = lambda *_: None
        raise KeyboardInterrupt from None
    except MemprofError as error:
        print(f"memprof: {error}", file=sys.stderr)
        sys.exit(2)
