"""The directive `command-help`: what `memprof COMMAND --help` prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

ROOT = Path(__file__).parents[2]


def help_text(arguments: list[str]) -> str:
    """Run a command with `--help` and return what it prints, 80 columns wide and without colour."""
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(
        [sys.executable, "-m", "memprof", *arguments, "--help"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if result.returncode:
        raise ExtensionError(f"memprof {' '.join(arguments)} --help failed: {result.stderr}")
    return result.stdout.rstrip().replace("python -m memprof", "memprof")


class CommandHelp(SphinxDirective):
    """Shows the help of the command named by the directive's argument, or that of memprof itself."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Render a literal block."""
        text = help_text(self.arguments[0].split() if self.arguments else [])
        block = nodes.literal_block(text, text)
        block["language"] = "text"
        return [block]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
