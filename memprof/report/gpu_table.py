"""The state of GPUs in a terminal: one table of devices, one of the processes that hold their memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table

from memprof.report.page import Page
from memprof.report.wording import UNKNOWN
from memprof.units import format_bytes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from memprof.capture.gpus import Gpu, GpuProcess, GpuReport, MigDevice

_SOURCES = {"nvml": "NVML", "nvidia-smi": "nvidia-smi"}
_DASH = "-"
"""An unknown figure in a table."""


def no_gpus_sentence(report: GpuReport) -> str:
    """Say in one sentence why there is nothing to show.

    Args:
        report: What was read; without any GPU.

    Returns:
        The sentence.
    """
    if report.source is not None:
        return f"{_SOURCES[report.source]} lists no GPU on this machine."
    return f"No NVIDIA GPU can be read: {'; '.join(report.reasons)}."


def gpu_table(report: GpuReport, console: Console) -> RenderableType:
    """Set the state of GPUs.

    Args:
        report: What was read.
        console: Where it will be printed; its width and encoding are obeyed.

    Returns:
        A renderable, for printing once or for `rich.live.Live`.
    """
    return Group(*_blocks(report, Page.of(console, "")))


def _blocks(report: GpuReport, page: Page) -> Iterator[RenderableType]:
    if not report.gpus:
        yield page.text(no_gpus_sentence(report))
        return
    count = f"{len(report.gpus)} GPU{'s' if len(report.gpus) > 1 else ''}"
    driver = f"driver {report.driver_version or UNKNOWN}"
    assert report.source is not None
    yield page.text(f"{count}, {driver}; measured, read through {_SOURCES[report.source]}", "dim")
    for reason in report.reasons:
        yield page.text(f"processes are unknown: {reason}", "yellow")
    yield ""
    yield _devices(report, page)
    rows = [row for gpu in report.gpus for row in _holders(gpu)]
    yield ""
    if rows:
        yield _processes(rows, page)
        yield from (page.text(_zombie(place, process), "bold red") for place, process in rows if _is_dead(process))
    elif any(gpu.processes is not None for gpu in report.gpus):
        yield page.text("no process is listed", "dim")
    else:
        yield page.text("processes cannot be listed", "dim")


def _is_dead(process: GpuProcess) -> bool:
    return process.is_zombie_holder


def _devices(report: GpuReport, page: Page) -> Table:
    table = _table()
    table.add_column("GPU")
    table.add_column("name", overflow="fold")
    for heading in ("used", "free", "total", "util", "temp"):
        table.add_column(heading, justify="right", no_wrap=True)
    degree = "C" if page.ascii_only else "°C"
    for gpu in report.gpus:
        name = gpu.note or gpu.name or UNKNOWN
        utilisation = _DASH if gpu.utilisation_percent is None else f"{gpu.utilisation_percent} %"
        temperature = _DASH if gpu.temperature_celsius is None else f"{gpu.temperature_celsius} {degree}"
        split_up = " (MIG)" if gpu.mig_enabled else ""
        table.add_row(str(gpu.index), page.text(name + split_up), *_sizes(gpu), utilisation, temperature)
        for part in gpu.mig_devices:
            table.add_row(f"{gpu.index}.{part.index}", page.text(part.name or "MIG device"), *_sizes(part), "", "")
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", expand=False)


def _sizes(device: Gpu | MigDevice) -> tuple[str, ...]:
    return tuple(_size(nbytes) for nbytes in (device.used_bytes, device.free_bytes, device.total_bytes))


def _size(nbytes: int | None) -> str:
    return _DASH if nbytes is None else format_bytes(nbytes)


def _holders(gpu: Gpu) -> Iterator[tuple[str, GpuProcess]]:
    """Processes with the place they are on; those on a part of a GPU are not said twice."""
    on_parts = set()
    for part in gpu.mig_devices:
        for process in part.processes or ():
            on_parts.add(process.pid)
            yield f"{gpu.index}.{part.index}", process
    for process in gpu.processes or ():
        if process.pid not in on_parts:
            yield str(gpu.index), process


def _processes(rows: list[tuple[str, GpuProcess]], page: Page) -> Table:
    table = _table()
    table.add_column("GPU")
    table.add_column("pid", justify="right", no_wrap=True)
    table.add_column("user", no_wrap=True, max_width=16)
    table.add_column("holds", justify="right", no_wrap=True)
    table.add_column("command")  # the only one that gives way where the terminal is narrow
    for place, process in rows:
        held = UNKNOWN if process.used_bytes is None else format_bytes(process.used_bytes)
        command = process.command or ""
        if process.state.value != "running":
            command = f"[{process.state.value}] {command}".rstrip()
        line = page.text(" ".join(command.split()) or _DASH)
        line.no_wrap, line.overflow = True, "crop" if page.ascii_only else "ellipsis"
        style = "red" if _is_dead(process) else ""
        table.add_row(place, str(process.pid), page.text(process.user or _DASH), held, line, style=style)
    return table


def _zombie(place: str, process: GpuProcess) -> str:
    dead = "has ended, but its parent has not taken notice" if process.state.value == "zombie" else "no longer exists"
    held = "memory" if process.used_bytes is None else format_bytes(process.used_bytes)
    return (
        f"pid {process.pid} {dead}, and {held} on GPU {place} is still held in its name: "
        "end the processes that `fuser -v /dev/nvidia*` lists, or its parent."
    )
