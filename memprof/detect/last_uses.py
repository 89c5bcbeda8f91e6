"""MP214: tensors of the training loop that live longer than they are used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from memprof.detect.evidence import MIB, counted, main_peak, place, share_severity, size
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import MIN_PASSES, PassEvidence, Preparation, peak_share, typical
from memprof.detect.rule import Rule
from memprof.detect.source import names_assigned_at
from memprof.model.lifetimes import IntArray
from memprof.model.memory import Category, IterationMemory, MemoryModel, Source
from memprof.model.storages import CATEGORIES
from memprof.record.events import Location, PassKind, Phase, Role


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
    freed.

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
        by_line: dict[Location, list[list[int]]] = defaultdict(list)
        preparation = Preparation(model)
        for iteration in evidence.watched_training():
            here: dict[Location, list[int]] = defaultdict(list)
            for row, location in self._idle(evidence, iteration, preparation):
                here[location].append(row)
            for location, rows in here.items():
                by_line[location].append(rows)
        for location, cases in by_line.items():
            parts = [np.array(rows, np.int64) for rows in cases]
            nbytes = typical(evidence.nbytes(rows) for rows in parts)
            large = nbytes >= self._MIN_BYTES and peak_share(model, evidence.device, nbytes) >= self._MIN_SHARE
            if large and len(parts) >= MIN_PASSES and names_assigned_at(location):
                yield self._finding(evidence, location, parts, nbytes)

    def _idle(
        self, evidence: PassEvidence, iteration: IterationMemory, preparation: Preparation
    ) -> Iterator[tuple[int, Location]]:
        """Rows of tensors that were alive at the highest moment and never used again, with their lines."""
        highest = evidence.highest(iteration, Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER)
        of_all = evidence.highest(iteration)
        if highest is None or of_all is None:
            return
        table = evidence.table.lifetimes
        rows = evidence.alive_at(evidence.alive_at(evidence.rows_of(), highest[0]), of_all[0])
        born_in = evidence.table.birth_iteration[rows]
        rows = rows[
            ((born_in == iteration.index) | (born_in == iteration.index - 1))
            & (table.role[rows] & self._NOT_MEANT == 0)
            & (evidence.table.category[rows] != CATEGORIES.index(Category.OPTIMIZER_STATE))
            & np.isin(table.birth_phase[rows], [int(Phase.OTHER), int(Phase.FORWARD)])
            & table.died[rows]
            & (table.death_phase[rows] != int(Phase.BACKWARD))
        ]
        first, last = iteration.ticks
        passes = [item for item in evidence.model.passes if first <= item.tick <= last]
        spans = [(item.start_ns, item.end_ns) for item in passes if item.kind is PassKind.FORWARD]
        at_peak = evidence.pass_at(iteration, highest[0])
        if at_peak is None:
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
            outlived = not table.died[row] or int(table.death_ns[row]) > at_peak.end_ns
            if current and outlived and used is not None and used < at_peak.start_ns:
                yield row, location

    def _finding(self, evidence: PassEvidence, where: Location, cases: list[IntArray], nbytes: int) -> Finding:
        model = evidence.model
        share = peak_share(model, evidence.device, nbytes)
        names = sorted(names_assigned_at(where))
        variable = ", ".join(f"`{name}`" for name in names)
        return self.finding(
            severity=share_severity(nbytes, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=(
                f"{size(nbytes)} made at {place(where)} are still on {evidence.device} when memory is highest, "
                f"{share:.0%} of the "
                f"peak, though nothing uses them any more: {variable} holds them until it is assigned again. "
                f"`del {', '.join(names)}` after its last use, or prepare the batch in a function."
            ),
            holder=f"loop variable {variable} assigned at {place(where)}",
            remedies=(Remedy("del", f"`del {', '.join(names)}` after its last use", frees=evidence.ids(cases)),),
            evidence={"iterations": len(cases), "bytes": nbytes, "seen_in": counted(len(cases), "iteration")},
        )


__all__ = ["TensorOutlivesLastUse"]
