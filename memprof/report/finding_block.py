"""One finding in the terminal: what is wrong, where, who holds it, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from memprof.detect.finding import Finding, Severity
from memprof.report.page import Page
from memprof.report.source_lines import source_line
from memprof.report.wording import duration, per_iteration, saving, size, source_suffix
from memprof.units import format_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType

SEVERITY_STYLES: Mapping[Severity, str] = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.INFO: "bold cyan",
}
_INDENT = 4
_MAX_EVIDENCE = 6
_MAX_LISTED = 4
"""Longer lists in the evidence show only their length."""


def finding_block(finding: Finding, page: Page) -> Iterator[RenderableType]:
    """Lay out one finding.

    Args:
        finding: What a rule found.
        page: The page it is set on.

    Yields:
        The first line with the message, then the facts below it.
    """
    label = Text(f"{finding.code} {finding.severity.value}", style=SEVERITY_STYLES[finding.severity])
    first = Table.grid(padding=(0, 2, 0, 0))
    first.add_column(no_wrap=True)
    first.add_column(ratio=1)
    first.add_row(label, page.text(finding.message, "bold"))
    yield first
    yield page.facts(list(finding_facts(finding, page)), indent=_INDENT)


def finding_facts(finding: Finding, page: Page) -> Iterator[tuple[str, Text]]:
    """What stands below a finding's message: pairs of a label and what is said.

    Args:
        finding: What a rule found.
        page: Makes the texts and places.
    """
    if finding.location is not None:
        yield "at", page.text(page.place(finding.location), "cyan")
        line = source_line(finding.location)
        if line is not None:
            yield "", page.text(f"> {line}")
    yield "size", page.text(_sizes(finding))
    if finding.holder:
        yield "held by", page.text(finding.holder)
    for related in finding.related:
        if related.location != finding.location:
            yield related.role, page.text(page.place(related.location), "cyan")
    evidence = ", ".join(_evidence(finding.evidence))
    if evidence:
        yield "evidence", page.text(evidence)
    for number, remedy in enumerate(finding.remedies):
        yield "or" if number else "remedy", _remedy(page, remedy.slug, remedy.text, saving(remedy))


def _remedy(page: Page, slug: str, text: str, saves: str) -> Text:
    shown = page.text(slug, "bold green")
    shown.append_text(page.text(f": {text}"))
    if saves:
        shown.append_text(page.text(f" - {saves}", "green"))
    return shown


def _sizes(finding: Finding) -> str:
    parts = []
    if finding.bytes is not None:
        parts.append(format_bytes(finding.bytes))
    growth = finding.bytes_per_iteration
    if growth is not None and math.isfinite(growth):
        parts.append(per_iteration(growth))
    figures = ", ".join(parts)
    source = source_suffix(finding.source) if figures else ""
    return f"{figures or 'unknown'} on {finding.device}{source}"


def _evidence(evidence: Mapping[str, object]) -> Iterator[str]:
    """Pick the facts a person can take in: single values and short lists, each in its unit."""
    shown = 0
    for key, value in evidence.items():
        text = _evidence_value(key, value)
        if text is None:
            continue
        yield f"{_evidence_name(key)} {text}"
        shown += 1
        if shown == _MAX_EVIDENCE:
            return


def _evidence_name(key: str) -> str:
    for suffix in ("_bytes", "_ns"):
        key = key.removesuffix(suffix)
    return key.replace("_", " ")


def _evidence_value(key: str, value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _evidence_number(key, value)
    if isinstance(value, str):
        return value or None
    if isinstance(value, (list, tuple)) and value:
        if len(value) > _MAX_LISTED or not all(isinstance(item, (str, int, float)) for item in value):
            return f"({len(value)} values)"
        return "[" + ", ".join(str(item) for item in value) + "]"
    return None


def _evidence_number(key: str, value: float) -> str | None:
    if not math.isfinite(value):
        return None
    if key.endswith("_per_iteration") and "bytes" in key:
        return size(value, signed=True)
    if key.endswith("bytes"):
        return size(value)
    if key.endswith("_ns"):
        return duration(round(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
