"""What the static check says."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Confidence(str, enum.Enum):
    """How sure the source alone makes a finding. Ordered: low < medium < high."""

    LOW = "low"
    """Depends on what the source does not show."""
    MEDIUM = "medium"
    """Rests on what names or code of other packages usually mean."""
    HIGH = "high"
    """Every step can be followed in the source."""

    @property
    def rank(self) -> int:
        """0 for low, 1 for medium, 2 for high."""
        return list(Confidence).index(self)


@dataclass(frozen=True, slots=True, order=True)
class LintFinding:
    """A problem that can be seen in the source.

    Attributes:
        file: Path as it was given or found.
        line: First line, from 1.
        column: First column, from 1, in characters.
        end_line: Last line.
        end_column: Column after the last character, from 1.
        code: Code of the rule, such as `MP101`.
        message: What is wrong, who holds the memory, and the next step.
        remedy: Slug of what to do.
        confidence: How sure it is.
        name: Name of the rule, such as `graph-grows-across-iterations`.
        cell: Number of the notebook's cell, from 1, and `line` counts in it; None for a script.
        source: The first line as it is written.
    """

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    code: str
    message: str
    remedy: str
    confidence: Confidence
    name: str = ""
    cell: int | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Unreadable:
    """A file that could not be checked, and why."""

    file: str
    line: int
    reason: str
