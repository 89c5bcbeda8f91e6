"""The words every report uses: verdict, headline, sizes with their source, durations.

All reporters say the same thing in the same words because they take it from here.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from memprof.advise.savings import Combined
from memprof.detect.finding import Remedy
from memprof.model.memory import MemoryModel, Source
from memprof.record.iterations import OTHER
from memprof.record.run_info import RunInfo
from memprof.units import format_bytes

UNKNOWN = "unknown"
"""How an unknown figure reads in a sentence; in a table it is `-`."""

_MOST_OF_EXCEPTION = 240
"""Characters; what torch says when memory has run out tells how much was asked for before that."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
"""Format characters that ordinary text in some scripts needs."""


def escape_controls(text: str) -> str:
    r"""Make text safe to print: control, bidi and surrogate characters become `\x1b`-like escapes.

    Args:
        text: Anything that came from the user's program: file names, messages, source lines.

    Returns:
        The text on one line, without any character that moves the cursor or hides other characters.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape_character(character) for character in text)


def _escape_character(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _ESCAPED_CATEGORIES:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def size(nbytes: float | None, source: Source | None = None, *, signed: bool = False) -> str:
    """Show a size, and its source unless it was measured.

    Args:
        nbytes: Size in bytes; None or a float that is not finite is unknown.
        source: Where the size comes from; None where the text around it says so.
        signed: Whether to write a `+` before sizes above zero.

    Returns:
        For example `1.2 GiB`, `1.2 GiB (simulated)`, `unknown`.
    """
    if nbytes is None or not math.isfinite(nbytes):
        return UNKNOWN
    return format_bytes(nbytes, signed=signed) + source_suffix(source)


def source_suffix(source: Source | None) -> str:
    """Name a source that is not a measurement.

    Args:
        source: Where a figure comes from.

    Returns:
        ` (simulated)`, ` (estimated)`, or '' for measured and None.
    """
    return "" if source is None or source is Source.MEASURED else f" ({source.value})"


def per_iteration(nbytes: float) -> str:
    """Show growth: `+38.2 MiB/iteration`.

    Args:
        nbytes: Bytes an iteration adds; less than one byte reads `+0 B/iteration`.

    Returns:
        The growth with its sign.
    """
    return "+0 B/iteration" if abs(nbytes) < 1 else f"{format_bytes(nbytes, signed=True)}/iteration"


def saving(remedy: Remedy) -> str:
    """Say what a remedy saves, always with the source of that figure.

    Args:
        remedy: A remedy; its saving may be unknown.

    Returns:
        For example `saves about 1.42 GiB of the peak (simulated)`, or '' where the saving is unknown.
    """
    if remedy.saves_bytes is None:
        return ""
    source = remedy.source.value if remedy.source is not None else "source unknown"
    if remedy.saves_bytes == 0:
        return f"leaves the peak as it is ({source})"
    if remedy.saves_bytes < 0:
        return f"costs about {format_bytes(-remedy.saves_bytes)} more ({source})"
    return f"saves about {format_bytes(remedy.saves_bytes)} of the peak ({source})"


def together(combined: Combined) -> str:
    """Say what the first remedies of several findings save together.

    Args:
        combined: The saving; `remedies` has at least two.

    Returns:
        For example `The first remedies of these 2 leaks and wastes together save about 113 MiB of the peak on cpu
        (estimated).`.
    """
    saved = f"about {format_bytes(combined.saves_bytes)}" if combined.saves_bytes > 0 else "nothing"
    ends = combined.growth_removed_bytes
    growth = f" and end {per_iteration(ends)}" if ends is not None and ends >= 1 else ""
    return (
        f"The first remedies of {len(combined.remedies)} leaks and wastes together save {saved} of the peak on "
        f"{escape_controls(combined.device)}{growth} ({combined.source.value})."
    )


def duration(duration_ns: int) -> str:
    """Show a duration with three significant digits at most.

    Args:
        duration_ns: Nanoseconds.

    Returns:
        For example `850 us`, `12.3 ms`, `4.21 s`, `2 min 05 s`.
    """
    for limit, unit, factor in ((1e6, "us", 1e3), (1e9, "ms", 1e6), (60e9, "s", 1e9)):
        if duration_ns < limit:
            value = duration_ns / factor
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
    minutes, seconds = divmod(round(duration_ns / 1e9), 60)
    return f"{minutes} min {seconds:02d} s"


def counted(count: int, noun: str) -> str:
    """Count in words: `1 error`, `2 errors`.

    Args:
        count: How many.
        noun: The singular.

    Returns:
        Count and noun, with a plural `s` unless there is exactly one.
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def loop_iterations(model: MemoryModel) -> int:
    """Count the iterations of training and evaluation, without what came before, between and after them.

    Args:
        model: The model of the run.
    """
    return sum(iteration.kind != OTHER for iteration in model.iterations)


