"""MP401: out of memory, whether that ended the run or was caught."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from memprof.detect.evidence import counted, ended_out_of_memory, place, related, size
from memprof.detect.finding import Finding, Kind, Remedy, Severity, Skipped
from memprof.detect.precision import half_precision_in_use
from memprof.detect.rule import Rule
from memprof.model.memory import Category, MemoryModel, PeakLine, Source
from memprof.model.peak import lines_of
from memprof.model.storages import table_of
from memprof.record.events import OutOfMemory, Phase
from memprof.simulate.settings import DEFAULT_LARGE_SEGMENT_BYTES
from memprof.simulate.sizes import SMALL_BUFFER_BYTES

_SPIKE = 1.2
"""A request that would lift the peak this far above all before is a spike."""

_FEW = 3
"""After fewer iterations it is not known what they need: the first steps make the optimizer's state."""

_CUT_SHARE = 0.05
"""Less of the reserved memory than this, free but in pieces, is not what filled the device."""

_UNKNOWN_SHARE = 0.1
"""What is not known of the allocated memory is worth a word from this share on."""

_BATCH_SHARE = 0.2
"""Activations and inputs of less than this share, while an optimizer steps, are not what filled the device."""

_RISING = 0.75
_SHARED_SEGMENTS = (SMALL_BUFFER_BYTES, DEFAULT_LARGE_SEGMENT_BYTES)
"""What the allocator asks the driver for where a request is smaller."""
_LEAK_SHARE = 0.2
"""Growth of this share of the device, over all iterations, counts as what filled it."""


class _Cause(NamedTuple):
    name: str
    why: str
    remedies: tuple[Remedy, ...]


class OutOfMemoryRaised(Rule):
    """The CUDA caching allocator could not serve a request and raised `torch.OutOfMemoryError`.

    ## What it detects
    Every out-of-memory error of the run, also one that the script caught to go on with a smaller batch.

    ## Why it costs memory
    The error's text names one request, not what filled the device before it. That may be tensors kept from
    earlier iterations, one unusually large batch, free memory cut into pieces too small to use, another
    process, or simply a model that needs more than there is.

    ## Evidence
    An observer in the allocator: the request, what the driver had left, the largest free block it could have
    used, what is stranded in segments partly in use. Where storages or blocks were watched, the lines that
    held the rest; and the growth over the iterations before.

    ## Remedy
    It depends on the cause, which the finding names: remove the leak, bound the batch or the sequence, let
    segments expand, end the other process, or need less (smaller batch, checkpointing, 16 bits).

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(1024, 1024).cuda()
    total = torch.cuda.mem_get_info()[1]
    for rows in (64, 64, total // 4096 * 2):
        try:
            model(torch.empty(rows, 1024, device="cuda"))
        except torch.OutOfMemoryError:
            print("too much:", rows)
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(1024, 1024).cuda()
    for rows in (64, 64, 64):
        model(torch.empty(rows, 1024, device="cuda"))
    ```

    ## Not a problem when
    The script looks for the largest batch that fits and catches the error on purpose.
    """

    code = "MP401"
    kind = Kind.ERROR
    needs_cuda = True
    on_snapshots = True

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        seen: dict[tuple[str, object], list[OutOfMemory]] = {}
        for oom in model.ooms:
            seen.setdefault((oom.device, oom.location), []).append(oom)
        for ooms in seen.values():
            yield self._finding(model, ooms)

    def _finding(self, model: MemoryModel, ooms: list[OutOfMemory]) -> Finding:
        # Of several at a line the one that ended the run is told of; those before it were caught.
        fatal = ended_out_of_memory(model) and ooms[-1] is model.ooms[-1]
        oom = ooms[-1] if fatal else ooms[0]
        cause = _cause(model, oom)
        lines, known_bytes = _held_by(model, oom)
        iteration = next((i.index for i in model.iterations if i.ticks[0] <= oom.tick <= i.ticks[1]), None)
        if model.snapshot:
            iteration = None
        figures = [
            _free(oom),
            f"{size(oom.allocated_bytes)} allocated",
            f"{size(oom.reserved_bytes)} reserved",
        ]
        if oom.largest_hole_bytes is not None and oom.stranded_bytes is not None:
            figures.append(f"largest hole {size(oom.largest_hole_bytes)}")
            figures.append(f"{size(oom.stranded_bytes)} stranded in split segments")
        held = "; ".join(
            f"{size(line.nbytes)} by {place(line.location)}"
            + (f" ({line.category.value.lower()})" if line.category is not None else "")
            for line in lines[:3]
        )
        unknown_bytes = oom.allocated_bytes - known_bytes
        if unknown_bytes <= _UNKNOWN_SHARE * oom.allocated_bytes:
            unknown_bytes = 0
        told = f" The rest was held by: {held}." if held else ""
        if unknown_bytes and not model.snapshot:
            told = f" Known of the rest: {held}." if held else ""
            told += (
                f" {'Another ' if held else ''}{size(unknown_bytes)} was made while storages were not watched: "
                "`--level blocks` tells the lines of all."
            )
        times = f" ({counted(len(ooms), 'time')})" if len(ooms) > 1 else ""
        at = "" if iteration is None else f", iteration {iteration}, {oom.phase.label}"
        return self.finding(
            severity=Severity.ERROR if fatal else Severity.WARNING,
            location=oom.location,
            device=oom.device,
            bytes=oom.requested_bytes,
            source=Source.MEASURED,
            message=(
                f"{oom.device} ran out of memory{times} at {place(oom.location)}{at}: {_asked(oom)} "
                f"asked for, {', '.join(figures)}. {cause.why}" + told + f" First: {cause.remedies[0].text}."
            ),
            holder=held or None,
            remedies=cause.remedies,
            related=related(lines[0].location, None) if lines else (),
            evidence={
                "cause": cause.name,
                "times": len(ooms),
                "caught": None if model.snapshot else not fatal,
                "requested_bytes": oom.requested_bytes,
                "free_bytes": oom.free_bytes,
                "total_bytes": oom.total_bytes,
                "allocated_bytes": oom.allocated_bytes,
                "reserved_bytes": oom.reserved_bytes,
                "largest_hole_bytes": oom.largest_hole_bytes,
                "stranded_bytes": oom.stranded_bytes,
                "unknown_bytes": unknown_bytes,
                "iteration": iteration,
                "phase": oom.phase.label,
            },
        )


