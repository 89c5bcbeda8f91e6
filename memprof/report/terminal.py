"""The report in a terminal: readable at 80 columns, without colour and without Unicode."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, ClassVar

from rich.console import Console
from rich.text import Text

from memprof.report.account_block import account_block
from memprof.report.finding_block import SEVERITY_STYLES, finding_block
from memprof.report.iteration_table import iteration_block
from memprof.report.page import Page
from memprof.report.peak_block import peak_block
from memprof.report.snapshot_block import snapshot_block
from memprof.report.text_reporter import TextReporter
from memprof.report.verdict import next_step, saw_no_loop, tone, verdict
from memprof.report.wording import counted, headline, is_empty, known_devices, main_device, stopped_with, together

if TYPE_CHECKING:
    from rich.console import RenderableType

    from memprof.advise.diagnosis import Diagnosis

_DEFAULT_TEXT_WIDTH = 100
_FEW_CODES = 4
"""More rules than this are counted, not named; with the same reason they share a row."""


@dataclass(frozen=True, slots=True)
class TerminalOptions:
    """How much the terminal report shows."""

    verbose: bool = False
    """Say why each rule that could not decide was skipped."""
    edge_iterations: int = 4
    """How many of the first and of the last iterations to list."""
    top_lines: int = 5
    """How many source lines to list for a peak."""
    text_width: int = _DEFAULT_TEXT_WIDTH
    """Columns of the text `to_text` and `render` make; a console has its own width."""
    text_color: bool = False
    """Put terminal colours into that text."""
    cwd: str | None = None
    """Folder paths are shown relative to; None is the current one."""


class TerminalReporter(TextReporter):
    """Prints a diagnosis with rich, or gives it as plain text."""

    name: ClassVar[str] = "rich"
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)

    def __init__(self, options: TerminalOptions | None = None) -> None:
        self.options = options or TerminalOptions()

    def print(self, diagnosis: Diagnosis, console: Console) -> None:
        """Print the report.

        Args:
            diagnosis: What to report.
            console: Where to; its width, colours and encoding are obeyed.
        """
        page = Page.of(console, self.options.cwd or os.getcwd())
        for block in self._blocks(diagnosis, page):
            console.print(block, soft_wrap=False, crop=True)

    def to_text(self, diagnosis: Diagnosis) -> str:
        """Give the report as text, for notebooks and files.

        Args:
            diagnosis: What to report.

        Returns:
            The report without trailing spaces, ending in a newline.
        """
        out = io.StringIO()
        color = self.options.text_color
        # An environment of its own: what was asked for here outranks NO_COLOR and TERM.
        console = Console(
            file=out,
            width=self.options.text_width,
            color_system="standard" if color else None,
            force_terminal=color,
            force_jupyter=False,
            legacy_windows=False,
            _environ={},
        )
        self.print(diagnosis, console)
        return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())

    def _blocks(self, diagnosis: Diagnosis, page: Page) -> Iterator[RenderableType]:
        yield from self._summary(diagnosis, page)
        for finding in diagnosis.findings:
            yield ""
            yield from finding_block(finding, page)
        if diagnosis.combined is not None and len(diagnosis.combined.remedies) > 1:
            yield ""
            yield page.text(together(diagnosis.combined), "green")
        yield from self._memory(diagnosis, page)
        yield from self._skipped(diagnosis, page)
        notes = diagnosis.model.run.notes
        if notes:
            yield ""
            yield page.heading("Notes")
            yield page.facts([("-", page.text(page.sentence(note))) for note in notes], indent=2)

    def _summary(self, diagnosis: Diagnosis, page: Page) -> Iterator[RenderableType]:
        for part in _lines_of(headline(diagnosis.model), page.width):
            yield page.text(part, "dim")
        if stopped := stopped_with(diagnosis.model.run):
            yield page.text(stopped, "red")
        yield ""
        worst, unseen = tone(diagnosis), saw_no_loop(diagnosis.model)
        clean = "bold" if unseen or is_empty(diagnosis.model) else "bold green"
        line = page.text(verdict(diagnosis), clean if worst is None else SEVERITY_STYLES[worst])
        if diagnosis.skipped and not self.options.verbose and not unseen:
            line.append_text(page.text(f" ({_undecided(diagnosis)})", "not bold dim"))
        yield line
        if step := next_step(diagnosis):
            yield page.text(step)

    def _memory(self, diagnosis: Diagnosis, page: Page) -> Iterator[RenderableType]:
        model = diagnosis.model
        devices = known_devices(model)
        for device in devices:
            if device in model.peaks:
                yield ""
                of_blocks = bool(model.snapshot)
                yield from peak_block(model.peaks[device], page, top_lines=self.options.top_lines, of_blocks=of_blocks)
            sum_of = list(account_block(device, model.accounts.get(device, ()), page))
            if sum_of:
                yield ""
                yield from sum_of
        for totals in model.snapshot:
            yield ""
            yield from snapshot_block(model, totals, page, top_lines=self.options.top_lines)
        main = main_device(model) if not model.snapshot else None
        if main is not None and model.iterations:
            yield ""
            yield from iteration_block(model, page, devices=devices, main=main, edge=self.options.edge_iterations)

    def _skipped(self, diagnosis: Diagnosis, page: Page) -> Iterator[RenderableType]:
        if not (diagnosis.skipped and self.options.verbose):
            return
        yield ""
        yield page.heading("Rules that could not decide")
        codes: dict[str, list[str]] = {}
        for skipped in diagnosis.skipped:
            codes.setdefault(skipped.reason, []).append(page.text(skipped.code).plain)
        rows: list[tuple[str, Text]] = []
        for reason, of_reason in codes.items():
            if len(of_reason) > _FEW_CODES:
                rows.append((counted(len(of_reason), "rule"), page.text(f"{reason} ({', '.join(of_reason)})")))
            else:
                rows += [(code, page.text(reason)) for code in of_reason]
        yield page.facts(rows, indent=2)


def _undecided(diagnosis: Diagnosis) -> str:
    codes = dict.fromkeys(skipped.code for skipped in diagnosis.skipped)
    if diagnosis.model.snapshot:
        return f"could not decide: {counted(len(diagnosis.skipped), 'rule')} for want of iterations"
    if len(codes) > _FEW_CODES:
        return f"{counted(len(codes), 'rule')} could not decide; -v tells why"
    return f"could not decide: {', '.join(codes)}"


def _lines_of(headline: str, width: int) -> list[str]:
    """Break a headline between its parts only."""
    lines: list[str] = []
    for part in headline.split(" | "):
        if lines and len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += f" | {part}"
        else:
            lines.append(part)
    return lines


def make_console(file: IO[str] | None = None) -> Console:
    """Make the console the command line prints on.

    Args:
        file: Where to print; None is standard output. `NO_COLOR`, `TERM=dumb` and a file that is
            no terminal turn colour off.

    Returns:
        A console that never interprets the text it is given.
    """
    return Console(file=file, markup=False, highlight=False, emoji=False)
