"""The static check's answer as a SARIF log, which code-scanning services and editors read.

Source:
    Static Analysis Results Interchange Format (SARIF) Version 2.1.0, OASIS Standard, 27 March 2020.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from memprof._version import __version__
from memprof.detect import rule_of
from memprof.lint import LINT_RULES, Confidence, LintFinding, LintResult, LintRule, Unreadable
from memprof.report.safe_json import safe_text

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_LEVELS = {Confidence.HIGH: "warning", Confidence.MEDIUM: "warning", Confidence.LOW: "note"}
_INDEX = {rule.code: number for number, rule in enumerate(LINT_RULES)}


def sarif_log(result: LintResult) -> dict[str, Any]:
    """A whole log.

    Args:
        result: What was found.

    Returns:
        JSON values.
    """
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "memprof",
                        "version": __version__,
                        "semanticVersion": __version__,
                        "rules": [_rule(rule) for rule in LINT_RULES],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "invocations": [
                    {
                        "executionSuccessful": not result.unreadable,
                        "toolExecutionNotifications": [_notification(item) for item in result.unreadable],
                    }
                ],
                "results": [_result(finding) for finding in result.findings],
            }
        ],
    }


def _rule(rule: LintRule) -> dict[str, Any]:
    explained = rule_of(rule.code) is not None
    return {
        "id": rule.code,
        "name": rule.title,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": f"{rule.summary} {rule.help}"},
        "help": {
            "text": f"{rule.summary} {rule.help}" + (f" More: memprof explain {rule.code}" if explained else ""),
            "markdown": f"**{rule.summary}** {rule.help}"
            + (f"\n\nMore: `memprof explain {rule.code}`" if explained else ""),
        },
        "defaultConfiguration": {"level": "warning"},
        "properties": {"tags": ["memory", "pytorch", "performance"]},
    }


def _result(finding: LintFinding) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": _artifact(finding.file)}
    message = finding.message
    if finding.cell is None:
        physical["region"] = {
            "startLine": finding.line,
            "startColumn": finding.column,
            "endLine": finding.end_line,
            "endColumn": finding.end_column,
        }
    else:  # the file is JSON: a line of a cell is no line of it
        message = f"Cell {finding.cell}, line {finding.line}: {message}"
    return {
        "ruleId": finding.code,
        "ruleIndex": _INDEX[finding.code],
        "level": _LEVELS[finding.confidence],
        "message": {"text": safe_text(message)},
        "locations": [{"physicalLocation": physical}],
        "properties": {"confidence": finding.confidence.value, "remedy": finding.remedy},
    }


def _notification(item: Unreadable) -> dict[str, Any]:
    return {
        "level": "error",
        "message": {"text": safe_text(item.reason)},
        "locations": [
            {"physicalLocation": {"artifactLocation": _artifact(item.file), "region": {"startLine": max(item.line, 1)}}}
        ],
    }


def _artifact(file: str) -> dict[str, str]:
    """A path as a URI: relative to the root of the checkout, or absolute."""
    path = PurePath(file)
    if path.is_absolute():
        return {"uri": path.as_uri()}
    return {"uri": quote(path.as_posix(), safe="/", errors="surrogateescape"), "uriBaseId": "%SRCROOT%"}
