"""How well a tool does on the corpus: `python -m tests.corpus.score`.

Precision is the share of reported findings that are true; recall the share of expected findings that are reported.
Of those, lines and remedies are the shares that are right. What cannot be scored (a crash, another exit status) is a
failure by name.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.corpus.foreign import mldoct, torch_preflight
from tests.corpus.labels import CORPUS, HELD_OUT, Expected, Script, load
from tests.corpus.tools import TOOLS, Reported, Result, Tool

ALL_TOOLS: Mapping[str, Tool] = {**TOOLS, "torch-preflight": torch_preflight, "mldoct": mldoct}

THRESHOLDS: Mapping[str, float] = {"precision": 0.97, "recall": 0.95, "lines": 0.95, "remedies": 0.95}
"""Below these `analyze` fails."""

HELD_OUT_THRESHOLDS: Mapping[str, float] = {"precision": 0.95, "recall": 0.85, "lines": 0.95, "remedies": 0.95}
"""The same on the held-out set."""


@dataclass(slots=True)
class Tally:
    """Counts of findings."""

    expected: int = 0
    found: int = 0
    right_lines: int = 0
    with_remedy: int = 0
    right_remedies: int = 0
    reported: int = 0
    true: int = 0

    def add(self, other: Tally) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def shares(self) -> dict[str, float | None]:
        """Precision, recall, lines and remedies, 0 to 1; None where there was nothing to get right."""

        def share(part: int, whole: int) -> float | None:
            return part / whole if whole else None

        return {
            "precision": share(self.true, self.reported),
            "recall": share(self.found, self.expected),
            "lines": share(self.right_lines, self.found),
            "remedies": share(self.right_remedies, self.with_remedy),
        }


@dataclass(slots=True)
class Score:
    """The outcome for a set of scripts.

    Attributes:
        by_rule: Code -> counts of findings with that code.
        problems: Every miss, false alarm, wrong line and wrong remedy, a sentence each.
        failures: Scripts that could not be scored, and why.
        clean: Scripts without an expected finding.
        silent: Those of them for which nothing false was reported.
    """

    by_rule: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    problems: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    clean: int = 0
    silent: int = 0

    @property
    def total(self) -> Tally:
        """Counts over all rules."""
        total = Tally()
        for tally in self.by_rule.values():
            total.add(tally)
        return total

    def below(self, thresholds: Mapping[str, float] = THRESHOLDS) -> list[str]:
        """Which shares are too low, a sentence each."""
        shares = self.total.shares
        return [
            f"{name} is {value:.3f}, below {least}"
            for name, least in thresholds.items()
            if (value := shares[name]) is not None and value < least
        ]


def score(
    scripts: Sequence[Script], results: Iterable[Result], *, static: bool = False, remedies: bool = True
) -> Score:
    """Compare what was reported with the labels.

    Args:
        scripts: The scripts.
        results: What the tool said of each, in the same order.
        static: The tool reads the source alone: findings that it could not see are not expected of it.
        remedies: The tool offers remedies in our words.
    """
    whole = Score()
    for script, result in zip(scripts, results, strict=True):
        if result.failure:
            whole.failures.append(f"{script.name}: {result.failure}")
            continue
        if result.exit_status is not None and result.exit_status != script.exit_status:
            whole.failures.append(
                f"{script.name}: exit status {result.exit_status}, not {script.exit_status}\n{result.stderr[-2000:]}"
            )
        _score_script(whole, script, result.findings, static, remedies)
    return whole


def _score_script(whole: Score, script: Script, findings: Sequence[Reported], static: bool, remedies: bool) -> None:
    expected = [item for item in script.expected if item.lint or not static]
    alarms = Counter(_false_alarms(script, findings))
    if not script.expected:
        whole.clean += 1
        whole.silent += not alarms
    for item in expected:
        _score_expected(whole, script, item, [one for one in findings if one.code == item.code], remedies)
    optional = {item.code for item in (*script.expected, *script.allowed)}
    wanted = {item.code for item in expected}
    for finding in findings:
        harmless = finding.harmless and finding.code not in optional
        if harmless and not alarms[finding]:
            continue
        tally = whole.by_rule[finding.code]
        tally.reported += 1
        if alarms[finding]:
            alarms[finding] -= 1
            said = "false alarm" if finding.code not in wanted else "false alarm beside a true finding"
            whole.problems.append(f"{script.name}: {said}: {_shown(script, finding)}")
        else:
            tally.true += 1


def _score_expected(whole: Score, script: Script, item: Expected, same: Sequence[Reported], remedies: bool) -> None:
    tally = whole.by_rule[item.code]
    tally.expected += 1
    where = f"{item.code} at line {' or '.join(map(str, item.lines)) or '?'}{f' of {item.file}' if item.file else ''}"
    if not same:
        shown = script.text(item.lines[0], item.file) if item.lines else ""
        whole.problems.append(f"{script.name}: missed: {where}: {shown}")
        return
    tally.found += 1
    right = [one for one in same if item.is_met_by(one.line, one.file)]
    if right:
        tally.right_lines += 1
    else:
        whole.problems.append(f"{script.name}: wrong line: {where}, reported {_shown(script, same[0])}")
    if not remedies:
        return
    tally.with_remedy += 1
    offered = {one.remedy for one in right or same}
    if not item.remedies or offered & item.remedies:
        tally.right_remedies += 1
    else:
        whole.problems.append(
            f"{script.name}: wrong remedy: {where}: {sorted(map(str, offered))}, not one of {sorted(item.remedies)}"
        )


def _false_alarms(script: Script, findings: Sequence[Reported]) -> list[Reported]:
    """The findings that no label explains.

    A finding with an expected code at a wrong line stands for the expected one; a second such finding is false.
    """
    alarms = []
    unmet = Counter(
        item.code
        for item in script.expected
        if not any(one.code == item.code and item.is_met_by(one.line, one.file) for one in findings)
    )
    labels = (*script.expected, *script.allowed)
    for finding in findings:
        if any(item.code == finding.code and item.is_met_by(finding.line, finding.file) for item in labels):
            continue
        if unmet[finding.code]:
            unmet[finding.code] -= 1
        elif not finding.harmless:
            alarms.append(finding)
    return alarms


def _shown(script: Script, finding: Reported) -> str:
    code = script.text(finding.line, finding.file) if finding.line is not None else "no line of the script"
    file = f" of {finding.file}" if finding.file else ""
    return f"{finding.code} at line {finding.line}{file}: {code} [{finding.message}]"


# ---- the command -------------------------------------------------------------------------------


def table(whole: Score) -> str:
    """The score as a table: a line for each rule, and the totals."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    rows = [("rule", "expected", "found", "reported", "false", "precision", "recall", "lines", "remedies")]
    tallies: list[tuple[str, Tally]] = [*sorted(whole.by_rule.items()), ("all", whole.total)]
    for code, tally in tallies:
        counts = (tally.expected, tally.found, tally.reported, tally.reported - tally.true)
        rows.append((code, *map(str, counts), *map(percent, tally.shares.values())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], *lines[1:-1], "-" * len(lines[0]), lines[-1]])


