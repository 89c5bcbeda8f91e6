"""MP210: activations in 32 bits where 16 would do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from memprof.detect.evidence import MIB, place, size
from memprof.detect.finding import Finding, Kind, Remedy, Severity, Skipped
from memprof.detect.pass_evidence import MIN_PASSES, PassEvidence, has_graph, peak_share, typical
from memprof.detect.rule import Rule
from memprof.model.lifetimes import BoolArray, IntArray
from memprof.model.memory import Category, IterationMemory, MemoryModel, Source
from memprof.record.events import Pass, PassFlag, PassKind, Role

_FULL, _HALF = "float32", ("float16", "bfloat16")


class FullPrecisionOutsideAutocast(Rule):
    """A GPU keeps activations in 32 bits, because the forward does not run under autocast.

    ## What it detects
    Training on CUDA with parameters in float32 and activations in float32 that make half of the peak, where no forward
    ran under `torch.autocast`: said as information. And training of which some forwards run under autocast and others,
    with large activations, do not: the discriminator beside the generator, the second view, the auxiliary loss. That is
    a warning.

    ## Why it costs memory
    Under autocast matrix products and convolutions save their inputs in 16 bits, half as many bytes. A module that was
    left out keeps its activations in full.

    ## Evidence
    What was alive on CUDA when memory was highest in at least three watched training iterations, by type; and for each
    forward, whether it began under autocast. If a twentieth of the activations or more is in 16 bits, a forward that
    calls autocast inside is taken to do so. Forwards left out count if their float32 activations make a fifth of the
    peak, and if none of their inputs asks for its gradient: a gradient penalty is kept in 32 bits on purpose.

    ## Remedy
    `with torch.autocast("cuda", dtype=torch.bfloat16):` around the forward and the loss; with `torch.float16`, also
    `torch.amp.GradScaler`.

    ## Example
    ```python
    import torch

    model = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(12))).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        loss = model(torch.ones(8192, 512, device="cuda")).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(12))).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(torch.ones(8192, 512, device="cuda")).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The run fits, or what is computed needs 32 bits: a solver, a loss that overflows. A part of the model that is kept
    out of autocast for that reason is safer as `torch.autocast("cuda", enabled=False)` inside a forward under autocast;
    of that memprof says nothing.
    """

    code = "MP210"
    kind = Kind.PRESSURE
    needs_cuda = True
    needs_storages = True
    _MIN_BYTES = 32 * MIB
    _MIN_SHARE = 0.5
    _MIN_SHARE_LEFT_OUT = 0.2
    _MAX_HALF = 0.05

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        evidence = PassEvidence(model)
        if not evidence.device.startswith("cuda") or not _full_precision_parameters(evidence):
            return
        trained = [item for item in evidence.of_kind(PassKind.FORWARD) if has_graph(item) and evidence.trains(item)]
        if len(trained) < MIN_PASSES:
            return
        if any(item.flags & PassFlag.AUTOCAST for item in trained):
            yield from self._partly(evidence, trained)
        else:
            yield from self._never(evidence, trained)

    # ---- never under autocast --------------------------------------------------------------

    def _never(self, evidence: PassEvidence, trained: list[Pass]) -> Iterable[Finding]:
        cases = [rows for item in evidence.watched_training() if (rows := _activations(evidence, item)) is not None]
        if len(cases) < MIN_PASSES:
            return
        full = [rows[_of_type(evidence, rows, _FULL)] for rows in cases]
        nbytes = typical(evidence.nbytes(rows) for rows in full)
        half = typical(evidence.nbytes(rows[_of_type(evidence, rows, *_HALF)]) for rows in cases)
        if half > self._MAX_HALF * (nbytes + half):
            return  # autocast inside the forward, or a model that was converted
        share = peak_share(evidence.model, evidence.device, nbytes)
        if nbytes < self._MIN_BYTES or share < self._MIN_SHARE:
            return
        largest = max(trained, key=lambda item: item.saved_bytes or 0)
        yield self._finding(
            evidence,
            largest,
            nbytes=nbytes,
            severity=Severity.INFO,
            message=(
                f"Activations in 32 bits are {size(nbytes)} on {evidence.device} when memory is highest, {share:.0%} "
                f"of the peak, held by the autograd graph until backward; no forward ran under autocast. If it does "
                f'not fit: call the module at {place(largest.location)} under `with torch.autocast("cuda", '
                f"dtype=torch.bfloat16):`."
            ),
            facts={"forwards": len(trained), "forwards_under_autocast": 0, "iterations": len(cases)},
        )

    # ---- some of them ----------------------------------------------------------------------

    def _partly(self, evidence: PassEvidence, trained: list[Pass]) -> Iterable[Finding]:
        under = sum(bool(item.flags & PassFlag.AUTOCAST) for item in trained)
        left_out: dict[object, list[tuple[Pass, IntArray]]] = defaultdict(list)
        for iteration in evidence.watched_training():
            rows = _activations(evidence, iteration)
            forwards = [item for item in evidence.passes_in(iteration, PassKind.FORWARD) if has_graph(item)]
            if rows is None or not any(item.flags & PassFlag.AUTOCAST for item in forwards):
                continue
            for item in forwards:
                if not item.flags & (PassFlag.AUTOCAST | PassFlag.LEAF_INPUT) and item.id in evidence.used:
                    left_out[item.location].append((item, rows[_within(evidence, rows, item)]))
        for cases in left_out.values():
            if len({case.tick for case, _ in cases}) < MIN_PASSES:
                continue
            full = typical(evidence.nbytes(rows[_of_type(evidence, rows, _FULL)]) for _, rows in cases)
            half = typical(evidence.nbytes(rows[_of_type(evidence, rows, *_HALF)]) for _, rows in cases)
            share = peak_share(evidence.model, evidence.device, full)
            if full < self._MIN_BYTES or share < self._MIN_SHARE_LEFT_OUT or half > self._MAX_HALF * (full + half):
                continue
            last_call = cases[-1][0]
            yield self._finding(
                evidence,
                last_call,
                nbytes=full,
                severity=Severity.WARNING,
                message=(
                    f"The module called at {place(last_call.location)} does not run under autocast, though other "
                    f"forwards of the training loop do: its graph holds {size(full)} of activations in 32 bits on "
                    f"{evidence.device} when memory is highest, {share:.0%} of the peak. Move the call into the "
                    f"`with torch.autocast(...):` block."
                ),
                facts={
                    "forwards": len(trained),
                    "forwards_under_autocast": under,
                    "watched_forwards_left_out": len(cases),
                },
            )

    def _finding(
        self,
        evidence: PassEvidence,
        call: Pass,
        *,
        nbytes: int,
        severity: Severity,
        message: str,
        facts: dict[str, object],
    ) -> Finding:
        return self.finding(
            severity=severity,
            location=call.location,
            device=evidence.device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=message,
            holder="the autograd graph of the current iteration",
            remedies=(Remedy("mixed_precision", f"call it at {place(call.location)} under `torch.autocast`"),),
            evidence={"float32_activation_bytes": nbytes, **facts},
        )


