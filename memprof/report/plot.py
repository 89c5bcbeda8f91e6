"""The report as a picture: memory by iteration with its growth, and what it was made of.

Draws on a `matplotlib.figure.Figure` of its own. pyplot, the backend and rcParams of the process
are left alone, so this is safe inside the user's own program.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from memprof._errors import OutputError, UsageError
from memprof.detect.finding import Severity
from memprof.report.destination import PLOT_FORMATS, write_output
from memprof.report.plot_composition import draw_composition
from memprof.report.plot_memory import draw_memory, say_nothing
from memprof.report.plot_style import INK, MUTED, drawable, plain_texts, shorten, style_axes
from memprof.report.verdict import saw_no_loop, tone, verdict
from memprof.report.wording import headline, is_empty, known_devices, script_name

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis
    from memprof.model.memory import MemoryModel

_VERDICT_COLOURS = {
    Severity.ERROR: "#b2182b",
    Severity.WARNING: "#a65e00",
    Severity.INFO: "#1b5e91",
    None: "#1a7a3c",
}
_MAX_DEVICES = 8
_TITLE_CHARACTERS = 80
_SUBTITLE_CHARACTERS = 150


@dataclass(frozen=True, slots=True)
class PlotOptions:
    """Size and format of the picture."""

    format: str = "png"
    """`png`, `svg` or `pdf`; `save` goes by the file's suffix instead."""
    width_px: int = 1200
    """Width with one device; each further device adds three quarters of it."""
    height_px: int = 800
    dpi: int = 100
    """Pixels an inch; more makes text larger on the same picture."""

    def __post_init__(self) -> None:
        if self.format not in PLOT_FORMATS:
            raise UsageError(f"a plot cannot be written as {self.format!r}; known: {', '.join(PLOT_FORMATS)}")
        if min(self.width_px, self.height_px, self.dpi) < 1:
            raise UsageError("width, height and dpi of a plot must be positive")


class PlotReporter:
    """Draws a diagnosis with matplotlib."""

    name: ClassVar[str] = "png"
    suffixes: ClassVar[tuple[str, ...]] = tuple(f".{name}" for name in PLOT_FORMATS)

    def __init__(self, options: PlotOptions | None = None) -> None:
        self.options = options or PlotOptions()

    def figure(self, diagnosis: Diagnosis) -> Figure:
        """Draw the report.

        Args:
            diagnosis: What to report.

        Returns:
            A figure that belongs to no window and to no pyplot state.
        """
        devices = _shown_devices(diagnosis.model)
        options = self.options
        width_px = options.width_px * (1 + 0.75 * (max(len(devices), 1) - 1))
        figure = Figure(
            figsize=(width_px / options.dpi, options.height_px / options.dpi), dpi=options.dpi,
            facecolor="white", edgecolor="white", frameon=True,
        )  # fmt: skip
        figure.set_layout_engine("none")
        FigureCanvasAgg(figure)
        _titles(figure, diagnosis)
        notes = _panels(figure, diagnosis.model, devices)
        hidden = len(known_devices(diagnosis.model)) - len(devices)
        if devices and hidden > 0:
            notes.append(f"{hidden} more devices are not shown.")
        _write(figure, 0.12, " ".join(notes), 9.5, MUTED, from_top=False)
        plain_texts(figure)
        return figure

    def render(self, diagnosis: Diagnosis) -> bytes:
        """Draw the report as the content of a file.

        Args:
            diagnosis: What to report.

        Returns:
            The picture in the format of the options.
        """
        return _encode(self.figure(diagnosis), self.options.format)

    def save(self, diagnosis: Diagnosis, path: str | os.PathLike[str]) -> Path:
        """Draw the report into a file.

        Args:
            diagnosis: What to report.
            path: Where to write; the suffix (`.png`, `.svg`, `.pdf`) chooses the format, and without
                a suffix that of the options is used.

        Returns:
            The path written.

        Raises:
            OutputError: The suffix is not known, or the file cannot be written.
        """
        suffix = Path(path).suffix.lower()
        if suffix and suffix not in self.suffixes:
            raise OutputError(
                f"cannot write a plot to {os.fspath(path)!r}: {suffix!r} is not a format it knows. "
                f"Use a name that ends in {', '.join(self.suffixes)}."
            )
        return write_output(path, _encode(self.figure(diagnosis), suffix[1:] or self.options.format))


