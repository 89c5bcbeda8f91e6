"""How the static check's answer is written: as text, for GitHub, as JSON, as SARIF."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from memprof.lint import LintFinding, LintResult, Unreadable, lint_rule
from memprof.report.safe_json import dump, safe_text

JSON_VERSION = 1
"""Version of the JSON form; it rises when a key changes its meaning or goes."""


def as_text(result: LintResult) -> str:
    """A line a finding, as ruff writes them, and a summary."""
    lines = [f"{place(finding)}: {finding.code} {finding.message}" for finding in result.findings]
    lines += [f"{item.file}:{item.line}:1: error: {item.reason}" for item in result.unreadable]
    return "".join(f"{line}\n" for line in (*lines, summary(result)))


def as_full(result: LintResult) -> str:
    """As text, each finding with its line of source and how sure it is."""
    lines = []
    for finding in result.findings:
        number = str(finding.line)
        margin = " " * len(number)
        stop = finding.end_column if finding.end_line == finding.line else len(finding.source) + 1
        marks = " " * (finding.column - 1) + "^" * max(stop - finding.column, 1)
        lines += [
            f"{place(finding)}: {finding.code} {finding.name}, confidence {finding.confidence.value}",
            f"{margin} |",
            f"{number} | {_shown(finding.source)}".rstrip(),
            f"{margin} | {marks}",
            f"{margin} = {finding.message}",
            "",
        ]
    lines += [f"{item.file}:{item.line}:1: error: {item.reason}" for item in result.unreadable]
    return "".join(f"{line}\n" for line in (*lines, summary(result)))


def _shown(line: str) -> str:
    """A line of source with one column a character: tabs, and what would move the cursor, are blanks."""
    return "".join(character if character.isprintable() else " " for character in line)


def as_statistics(result: LintResult) -> str:
    """How often each code was found, the most frequent first, and a summary."""
    counts = Counter(finding.code for finding in result.findings)
    width = len(str(max(counts.values(), default=0)))
    lines = [
        f"{count:>{width}}  {code}  {lint_rule(code).summary}"
        for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    lines += [f"{item.file}:{item.line}:1: error: {item.reason}" for item in result.unreadable]
    return "".join(f"{line}\n" for line in (*lines, summary(result)))


def summary(result: LintResult) -> str:
    """The last line of the text form."""
    files = f"{result.files} file{'' if result.files == 1 else 's'}"
    broken = f"; {len(result.unreadable)} could not be checked" if result.unreadable else ""
    if not result.findings:
        return f"No problem found in {files}{broken}."
    count = len(result.findings)
    return f"Found {count} problem{'' if count == 1 else 's'} in {files}{broken}."


def place(finding: LintFinding) -> str:
    """`file:line:column`, with the cell of a notebook in between."""
    cell = f"cell {finding.cell}:" if finding.cell is not None else ""
    return f"{finding.file}:{cell}{finding.line}:{finding.column}"


def as_github(result: LintResult) -> str:
    """Workflow commands, which GitHub shows beside the lines of a pull request."""
    lines = []
    for finding in result.findings:
        properties = {"title": f"memprof ({finding.code})", "file": finding.file}
        if finding.cell is None:  # in a notebook a cell's line is no line of the file
            properties |= {
                "line": str(finding.line),
                "endLine": str(finding.end_line),
                "col": str(finding.column),
                "endColumn": str(finding.end_column),
            }
        lines.append(_command("warning", properties, f"{place(finding)}: {finding.code} {finding.message}"))
    for item in result.unreadable:
        properties = {"title": "memprof", "file": item.file, "line": str(item.line)}
        lines.append(_command("error", properties, f"{item.file}:{item.line}: {item.reason}"))
    return "".join(f"{line}\n" for line in lines)


def _command(level: str, properties: Mapping[str, str], message: str) -> str:
    """A workflow command, escaped.

    Source:
        `escapeData` and `escapeProperty`, actions/toolkit, packages/core/src/command.ts.
    """

    def data(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    def value(text: str) -> str:
        return data(text).replace(":", "%3A").replace(",", "%2C")

    written = ",".join(f"{name}={value(text)}" for name, text in properties.items())
    return f"::{level} {written}::{data(message)}"


def as_json(result: LintResult) -> str:
    """One JSON object: findings, files that could not be checked, the number of files that were."""
    document = {
        "version": JSON_VERSION,
        "files": result.files,
        "findings": [_finding(finding) for finding in result.findings],
        "errors": [_error(item) for item in result.unreadable],
    }
    return f"{dump(document, indent=2)}\n"


def _finding(finding: LintFinding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "name": finding.name,
        "file": safe_text(finding.file),
        "cell": finding.cell,
        "line": finding.line,
        "column": finding.column,
        "end_line": finding.end_line,
        "end_column": finding.end_column,
        "message": safe_text(finding.message),
        "remedy": finding.remedy,
        "confidence": finding.confidence.value,
    }


def _error(item: Unreadable) -> dict[str, Any]:
    return {"file": safe_text(item.file), "line": item.line, "reason": safe_text(item.reason)}


def as_sarif(result: LintResult) -> str:
    """A SARIF log, version 2.1.0."""
    from memprof.report.sarif import sarif_log

    return f"{json.dumps(sarif_log(result), indent=2)}\n"


LINT_FORMATS: Mapping[str, Callable[[LintResult], str]] = MappingProxyType(
    {"text": as_text, "full": as_full, "json": as_json, "sarif": as_sarif, "github": as_github}
)
"""Name -> what writes it."""
