"""How a command that runs a program reads its arguments."""

from __future__ import annotations

import click


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