def _activations(evidence: PassEvidence, iteration: IterationMemory) -> IntArray | None:
    """Activations alive at an iteration's highest moment; None where nothing was made in it."""
    highest = evidence.highest(iteration)
    if highest is None:
        return None
    return evidence.alive(highest[0], category=Category.ACTIVATION)


def _of_type(evidence: PassEvidence, rows: IntArray, *types: str) -> BoolArray:
    table = evidence.table.lifetimes
    found: BoolArray = np.isin(table.dtype[rows], [code for code, name in enumerate(table.dtypes) if name in types])
    return found


def _within(evidence: PassEvidence, rows: IntArray, forward: Pass) -> BoolArray:
    """Which of some storages a forward made."""
    made = evidence.table.lifetimes.birth_ns[rows]
    found: BoolArray = (made >= forward.start_ns) & (made <= forward.end_ns)
    return found


def half_precision_in_use(model: MemoryModel) -> bool:
    """Whether autocast is on already, or most activations are in 16 bits for another reason."""
    if any(item.flags & PassFlag.AUTOCAST for item in model.passes):
        return True
    evidence = PassEvidence(model)
    rows = evidence.rows_of(category=Category.ACTIVATION)
    half = evidence.nbytes(rows[_of_type(evidence, rows, *_HALF)])
    return half > evidence.nbytes(rows[_of_type(evidence, rows, _FULL)])


def _full_precision_parameters(evidence: PassEvidence) -> bool:
    """Whether nearly all parameters, by bytes, are float32; what is in 16 bits already gains little."""
    rows = evidence.rows_of(role=Role.PARAMETER)
    total = evidence.nbytes(rows)
    return total > 0 and evidence.nbytes(rows[_of_type(evidence, rows, _FULL)]) >= 0.9 * total


__all__ = ["FullPrecisionOutsideAutocast", "half_precision_in_use"]