def _encode(figure: Figure, file_format: str) -> bytes:
    """Print a figure without `savefig`, which obeys the user's `savefig.*` settings."""
    # matplotlib publishes no types for the canvases.
    out = io.BytesIO()
    if file_format == "svg":
        canvas: Any = import_module("matplotlib.backends.backend_svg").FigureCanvasSVG(figure)
        canvas.print_svg(out, metadata={"Date": None})
    elif file_format == "pdf":
        canvas = import_module("matplotlib.backends.backend_pdf").FigureCanvasPdf(figure)
        canvas.print_pdf(out, metadata={"CreationDate": None})
    else:
        canvas = FigureCanvasAgg(figure)
        canvas.print_png(out)
    return out.getvalue()


def _shown_devices(model: MemoryModel) -> list[str]:
    """Devices with something to draw, in the run's order; of many those with the largest peaks."""
    seen = set(model.peaks) | set(model.composition)
    for iteration in model.iterations:
        seen.update(iteration.devices)
    devices = [device for device in known_devices(model) if device in seen]
    if len(devices) <= _MAX_DEVICES:
        return devices
    sizes = {device: peak.allocated_bytes for device, peak in model.peaks.items()}
    largest = sorted(devices, key=lambda device: -sizes.get(device, 0))[:_MAX_DEVICES]
    return [device for device in devices if device in largest]


def _titles(figure: Figure, diagnosis: Diagnosis) -> None:
    """Write script, verdict and facts above the panels."""
    run = diagnosis.model.run
    _write(figure, 0.16, f"memprof: {script_name(run)}", 16, INK, limit=_TITLE_CHARACTERS, weight="bold")
    text = verdict(diagnosis)
    if diagnosis.findings:
        first = diagnosis.findings[0]
        text += f"{': ' if len(diagnosis.findings) == 1 else ', first: '}{first.code} {first.name}"
    colour = MUTED if is_empty(diagnosis.model) or saw_no_loop(diagnosis.model) else _VERDICT_COLOURS[tone(diagnosis)]
    _write(figure, 0.47, text, 13, colour, limit=100, weight="bold")
    facts = headline(diagnosis.model)
    if run.exception:
        facts += f" | {run.exception}"
    _write(figure, 0.75, facts, 10, MUTED, limit=_SUBTITLE_CHARACTERS)


def _write(
    figure: Figure,
    inches: float,
    text: str,
    size: float,
    colour: str,
    *,
    from_top: bool = True,
    limit: int = 200,
    weight: str = "normal",
) -> None:
    """Write a line at a distance in inches from the upper or lower edge, whatever the figure's size."""
    height = figure.get_figheight()
    y = 1 - inches / height if from_top else inches / height
    figure.text(
        0.25 / figure.get_figwidth(), y, shorten(drawable(text), limit), fontsize=size, color=colour,
        fontweight=weight, ha="left", va="top" if from_top else "bottom",
    )  # fmt: skip


def _panels(figure: Figure, model: MemoryModel, devices: list[str]) -> list[str]:
    """Draw two panels for each device, one for that of a snapshot, and say what the reader must know about them."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    if not devices:
        axes = figure.add_axes((0.25 / width, 0.5 / height, 1 - 0.5 / width, 1 - 1.8 / height))
        style_axes(axes)
        say_nothing(axes, "nothing recorded")
        return []
    grid = figure.add_gridspec(
        2, len(devices), left=0.85 / width, right=1 - 1.85 / width, top=1 - 1.45 / height,
        bottom=0.85 / height, hspace=0.42, wspace=0.42, height_ratios=(1.15, 1.0),
    )  # fmt: skip
    has_gaps = False
    for column, device in enumerate(devices):
        if model.snapshot:  # no iterations to draw memory by
            only = figure.add_subplot(grid[:, column])
            style_axes(only)
            draw_composition(only, model, device)
            continue
        upper = figure.add_subplot(grid[0, column])
        style_axes(upper)
        if model.iterations:
            draw_memory(upper, model, device)
        else:
            say_nothing(upper, "no iteration was recorded")
        lower = figure.add_subplot(grid[1, column])
        style_axes(lower)
        has_gaps |= draw_composition(lower, model, device)
    if has_gaps:
        return ["Hatched: storages were not watched there (level steps); these stretches are drawn short."]
    return []