def _asked(oom: OutOfMemory) -> str:
    """What was asked for. Without a history only the segment for it is known, and small requests get large segments."""
    up_to = "up to " if oom.requested_bytes == oom.segment_bytes and oom.segment_bytes in _SHARED_SEGMENTS else ""
    return f"{up_to}{size(oom.requested_bytes)}"


def _free(oom: OutOfMemory) -> str:
    if oom.free_bytes is None:
        return "free memory unknown"
    of = "on the device" if oom.total_bytes is None else f"of {size(oom.total_bytes)}"
    return f"{size(oom.free_bytes)} free {of}"


def _held_by(model: MemoryModel, oom: OutOfMemory) -> tuple[tuple[PeakLine, ...], int]:
    """The lines whose storages filled the device at the time, largest first, and the bytes of all that are known."""
    if not model.storages:
        return (), 0
    table = table_of(model.storages)
    lives = table.lifetimes
    if oom.device not in lives.devices:
        return (), 0
    alive = (
        (lives.device == lives.devices.index(oom.device))
        & (lives.birth_ns <= oom.time_ns)
        & (~lives.died | (lives.death_ns > oom.time_ns))
    )
    return lines_of(table, np.flatnonzero(alive)), int(lives.nbytes[alive].sum())


def _is_of_the_batch(model: MemoryModel, oom: OutOfMemory) -> bool:
    """Whether what a smaller batch would make smaller has a share in what filled the device."""
    lines, known_bytes = _held_by(model, oom)
    of_the_batch = sum(line.nbytes for line in lines if line.category in (Category.ACTIVATION, Category.INPUT))
    return not known_bytes or of_the_batch > _BATCH_SHARE * oom.allocated_bytes


