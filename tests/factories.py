"""Synthetic diagnoses with the shape of real ones, for tests of reports, rules and commands.

Every function returns a fresh, consistent `Diagnosis`: composition adds up to the peak, iterations
follow each other in time, and the trend is the slope of the iterations given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from memprof.advise.diagnosis import Diagnosis, diagnose
from memprof.advise.savings import Combined
from memprof.detect.finding import Finding, Kind, RelatedLocation, Remedy, Severity, Skipped
from memprof.model.memory import (
    UNCATEGORISED,
    Account,
    Category,
    CompositionPoint,
    DeviceIteration,
    IterationMemory,
    MemoryModel,
    Peak,
    PeakLine,
    Source,
    Trend,
)
from memprof.record.blocks import (
    AllocatorHistory,
    Block,
    BlockAction,
    BlockEvents,
    BlockState,
    DeviceHistory,
    Segment,
)
from memprof.record.events import DeviceState, Location, ModuleRef, OutOfMemory, Phase
from memprof.record.run_info import RunInfo
from memprof.record.snapshot_view import SnapshotView

MIB = 1 << 20
ITERATION_NS = 12_500_000
SCRIPT = "/project/train.py"


def run_info(**changes: object) -> RunInfo:
    """Facts about a finished CPU run of `/project/train.py`; keyword arguments replace fields."""
    run = RunInfo(
        script=SCRIPT,
        argv=("train.py", "--epochs", "2"),
        python="3.11.7",
        torch="2.13.0",
        memprof="0.1.0",
        platform="Linux-6.1-x86_64",
        level="tensors",
        devices=("cpu",),
        counter={"cpu": "glibc malloc"},
        started_unix_ns=1_760_000_000_000_000_000,
        has_optimizer=True,
        exit_status=0,
        finished=True,
    )
    return replace(run, **changes)  # type: ignore[arg-type]


def device_iteration(
    start: int | None,
    end: int | None,
    peak: int | None,
    source: Source = Source.MEASURED,
    *,
    evaluates: bool = False,
) -> DeviceIteration:
    """Memory of one iteration with peaks for each phase that fit `peak`; None is unknown."""
    phase_peaks = {}
    if peak is not None and evaluates:
        phase_peaks = {Phase.FORWARD: peak}
    elif peak is not None:
        optimizer = max(end or 0, round(peak * 0.8))
        phase_peaks = {Phase.FORWARD: round(peak * 0.93), Phase.BACKWARD: peak, Phase.OPTIMIZER: optimizer}
    return DeviceIteration(
        allocated_bytes_start=start,
        allocated_bytes_end=end,
        peak_allocated_bytes=peak,
        peak_phase=max(phase_peaks, key=lambda phase: phase_peaks[phase], default=None),
        phase_peaks=phase_peaks,
        reserved_bytes_end=None,
        source=source,
    )


def iterations(
    count: int,
    *,
    growth: int = 0,
    base: int = 96 * MIB,
    device: str = "cpu",
    evaluate_every: int = 0,
    tracked: Callable[[int], bool] = lambda index: True,
    source: Source = Source.MEASURED,
) -> tuple[IterationMemory, ...]:
    """Make `count` iterations that each keep `growth` bytes; every n-th may be an evaluation."""
    made = []
    allocated = base
    for index in range(count):
        evaluates = bool(evaluate_every) and index % evaluate_every == evaluate_every - 1
        end = allocated if evaluates else allocated + growth
        peak = allocated + (48 if evaluates else 180) * MIB + growth
        made.append(
            IterationMemory(
                index=index,
                kind="evaluate" if evaluates else "train",
                start_ns=index * ITERATION_NS,
                end_ns=(index + 1) * ITERATION_NS,
                epoch=0,
                tracked=tracked(index),
                complete=True,
                devices={device: device_iteration(allocated, end, peak, source, evaluates=evaluates)},
                ticks=(index, index),
            )
        )
        allocated = end
    return tuple(made)


def split(total: int, phase: Phase) -> dict[str, int]:
    """Share a total among the categories: model and optimizer stay as they are, activations vary."""
    held = {"PARAMETER": 28 * MIB, "OPTIMIZER_STATE": 44 * MIB, "INPUT": 4 * MIB}
    held["GRADIENT"] = 0 if phase is Phase.FORWARD else 12 * MIB
    held["TEMPORARY"] = total // 60
    held[UNCATEGORISED] = total // 90
    held["ACTIVATION"] = total - sum(held.values())
    return held


def composition(
    made: Sequence[IterationMemory], *, device: str = "cpu", points: int = 25
) -> tuple[CompositionPoint, ...]:
    """Composition over the tracked iterations: up in forward, down in backward."""
    result = []
    for iteration in made:
        memory = iteration.devices.get(device)
        if not iteration.tracked or memory is None or memory.peak_allocated_bytes is None:
            continue
        start = memory.allocated_bytes_start or 0
        end = memory.allocated_bytes_end or 0
        for step in range(points):
            progress = step / (points - 1)
            height = 1 - abs(2 * progress - 1)
            grown = start + round((end - start) * progress)
            total = grown + round(height * (memory.peak_allocated_bytes - grown))
            phase = Phase.FORWARD if progress < 0.5 else Phase.BACKWARD if progress < 0.9 else Phase.OPTIMIZER
            if iteration.kind == "evaluate":
                phase = Phase.FORWARD
            time_ns = iteration.start_ns + round(progress * (iteration.end_ns - iteration.start_ns))
            result.append(CompositionPoint(time_ns, iteration.index, phase, split(total, phase)))
    return tuple(result)


def peak_of(
    made: Sequence[IterationMemory],
    *,
    device: str = "cpu",
    source: Source = Source.MEASURED,
    file: str = SCRIPT,
    composed: bool = True,
) -> Peak:
    """The largest iteration peak of a device, with its composition and lines."""
    known = [i for i in made if device in i.devices and i.devices[device].peak_allocated_bytes is not None]
    top = max(known, key=lambda i: i.devices[device].peak_allocated_bytes or 0)
    allocated = top.devices[device].peak_allocated_bytes or 0
    lines = (
        PeakLine(Location(file, 41, "train"), allocated // 2, 312, Category.ACTIVATION, None),
        PeakLine(
            Location("/project/model.py", 18, "forward"),
            allocated // 6,
            24,
            Category.ACTIVATION,
            ModuleRef("encoder.0", "Linear"),
        ),
        PeakLine(None, allocated // 20, 3, None, None),
    )
    return Peak(
        device=device,
        allocated_bytes=allocated,
        reserved_bytes=allocated + 64 * MIB if device.startswith("cuda") else None,
        source=source,
        iteration=top.index,
        phase=Phase.BACKWARD,
        time_ns=top.start_ns + ITERATION_NS // 2,
        by_category=split(allocated, Phase.BACKWARD) if composed else None,
        lines=lines if composed else (),
    )


def trend_of(count: int, growth: int, source: Source = Source.MEASURED) -> Trend:
    """The slope of `count` train iterations that each keep `growth` bytes, the first two left out."""
    return Trend(
        bytes_per_iteration=float(growth),
        first_iteration=2,
        last_iteration=count - 1,
        points=count - 2,
        rising_share=1.0 if growth > 0 else 0.0,
        source=source,
    )


def model(
    made: Sequence[IterationMemory] = (),
    *,
    run: RunInfo | None = None,
    peaks: Mapping[str, Peak] | None = None,
    composed: Mapping[str, tuple[CompositionPoint, ...]] | None = None,
    trends: Mapping[str, Trend] | None = None,
) -> MemoryModel:
    """A model without ticks, storages and censuses, which reports do not read."""
    info = run if run is not None else run_info()
    return MemoryModel(
        run=info,
        ticks=(),
        iterations=tuple(made),
        storages={},
        peaks=peaks or {},
        composition=composed or {},
        trends=trends or {},
        censuses=(),
        devices=info.devices,
    )


def leak_finding(
    growth: int, held: int, *, file: str = SCRIPT, device: str = "cpu", source: Source = Source.MEASURED
) -> Finding:
    """The finding for an accumulated loss that keeps every iteration's graph."""
    return Finding(
        code="MP101",
        name="graph-retained-across-steps",
        kind=Kind.LEAK,
        severity=Severity.ERROR,
        location=Location(file, 41, "train"),
        device=device,
        bytes=held,
        bytes_per_iteration=float(growth),
        source=source,
        message="`history` keeps the autograd graph of every iteration: 38.2 MiB more after each, "
        "held by list `history` in `train()`. Append `loss.item()` instead.",
        holder="list `history` in `train()` train.py:41, 38 tensors",
        remedies=(
            Remedy("item", "append `loss.item()`, a number without a graph", held, Source.SIMULATED),
            Remedy("detach", "append `loss.detach()` where the tensor itself is needed"),
        ),
        related=(
            RelatedLocation("allocated", Location("/project/model.py", 18, "forward")),
            RelatedLocation("grown", Location(file, 41, "train")),
        ),
        evidence={"iterations": 38, "graph_nodes": 304, "saved_bytes": growth, "grad_fn": "MeanBackward0"},
    )


