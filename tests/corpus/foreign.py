"""Static analysers of others on the corpus, for comparison: torch-preflight and mldoct, as they are on PyPI.

They have rules of their own, many of them not about memory; only those that are count. A finding of theirs counts as
the labelled one where it points into the labelled statement. Elsewhere in a script that has a problem it is let pass;
in a clean script it is a false alarm.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.corpus.labels import Script
from tests.corpus.tools import Reported, Result

Flag = tuple[str, int, str]
"""Their code, the line, and what they say."""

_PREFLIGHT_MEMORY = ("TG001", "TG002", "TG010")
_MLDOCT_MEMORY = ("oom_leak",)
_MLDOCT = "import json, sys; from mldoctor.linter import lint_script; print(json.dumps(lint_script(sys.argv[1])[0]))"


def torch_preflight(scripts: Sequence[Script], options: Namespace) -> Iterable[Result]:
    """`torch-preflight check` (0.5.0); `--program` is its program."""
    command = [options.program or "torch-preflight", "check", "--format", "json"]
    return _each(scripts, command, lambda said: said["diagnostics"], _PREFLIGHT_MEMORY)


def mldoct(scripts: Sequence[Script], options: Namespace) -> Iterable[Result]:
    """The linter of mldoct (1.0.0); `--program` is the Python in which it is installed."""
    command = [options.program or "python", "-c", _MLDOCT]
    return _each(scripts, command, lambda said: said, _MLDOCT_MEMORY)


def _each(
    scripts: Sequence[Script],
    command: Sequence[str],
    diagnostics: Callable[[Any], Iterable[dict[str, Any]]],
    about_memory: Sequence[str],
) -> Iterable[Result]:
    for script in scripts:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="corpus-") as folder:  # below tests/ they are more lenient
            copy = shutil.copy(script.path, folder)
            done = subprocess.run([*command, copy], cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - start
        try:
            found = list(diagnostics(json.loads(done.stdout)))
        except ValueError:
            yield Result(seconds=seconds, failure=f"no answer\n{done.stderr[-1000:]}")
            continue
        flags = [
            (code, item["line"], item["message"])
            for item in found
            if (code := item.get("code", item.get("type"))) in about_memory
        ]
        yield Result(tuple(as_reported(script, flags)), seconds)


def as_reported(script: Script, flags: Iterable[Flag]) -> Iterable[Reported]:
    """Say in our codes what they found."""
    statements = [(item, _statement(script.path, line)) for item in script.expected for line in item.lines]
    for code, line, message in flags:
        met = [item for item, span in statements if line in span]
        if met:
            yield from (Reported(item.code, item.lines[0], message=message) for item in met)
        elif not script.expected:
            yield Reported(code, line, message=message)


def _statement(path: Path, line: int) -> range:
    """The lines of the innermost statement that contains a line."""
    spans = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return min(spans, key=len, default=range(line, line + 1))