def _cause(model: MemoryModel, oom: OutOfMemory) -> _Cause:
    """Why the device was full, the likeliest first."""
    requested, total, free = oom.requested_bytes, oom.total_bytes, oom.free_bytes
    if total is not None and requested > total:
        return _Cause(
            "too big",
            f"No device of this size can serve it: the request alone exceeds its {size(total)}.",
            (
                Remedy("smaller_batch", "make the tensor smaller: fewer rows at a time"),
                Remedy("checkpointing", "work through it in chunks"),
            ),
        )
    cached = oom.reserved_bytes - oom.allocated_bytes
    grown = _grown(model, oom.device)
    if total is not None and grown >= max(_LEAK_SHARE * total, cached):
        return _leak(model, oom.device, grown)
    hole = oom.largest_hole_bytes
    fits = hole is not None and hole >= requested
    if cached >= max(requested, _CUT_SHARE * oom.reserved_bytes) and not fits:
        return _Cause(
            "fragmentation",
            f"Enough is cached ({size(cached)} reserved but free), in pieces too small for it: fragmentation.",
            (
                Remedy(
                    "allocator_settings", "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True before torch starts"
                ),
                Remedy("smaller_batch", "keep shapes from changing between iterations, so that blocks are reused"),
            ),
        )
    if total is not None and free is not None:
        elsewhere = total - free - oom.reserved_bytes
        if elsewhere >= max(requested - free, total // 10):
            return _Cause(
                "outside this allocator",
                f"{size(elsewhere)} of the device is used outside this process's allocator: another process, or "
                "the context and libraries of this one.",
                (
                    Remedy("allocator_settings", "see who uses the device with `memprof status`, and end or move it"),
                    Remedy("smaller_batch", "halve the batch"),
                ),
            )
    if total is not None and grown and (grown >= _LEAK_SHARE * total or grown >= requested):
        return _leak(model, oom.device, grown)
    before = [
        peak
        for iteration in model.iterations
        if iteration.ticks[1] < oom.tick and iteration.kind != "other" and oom.device in iteration.devices
        if (peak := iteration.devices[oom.device].peak_allocated_bytes) is not None
    ]
    if model.snapshot:
        return _not_told(oom)
    would_be = oom.allocated_bytes + requested
    if len(before) >= _FEW and would_be > _SPIKE * max(before):
        return _Cause(
            "spike",
            f"This iteration wanted at least {size(would_be)}, no earlier one more than {size(max(before))}: a spike.",
            (
                Remedy("smaller_batch", "bound the batch or the sequence length of the largest iteration"),
                Remedy("checkpointing", "checkpoint the blocks that save most"),
            ),
        )
    if oom.phase is Phase.OPTIMIZER and not _is_of_the_batch(model, oom):
        return _Cause(
            "too big",
            "Nothing is leaked or stranded: the optimizer's step, whose needs do not depend on the batch, needs more "
            "than the device has.",
            (
                Remedy(
                    "lean_optimizer",
                    "use an optimizer with less state: Adam in 8 bits (torchao, bitsandbytes), Adafactor, SGD",
                ),
                Remedy("freeze", "train fewer parameters: freeze the rest, or add adapters (LoRA)"),
                Remedy("optimizer_foreach_off", "give the optimizer `foreach=False`: smaller temporaries"),
            ),
        )
    autocast = Remedy("mixed_precision", "run the forward under `torch.autocast` to save activations in 16 bits")
    return _Cause(
        "too big",
        "Nothing is leaked or stranded: the step needs more than the device has.",
        (
            Remedy(
                "smaller_batch", "halve the batch and accumulate gradients over two (`memprof.oom.retry` does both)"
            ),
            Remedy("checkpointing", "wrap repeated blocks in `torch.utils.checkpoint.checkpoint`"),
            *(() if half_precision_in_use(model) else (autocast,)),
        ),
    )


def _grown(model: MemoryModel, device: str) -> int:
    """Bytes by which memory had grown over all iterations, where it rose steadily."""
    trend = model.trends.get(device)
    if trend is None or trend.rising_share < _RISING:
        return 0
    return int(trend.grown_bytes + trend.bytes_per_iteration)


def _leak(model: MemoryModel, device: str, grown: int) -> _Cause:
    return _Cause(
        "leak",
        f"Memory had grown by {size(model.trends[device].bytes_per_iteration)} an iteration, {size(grown)} in all: "
        "a leak.",
        (
            Remedy("detach", "remove what keeps tensors of earlier iterations (see the leaks found)"),
            Remedy("smaller_batch", "a smaller batch only delays the error"),
        ),
    )


def _not_told(oom: OutOfMemory) -> _Cause:
    """What a snapshot can say where memory was neither cut up nor used by others."""
    smaller = Remedy(
        "smaller_batch", "halve the batch and accumulate gradients over two (`memprof.oom.retry` does both)"
    )
    if oom.free_bytes is not None and oom.requested_bytes > oom.free_bytes + oom.reserved_bytes:
        return _Cause(
            "too big",
            f"The request alone exceeds all that this process held and the {size(oom.free_bytes)} that were free.",
            (Remedy("smaller_batch", "make the tensor smaller: fewer rows at a time"),),
        )
    return _Cause(
        "unknown",
        "A snapshot does not show iterations, so it cannot tell a leak from a step that needs this much.",
        (
            Remedy("detach", "look at the lines that held most, and whether each should still hold it"),
            smaller,
            Remedy("checkpointing", "wrap repeated blocks in `torch.utils.checkpoint.checkpoint`"),
        ),
    )
