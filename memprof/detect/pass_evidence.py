"""What rules of waste ask of the passes: which forwards were used, what they saved, who owns the gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np

from memprof.detect.evidence import iteration_of_ticks, main_peak
from memprof.model.lifetimes import BoolArray, IntArray
from memprof.model.memory import Category, IterationMemory, MemoryModel, Storage
from memprof.model.storages import CATEGORIES, StorageTable, table_of
from memprof.record.events import Location, ParameterShare, Pass, PassFlag, PassKind, Phase, Role
from memprof.record.iterations import TRAIN

MIN_PASSES = 3
"""Fewer passes than this are not a habit of the loop."""

_KEPT_ROLES = int(Role.PARAMETER | Role.BUFFER | Role.OPTIMIZER_STATE | Role.GRADIENT | Role.INPUT)


@dataclass(frozen=True)
class PassEvidence:
    """The passes of a run, and questions about them.

    Args:
        model: The run.
    """

    model: MemoryModel

    @cached_property
    def device(self) -> str:
        """The accelerator the run used, else the CPU."""
        return main_device(self.model)

    @cached_property
    def iteration_of(self) -> dict[int, IterationMemory]:
        """Tick -> its iteration."""
        return {tick: self.model.iterations[index] for tick, index in iteration_of_ticks(self.model).items()}

    @cached_property
    def used(self) -> set[int]:
        """Forwards whose graph a backward used."""
        return {forward for item in self.model.passes for forward in item.uses}

    @cached_property
    def table(self) -> StorageTable:
        """Every storage, in columns."""
        return table_of(self.model.storages)

    @cached_property
    def by_id(self) -> dict[int, Pass]:
        """Passes by number."""
        return {item.id: item for item in self.model.passes}

    def of_kind(self, *kinds: PassKind) -> Iterator[Pass]:
        """Passes of some kinds, in order."""
        return (item for item in self.model.passes if item.kind in kinds)

    def passes_in(self, iteration: IterationMemory, *kinds: PassKind) -> list[Pass]:
        """Passes of an iteration in order, of all kinds or of some."""
        found = self._passes_in.get(iteration.index, [])
        return [item for item in found if item.kind in kinds] if kinds else found

    @cached_property
    def _passes_in(self) -> dict[int, list[Pass]]:
        found: dict[int, list[Pass]] = defaultdict(list)
        for item in self.model.passes:
            if (iteration := self.iteration(item)) is not None:
                found[iteration.index].append(item)
        return found

    def backward_begins(self, iteration: IterationMemory) -> int | None:
        """When the first backward of an iteration began."""
        return self._backward_begins.get(iteration.index)

    @cached_property
    def _backward_begins(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for tick in self.model.ticks:
            begun = [item.time_ns for item in tick.samples if item.phase is Phase.BACKWARD and not item.ends]
            iteration = self.iteration_of.get(tick.index)
            if begun and iteration is not None:
                found[iteration.index] = min(found.get(iteration.index, begun[0]), *begun)
        return found

    def iteration(self, item: Pass) -> IterationMemory | None:
        """The iteration a pass belongs to."""
        return self.iteration_of.get(item.tick)

    def trains(self, item: Pass) -> bool:
        """Whether a pass belongs to a training iteration."""
        found = self.iteration(item)
        return found is not None and found.kind == TRAIN

    def tracked(self, item: Pass) -> bool:
        """Whether every storage of the pass's iteration was watched."""
        found = self.iteration(item)
        return found is not None and found.tracked

    def watched_training(self) -> Iterator[IterationMemory]:
        """Whole training iterations in which every storage was watched."""
        return (item for item in self.model.iterations if item.kind == TRAIN and item.tracked and item.complete)

    def shares(self, item: Pass) -> tuple[ParameterShare, ...]:
        """Parameters as a backward left them; () where they were not looked at."""
        profile = self.model.parameters.get(item.gradients) if item.gradients is not None else None
        return profile.shares if profile is not None else ()

    @cached_property
    def trained_roots(self) -> set[int]:
        """Root modules of which an optimizer holds parameters that got a gradient at some time."""
        return {
            share.root
            for profile in self.model.parameters.values()
            for share in profile.shares
            if share.optimizer is not None and (share.gradient_bytes or share.changed)
        }

    # ---- storages ----------------------------------------------------------------------

    def saved(self, forward: Pass) -> IntArray:
        """Rows of storages that a forward made and left alive, apart from its output."""
        table = self.table.lifetimes
        rows = self.alive_at(self.born(forward), forward.end_ns)
        inside = (table.birth_phase[rows] == int(Phase.FORWARD)) & self._on_device[rows]
        saved: IntArray = rows[inside & (table.role[rows] & (_KEPT_ROLES | int(Role.OUTPUT)) == 0)]
        return saved

    def born(self, during: Pass | IterationMemory) -> IntArray:
        """Rows of all devices that were born while a pass or an iteration ran."""
        return self.table.living.born(during.start_ns, during.end_ns)

    def nbytes(self, rows: IntArray) -> int:
        """Bytes of some rows."""
        return int(self.table.lifetimes.nbytes[rows].sum())

    def freed_by_backward(self, rows: IntArray) -> float:
        """Share of the bytes of some rows that went in a backward: what the engine does with a graph it used."""
        table = self.table.lifetimes
        total = int(table.nbytes[rows].sum())
        gone = table.died[rows] & (table.death_phase[rows] == int(Phase.BACKWARD))
        return int(table.nbytes[rows][gone].sum()) / total if total else 0.0

    def alive_at(self, rows: IntArray, time_ns: int) -> IntArray:
        """Those of some rows that are alive at a moment."""
        table = self.table.lifetimes
        return rows[(table.birth_ns[rows] <= time_ns) & (~table.died[rows] | (table.death_ns[rows] > time_ns))]

    def alive(self, time_ns: int, *, category: Category | None = None, role: Role | None = None) -> IntArray:
        """Rows of the main device that are alive at a moment, all or those of a category or role."""
        rows = self.table.living.at(time_ns)
        return self._of(rows[self._on_device[rows]], category, role)

    def rows_of(self, *, category: Category | None = None, role: Role | None = None) -> IntArray:
        """Rows of the main device of a category or role."""
        return self._of(np.flatnonzero(self._on_device), category, role)

    def _of(self, rows: IntArray, category: Category | None, role: Role | None) -> IntArray:
        if category is not None:
            rows = rows[self.table.category[rows] == CATEGORIES.index(category)]
        if role is not None:
            rows = rows[self.table.lifetimes.role[rows] & int(role) != 0]
        return rows

    def storages(self, rows: IntArray) -> list[Storage]:
        """Storages at some rows."""
        return list(self.table.rows(rows))

    def ids(self, rows: Iterable[IntArray]) -> tuple[int, ...]:
        """Ids of the storages of several lists of rows."""
        return tuple(int(storage) for part in rows for storage in self.table.lifetimes.id[part].tolist())

    @cached_property
    def _on_device(self) -> BoolArray:
        devices = self.table.lifetimes.devices
        code = devices.index(self.device) if self.device in devices else -1
        found: BoolArray = self.table.lifetimes.device == code
        return found

    def pass_at(self, iteration: IterationMemory, time_ns: int) -> Pass | None:
        """The pass of an iteration that ran at a moment."""
        return next((item for item in self.passes_in(iteration) if item.start_ns <= time_ns <= item.end_ns), None)

    # ---- moments -----------------------------------------------------------------------

    def highest(self, iteration: IterationMemory, *phases: Phase) -> tuple[int, int] | None:
        """The moment at which the watched storages of an iteration were highest.

        Args:
            iteration: A watched iteration.
            phases: Look at these phases only.

        Returns:
            Time in ns and bytes, or None where nothing was made in it.
        """
        return self._highest(iteration.index, phases)

    def _highest(self, index: int, phases: tuple[Phase, ...]) -> tuple[int, int] | None:
        iteration = self.model.iterations[index]
        time_ns, level, phase, tick = self._levels
        first, last = np.searchsorted(tick, [iteration.ticks[0], iteration.ticks[1] + 1])
        if first == last:
            return None
        window = level[first:last]
        if phases:
            allowed = np.isin(phase[first:last], [int(item) for item in phases])
            if not allowed.any():
                return None
            window = np.where(allowed, window, -1)
        at = int(np.argmax(window))
        return int(time_ns[first + at]), int(window[at])

    @cached_property
    def _levels(self) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Time, level after it, phase and tick of each birth and death on the main device, in order."""
        table = self.table.lifetimes
        rows = np.flatnonzero(self._on_device)
        dead = rows[table.died[rows]]
        time_ns = np.concatenate((table.birth_ns[rows], table.death_ns[dead]))
        delta = np.concatenate((table.nbytes[rows], -table.nbytes[dead]))
        phase = np.concatenate((table.birth_phase[rows], table.death_phase[dead]))
        tick = np.concatenate((table.birth_tick[rows], table.death_tick[dead]))
        order = np.lexsort((delta, time_ns, tick))
        return time_ns[order], np.cumsum(delta[order]), phase[order], tick[order]


def main_device(model: MemoryModel) -> str:
    """The accelerator a run used, else the CPU."""
    return next((device for device in model.devices if device != "cpu"), model.devices[0] if model.devices else "cpu")


def peak_share(model: MemoryModel, device: str, nbytes: float) -> float:
    """Bytes as a share of a device's peak; 0 where the peak is not known."""
    peak = main_peak(model, device)
    return nbytes / peak.allocated_bytes if peak is not None and peak.allocated_bytes else 0.0


