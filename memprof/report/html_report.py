"""The report as one HTML page that needs nothing else: findings, peaks, the sum of a device, and the picture."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from memprof._version import __version__
from memprof.report.account_block import account_rows, account_title, last_account
from memprof.report.finding_block import finding_facts
from memprof.report.growth import trend_sentence
from memprof.report.iteration_table import (
    NUMBERS,
    chosen_iterations,
    cut_off,
    iteration_cells,
    iteration_columns,
    iterations_title,
)
from memprof.report.page import Page
from memprof.report.peak_block import composition_rows, line_words, peak_summary
from memprof.report.plot import PlotReporter
from memprof.report.snapshot_block import ALIVE, alive_rows, snapshot_facts, snapshot_title
from memprof.report.text_reporter import TextReporter
from memprof.report.verdict import next_step, tone, verdict
from memprof.report.wording import (
    escape_controls,
    headline,
    known_devices,
    main_device,
    percent,
    script_name,
    size,
    stopped_with,
    together,
)
from memprof.units import format_bytes

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis
    from memprof.detect.finding import Finding
    from memprof.model.memory import MemoryModel, Peak
    from memprof.model.snapshot import SnapshotTotals

_WIDTH = 100
"""Columns of the page that makes the texts; HTML wraps them as it likes."""


@dataclass(frozen=True, slots=True)
class HtmlOptions:
    """How much the page shows."""

    edge_iterations: int = 10
    """How many of the first and of the last iterations to list."""
    top_lines: int = 20
    """How many source lines to list for a peak."""
    cwd: str | None = None
    """Folder paths are shown relative to; None is the current one."""


class HtmlReporter(TextReporter):
    """Writes a diagnosis as a page for a browser."""

    name: ClassVar[str] = "html"
    suffixes: ClassVar[tuple[str, ...]] = (".html", ".htm")

    def __init__(self, options: HtmlOptions | None = None) -> None:
        self.options = options or HtmlOptions()

    def to_text(self, diagnosis: Diagnosis) -> str:
        """Give the page.

        Args:
            diagnosis: What to report.

        Returns:
            The page, with its picture and style in it.
        """
        model = diagnosis.model
        page = Page(width=_WIDTH, encoding="utf-8", cwd=self.options.cwd or os.getcwd())
        return (
            pages()
            .get_template("report.html")
            .render(
                script=escape_controls(script_name(model.run)),
                headline=escape_controls(headline(model)),
                version=__version__,
                stopped=stopped_with(model.run),
                verdict=verdict(diagnosis),
                next_step=next_step(diagnosis),
                tone=None if (worst := tone(diagnosis)) is None else worst.value,
                findings=[_finding(finding, page) for finding in diagnosis.findings],
                together=_together(diagnosis),
                devices=[self._device(model, device, page) for device in known_devices(model)],
                snapshot=[self._snapshot(model, totals, page) for totals in model.snapshot],
                alive=ALIVE,
                plot=_picture(diagnosis) if model.iterations or model.peaks else "",
                iterations=self._iterations(model),
                numbers=NUMBERS,
                skipped=[(skipped.code, escape_controls(skipped.reason)) for skipped in diagnosis.skipped],
                notes=[escape_controls(page.sentence(note)) for note in model.run.notes],
            )
        )

    def _device(self, model: MemoryModel, device: str, page: Page) -> dict[str, Any]:
        peak, account = model.peaks.get(device), last_account(model.accounts.get(device, ()))
        return {
            "peak": None if peak is None else self._peak(model, peak, page),
            "account": None
            if account is None
            else {
                "title": escape_controls(account_title(device, account)),
                "rows": [(depth, label, size(nbytes)) for depth, label, nbytes in account_rows(account)],
            },
        }

    def _snapshot(self, model: MemoryModel, totals: SnapshotTotals, page: Page) -> dict[str, Any]:
        return {
            "title": escape_controls(snapshot_title(totals)),
            "facts": snapshot_facts(totals),
            "lines": [
                tuple(map(escape_controls, row))
                for row in alive_rows(model, totals.device, page)[: self.options.top_lines]
            ],
        }

    def _peak(self, model: MemoryModel, peak: Peak, page: Page) -> dict[str, Any]:
        composition = None
        if peak.by_category is not None and not model.snapshot:
            composition = [
                (name, size(nbytes), round(share, 4), percent(share, 1.0))
                for name, nbytes, share in composition_rows(peak.by_category, peak.allocated_bytes)
            ]
        return {
            "summary": escape_controls(peak_summary(peak)),
            "composition": composition,
            "of_blocks": bool(model.snapshot),
            "lines": [
                (size(line.nbytes), *map(escape_controls, line_words(line, page, of_blocks=bool(model.snapshot))))
                for line in peak.lines[: self.options.top_lines]
            ],
        }

    def _iterations(self, model: MemoryModel) -> dict[str, Any] | None:
        main = main_device(model) if not model.snapshot else None
        if main is None or not model.iterations:
            return None
        peak, cut = model.peaks.get(main), cut_off(model)
        rows = chosen_iterations(
            model.iterations, self.options.edge_iterations, None if peak is None else peak.iteration
        )
        return {
            "title": iterations_title(model, escape_controls(main)),
            "trends": [
                f"Growth on {escape_controls(device)}: {trend_sentence(trend, _peak_bytes(model, device))}"
                for device, trend in model.trends.items()
            ],
            "columns": iteration_columns(show_source=True),
            "rows": [
                f"{row:,} more" if isinstance(row, int) else iteration_cells(row, main, cut, show_source=True)
                for row in rows
            ],
        }


def pages(package: str | None = None) -> Environment:
    """The templates of pages: the report's, and those of another package that share its frame.

    Args:
        package: A package with a folder `templates`; None for the report's alone.

    Returns:
        An environment that escapes whatever it is given.
    """
    own = PackageLoader("memprof.report", "templates")
    loader = own if package is None else ChoiceLoader([PackageLoader(package, "templates"), own])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["bytes"] = format_bytes
    environment.filters["backticks"] = _backticks
    return environment


def _backticks(text: str) -> Markup:
    """Set what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _finding(finding: Finding, page: Page) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "place": "" if finding.location is None else escape_controls(page.place(finding.location)),
        "message": escape_controls(finding.message),
        "facts": [(label, said.plain) for label, said in finding_facts(finding, page)],
    }


def _peak_bytes(model: MemoryModel, device: str) -> int | None:
    peak = model.peaks.get(device)
    return None if peak is None else peak.allocated_bytes


def _together(diagnosis: Diagnosis) -> str:
    combined = diagnosis.combined
    return "" if combined is None or len(combined.remedies) < 2 else escape_controls(together(combined))


def _picture(diagnosis: Diagnosis) -> str:
    """The plot as a data URI."""
    # A PNG: an SVG has a point for each event and every letter as a path.
    return f"data:image/png;base64,{base64.b64encode(PlotReporter().render(diagnosis)).decode('ascii')}"
