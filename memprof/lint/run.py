"""Checks files: reads, parses, follows values through them, asks every check."""

from __future__ import annotations

import ast
import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memprof.lint.checks import CHECKS
from memprof.lint.context import Context
from memprof.lint.files import SourceFile, find_files, matches, read
from memprof.lint.finding import LintFinding, Unreadable
from memprof.lint.options import LintOptions
from memprof.lint.program import Program, SourceModule
from memprof.lint.rounds import interpret
from memprof.lint.suppression import is_suppressed, suppressed


@dataclass(frozen=True, slots=True)
class LintResult:
    """What a check found.

    Attributes:
        findings: In order of files and lines.
        unreadable: Files that could not be checked.
        files: Number of files that were.
    """

    findings: tuple[LintFinding, ...]
    unreadable: tuple[Unreadable, ...]
    files: int


def lint_paths(paths: Sequence[str | os.PathLike[str]], options: LintOptions | None = None) -> list[LintFinding]:
    """Check files and all files below folders.

    Args:
        paths: Files and folders.
        options: What to report; None: everything of medium confidence and more.

    Returns:
        Findings in order of files and lines. Files that cannot be read or parsed are passed over; `check_paths`
        tells them.

    Raises:
        UsageError: There is no such path.
    """
    return list(check_paths(paths, options).findings)


def check_paths(paths: Sequence[str | os.PathLike[str]], options: LintOptions | None = None) -> LintResult:
    """As `lint_paths`, with the files that could not be checked.

    Raises:
        UsageError: There is no such path.
    """
    chosen = options or LintOptions()
    found = find_files(paths, chosen.exclude, chosen.folder, force=chosen.force_exclude)
    return check_sources([read(path) for path in found], chosen)


def check_sources(sources: Sequence[SourceFile | Unreadable], options: LintOptions) -> LintResult:
    """Check files that have been read, as one program.

    Args:
        sources: The files, and those that could not be read.
        options: What to report.
    """
    unreadable = [source for source in sources if isinstance(source, Unreadable)]
    files = {source.path: source for source in sources if isinstance(source, SourceFile)}
    modules: list[SourceModule] = []
    for source in files.values():
        unreadable += source.broken
        parsed = _parse(source)
        if isinstance(parsed, SourceModule):
            modules.append(parsed)
        elif parsed is not None:
            unreadable.append(parsed)
    program = Program(_concerned(modules, files))
    context = Context(program, interpret(program))
    found = {finding for check in CHECKS for finding in check(context)}
    found = _without_what_another_says(found)
    kept = [finding for finding in found if _is_reported(finding, options)]
    comments = {path: suppressed(files[path].text) for path in {finding.file for finding in kept}}
    findings = [
        _placed(finding, files[finding.file])
        for finding in kept
        if not is_suppressed(finding.code, comments[finding.file], finding.line, finding.end_line)
    ]
    order = {path: number for number, path in enumerate(files)}
    findings.sort(key=lambda item: (order[item.file], item.cell or 0, item.line, item.column, item.code))
    return LintResult(tuple(findings), tuple(sorted(unreadable)), len(modules))


def _without_what_another_says(found: set[LintFinding]) -> set[LintFinding]:
    """Findings without those that another one at the same place makes needless.

    A network that nothing trains says more than that it is not in training mode; a cache that is keyed by tensors keeps
    what is stored in it; where autograd is turned off for an evaluation, the state that is carried through it has no
    history.
    """
    untrained = {(item.file, item.line, item.column) for item in found if item.code == "MP203"}
    found = {item for item in found if item.code != "MP201" or (item.file, item.line, item.column) not in untrained}
    keyed = {(item.file, item.line) for item in found if item.code == "MP111"}
    kept = ("MP102", "MP103")
    found = {item for item in found if item.code not in kept or (item.file, item.line) not in keyed}
    evaluated = {(item.file, item.line) for item in found if item.code == "MP201"}
    return {item for item in found if item.code != "MP104" or (item.file, item.line) not in evaluated}