def main(argv: Sequence[str] | None = None) -> int:
    """Score a tool; 1 where a script failed or, for `analyze`, a share is too low."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus.score", description=__doc__)
    parser.add_argument("--tool", choices=sorted(ALL_TOOLS), default="analyze")
    parser.add_argument("--only", default="", help="scripts whose path contains this, or of this rule")
    parser.add_argument("--held-out", action="store_true", help="the scripts nobody tuned a rule for")
    parser.add_argument("--jobs", type=int, default=2, help="scripts at a time [2]")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the device without processors")
    parser.add_argument("--level", choices=("auto", "tensors"), default="auto")
    parser.add_argument("--program", help="the other tool's program, where it is not on PATH")
    parser.add_argument("--json", type=Path, help="file for the score")
    options = parser.parse_args(argv)

    scripts = [
        script
        for script in load(options.only, HELD_OUT if options.held_out else CORPUS)
        if script.runs_on(options.device)
    ]
    if not scripts:
        parser.error(f"no script matches {options.only!r}")
    start = time.monotonic()
    results = list(ALL_TOOLS[options.tool](scripts, options))
    whole = score(scripts, results, static=options.tool != "analyze", remedies=options.tool in TOOLS)
    print(table(whole))
    print(f"\n{len(scripts)} scripts, {whole.clean} of them clean, nothing false said of {whole.silent} of these")
    print(f"{time.monotonic() - start:.1f} s with {options.jobs} at a time")
    slowest = sorted(zip(results, scripts, strict=True), key=lambda pair: -pair[0].seconds)[:3]
    print("slowest: " + ", ".join(f"{script.name} {result.seconds:.1f} s" for result, script in slowest))
    for title, lines in (("Problems", whole.problems), ("Failures", whole.failures)):
        if lines:
            print(f"\n{title}:\n" + "\n".join(f"  {line}" for line in lines))
    least = HELD_OUT_THRESHOLDS if options.held_out else THRESHOLDS
    below = whole.below(least) if options.tool == "analyze" else []
    if below:
        print("\n" + "\n".join(below))
    if options.json is not None:
        options.json.write_text(json.dumps(_as_json(options.tool, whole), indent=2) + "\n", encoding="utf-8")
    return int(bool(below or whole.failures))


def _as_json(tool: str, whole: Score) -> dict[str, object]:
    def tallied(tally: Tally) -> dict[str, object]:
        return {**asdict(tally), **tally.shares}

    return {
        "tool": tool,
        "total": tallied(whole.total),
        "by_rule": {code: tallied(tally) for code, tally in sorted(whole.by_rule.items())},
        "clean_scripts": whole.clean,
        "silent_clean_scripts": whole.silent,
        "problems": whole.problems,
        "failures": whole.failures,
    }


if __name__ == "__main__":
    sys.exit(main())