def peak_finding(nbytes: int, *, device: str = "cpu") -> Finding:
    """A warning that activations dominate the peak, with an unknown saving."""
    return Finding(
        code="MP401",
        name="activations-dominate-peak",
        kind=Kind.PRESSURE,
        severity=Severity.WARNING,
        location=Location("/project/model.py", 18, "forward"),
        device=device,
        bytes=nbytes,
        bytes_per_iteration=None,
        source=Source.ESTIMATED,
        message="Activations are 55 % of the peak; most are made in `forward` of `encoder.0`.",
        holder=None,
        remedies=(
            Remedy("checkpointing", "recompute `encoder` in backward", nbytes // 2, Source.ESTIMATED),
            Remedy("smaller_batch", "halve the batch", None, None),
        ),
        evidence={"share": 0.55, "peak_bytes": nbytes * 2},
    )


SKIPPED = (
    Skipped("MP103", "no evaluation was seen"),
    Skipped("MP201", "needs level tensors during at least two iterations"),
)


def leaking() -> Diagnosis:
    """40 train iterations that each keep 38.2 MiB, watched throughout, on one device."""
    growth = 40_055_603
    made = iterations(40, growth=growth)
    peak = peak_of(made)
    return Diagnosis(
        model(
            made,
            peaks={"cpu": peak},
            composed={"cpu": composition(made)},
            trends={"cpu": trend_of(40, growth)},
        ),
        findings=(leak_finding(growth, 38 * growth), peak_finding(peak.allocated_bytes // 2)),
        skipped=SKIPPED,
        combined=Combined(
            "cpu", (("MP101", "item", Location(SCRIPT, 41, "train")),), 38 * growth, Source.SIMULATED, float(growth)
        ),
    )


def clean() -> Diagnosis:
    """30 iterations with an evaluation every tenth; nothing grows, nothing is wrong."""
    made = iterations(30, evaluate_every=10)
    return Diagnosis(
        model(
            made,
            peaks={"cpu": peak_of(made)},
            composed={"cpu": composition(made)},
            trends={"cpu": trend_of(30, 0)},
        ),
        findings=(),
        skipped=(),
    )


def empty() -> Diagnosis:
    """A run of which nothing at all was recorded."""
    run = RunInfo()
    return Diagnosis(model(run=run), findings=(), skipped=())


def steps_only() -> Diagnosis:
    """Level `steps`: no composition, some figures unknown, killed before the end."""
    made = list(iterations(12, growth=3 * MIB, tracked=lambda index: False, source=Source.ESTIMATED))
    made[3] = replace(made[3], devices={"cpu": device_iteration(None, None, None, Source.ESTIMATED)})
    made[5] = replace(made[5], devices={})
    made[11] = replace(made[11], complete=False)
    notes = ("memory is the resident set size: small leaks are not visible in it",)
    run = run_info(level="steps", exit_status=None, finished=False, notes=notes, torch="")
    peak = peak_of(made, source=Source.ESTIMATED, composed=False)
    finding = replace(
        leak_finding(3 * MIB, 0),
        location=None,
        bytes=None,
        bytes_per_iteration=None,
        holder=None,
        related=(),
        remedies=(Remedy("item", "append `loss.item()`"),),
        evidence={"ratio": float("nan"), "points": 11},
        source=Source.ESTIMATED,
    )
    return Diagnosis(
        model(made, run=run, peaks={"cpu": replace(peak, iteration=None, phase=None)}),
        findings=(finding,),
        skipped=SKIPPED,
    )


def windows(count: int = 200) -> Diagnosis:
    """Level `auto`: storages watched in two windows, counters elsewhere, evaluation in between."""

    def tracked(index: int) -> bool:
        return 3 <= index < 7 or 120 <= index < 124

    made = iterations(count, growth=2 * MIB, evaluate_every=25, tracked=tracked)
    return Diagnosis(
        model(
            made,
            run=run_info(level="auto"),
            peaks={"cpu": peak_of(made, composed=False)},
            composed={"cpu": composition(made)},
            trends={"cpu": trend_of(count, 2 * MIB)},
        ),
        findings=(leak_finding(2 * MIB, count * 2 * MIB),),
        skipped=(),
    )


def hostile(file: str = "/project/</script><b>[red]x$_y^2$\x1b[31m.py") -> Diagnosis:
    """A leak whose file name, messages and holders try to break every output format."""
    growth = 40_055_603
    made = iterations(6, growth=growth)
    finding = replace(
        leak_finding(growth, 5 * growth, file=file),
        message="held by [bold]x[/bold] in </script> $\\frac$\nsecond line \u202e",
        holder="dict `[/]` in `\x07bell`",
        evidence={"[red]": "[/red]", "odd": {1, 2}, "infinite": float("inf")},
    )
    run = run_info(
        script=file, argv=(file, "--name=\udcff"), exception="ValueError: [link=x]y[/link]\x00", exit_status=1
    )
    return Diagnosis(
        model(
            made,
            run=run,
            peaks={"cpu": peak_of(made, file=file)},
            composed={"cpu": composition(made)},
            trends={"cpu": trend_of(6, growth)},
        ),
        findings=(finding,),
        skipped=(Skipped("MP103", "[blink]</script>"),),
    )


def non_ascii() -> Diagnosis:
    """A leak in a file whose name is Chinese, accented and has an emoji."""
    file = "/projet/训练_été🔥.py"
    whole = hostile(file)
    finding = replace(whole.findings[0], message="la liste « historique » garde 38,2 Mio", holder="liste `été`")
    run = replace(whole.model.run, exception=None, exit_status=0, argv=(file,))
    return Diagnosis(replace(whole.model, run=run), findings=(finding,), skipped=())


def simulated() -> Diagnosis:
    """The leak of `leaking`, every figure replayed through the allocator model instead of measured."""
    growth = 40_055_603
    made = iterations(40, growth=growth, device="cuda:0", source=Source.SIMULATED)
    peak = peak_of(made, device="cuda:0", source=Source.SIMULATED)
    return Diagnosis(
        model(
            made,
            run=run_info(devices=("cuda:0",)),
            peaks={"cuda:0": peak},
            composed={"cuda:0": composition(made, device="cuda:0")},
            trends={"cuda:0": trend_of(40, growth, Source.SIMULATED)},
        ),
        findings=(leak_finding(growth, 38 * growth, device="cuda:0", source=Source.SIMULATED),),
        skipped=(),
    )


def two_devices() -> Diagnosis:
    """A leak on `cuda:1` while `cuda:0` stays level; `cuda:1` has the larger peak."""
    first = iterations(20, device="cuda:0")
    second = iterations(20, growth=16 * MIB, device="cuda:1")
    made = tuple(replace(a, devices={**a.devices, **b.devices}) for a, b in zip(first, second, strict=True))
    names = ("cuda:0", "cuda:1")
    return Diagnosis(
        model(
            made,
            run=run_info(devices=names),
            peaks={name: peak_of(made, device=name) for name in names},
            composed={name: composition(made, device=name) for name in names},
            trends={"cuda:0": trend_of(20, 0), "cuda:1": trend_of(20, 16 * MIB)},
        ),
        findings=(leak_finding(16 * MIB, 20 * 16 * MIB, device="cuda:1"),),
        skipped=(),
    )


def crashed() -> Diagnosis:
    """The leak of `leaking`, ended by an out-of-memory error."""
    whole = leaking()
    message = "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"
    run = replace(whole.model.run, exit_status=1, exception=message)
    return replace(whole, model=replace(whole.model, run=run))


def on_cuda() -> Diagnosis:
    """A GPU whose driver was asked, ended by an out-of-memory error; peaks between phases are estimates."""
    device = "cuda:0"
    made = tuple(
        replace(item, devices={device: replace(item.devices[device], peak_source=Source.ESTIMATED)})
        for item in iterations(12, device=device)
    )
    states = [
        DeviceState(
            device, tick, 1 + tick * ITERATION_NS, 300 * MIB, 310 * MIB, 290 * MIB, 512 * MIB, 60 * MIB, 20 * MIB,
            0, tick // 11, 40, 2, 1000 * MIB, 2000 * MIB, None if tick else 700 * MIB,
        )
        for tick in (0, 11)
    ]  # fmt: skip
    oom = OutOfMemory(
        11, 1, device, Phase.BACKWARD, 900 * MIB, 902 * MIB, 2000 * MIB, None, 300 * MIB, 512 * MIB, None, 60 * MIB,
        Location(SCRIPT, 45, "train"),
    )  # fmt: skip
    known = model(
        made,
        run=run_info(devices=("cpu", device), exit_status=1, exception="OutOfMemoryError"),
        peaks={device: peak_of(made, device=device, source=Source.ESTIMATED)},
        composed={device: composition(made, device=device)},
    )
    accounts = {device: tuple(Account(state, state.tick) for state in states)}
    return Diagnosis(replace(known, accounts=accounts, ooms=(oom,)), findings=(), skipped=())


def snapshot() -> Diagnosis:
    """A PyTorch snapshot: a block older than its trace, one that was made and one that was freed in it."""
    base = 1 << 40
    line, library = Location("/project/</b>train.py", 45, "train"), Location("/venv/site-packages/torch/nn.py", 1, "f")
    rows = (
        (BlockAction.ALLOC, base + 2 * MIB, 3 * MIB, 0),
        (BlockAction.ALLOC, base + 5 * MIB, 4 * MIB, 0),
        (BlockAction.FREE_REQUESTED, base + 5 * MIB, 4 * MIB, 0),
        (BlockAction.FREE_COMPLETED, base + 5 * MIB, 4 * MIB, 0),
    )
    action, address, nbytes, stack = np.array(rows, np.int64).T
    times_ns = 1_760_000_000_000_000_000 + np.arange(len(rows)) * 1000
    blocks = (
        Block(base, 2 * MIB, 2 * MIB - 1, BlockState.ACTIVE_ALLOCATED, 1),
        Block(base + 2 * MIB, 3 * MIB, 3 * MIB, BlockState.ACTIVE_ALLOCATED, 0),
        Block(base + 5 * MIB, MIB, MIB, BlockState.ACTIVE_AWAITING_FREE, 0),
        Block(base + 6 * MIB, 14 * MIB, 0, BlockState.INACTIVE, -1),
    )
    segment = Segment(base, 20 * MIB, 0, large=True, pool_id=(0, 1), expandable=False, blocks=blocks)
    events = BlockEvents(action, times_ns, address, nbytes, np.zeros(len(rows), np.int64), stack)
    history = AllocatorHistory((DeviceHistory("cuda:0", (segment,), events),), ((library, line), (library,)))
    return diagnose(SnapshotView(history, "/project/memory.pickle"))


def long_run(count: int = 10_000, points: int = 20) -> Diagnosis:
    """A long, fully watched leak: `count` iterations with `points` composition points each."""
    made = iterations(count, growth=MIB // 8, evaluate_every=50)
    return Diagnosis(
        model(
            made,
            peaks={"cpu": peak_of(made)},
            composed={"cpu": composition(made, points=points)},
            trends={"cpu": trend_of(count, MIB // 8)},
        ),
        findings=(leak_finding(MIB // 8, count * MIB // 8),),
        skipped=(),
    )


SCENARIOS: Mapping[str, Callable[[], Diagnosis]] = {
    "leaking": leaking,
    "clean": clean,
    "empty": empty,
    "steps_only": steps_only,
    "windows": windows,
    "hostile": hostile,
    "non_ascii": non_ascii,
    "simulated": simulated,
    "two_devices": two_devices,
    "crashed": crashed,
    "on_cuda": on_cuda,
    "snapshot": snapshot,
}
"""Every short scenario by name, for tests that go through all of them."""
