"""MP214: tensors of the training loop that live longer than they are used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from memprof.detect.evidence import MIB, counted, main_peak, place, related, share_severity, size, user_files
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import MIN_PASSES, PassEvidence, Preparation, peak_share, typical
from memprof.detect.rule import Rule
from memprof.detect.variables import Binding, binding_of
from memprof.model.lifetimes import IntArray
from memprof.model.memory import Category, IterationMemory, MemoryModel, Source
from memprof.model.storages import CATEGORIES
from memprof.record.events import Location, Pass, PassKind, Phase, Role


class TensorOutlivesLastUse(Rule):
    """A large tensor of the training loop is used for the last time well before memory is highest.

    ## What it detects
    Intermediate results that a variable of the loop keeps: the batch before it was augmented or converted,
    a one-hot target, the sum of a mask.

    ## Why it costs memory
    Python frees a tensor when its last name goes, not when it was used last. A variable of the loop's body lives
    until it is assigned again, through the backward and the optimizer's step.

    ## Evidence
    In at least three watched iterations a tensor made outside the modules, a tenth of the peak or more, was alive when
    memory was highest, in a forward, a backward or a step that began after its last use and ended before it was
    freed; or between two of these, one that began and one that ended so. The source shows one variable that keeps it.

    ## Remedy
    `del` after the last use, or do the preparation in a function of its own.

    ## Example
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        raw = torch.randint(0, 256, (2048, 256))
        batch = raw / 255
        loss = model(batch).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        raw = torch.randint(0, 256, (2048, 256))
        batch = raw / 255
        del raw
        loss = model(batch).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The tensor is a dataset that lives for the whole run, or is read again in a later iteration.
    """

    code = "MP214"
    kind = Kind.WASTE
    _MIN_SHARE = 0.10
    _MIN_BYTES = 1 * MIB
    _NOT_MEANT = int(
        Role.PARAMETER | Role.BUFFER | Role.GRADIENT | Role.OPTIMIZER_STATE | Role.INPUT | Role.OUTPUT | Role.SAVED
    )

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        if not model.last_uses:
            return
        evidence = PassEvidence(model)
        by_line: dict[Location, list[tuple[list[int], Location | None]]] = defaultdict(list)
        preparation = Preparation(model)
        for iteration in evidence.watched_training():
            here: dict[Location, list[int]] = defaultdict(list)
            runs: dict[Location, Location | None] = {}
            for row, location, running in self._idle(evidence, iteration, preparation):
                here[location].append(row)
                runs[location] = running
            for location, rows in here.items():
                by_line[location].append((rows, runs[location]))
        files = user_files(model) if by_line else []
        for made, cases in by_line.items():
            kept = [binding_of(made, running, files) for _, running in cases]
            binding = next((item for item in kept if item is not None), None)
            parts = [np.array(rows, np.int64) for (rows, _), item in zip(cases, kept, strict=True) if item is not None]
            nbytes = typical(evidence.nbytes(rows) for rows in parts)
            large = nbytes >= self._MIN_BYTES and peak_share(model, evidence.device, nbytes) >= self._MIN_SHARE
            if binding is not None and large and len(parts) >= MIN_PASSES:
                yield self._finding(evidence, made, binding, parts, nbytes)

    def _idle(
        self, evidence: PassEvidence, iteration: IterationMemory, preparation: Preparation
    ) -> Iterator[tuple[int, Location, Location | None]]:
        """Rows of tensors that were alive at the highest moment and never used again, their lines, and what ran."""
        highest = evidence.highest(iteration, Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER)
        of_all = evidence.highest(iteration)
        if highest is None or of_all is None:
            return
        table = evidence.table.lifetimes
        rows = evidence.alive_at(evidence.alive(highest[0]), of_all[0])
        born_in = evidence.table.birth_iteration[rows]
        rows = rows[
            ((born_in == iteration.index) | (born_in == iteration.index - 1))
            & (table.role[rows] & self._NOT_MEANT == 0)
            & (evidence.table.category[rows] != CATEGORIES.index(Category.OPTIMIZER_STATE))
            & np.isin(table.birth_phase[rows], [int(Phase.OTHER), int(Phase.FORWARD)])
            & table.died[rows]
            & (table.death_phase[rows] != int(Phase.BACKWARD))
        ]
        spans = [(item.start_ns, item.end_ns) for item in evidence.passes_in(iteration, PassKind.FORWARD)]
        unused = _span_around(evidence.passes_in(iteration), highest[0])
        if unused is None:
            return
        for row in rows.tolist():
            used = evidence.model.last_uses.get(int(table.id[row]))
            made = int(table.birth_ns[row])
            location = table.locations[int(table.location[row])]
            if location is None or any(start <= made <= end for start, end in spans):
                continue
            born_here = int(evidence.table.birth_iteration[row])
            current = born_here == iteration.index or preparation.is_for(
                iteration.index,
                made=location,
                made_ns=made,
                made_in=born_here,
                phase=Phase(int(table.birth_phase[row])),
            )
            outlived = not table.died[row] or int(table.death_ns[row]) > unused.end_ns
            if current and outlived and used is not None and used < unused.start_ns:
                yield row, location, unused.location

    def _finding(
        self, evidence: PassEvidence, made: Location, kept: Binding, cases: list[IntArray], nbytes: int
    ) -> Finding:
        model = evidence.model
        share = peak_share(model, evidence.device, nbytes)
        where, names = kept.location, ", ".join(kept.names)
        variable = ", ".join(f"`{name}`" for name in kept.names)
        hold = "holds" if len(kept.names) == 1 else "hold"
        again = "" if where == made else f" ({place(where)})"
        return self.finding(
            severity=share_severity(nbytes, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=(
                f"{size(nbytes)} made at {place(made)} are still on {evidence.device} when memory is highest, "
                f"{share:.0%} of the "
                f"peak, though nothing uses them any more: {variable}{again} {hold} them until it is assigned "
                f"again. `del {names}` after its last use, or prepare the batch in a function."
            ),
            holder=f"loop variable {variable} assigned at {place(where)}",
            remedies=(Remedy("del", f"`del {names}` after its last use", frees=evidence.ids(cases)),),
            related=related(made if made != where else None, None),
            evidence={"iterations": len(cases), "bytes": nbytes, "seen_in": counted(len(cases), "iteration")},
        )


class _Span(NamedTuple):
    """A stretch of an iteration around a moment."""

    start_ns: int
    end_ns: int
    location: Location | None
    """The user's line that ran then."""


def _span_around(passes: list[Pass], time_ns: int) -> _Span | None:
    """The pass that runs at a moment, or, between two (the loss is computed there), from the one to the other."""
    before = after = None
    for item in passes:
        if item.start_ns <= time_ns <= item.end_ns:
            return _Span(item.start_ns, item.end_ns, item.location)
        if item.end_ns < time_ns:
            before = item
        elif after is None:
            after = item
    return None if before is None or after is None else _Span(before.start_ns, after.end_ns, after.location)


__all__ = ["TensorOutlivesLastUse"]
