"""The forms of the static check's answer."""

from __future__ import annotations

import json

import pytest

from memprof.lint import Confidence, LintFinding, LintResult, Unreadable
from memprof.report.lint_formats import (
    LINT_FORMATS,
    as_full,
    as_github,
    as_json,
    as_sarif,
    as_statistics,
    as_text,
)


def finding(**changes: object) -> LintFinding:
    values: dict[str, object] = {
        "file": "src/train.py",
        "line": 5,
        "column": 9,
        "end_line": 5,
        "end_column": 22,
        "code": "MP101",
        "message": "`total` sums tensors.",
        "remedy": "item",
        "confidence": Confidence.HIGH,
        "name": "graph-grows-across-iterations",
    }
    return LintFinding(**{**values, **changes})  # type: ignore[arg-type]


def result(*findings: LintFinding, unreadable: tuple[Unreadable, ...] = (), files: int = 1) -> LintResult:
    return LintResult(findings, unreadable, files)


BROKEN = Unreadable("bad.py", 3, "cannot be parsed: invalid syntax")


def test_text_is_a_line_a_finding_and_a_summary() -> None:
    assert as_text(result(finding())) == ("src/train.py:5:9: MP101 `total` sums tensors.\nFound 1 problem in 1 file.\n")
    assert as_text(result(files=3)) == "No problem found in 3 files.\n"
    assert as_text(result(finding(cell=2), finding(), unreadable=(BROKEN,), files=2)) == (
        "src/train.py:cell 2:5:9: MP101 `total` sums tensors.\n"
        "src/train.py:5:9: MP101 `total` sums tensors.\n"
        "bad.py:3:1: error: cannot be parsed: invalid syntax\n"
        "Found 2 problems in 2 files; 1 could not be checked.\n"
    )


def test_full_shows_the_line_of_each_finding() -> None:
    one = finding(source="\t\ttotal += loss", column=3, end_column=16)
    several = finding(source="    total += (", column=5, end_line=14, line=12)

    assert as_full(result(one, several, unreadable=(BROKEN,))).splitlines() == [
        "src/train.py:5:3: MP101 graph-grows-across-iterations, confidence high",
        "  |",
        "5 |   total += loss",
        "  |   ^^^^^^^^^^^^^",
        "  = `total` sums tensors.",
        "",
        "src/train.py:12:5: MP101 graph-grows-across-iterations, confidence high",
        "   |",
        "12 |     total += (",
        "   |     ^^^^^^^^^^",
        "   = `total` sums tensors.",
        "",
        "bad.py:3:1: error: cannot be parsed: invalid syntax",
        "Found 2 problems in 1 file; 1 could not be checked.",
    ]
    assert "\x1b" not in as_full(result(finding(source="x = '\x1b[2J'", column=1, end_column=4)))


def test_statistics_count_codes_the_most_frequent_first() -> None:
    found = [finding(code="MP201"), *(finding(line=line) for line in range(10))]

    assert as_statistics(result(*found, files=2)).splitlines() == [
        "10  MP101  A running sum keeps the autograd graph of every iteration.",
        " 1  MP201  A model is evaluated with autograd on.",
        "Found 11 problems in 2 files.",
    ]
    assert as_statistics(result()) == "No problem found in 1 file.\n"


def test_github_commands_are_escaped() -> None:
    text = as_github(result(finding(file="a,b:c.py", message="100%\nmore"), unreadable=(BROKEN,)))

    assert text.splitlines() == [
        (
            "::warning title=memprof (MP101),file=a%2Cb%3Ac.py,line=5,endLine=5,col=9,endColumn=22::"
            "a,b:c.py:5:9: MP101 100%25%0Amore"
        ),
        "::error title=memprof,file=bad.py,line=3::bad.py:3: cannot be parsed: invalid syntax",
    ]
    assert "line=" not in as_github(result(finding(cell=1)))


def test_json_says_everything() -> None:
    document = json.loads(as_json(result(finding(cell=2), unreadable=(BROKEN,))))

    assert document == {
        "version": 1,
        "files": 1,
        "findings": [
            {
                "code": "MP101",
                "name": "graph-grows-across-iterations",
                "file": "src/train.py",
                "cell": 2,
                "line": 5,
                "column": 9,
                "end_line": 5,
                "end_column": 22,
                "message": "`total` sums tensors.",
                "remedy": "item",
                "confidence": "high",
            }
        ],
        "errors": [{"file": "bad.py", "line": 3, "reason": "cannot be parsed: invalid syntax"}],
    }


def test_sarif_names_rules_places_and_files_that_failed() -> None:
    log = json.loads(as_sarif(result(finding(), finding(confidence=Confidence.LOW, cell=4), unreadable=(BROKEN,))))
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    sure, unsure = run["results"]

    assert log["version"] == "2.1.0"
    assert rules[sure["ruleIndex"]]["id"] == sure["ruleId"] == "MP101"
    assert all(rule["help"]["text"] and rule["shortDescription"]["text"] for rule in rules)
    assert sure["level"] == "warning"
    assert sure["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "src/train.py", "uriBaseId": "%SRCROOT%"},
                "region": {"startLine": 5, "startColumn": 9, "endLine": 5, "endColumn": 22},
            }
        }
    ]
    assert unsure["level"] == "note"
    assert "region" not in unsure["locations"][0]["physicalLocation"]
    assert unsure["message"]["text"].startswith("Cell 4, line 5: ")
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    assert invocation["toolExecutionNotifications"][0]["level"] == "error"


@pytest.mark.parametrize("file", ["größe .py", "a\udcff.py", "/abs/train.py", "</script>.py", "a#b?.py"])
@pytest.mark.parametrize("form", sorted(LINT_FORMATS))
def test_odd_file_names_can_be_written(form: str, file: str) -> None:
    text = LINT_FORMATS[form](result(finding(file=file)))

    text.encode("utf-8", "backslashreplace")
    if form in ("json", "sarif"):
        assert json.loads(text)
    if form == "sarif":
        uri = json.loads(text)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert uri.isascii()
        assert not set("#? ") & set(uri)
