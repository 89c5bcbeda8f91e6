"""MP205: outputs of a whole dataset in one tensor on the device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from memprof.detect.evidence import MIB, counted, main_peak, place, related, share_severity, size
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import PassEvidence, peak_share
from memprof.detect.rule import Rule
from memprof.detect.source import arguments_named_at, statement_at, stored_under, targets_assigned_at
from memprof.model.memory import MemoryModel, Source, Storage
from memprof.record.events import Location, Phase

_JOINING_OPS = ("aten.cat.", "aten.stack.")
_OFF_DEVICE = (".cpu(", ".numpy(", ".tolist(", '"cpu"', "'cpu'")


class OutputsConcatenatedOnDevice(Rule):
    """The outputs of a whole dataset are joined into one tensor on the device.

    ## What it detects
    `logits = torch.cat(all_logits)` at the end of an evaluation, with the outputs of every batch.

    ## Why it costs memory
    It grows with the dataset, not with the batch, and at the moment of `torch.cat` everything is there twice: in
    the list and in the result.

    ## Evidence
    The result of `torch.cat` or `torch.stack`, made outside forward and backward, is at least a tenth of the peak,
    and tensors made in at least four iterations were alive when it was made and add up to its size. Or the same line
    had joined shorter ones in at least four iterations before (`preds = torch.cat((preds, logits))`).

    ## Remedy
    Reduce each batch to what the metric needs (counts, sums, a confusion matrix); or `.cpu()` each output and join
    them in host memory.

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(64, 512)
    outputs = []
    with torch.no_grad():
        for _ in range(8):
            outputs.append(model(torch.randn(512, 64)))
    logits = torch.cat(outputs)
    print(logits.argmax(1).float().mean().item())
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 512)
    total, count = 0.0, 0
    with torch.no_grad():
        for _ in range(8):
            predicted = model(torch.randn(512, 64)).argmax(1)
            total, count = total + predicted.sum().item(), count + len(predicted)
    print(total / count)
    ```

    ## Not a problem when
    The outputs are in host memory already (`.cpu()`), or small beside the rest.
    """

    code = "MP205"
    kind = Kind.WASTE
    _MIN_BYTES = 1 * MIB
    _MIN_SHARE = 0.10
    _MIN_ITERATIONS = 4

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        evidence = PassEvidence(model)
        table = evidence.table.lifetimes
        joins = [code for code, op in enumerate(table.ops) if op.startswith(_JOINING_OPS)]
        rows = evidence.rows_of()
        rows = rows[
            np.isin(table.op[rows], joins)
            & (table.birth_phase[rows] == int(Phase.OTHER))
            & (table.nbytes[rows] >= self._MIN_BYTES)
        ]
        told: set[Location | None] = set()
        for row in rows[np.argsort(-table.nbytes[rows], kind="stable")]:
            (joined,) = evidence.table.rows(np.array([row]))
            if joined.location in told or peak_share(model, evidence.device, joined.nbytes) < self._MIN_SHARE:
                continue
            parts = self._parts(evidence, joined) or self._shorter(evidence, int(row))
            if len({storage.birth_iteration for storage in parts}) < self._MIN_ITERATIONS:
                continue
            if evidence.device == "cpu" and _meant_for_the_host(joined.location, parts):
                continue
            told.add(joined.location)
            yield self._finding(evidence, joined, parts)

    @staticmethod
    def _parts(evidence: PassEvidence, joined: Storage) -> list[Storage]:
        """What was joined: storages of one line, alive at that moment, that add up to the result."""
        table = evidence.table.lifetimes
        alive = evidence.alive(joined.birth_ns - 1)
        alive = alive[
            (table.dtype[alive] == table.dtypes.index(joined.dtype)) & (evidence.table.birth_iteration[alive] >= 0)
        ]
        by_line: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row in alive.tolist():
            by_line[int(table.location[row]), int(table.op[row])].append(row)
        for lines in by_line.values():
            total = int(table.nbytes[lines].sum())
            if len(lines) > 1 and 0.8 * joined.nbytes <= total <= 1.25 * joined.nbytes:
                return evidence.storages(np.array(lines))
        return []

    @staticmethod
    def _shorter(evidence: PassEvidence, joined: int) -> list[Storage]:
        """What the same line had joined before (`preds = torch.cat((preds, logits))`), each longer than the last.

        Args:
            evidence: The run.
            joined: Row of the result.
        """
        table = evidence.table.lifetimes
        rows = evidence.rows_of()
        before = rows[
            (table.location[rows] == table.location[joined])
            & (table.op[rows] == table.op[joined])
            & (table.nbytes[rows] < table.nbytes[joined])
            & (table.birth_ns[rows] <= table.birth_ns[joined])
            & table.died[rows]
        ]
        series: list[int] = []
        last = joined
        while True:
            before = before[(before < last) & (table.nbytes[before] < table.nbytes[last])]
            alive = before[table.death_ns[before] >= table.birth_ns[last]]
            if not len(alive):
                return evidence.storages(np.array(series[::-1], np.int64))
            last = int(alive[-1])
            series.append(last)

    def _finding(self, evidence: PassEvidence, joined: Storage, parts: list[Storage]) -> Finding:
        model, where, made = evidence.model, joined.location, parts[-1].location
        again = made == where
        """Each time all that was joined before is copied once more."""
        nbytes = joined.nbytes + (parts[-1].nbytes if again else sum(storage.nbytes for storage in parts))
        share = peak_share(model, evidence.device, nbytes)
        names = ", ".join(f"`{name}`" for name in sorted(targets_assigned_at(where))) or "its result"
        frees = (joined.id, *(storage.id for storage in parts))
        text = "keep what the metric needs of each batch: counts, sums, a confusion matrix"
        reduce = Remedy("reduce_per_batch", text, frees=frees)
        move = Remedy(
            "move_to_cpu", f"`.cpu()` each output made at {place(made)}, and join them in host memory", frees=frees
        )
        return self.finding(
            severity=share_severity(nbytes, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=(
                f"{place(where)} joins the outputs of {counted(len(parts), 'batch')[:-1] + 'es'} into one tensor: "
                f"{size(nbytes)} on "
                f"{evidence.device} for the parts and the whole, {share:.0%} of the peak, and more with every batch. "
                "The parts "
                f"were made at {place(made)}; the list and {names} hold them. Reduce each batch to what the metric "
                "needs, or "
                f"move it off the device first."
            ),
            holder=f"{names} and the list that was joined at {place(where)}",
            remedies=(reduce, move) if evidence.device == "cpu" else (move, reduce),
            related=related(made, where),
            evidence={"joined_bytes": joined.nbytes, "parts": len(parts)},
        )


def _meant_for_the_host(joined: Location | None, parts: list[Storage]) -> bool:
    """Whether the source moves outputs to host memory: on a CPU that is where they are anyway."""
    texts = [statement_at(joined), *(statement_at(part.location) for part in parts[-1:])]
    if joined is not None:
        for function in ("cat", "stack"):
            for name in arguments_named_at(joined, function):
                texts += stored_under(joined.file, name)
    return any(mark in text for text in texts for mark in _OFF_DEVICE)
