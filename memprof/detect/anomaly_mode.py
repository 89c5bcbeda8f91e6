"""MP208: autograd's anomaly mode, left on for the whole training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from memprof.detect.evidence import counted, main_peak, place, related, share_severity, size, user_files
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import PassEvidence
from memprof.detect.rule import Rule
from memprof.detect.source import calls_of
from memprof.model.lifetimes import IntArray
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import Location, PassFlag, PassKind, Phase


class AnomalyModeOn(Rule):
    """Autograd's anomaly mode was on for the whole training.

    ## What it detects
    `torch.autograd.set_detect_anomaly(True)` at the top of a script, left from hunting a NaN; or
    `Trainer(detect_anomaly=True)`.

    ## Why it costs memory
    Each node of the graph keeps the Python traceback of its forward in host memory, and each gradient is checked for
    NaN, which makes a mask as large as the gradient has elements. Both cost time, a multiple of the step in small
    models.

    ## Evidence
    The mode was on in every backward from some point to the end of the run, at least eight times. The bytes are those
    of the largest mask.

    ## Remedy
    Remove the line, or put `with torch.autograd.detect_anomaly():` around the step that is being debugged.

    ## Example
    ```python
    import torch

    torch.autograd.set_detect_anomaly(True)
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        loss = model(torch.randn(512, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.autograd.set_detect_anomaly(False)
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(10):
        with torch.autograd.set_detect_anomaly(step < 2):
            loss = model(torch.randn(512, 64)).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    It is on for a few steps, or the run is there to find a NaN.
    """

    code = "MP208"
    kind = Kind.WASTE
    _MIN_BACKWARDS = 8

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        evidence = PassEvidence(model)
        backwards = list(evidence.of_kind(PassKind.BACKWARD))
        on = 0
        for item in reversed(backwards):
            if not item.flags & PassFlag.ANOMALY:
                break
            on += 1
        if not on:
            return
        if on < self._MIN_BACKWARDS:
            yield Skipped(
                self.code,
                f"anomaly mode was on in the last {counted(on, 'backward')}; run at least {self._MIN_BACKWARDS} to "
                "tell "
                f"whether it stays on",
            )
            return
        yield self._finding(evidence, backwards[-1].location, on)

    def _finding(self, evidence: PassEvidence, backward: Location | None, on: int) -> Finding:
        model = evidence.model
        files = user_files(model)
        switched = [line for name in ("set_detect_anomaly", "detect_anomaly") for line in calls_of(files, name)]
        where = switched[0] if switched else backward
        rows = self._masks(evidence)
        nbytes = int(evidence.table.lifetimes.nbytes[rows].max()) if len(rows) else None
        mask = f"; each gradient is checked with a mask of up to {size(nbytes)} on {evidence.device}" if nbytes else ""
        return self.finding(
            severity=share_severity(nbytes or 0, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=(
                f"Anomaly mode was on in {counted(on, 'backward')} up to the end of the run (switched on at "
                f"{place(where)}): every "
                f"node of the graph holds the traceback of its forward in host memory{mask}. Switch it off, or put "
                "it around "
                f"the step you debug."
            ),
            holder="the nodes of the autograd graph",
            remedies=(Remedy("anomaly_off", f"remove the switch at {place(where)}"),),
            related=related(None, backward),
            evidence={"backwards": on, "largest_mask_bytes": nbytes},
        )

    @staticmethod
    def _masks(evidence: PassEvidence) -> IntArray:
        table = evidence.table.lifetimes
        rows = evidence.rows_of()
        checks = [code for code, op in enumerate(table.ops) if op.startswith(("aten.isnan.", "aten.ne."))]
        found: IntArray = rows[np.isin(table.op[rows], checks) & (table.birth_phase[rows] == int(Phase.BACKWARD))]
        return found
