"""What a run would have needed, setting by setting, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from memprof.report.page import Page
from memprof.report.wording import size
from memprof.units import format_bytes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from memprof.advise.what_if import DeviceWhatIf, Outcome

_DASH = "-"
_LABEL_WIDTH = 33
"""Holds each of the settings tried by `--advise`; several are put on a line each."""


def what_if_table(found: Sequence[DeviceWhatIf], console: Console, *, advise: bool = False) -> RenderableType:
    """Set the outcomes of all devices.

    Args:
        found: What was replayed.
        console: Where it will be printed; its width and encoding are obeyed.
        advise: Say which setting to choose.

    Returns:
        A renderable.
    """
    page = Page.of(console, "")
    blocks: list[RenderableType] = []
    for device in found:
        if blocks:
            blocks.append("")
        blocks.extend(_blocks(device, page, advise=advise))
    return Group(*blocks)


def _blocks(found: DeviceWhatIf, page: Page, *, advise: bool) -> Iterator[RenderableType]:
    memory = "memory without limit" if found.total_bytes is None else f"{format_bytes(found.total_bytes)} of memory"
    yield page.heading(f"{found.device}, {memory}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("settings", overflow="fold", min_width=_LABEL_WIDTH)
    for title in ("allocated", "reserved", "unused", "driver\ncalls"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("fits")
    for outcome in found.outcomes:
        lines = [page.text(line) for line in _label(outcome)]
        table.add_row(Text("\n").join(lines), *(page.text(cell) for cell in _cells(outcome)))
    yield table
    tried = [outcome for outcome in found.outcomes if ":" in outcome.label]
    if tried:
        yield page.text(f"Peaks. Settings tried are {tried[0].source.value}: compare them with the replay.", "dim")
    base = found.baseline
    for outcome in found.outcomes if base.fits else (base,):
        if outcome.out_of_memory and outcome.source.value != "measured":
            yield page.text(f"{outcome.label}: {_where(outcome, page)}{outcome.out_of_memory}")
    for note in found.notes:
        yield page.text(f"note: {note}", "dim")
    if advise:
        yield page.text(_advice(found), "bold")


def _label(outcome: Outcome) -> list[str]:
    if ":" not in outcome.label:
        return [f"{outcome.label} ({outcome.source.value})"]
    return outcome.label.replace(",", ",\n").split("\n")


def _cells(outcome: Outcome) -> tuple[str, ...]:
    unused = outcome.fragmentation
    return (
        size(outcome.peak_allocated_bytes),
        size(outcome.peak_reserved_bytes),
        _DASH if unused is None else f"{unused:.1%}",
        _DASH if outcome.device_allocs is None else f"{outcome.device_allocs:,}",
        "yes" if outcome.fits else "NO",
    )


def _where(outcome: Outcome, page: Page) -> str:
    parts = []
    if outcome.out_of_memory_iteration is not None:
        parts.append(f"iteration {outcome.out_of_memory_iteration}")
    if outcome.out_of_memory_at is not None:
        parts.append(page.place(outcome.out_of_memory_at))
    return f"{', '.join(parts)}: " if parts else ""


def _advice(found: DeviceWhatIf) -> str:
    best = found.best
    if best is None:
        if found.baseline.fits:
            return "No setting tried reserves noticeably less: keep the settings as they are."
        return "No setting tried makes it fit: the run needs less memory, not other settings."
    saved = found.saves_bytes(best)
    gain = "makes it fit" if saved is None else f"reserves {format_bytes(saved)} less (simulated)"
    return f"Set PYTORCH_CUDA_ALLOC_CONF={best.label} before torch starts: it {gain}."
