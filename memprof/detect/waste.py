"""MP201 and MP202: memory that is freed in time but need not have been taken."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from memprof.detect.evidence import KIB, MIB, counted, iteration_of_ticks, main_peak, place, share_severity, size
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import PassEvidence, Preparation, peak_share, typical
from memprof.detect.rule import Rule
from memprof.detect.source import targets_assigned_at
from memprof.detect.unused_graphs import unused_in_training
from memprof.model.carried import CarriedOver, carried_over
from memprof.model.lifetimes import IntArray
from memprof.model.memory import MemoryModel, Source
from memprof.model.storages import table_of
from memprof.record.events import Location, Pass, Phase, Role, Tick, TickFlag
from memprof.record.iterations import EVALUATE

_JOINING_OPS = ("aten.cat.", "aten.stack.")
"""What these make of old and new in every iteration grows; it is not left over."""

_LEAST_RUN = 3
"""So many forwards in a row without a backward are an evaluation."""


class EvaluationWithAutograd(Rule):
    """A forward builds an autograd graph that no backward ever uses.

    ## What it detects
    Validation, testing, sampling or prediction without `torch.no_grad()`. `model.eval()` does not turn
    autograd off.

    ## Why it costs memory
    With autograd on, every layer saves what its backward would need. Nothing frees it before the output
    goes, so a validation batch needs as much memory as a training batch, often on top of one.

    ## Evidence
    The root module returned a tensor with a `grad_fn`, and no backward ever reached that node. The bytes
    are those the forward left allocated apart from its outputs. Between the steps of a training loop it
    must happen in three iterations or more, and the graph must be there when memory is highest. A single
    forward in training mode counts where it makes the peak of the run.

    ## Remedy
    Put the loop under `with torch.no_grad():` (or `torch.inference_mode()`).

    ## Example
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    model.eval()
    correct = 0
    for _ in range(4):
        out = model(torch.randn(256, 64))
        correct += (out.argmax(1) == 0).sum().item()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    model.eval()
    correct = 0
    with torch.no_grad():
        for _ in range(4):
            out = model(torch.randn(256, 64))
            correct += (out.argmax(1) == 0).sum().item()
    ```

    ## Not a problem when
    Gradients of the output are needed after all (saliency, adversarial examples): then a backward uses
    the graph, and memprof does not report it. Nor does it report steps of training that are broken off one by one
    before their backward (a bad batch).
    """

    code = "MP201"
    kind = Kind.WASTE
    _LONE_SHARE = 0.2

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        iterations = iteration_of_ticks(model)
        used = {tick for later in model.ticks for tick in later.consumed}
        evaluations = {iteration.index for iteration in model.iterations if iteration.kind == EVALUATE}
        by_call: dict[Location | None, list[Tick]] = defaultdict(list)
        for tick in model.ticks:
            wasted = tick.flags & TickFlag.GRAPH and not tick.flags & TickFlag.BACKWARD and tick.index not in used
            if wasted and iterations.get(tick.index) in evaluations:
                by_call[tick.call].append(tick)
        trained = _trained_from(model, used)
        for call, ticks in by_call.items():
            if _steps_left_out(ticks, trained.get(call, [])):
                yield Skipped(self.code, f"some steps at {place(call)} were broken off before their backward")
                continue
            if (
                len(ticks) == 1
                and not ticks[0].flags & TickFlag.EVAL_MODE
                and not self._makes_the_peak(model, ticks[0])
            ):
                yield Skipped(
                    self.code, f"one forward at {place(call)} built a graph that was not used; once is not a loop"
                )
                continue
            finding = self._finding(model, call, ticks)
            if finding is not None:
                yield finding
        evidence = PassEvidence(model)
        for forwards, rows in unused_in_training(evidence):
            first = forwards[0]
            if first.subject in evidence.trained_roots and first.location not in by_call:
                yield self._between_steps(evidence, forwards, rows)

    def _makes_the_peak(self, model: MemoryModel, tick: Tick) -> bool:
        """Whether memory is highest in this tick for what it saved, which training needs less than."""
        peak = main_peak(model, _device(model))
        if peak is None or peak.iteration is None or tick.flags & TickFlag.FINAL:
            return False
        first, last = model.iterations[peak.iteration].ticks
        saved = tick.forward_bytes or 0
        return first <= tick.index <= last and saved >= max(MIB, self._LONE_SHARE * peak.allocated_bytes)

    def _between_steps(self, evidence: PassEvidence, forwards: list[Pass], rows: list[IntArray]) -> Finding:
        """The trained model called once more in a training iteration, for a metric or an action."""
        where = forwards[0].location
        nbytes = typical(evidence.nbytes(part) for part in rows)
        share = peak_share(evidence.model, evidence.device, nbytes)
        return self.finding(
            severity=share_severity(nbytes, main_peak(evidence.model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=(
                f"{counted(len(forwards), 'forward')} at {place(where)} in the training loop saved {size(nbytes)} on "
                f"{evidence.device} for a backward that never came, {share:.0%} of the peak. The graph is held by the "
                f"output until it is rebound. Call the model there under `with torch.no_grad():`."
            ),
            holder="the output of the model, through its autograd graph",
            remedies=(
                Remedy("no_grad", f"call the model at {place(where)} under `no_grad`", frees=evidence.ids(rows)),
                Remedy("del", "if gradients are needed sometimes: `del` the output before the next forward"),
            ),
            evidence={"forwards": len(forwards), "saved_bytes": nbytes, "in_training": True},
        )

    def _finding(self, model: MemoryModel, call: Location | None, ticks: list[Tick]) -> Finding | None:
        watched = [tick for tick in ticks if tick.flags & TickFlag.TRACKED and tick.forward_bytes is not None]
        measured = watched or [tick for tick in ticks if tick.forward_bytes is not None]
        nbytes = max((tick.forward_bytes or 0 for tick in measured), default=0)
        if nbytes < KIB:
            return None
        device = _device(model)
        peak = main_peak(model, device)
        share = (
            f", {nbytes / peak.allocated_bytes:.0%} of the peak" if peak is not None and peak.allocated_bytes else ""
        )
        what, at = ("the loop", "around") if len(ticks) > 1 else ("the call", "at")
        where = f"`{call.function}()`" if call is not None and call.function != "<module>" else what
        exact = bool(watched) or device != "cpu"
        iterations = iteration_of_ticks(model)
        table = table_of(model.storages).lifetimes
        left = (table.birth_phase == int(Phase.FORWARD)) & (~table.died | (table.death_tick != table.birth_tick))
        left &= table.role & int(Role.OUTPUT) == 0  # what the program has asked for is there without a graph, too
        frees = tuple(table.id[left & np.isin(table.birth_tick, [tick.index for tick in watched])].tolist())
        return self.finding(
            severity=share_severity(nbytes, peak),
            location=call,
            device=device,
            bytes=nbytes,
            source=Source.MEASURED if exact else Source.ESTIMATED,
            message=(
                f"{counted(len(ticks), 'forward')} at {place(call)} saved up to {size(nbytes)} on {device} "
                f"for a backward that never came{share}. The graph is held by the output until it is "
                f"rebound. Put {where} under `with torch.no_grad():`."
            ),
            holder="the output of the model, through its autograd graph",
            remedies=(
                Remedy("no_grad", f"run {what} {at} {place(call)} under `with torch.no_grad():`", frees=frees),
                Remedy("del", "if gradients are needed sometimes: `del` the output before the next forward"),
            ),
            evidence={
                "forwards": len(ticks),
                "eval_mode": all(bool(tick.flags & TickFlag.EVAL_MODE) for tick in ticks),
                "saved_bytes": nbytes,
                "first_iteration": iterations.get(ticks[0].index),
                "last_iteration": iterations.get(ticks[-1].index),
            },
        )


def _trained_from(model: MemoryModel, used: set[int]) -> dict[Location | None, list[int]]:
    """Ticks with a graph that a backward did use, by the line that called the model."""
    trained: dict[Location | None, list[int]] = defaultdict(list)
    for tick in model.ticks:
        if tick.flags & TickFlag.GRAPH and (tick.flags & TickFlag.BACKWARD or tick.index in used):
            trained[tick.call].append(tick.index)
    return trained


def _steps_left_out(ticks: list[Tick], trained: list[int]) -> bool:
    """Whether forwards without a backward are steps of training that were broken off (a bad batch, an exception).

    They come one by one among steps of the same line that did go backward, with the model in training mode; an
    evaluation runs through several batches.
    """
    if any(tick.flags & TickFlag.EVAL_MODE for tick in ticks):
        return False
    among = [tick.index for tick in ticks if trained and trained[0] < tick.index < trained[-1]]
    runs = Counter(bisect_left(trained, index) for index in among)
    return 2 * sum(run for run in runs.values() if run < _LEAST_RUN) > len(ticks)


def _device(model: MemoryModel) -> str:
    """The accelerator the run used, else the CPU."""
    return next((device for device in model.devices if device != "cpu"), model.devices[0] if model.devices else "cpu")


class PreviousIterationAlive(Rule):
    """Tensors of the previous iteration are still alive while the next forward runs.

    ## What it detects
    Loop variables (`out`, `loss`, `pred`) that keep the last iteration's tensors, and with them its
    graph, until they are assigned again: after the next forward, not before it.

    ## Why it costs memory
    For the length of one forward two iterations' outputs exist side by side. With large outputs (a
    segmentation map, logits over a vocabulary) or without a backward that adds to the peak.

    ## Evidence
    Storages made in one iteration's forward were alive from the start of the next forward to its
    highest point, in iteration after iteration, and freed right after, before any backward. Memory was
    highest then: where the backward needs more, nothing is gained.

    ## Remedy
    `del out, loss` at the end of the loop body, or move the body into a function.

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(64, 4096)
    with torch.no_grad():
        for _ in range(6):
            out = model(torch.randn(512, 64))
            print(out.mean().item())
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 4096)
    with torch.no_grad():
        for _ in range(6):
            out = model(torch.randn(512, 64))
            print(out.mean().item())
            del out
    ```

    ## Not a problem when
    The outputs are small beside the activations, as in most classifiers. memprof stays silent below a
    tenth of the peak.
    """

    code = "MP202"
    kind = Kind.WASTE
    _MIN_SHARE = 0.10
    _MIN_BYTES = 1 * MIB
    _MIN_ITERATIONS = 2

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        carried = carried_over(model)
        preparation, evidence = Preparation(model), PassEvidence(model)
        if not any(iteration.tracked for iteration in model.iterations):
            yield Skipped(self.code, "no iteration was watched storage by storage; use --level auto or tensors")
            return
        for device in model.devices:
            peak = main_peak(model, device)
            left = (_of_before(evidence, item, preparation) for item in carried if item.device == device)
            of_device = [item for item in left if item is not None]
            if peak is None or not peak.allocated_bytes or len(of_device) < self._MIN_ITERATIONS:
                continue
            nbytes = sorted(item.nbytes for item in of_device)[len(of_device) // 2]
            if nbytes < self._MIN_BYTES or nbytes < self._MIN_SHARE * peak.allocated_bytes:
                continue
            yield self._finding(model, device, nbytes, [item.storages for item in of_device])

    def _finding(self, model: MemoryModel, device: str, nbytes: int, storages: list[tuple[int, ...]]) -> Finding:
        peak = main_peak(model, device)
        by_line: Counter[Location] = Counter()
        for row in storages:
            for identity in row:
                storage = model.storages[identity]
                if storage.location is not None:
                    by_line[storage.location] += storage.nbytes
        made = by_line.most_common(1)[0][0] if by_line else None
        where = _call_of(model, storages) or made
        share = nbytes / peak.allocated_bytes if peak is not None else 0.0
        names = sorted(targets_assigned_at(where) | (targets_assigned_at(made) if made is not None else set()))
        variables = ", ".join(f"`{name}`" for name in names) or "the loop's variables"
        return self.finding(
            severity=share_severity(nbytes, peak),
            location=where,
            device=device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=(
                f"{size(nbytes)} of the previous iteration are still alive on {device} during the next forward, "
                f"{share:.0%} of the peak: {variables} (assigned at {place(where)}) keep them until they are "
                f"assigned again. `del` them at the end of the loop body, or move the body into a function."
            ),
            holder=f"loop variable {variables} assigned at {place(where)}",
            remedies=(
                Remedy(
                    "del",
                    f"`del {', '.join(names) or 'the variables'}` at the end of the loop body",
                    frees=tuple(storage for row in storages for storage in row),
                ),
            ),
            evidence={"iterations": len(storages), "bytes": nbytes, "share_of_peak": round(share, 3)},
        )


def _of_before(evidence: PassEvidence, item: CarriedOver, preparation: Preparation) -> CarriedOver | None:
    """What an earlier iteration left to be bound anew, without what the loop's body had prepared for this one."""
    model = evidence.model
    iteration = model.iterations[item.iteration]
    highest, backward_ns = evidence.highest(iteration), evidence.backward_begins(iteration)
    kept = [
        storage
        for storage in (model.storages[identity] for identity in item.storages)
        if storage.death_iteration == item.iteration
        and storage.death_ns is not None
        and (backward_ns is None or storage.death_ns <= backward_ns)
        and (highest is None or storage.death_ns >= highest[0])
        and not storage.op.startswith(_JOINING_OPS)
        and not preparation.is_for(
            item.iteration,
            made=storage.location,
            made_ns=storage.birth_ns,
            made_in=storage.birth_iteration,
            phase=storage.birth_phase,
        )
    ]
    if not kept:
        return None
    nbytes = sum(storage.nbytes for storage in kept)
    return replace(item, storages=tuple(storage.id for storage in kept), nbytes=nbytes)


def _call_of(model: MemoryModel, storages: list[tuple[int, ...]]) -> Location | None:
    """The root-module call of the ticks that made most of the storages."""
    calls = {tick.index: tick.call for tick in model.ticks if tick.call is not None}
    votes: Counter[Location] = Counter()
    for row in storages:
        for identity in row:
            storage = model.storages[identity]
            call = calls.get(storage.birth_tick)
            if call is not None:
                votes[call] += storage.nbytes
    return votes.most_common(1)[0][0] if votes else None