def stopped_with(run: RunInfo) -> str:
    """Say what ended a run before its time, as one short sentence; its traceback has the rest.

    Args:
        run: Facts about the run.

    Returns:
        For example `the script stopped with ValueError: too few rows`, or '' where it came to its end.
    """
    if not run.exception:
        return ""
    first, *more = _COLOURS.sub("", run.exception).splitlines() or [""]
    if len(first) > _MOST_OF_EXCEPTION or more:
        first = f"{first[:_MOST_OF_EXCEPTION].rstrip()} ..."
    return f"the script stopped with {escape_controls(first)}"


def is_empty(model: MemoryModel) -> bool:
    """Say whether a run left nothing to judge.

    Args:
        model: The model of the run.

    Returns:
        Whether there is neither an iteration nor a peak.
    """
    return not model.iterations and not model.peaks


def script_name(run: RunInfo) -> str:
    """Name the program that ran, safe to print.

    Args:
        run: Facts about the run.

    Returns:
        The script's file name without its folder, or `python` where there was no script.
    """
    return escape_controls(Path(run.script).name or run.script) if run.script else "python"


def outcome(run: RunInfo) -> str:
    """Say how the run ended.

    Args:
        run: Facts about the run.

    Returns:
        `exit status 1`, `did not finish`, or '' where the run ended and had no status (a notebook).
    """
    if run.exit_status is not None:
        return f"exit status {run.exit_status}"
    return "" if run.finished else "did not finish"


def headline(model: MemoryModel) -> str:
    """Say in one line what was watched.

    Args:
        model: The model of the run.

    Returns:
        Script, torch, level, simulated GPU if any, devices, iterations and how the run ended, separated by ` | `; of a
        snapshot its devices and trace.
    """
    run = model.run
    if model.snapshot:
        entries = sum(totals.trace_entries for totals in model.snapshot)
        lasted = duration(model.ticks[-1].end_ns - model.ticks[0].start_ns) if model.ticks else UNKNOWN
        parts = [
            script_name(run),
            "PyTorch memory snapshot",
            ", ".join(escape_controls(device) for device in known_devices(model)) or "no device",
            f"{entries:,} trace entries over {lasted}" if entries else "no trace",
        ]
        return " | ".join(parts)
    parts = [
        script_name(run),
        f"torch {escape_controls(run.torch)}" if run.torch else "torch version unknown",
        f"level {escape_controls(run.level)}" if run.level else "level unknown",
        f"simulated {escape_controls(run.simulated_gpu)}{', dry' if run.dry else ''}" if run.simulated_gpu else "",
        ", ".join(escape_controls(device) for device in known_devices(model)) or "no device",
        counted(loop_iterations(model), "iteration"),
        outcome(run),
    ]
    return " | ".join(part for part in parts if part)


def known_devices(model: MemoryModel) -> tuple[str, ...]:
    """List every device the model knows anything about.

    Args:
        model: The model of the run.

    Returns:
        Devices in the run's own order, then those only peaks or iterations name.
    """
    seen = dict.fromkeys((*model.run.devices, *model.devices, *model.peaks, *model.composition))
    for iteration in model.iterations:
        seen.update(dict.fromkeys(iteration.devices))
    return tuple(seen)


def main_device(model: MemoryModel) -> str | None:
    """Find the device with the largest peak, whose figures stand for the run; a GPU before the host.

    Args:
        model: The model of the run.

    Returns:
        The device; the first one known where no peak is; None without any device.
    """
    if model.peaks:
        return max(model.peaks.values(), key=lambda peak: (peak.device != "cpu", peak.allocated_bytes)).device
    return next(iter(known_devices(model)), None)


def percent(part: float, whole: float) -> str:
    """Show a share: `65 %`, `<1 %`, or `-` where there is no whole.

    Args:
        part: The share's size.
        whole: Size of everything.

    Returns:
        The share in percent.
    """
    if whole <= 0:
        return "-"
    share = 100 * part / whole
    return "<1 %" if 0 < share < 1 else f"{share:.0f} %"


def by_size(by_category: Mapping[str, int]) -> list[tuple[str, int]]:
    """Order categories for people: largest first, empty ones left out.

    Args:
        by_category: Category name -> bytes.

    Returns:
        Pairs of name and bytes.
    """
    return sorted(((name, n) for name, n in by_category.items() if n > 0), key=lambda pair: (-pair[1], pair[0]))