class Preparation:
    """Tells what the loop's body prepares for the next iteration from what it leaves behind.

    Where no `DataLoader` drives the loop, an iteration begins when its module is called, and what the body makes before
    that call falls to the iteration before: after a training iteration's backward and step, or, where that cannot be
    told apart from what is done with an output, above the line of the call.

    Args:
        model: The run.
    """

    def __init__(self, model: MemoryModel) -> None:
        self._ends: dict[int, int] = {}
        self._calls: dict[int, list[Location]] = defaultdict(list)
        iterations = iteration_of_ticks(model)
        for item in model.passes:
            index = iterations.get(item.tick)
            if index is None:
                continue
            if model.iterations[index].kind == TRAIN and item.kind in (PassKind.BACKWARD, PassKind.STEP):
                self._ends[index] = max(self._ends.get(index, 0), item.end_ns)
        for tick in model.ticks:
            index = iterations.get(tick.index)
            if index is not None and tick.call is not None:
                self._calls[index].append(tick.call)

    def is_for(self, iteration: int, *, made: Location | None, made_ns: int, made_in: int | None, phase: Phase) -> bool:
        """Whether something made in an earlier iteration was made for this one.

        Args:
            iteration: This iteration.
            made: The line that made it.
            made_ns: When.
            made_in: In which iteration.
            phase: In which phase.
        """
        if phase is not Phase.OTHER or made_in != iteration - 1:
            return False
        end = self._ends.get(made_in)
        if end is not None and made_ns > end:
            return True
        return made is not None and any(
            call.file == made.file and call.function == made.function and made.line <= call.line
            for call in self._calls[iteration]
        )


def typical(values: Iterable[int]) -> int:
    """The median of some sizes, 0 of none."""
    found = list(values)
    return int(median(found)) if found else 0


def has_graph(item: Pass) -> bool:
    """Whether a forward returned a tensor with a `grad_fn`."""
    return bool(item.flags & PassFlag.GRAPH) and not item.flags & PassFlag.RAISED


def by_line(passes: Iterable[Pass]) -> dict[tuple[object, int | None], list[Pass]]:
    """Passes by the line that asked for them and their module."""
    found: dict[tuple[object, int | None], list[Pass]] = defaultdict(list)
    for item in passes:
        found[item.location, item.subject].append(item)
    return found
