"""One run of a script as `fix` sees it, and whether two of them computed the same."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

_ROUNDING = 1e-4
"""Relative difference of printed figures that a sum in another precision, or another kernel, makes."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBERS = re.compile(_NUMBER)
_TENSOR = re.compile(rf"tensor\(({_NUMBER})(?:, (?:device|grad_fn|requires_grad|dtype)=(?:<[^>]*>|'[^']*'|[\w.]+))*\)")


@dataclass(frozen=True, slots=True)
class SeenFinding:
    """A finding of a trial."""

    code: str
    kind: str
    severity: str
    file: str | None
    line: int | None
    bytes_per_iteration: float | None
    device: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the script."""

    exit_status: int
    exception: str | None
    losses: tuple[float, ...]
    """Values that each backward started from."""
    output: str
    """What it printed."""
    device: str | None
    peak_bytes: int | None
    peak_source: str | None
    bytes_per_iteration: float | None
    """Growth of allocated bytes over training iterations."""
    growth_source: str | None
    iteration_ns: int | None
    """Median time of the iterations that were not watched storage by storage."""
    iterations: int
    findings: tuple[SeenFinding, ...]


class Results(str, enum.Enum):
    """How what a run computed compares with what it computed before."""

    IDENTICAL = "identical"
    ROUNDING = "equal but for rounding"
    CHANGED_BY_DESIGN = "changed, as it must"
    CHANGED = "changed"


def compare(before: Trial, after: Trial, *, again: Trial | None = None) -> tuple[Results, str]:
    """Say whether two runs computed the same.

    Args:
        before: The run without edits.
        after: The run with them.
        again: A second run without edits, if there is one: what differs between it and the first is not compared.

    Returns:
        The verdict, and what differs.
    """
    fixed_losses = again is None or _same_losses(before.losses, again.losses)
    if fixed_losses and not _same_losses(before.losses, after.losses):
        return Results.CHANGED, _loss_difference(before.losses, after.losses)
    moving = set() if again is None else _differing_lines(before.output, again.output)
    lines = [row for row in _differing_lines(before.output, after.output) if row not in moving]
    note = "" if fixed_losses else "losses differ from run to run by themselves and were not compared"
    if not before.losses and not before.output.strip():
        note = "the script runs no backward and prints nothing, so only how it ends was compared"
    old, new = before.output.splitlines(), after.output.splitlines()
    if len(old) != len(new) and (again is None or len(again.output.splitlines()) == len(old)):
        return Results.CHANGED, f"it prints {len(new)} lines instead of {len(old)}"
    real = [row for row in lines if row < min(len(old), len(new)) and not _only_rounded(old[row], new[row])]
    if real:
        return Results.CHANGED, f"it prints {new[real[0]].strip()!r} instead of {old[real[0]].strip()!r}"
    return (Results.ROUNDING if lines else Results.IDENTICAL), note


def _same_losses(old: Sequence[float], new: Sequence[float]) -> bool:
    return len(old) == len(new) and all(
        a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(old, new, strict=True)
    )


def _loss_difference(old: Sequence[float], new: Sequence[float]) -> str:
    if len(old) != len(new):
        return f"{len(new)} backwards instead of {len(old)}"
    row = next(row for row, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
    return f"losses differ from backward {row + 1} of {len(old)} on ({old[row]:.9g} before, {new[row]:.9g} with it)"


def _differing_lines(old: str, new: str) -> set[int]:
    return {row for row, (a, b) in enumerate(zip(old.splitlines(), new.splitlines(), strict=False)) if a != b}


def _only_rounded(old: str, new: str) -> bool:
    """Whether two lines say the same with figures that differ by rounding, or as a tensor and as a number."""
    old, new = _TENSOR.sub(r"\1", old), _TENSOR.sub(r"\1", new)
    if _NUMBERS.sub("#", old) != _NUMBERS.sub("#", new):
        return False
    pairs = zip(_NUMBERS.findall(old), _NUMBERS.findall(new), strict=True)
    return all(_near(a, b) for a, b in pairs)


def _near(old: str, new: str) -> bool:
    """Equal up to rounding; of figures printed with few digits the last may differ by one."""
    if old == new:
        return True
    digits = min(len(text.partition(".")[2].partition("e")[0]) for text in (old, new))
    if not digits:
        return float(old) == float(new)  # whole numbers are counts
    return math.isclose(float(old), float(new), rel_tol=_ROUNDING, abs_tol=1.01 * 10.0**-digits if digits > 3 else 0)


__all__ = ["Results", "SeenFinding", "Trial", "compare"]
