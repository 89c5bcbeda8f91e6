"""MP213: temporaries of the optimizer's step that make the peak."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from memprof.detect.evidence import MIB, main_peak, place, share_severity, size
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import MIN_PASSES, PassEvidence, peak_share, typical
from memprof.detect.rule import Rule
from memprof.model.lifetimes import IntArray
from memprof.model.memory import Category, IterationMemory, MemoryModel, Source
from memprof.model.storages import CATEGORIES
from memprof.record.events import Phase


class OptimizerTemporariesAtPeak(Rule):
    """The peak lies in the optimizer's step, and temporaries of its `foreach` kernels make it.

    ## What it detects
    Adam and its like in their `foreach` implementation, the default on CUDA, in a run whose activations are small
    beside its parameters.

    ## Why it costs memory
    `foreach` works on all parameters at once and needs temporaries as large as all of them together. They are
    there for some milliseconds, but that is when the run needs most.

    ## Evidence
    In at least three watched iterations memory was highest in the optimizer's step. The bytes are those of temporaries
    made by `_foreach` operators at that moment, as far as they rise above the forward and the backward.

    ## Remedy
    `fused=True`, which needs no temporaries, or `foreach=False`, which needs one parameter's at a time.

    ## Example
    ```python
    import torch

    model = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(8)))
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)
    for _ in range(6):
        loss = model(torch.randn(8, 512)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(8)))
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    for _ in range(6):
        loss = model(torch.randn(8, 512)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The peak lies in the forward or the backward, as in most training: then the temporaries fit below it, and
    memprof stays silent.
    """

    code = "MP213"
    kind = Kind.WASTE
    _MIN_SHARE = 0.10
    _MIN_BYTES = 4 * MIB

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        evidence = PassEvidence(model)
        cases = [case for item in evidence.watched_training() if (case := self._case(evidence, item)) is not None]
        if len(cases) < MIN_PASSES:
            return
        gained = typical(nbytes for _, nbytes in cases)
        if gained >= self._MIN_BYTES and peak_share(model, evidence.device, gained) >= self._MIN_SHARE:
            yield self._finding(evidence, [rows for rows, _ in cases], gained)

    @staticmethod
    def _case(evidence: PassEvidence, iteration: IterationMemory) -> tuple[IntArray, int] | None:
        """Temporaries at the highest moment of an iteration, and by how much they make it higher."""
        highest = evidence.highest(iteration)
        others = evidence.highest(iteration, Phase.FORWARD, Phase.BACKWARD, Phase.OTHER)
        if highest is None or others is None or others[1] >= highest[1]:
            return None
        rows = OptimizerTemporariesAtPeak._temporaries(evidence, evidence.alive(highest[0]))
        return rows, min(evidence.nbytes(rows), highest[1] - others[1])

    @staticmethod
    def _temporaries(evidence: PassEvidence, rows: IntArray) -> IntArray:
        """Those of some rows that a `foreach` kernel made in a step."""
        table = evidence.table.lifetimes
        rows = rows[evidence.table.category[rows] == CATEGORIES.index(Category.TEMPORARY)]
        made = [code for code, op in enumerate(table.ops) if op.startswith("aten._foreach_")]
        found: IntArray = rows[np.isin(table.op[rows], made) & (table.birth_phase[rows] == int(Phase.OPTIMIZER))]
        return found

    def _finding(self, evidence: PassEvidence, cases: list[IntArray], gained: int) -> Finding:
        model = evidence.model
        nbytes = typical(evidence.nbytes(rows) for rows in cases)
        (newest,) = evidence.table.rows(np.concatenate(cases)[-1:])
        where = newest.location
        share = peak_share(model, evidence.device, gained)
        return self.finding(
            severity=share_severity(gained, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=(
                f"Memory is highest in the optimizer's step at {place(where)}: its `foreach` kernels hold "
                f"{size(nbytes)} of "
                f"temporaries on {evidence.device}, {size(gained)} of them above everything else, {share:.0%} of the "
                "peak. "
                f"Make the optimizer with `fused=True` or `foreach=False`."
            ),
            holder="the optimizer's step, for as long as it runs",
            remedies=(
                Remedy(
                    "optimizer_foreach_off",
                    "make the optimizer with `fused=True`, or `foreach=False`",
                    frees=evidence.ids([self._temporaries(evidence, evidence.rows_of())]),
                ),
            ),
            evidence={"temporary_bytes": nbytes, "above_the_rest_bytes": gained, "iterations": len(cases)},
        )


__all__ = ["OptimizerTemporariesAtPeak"]
