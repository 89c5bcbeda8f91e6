"""Every script in `samples/` gets the diagnosis that `sample_labels` says is true, and no other."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sample_labels import (
    CLEAN,
    HARMLESS_CODES,
    LEAKY,
    SAMPLES,
    SAMPLES_DIR,
    ExpectedFinding,
    SampleLabel,
    line_number,
)

LEVELS = ("auto", "tensors")

TIMEOUT_S = 180

BYTES_FACTOR = 2.0
"""How far a reported growth may be from the measured one: iterations are counted in several ways."""

RULES_WITH_SAMPLES = {
    *("MP101", "MP102", "MP103", "MP104", "MP107", "MP112", "MP113"),
    *("MP201", "MP202", "MP205", "MP301"),
}
"""Those met most often; the corpus has scripts for every rule."""

Finding = dict[str, Any]


def by_name(sample: SampleLabel) -> str:
    return Path(sample.name).stem


# --- The labels ----------------------------------------------------------------------------------


def test_every_script_has_one_label() -> None:
    names = [sample.name for sample in SAMPLES]

    assert sorted(names) == sorted(path.name for path in SAMPLES_DIR.glob("*.py"))


def test_every_leaky_script_has_a_clean_twin() -> None:
    assert [sample.twin for sample in CLEAN] == [None] * len(CLEAN)
    assert sorted(str(sample.twin) for sample in LEAKY) == sorted(sample.name for sample in CLEAN)
    assert all(sample.expected for sample in LEAKY)
    assert not any(sample.expected for sample in CLEAN)


def test_common_problems_have_a_script() -> None:
    assert {expected.code for sample in LEAKY for expected in sample.expected} == RULES_WITH_SAMPLES


@pytest.mark.parametrize("sample", SAMPLES, ids=by_name)
def test_label_points_at_single_lines(sample: SampleLabel) -> None:
    for entry in (*sample.expected, *sample.allowed):
        if entry.line is not None:
            line_number(sample.path, entry.line)


@pytest.mark.parametrize("sample", SAMPLES, ids=by_name)
def test_script_says_what_it_does_and_not_what_is_wrong(sample: SampleLabel) -> None:
    source = sample.path.read_text(encoding="utf-8")

    assert ast.get_docstring(ast.parse(source)), "no docstring"
    given_away = [word for word in ("leak", "mistake", "bug", "MP1", "MP2", "MP3") if word in source]
    assert given_away == []


# --- The diagnosis -------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sample", SAMPLES, ids=by_name)
def test_diagnosis(sample: SampleLabel, level: str, tmp_path: Path) -> None:
    findings = analyze(sample.path, level, tmp_path)["findings"]

    problems = [problem for expected in sample.expected for problem in missing_from(findings, expected, sample)]
    problems += [f"not true: {describe(finding)}" for finding in findings if not is_true(finding, sample)]
    assert not problems, "\n".join([sample.name, *problems, "reported:", *map(describe, findings)])


def analyze(script: Path, level: str, directory: Path) -> dict[str, Any]:
    """Run `memprof analyze` on a script as a user would and return the JSON report."""
    report = directory / "report.json"
    command = [sys.executable, "-m", "memprof", "analyze", "--format", "json", "--output", str(report)]
    command += ["-o", str(directory / "run.memprof")]
    if level != "auto":  # the default, which is to be tested as the default
        command += ["--level", level]
    result = subprocess.run(
        [*command, str(script)],
        cwd=directory,
        # One thread: the tensors are small, and tests run beside each other.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    output = f"stdout:\n{result.stdout[-2000:]}\nstderr:\n{result.stderr[-4000:]}"
    assert result.returncode == 0, f"exit status {result.returncode}\n{output}"
    assert report.exists(), f"no report\n{output}"
    loaded = json.loads(report.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def missing_from(findings: list[Finding], expected: ExpectedFinding, sample: SampleLabel) -> list[str]:
    """Say what is wrong with how an expected finding was reported; nothing where all is well."""
    same_code = [finding for finding in findings if finding["code"] == expected.code]
    matching = [finding for finding in same_code if is_at(finding, sample, expected.line)]
    if not matching:
        where = "" if expected.line is None else f" at line {line_number(sample.path, expected.line)}"
        return [f"missing: {expected.code}{where}"]
    if len(matching) > 1 and expected.line is not None:
        return [f"reported {len(matching)} times: {expected.code} at one line"]
    return differences(matching[0], expected)


def differences(finding: Finding, expected: ExpectedFinding) -> list[str]:
    """Compare the parts of a finding with its label."""
    wrong = []
    offered = {remedy["slug"] for remedy in finding["remedies"]}
    if not offered & expected.remedies:
        wrong.append(f"remedies {sorted(offered)}, none of {sorted(expected.remedies)}")
    if expected.holder is not None and expected.holder not in (finding["holder"] or ""):
        wrong.append(f"holder {finding['holder']!r} does not name {expected.holder!r}")
    if expected.severities and finding["severity"] not in expected.severities:
        wrong.append(f"severity {finding['severity']}, not one of {sorted(expected.severities)}")
    reported, measured = finding["bytes_per_iteration"], expected.bytes_per_iteration
    if reported is not None and measured is not None:
        if not measured / BYTES_FACTOR <= reported <= measured * BYTES_FACTOR:
            wrong.append(f"{reported} bytes per iteration, measured {measured}")
    return [f"{expected.code}: {text}" for text in wrong]


def is_true(finding: Finding, sample: SampleLabel) -> bool:
    """Whether the labels of a script say that a finding is expected or allowed."""
    if finding["code"] in HARMLESS_CODES:
        return True
    return any(
        finding["code"] == entry.code and is_at(finding, sample, entry.line)
        for entry in (*sample.expected, *sample.allowed)
    )


def is_at(finding: Finding, sample: SampleLabel, line: str | None) -> bool:
    """Whether a finding points at a line of the script, given by its text; None is any line."""
    if line is None:
        return True
    location = finding["location"]
    return (
        location is not None
        and Path(location["file"]).name == sample.name
        and location["line"] == line_number(sample.path, line)
    )


def describe(finding: Finding) -> str:
    """Return a finding as one line of a failure message."""
    location = finding["location"] or {"file": "?", "line": "?"}
    where = f"{Path(location['file']).name}:{location['line']}"
    return f"{finding['code']} {finding['severity']} {where} holder={finding['holder']!r}: {finding['message']}"
