"""What was seen of each watched test, as a file: JSON for programs, HTML for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memprof._version import __version__
from memprof.report.safe_json import dump

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis

SCHEMA = 1
"""Version of the JSON report; raised when a key changes its meaning or goes."""


@dataclass(frozen=True, slots=True)
class WatchedTest:
    """One test, as it is told to the process that writes the report.

    Attributes:
        nodeid: As pytest names it.
        outcome: `passed`, `failed`, or `skipped`.
        failure: What the failed test said; '' for others.
        peak_bytes: Device -> highest allocated bytes during the test.
        simulated_gpu: Name of the GPU that was simulated under it, so that figures of CUDA devices are simulated;
            '' where all are measured.
        findings: As in the JSON report of `memprof analyze`.
    """

    nodeid: str
    outcome: str
    failure: str
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    simulated_gpu: str = ""
    findings: Sequence[Mapping[str, Any]] = ()


def seen(diagnosis: Diagnosis) -> dict[str, Any]:
    """What a test's diagnosis adds to its report, in JSON values.

    Args:
        diagnosis: Of the watched test.

    Returns:
        The fields of `WatchedTest` that pytest does not know.
    """
    from memprof.integrations.limits import peak_bytes
    from memprof.report.json_report import finding_object

    return {
        "peak_bytes": peak_bytes(diagnosis.model),
        "simulated_gpu": diagnosis.model.run.simulated_gpu,
        "findings": [finding_object(finding) for finding in diagnosis.findings],
    }


def write_report(path: Path, tests: Sequence[WatchedTest]) -> None:
    """Write the report of a test run.

    Args:
        path: Where to; `.html` gives a page, everything else JSON.
        tests: In the order they ran.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _html(tests) if path.suffix == ".html" else _json(tests)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _json(tests: Sequence[WatchedTest]) -> str:
    document = {"schema": SCHEMA, "memprof": __version__, "created": _now(), "tests": [asdict(test) for test in tests]}
    return dump(document, indent=2) + "\n"


def _html(tests: Sequence[WatchedTest]) -> str:
    from memprof.report.html_report import pages

    highest_first = sorted(tests, key=lambda test: -max(test.peak_bytes.values(), default=0))
    page = pages("memprof.integrations").get_template("session_report.html")
    return page.render(tests=highest_first, version=__version__, created=_now())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
