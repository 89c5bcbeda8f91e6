"""The page a terminal report is written on: its width, its characters, and where paths start."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memprof.report.growth import FLAT_SHARE
from memprof.report.source_lines import place
from memprof.report.wording import escape_controls

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from memprof.record.events import Location

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SPARKS = "▁▂▃▄▅▆▇█"
_ASCII_SPARKS = "_.-=+*%#"


@dataclass(frozen=True, slots=True)
class Page:
    """Where and how text is set; every string of the user's program goes through `text`."""

    width: int
    encoding: str
    cwd: str

    @classmethod
    def of(cls, console: Console, cwd: str) -> Page:
        """Describe the page a console prints on.

        Args:
            console: Where the report goes.
            cwd: The folder paths are shown relative to.

        Returns:
            The page.
        """
        return cls(width=console.width, encoding=console.encoding, cwd=cwd)

    @property
    def ascii_only(self) -> bool:
        """Whether block characters cannot be printed here."""
        return not self.encoding.lower().startswith("utf")

    def text(self, text: str, style: str = "") -> Text:
        """Set text that may come from the user's program: never markup, always printable.

        Args:
            text: What to say.
            style: A rich style.

        Returns:
            A renderable that shows exactly these characters.
        """
        safe = escape_controls(text)
        if self.ascii_only:
            safe = safe.encode(self.encoding, "backslashreplace").decode(self.encoding)
        return Text(safe, style=style, overflow="fold")

    def place(self, location: Location) -> str:
        """Write a location as `file:line in function`.

        Args:
            location: The place.

        Returns:
            The place with the shorter spelling of its path.
        """
        return place(location, self.cwd)

    def sentence(self, text: str) -> str:
        """Shorten the paths in a sentence that was made while the script ran.

        Args:
            text: The sentence.

        Returns:
            The sentence with paths below the folder of the page written from there.
        """
        folder = self.cwd.rstrip(os.sep)
        return text.replace(f"{folder}{os.sep}", "") if folder else text

    def heading(self, text: str) -> Text:
        """Set the heading of a section.

        Args:
            text: What the section is about.

        Returns:
            The heading in bold.
        """
        return self.text(text, "bold")

    def facts(self, rows: Sequence[tuple[str, Text]], *, indent: int) -> RenderableType:
        """Set labelled facts under each other, values aligned and wrapped in their own column.

        Args:
            rows: Pairs of label and value.
            indent: Columns to leave free on the left.

        Returns:
            The block of facts.
        """
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold", ratio=1)
        for label, value in rows:
            grid.add_row(Text(label, style="dim"), value)
        return indented(grid, indent)

    def bar(self, share: float, width: int) -> str:
        """Draw a share as a bar.

        Args:
            share: 0 to 1; anything above nothing shows at least a sliver.
            width: Columns of a full bar.

        Returns:
            The bar, not padded.
        """
        share = min(max(share, 0.0), 1.0)
        if self.ascii_only:
            return "#" * max(math.ceil(share * width - 0.5), 1 if share else 0)
        eighths = max(round(share * width * 8), 1 if share else 0)
        full, rest = divmod(eighths, 8)
        return _EIGHTHS[8] * full + (_EIGHTHS[rest] if rest else "")

    def sparkline(self, values: Sequence[int | None], width: int) -> str:
        """Draw a curve in one line, keeping the largest value of what falls into one column.

        Args:
            values: The curve; None is unknown and leaves a space.
            width: Most columns to use.

        Returns:
            One character a column.
        """
        columns = _largest_per_column(values, width)
        known = [value for value in columns if value is not None]
        if not known:
            return ""
        low, high = min(known), max(known)
        glyphs = _ASCII_SPARKS if self.ascii_only else _SPARKS
        if high - low <= FLAT_SHARE * high:
            return "".join(" " if value is None else glyphs[3] for value in columns)
        top = len(glyphs) - 1
        return "".join(" " if v is None else glyphs[round(top * (v - low) / (high - low))] for v in columns)

    @property
    def ellipsis(self) -> str:
        """Three dots as this page can print them."""
        return "..." if self.ascii_only else "…"


def indented(renderable: RenderableType, indent: int) -> Padding:
    """Move a block to the right.

    Args:
        renderable: The block.
        indent: Columns to leave free on the left.

    Returns:
        The block with its padding.
    """
    return Padding(renderable, (0, 0, 0, indent), expand=False)


def _largest_per_column(values: Sequence[int | None], width: int) -> list[int | None]:
    if len(values) <= width:
        return list(values)
    edges = [round(column * len(values) / width) for column in range(width + 1)]
    return [
        max((v for v in values[first:last] if v is not None), default=None) for first, last in itertools.pairwise(edges)
    ]
