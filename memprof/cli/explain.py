"""`memprof explain`."""

from __future__ import annotations

import click


@click.command("explain")
@click.argument("code", required=False)
@click.option("--all", "everything", is_flag=True, help="Explain every rule.")
def command(code: str | None, everything: bool) -> None:
    """Explain the rule CODE (MP101, or its name); without a code, list all rules."""
    from memprof.detect import RULES, rule_of

    if everything:
        click.echo("\n".join(rule.page() for rule in RULES), nl=False)
        return
    if code is None:
        _print_list([(f"{rule.code}  {rule.kind.value:8}  ", rule.summary()) for rule in RULES])
        return
    found = rule_of(code)
    if found is None:
        raise click.UsageError(f"there is no rule {code!r}; `memprof explain` lists all {len(RULES)}")
    _print_markdown(found.page())


def _print_list(rows: list[tuple[str, str]]) -> None:
    """Wrap for a terminal; a pipe gets one line for each."""
    import shutil
    import sys
    import textwrap

    width = max(shutil.get_terminal_size().columns, 40) if sys.stdout.isatty() else 10_000
    for label, text in rows:
        click.echo(textwrap.fill(text, width, initial_indent=label, subsequent_indent=" " * len(label)))


def _print_markdown(text: str) -> None:
    """Render for a terminal; plain text for a pipe."""
    import sys

    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=min(Console().width, 100)).print(Markdown(text, code_theme="ansi_dark"))