def _parse(source: SourceFile) -> SourceModule | Unreadable | None:
    """The file parsed, or why that cannot be; None for one that is nested too deeply and does not concern torch."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source.text, filename=source.path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        place, cell = source.place(line)
        where = f"cell {cell}: " if cell is not None else ""
        reason = f"cannot be parsed: {where}{getattr(error, 'msg', None) or error}"
        return Unreadable(source.path, place, reason + _newer_syntax(source.text, line))
    try:
        return SourceModule(source.path, _dotted(source.path), tree)
    except RecursionError as error:
        return Unreadable(source.path, 1, f"cannot be checked: {error}") if "torch" in source.text else None


def _newer_syntax(text: str, line: int) -> str:
    """What to say of a line that a newer Python may understand: `type X = int`, `def first[T](items)`."""
    lines = text.splitlines()
    if sys.version_info >= (3, 12) or not 0 < line <= len(lines) or not _NEW_IN_3_12.match(lines[line - 1]):
        return ""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"; it looks like Python 3.12, and memprof runs on {running}, whose parser it uses"


_NEW_IN_3_12 = re.compile(r"\s*(?:type\s+\w+(?:\[.*\])?\s*=|(?:async\s+)?def\s+\w+\[|class\s+\w+\[)")
"""Type parameters and type aliases.

Source:
    PEP 695.
"""


def _dotted(path: str) -> str:
    """Dotted name a file may be imported by: its path with dots."""
    parts = list(Path(path).with_suffix("").parts)
    if parts and parts[-1] == "__init__":
        parts.pop()
    return ".".join(part for part in parts if part not in ("/", ".", ".."))


def _concerned(modules: list[SourceModule], files: dict[str, SourceFile]) -> list[SourceModule]:
    """Files that use torch, and what they import."""
    modules = [module for module in modules if not _is_of_another_framework(module)]
    chosen = {module.path for module in modules if "torch" in files[module.path].text}
    waiting = [module for module in modules if module.path in chosen]
    by_tail: dict[str, list[SourceModule]] = {}
    for module in modules:
        by_tail.setdefault(module.name.rpartition(".")[2], []).append(module)
    while waiting:
        for name in waiting.pop().imports.values():
            for part in name.split(".")[-2:]:
                for module in by_tail.get(part, ()):
                    if module.path not in chosen:
                        chosen.add(module.path)
                        waiting.append(module)
    return [module for module in modules if module.path in chosen]


def _is_of_another_framework(module: SourceModule) -> bool:
    """Whether a file is written for another framework, where a `model` is called in the same way."""
    roots = {name.partition(".")[0] for name in (*module.imports.values(), *module.stars)}
    return bool(roots & _OTHER_FRAMEWORKS) and not any("torch" in root for root in roots)


_OTHER_FRAMEWORKS = frozenset("tensorflow keras mxnet jax flax paddle mindspore".split())


def _is_reported(finding: LintFinding, options: LintOptions) -> bool:
    if finding.confidence.rank < options.confidence.rank or not options.reports(finding.code):
        return False
    return not any(
        finding.code.startswith(codes) and matches(Path(finding.file), (pattern,), options.folder)
        for pattern, codes in options.per_file_ignores.items()
        if codes
    )


def _placed(finding: LintFinding, source: SourceFile) -> LintFinding:
    """A finding with its line in the notebook's cell, and its columns in characters."""
    lines = source.text.splitlines()
    start = _characters(lines, finding.line, finding.column)
    end = _characters(lines, finding.end_line, finding.end_column)
    line, cell = source.place(finding.line)
    shift = finding.line - line
    text = lines[finding.line - 1] if finding.line <= len(lines) else ""
    return replace(
        finding,
        line=line,
        end_line=finding.end_line - shift,
        column=start,
        end_column=end,
        cell=cell,
        source=text.rstrip(),
    )


def _characters(lines: list[str], line: int, column: int) -> int:
    """A column of the syntax tree, in bytes of UTF-8, as one in characters."""
    if line > len(lines) or lines[line - 1].isascii():
        return column
    return len(lines[line - 1].encode()[: column - 1].decode(errors="ignore")) + 1
