"""How plots look: colours, fonts, and text that is never taken for mathematics or LaTeX.

Everything is set on the artists themselves; the user's own matplotlib settings are neither changed
nor obeyed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from matplotlib import get_data_path
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.legend import Legend
from matplotlib.text import Text

from memprof.model.memory import UNCATEGORISED
from memprof.record.events import Phase
from memprof.report.wording import escape_controls

INK = "#222222"
MUTED = "#6b6b6b"
GRID = "#e3e3e3"
GROWTH = "#cc3311"
ALLOCATED = "#1b3a5c"
EVALUATION = "#f4ead2"

PHASE_LOOKS: Mapping[Phase, tuple[str, str]] = {
    Phase.FORWARD: ("#56b4e9", "^"),
    Phase.BACKWARD: ("#d55e00", "s"),
    Phase.OPTIMIZER: ("#009e73", "D"),
    Phase.OTHER: ("#999999", "o"),
}
"""Phase -> colour and marker, so that colour is never the only difference."""

CATEGORY_COLOURS: Mapping[str, str] = {
    "PARAMETER": "#0072b2",
    "OPTIMIZER_STATE": "#009e73",
    "GRADIENT": "#e69f00",
    "INPUT": "#cc79a7",
    "AUTOGRAD_DETAIL": "#f0e442",
    "ACTIVATION": "#d55e00",
    "TEMPORARY": "#56b4e9",
    UNCATEGORISED: "#bbbbbb",
}
"""Category -> colour, in the order they are stacked: what stays for the whole run lies at the bottom.

Source:
    M. Okabe and K. Ito, "Color Universal Design", 2008: eight colours that colour-blind people can
    tell apart.
"""

_BASE_FONT = "DejaVu Sans"
_WIDE_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "Arial Unicode MS",
)
"""Fonts with more scripts, used where installed."""


def drawable(text: str) -> str:
    r"""Make text safe to draw: what no font here can show becomes a `\u8bad`-like escape.

    Args:
        text: Anything that came from the user's program.

    Returns:
        Text on one line of which every character has a glyph.
    """
    glyphs = _glyphs()
    return "".join(
        character if ord(character) in glyphs else character.encode("unicode_escape").decode("ascii")
        for character in escape_controls(text)
    )


def shorten(text: str, limit: int) -> str:
    """Cut text that does not fit, and show that it was cut.

    Args:
        text: What to draw.
        limit: Most characters.

    Returns:
        The text, or its beginning and three dots.
    """
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


@functools.lru_cache(maxsize=1)
def _families() -> tuple[str, ...]:
    installed = {font.name for font in fontManager.ttflist}
    return (_BASE_FONT, *(name for name in _WIDE_FONTS if name in installed))


@functools.lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    paths = [f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"]
    paths += [findfont(name) for name in _families()[1:]]
    return frozenset(code for path in paths for code in FT2Font(path).get_charmap())


def style_axes(axes: Axes) -> None:
    """Give axes memprof's look.

    Args:
        axes: The axes, before anything is drawn in them.
    """
    axes.set_facecolor("white")
    axes.grid(visible=True, axis="y", color=GRID, linewidth=0.8, linestyle="-")
    axes.grid(visible=False, axis="x")
    axes.set_axisbelow(True)
    axes.minorticks_off()
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
        spine.set_linewidth(0.8)
    axes.tick_params(
        colors=MUTED, labelcolor=INK, labelsize=9.5, direction="out", length=3.5, width=0.8,
        bottom=True, left=True, top=False, right=False, labelbottom=True, labelleft=True,
    )  # fmt: skip


def side_legend(axes: Axes) -> None:
    """Put the legend to the right of the axes, where it covers no data.

    Args:
        axes: The axes, after everything with a label was drawn.
    """
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    axes.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, frameon=False,
        fontsize=9.5, labelcolor=INK, handlelength=1.6, labelspacing=0.55, ncols=1, markerscale=1.0,
        numpoints=1,
    )  # fmt: skip


def panel_title(axes: Axes, text: str) -> None:
    """Write the title of a panel at its upper left.

    Args:
        axes: The panel.
        text: What it shows.
    """
    axes.set_title(text, loc="left", fontsize=11, fontweight="bold", color=INK, pad=8, y=1.0, fontstyle="normal")


def plain_texts(figure: Figure) -> None:
    """Keep every text of a figure from being read as mathematics or LaTeX, and set its font.

    Args:
        figure: The finished figure.
    """
    for axes in figure.axes:
        # Tick labels exist only once they were asked for.
        axes.get_xticklabels()
        axes.get_yticklabels()
    legends = figure.findobj(Legend)
    for owner in (figure, *legends):
        for text in owner.findobj(Text):
            if isinstance(text, Text):
                text.set_parse_math(False)
                text.set_usetex(False)
                text.set_fontfamily(list(_families()))
