"""MP207 and MP212: gradients that are there for nothing, and parameters that never get any."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from memprof.detect.evidence import MIB, counted, main_peak, place, related, share_severity, size, user_files
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.module_paths import region
from memprof.detect.pass_evidence import MIN_PASSES, PassEvidence, peak_share, typical
from memprof.detect.rule import Rule
from memprof.detect.source import attributes_assigned
from memprof.model.lifetimes import IntArray
from memprof.model.memory import Category, IterationMemory, MemoryModel, Source
from memprof.record.events import Location, ParameterShare, Pass, PassFlag, PassKind, Phase, Role
from memprof.record.iterations import OTHER


class GradientsKeptTooLong(Rule):
    """Gradients lie on the device while nobody needs them: through evaluation, or zeroed instead of freed.

    ## What it detects
    A validation loop, larger than a training step, that runs while the last step's gradients are still there. And
    `optimizer.zero_grad(set_to_none=False)`, which keeps all gradients, filled with zeros, through the next
    forward.

    ## Why it costs memory
    Gradients take as much as the parameters. They are needed from the backward to the optimizer's step; beyond
    it they add to every peak.

    ## Evidence
    Memory is highest in a forward without a graph, and without the gradients that are there it would be lower by a
    tenth or more. Or an optimizer's gradients were
    zeroed in place in at least three iterations, and those that the backward had not come to yet were a tenth of the
    peak or more when an iteration was highest.

    ## Remedy
    `optimizer.zero_grad()` right after `optimizer.step()`, without `set_to_none=False`.

    ## Example
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(1024, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 1024))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        optimizer.zero_grad(set_to_none=False)
        loss = model(torch.randn(900, 1024)).pow(2).mean()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(1024, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 1024))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        loss = model(torch.randn(900, 1024)).pow(2).mean()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    Gradients are accumulated over several backwards, or a CUDA graph needs them to stay where they are. memprof
    reports neither. Where the peak lies in the backward or in the step, nothing is gained, and it stays silent.
    """

    code = "MP207"
    kind = Kind.WASTE
    _MIN_BYTES = 1 * MIB
    _MIN_SHARE = 0.10

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        if not model.passes:
            return
        evidence = PassEvidence(model)
        yield from self._through_evaluation(evidence)
        yield from self._zeroed(evidence)

    def _through_evaluation(self, evidence: PassEvidence) -> Iterator[Finding]:
        training = 0
        evaluations: list[tuple[int, int, Pass]] = []
        for iteration in evidence.model.iterations:
            highest = evidence.highest(iteration) if iteration.tracked and iteration.kind != OTHER else None
            if highest is None:
                continue
            at = evidence.pass_at(iteration, highest[0])
            if at is not None and at.kind is PassKind.FORWARD and not at.flags & PassFlag.GRAPH:
                evaluations.append((highest[1], highest[0], at))
            else:
                training = max(training, highest[1])
        if not evaluations or not training:
            return
        level, moment, forward = max(evaluations)
        alive = evidence.alive(moment, role=Role.GRADIENT)
        nbytes = evidence.nbytes(alive)
        gained = min(nbytes, level - training)
        if gained < self._MIN_BYTES or peak_share(evidence.model, evidence.device, gained) < self._MIN_SHARE:
            return
        where = forward.location
        yield self._finding(
            evidence,
            where,
            nbytes,
            [alive],
            what=(
                f"{size(nbytes)} of gradients of the last training step are still on {evidence.device} during the "
                "evaluation "
                f"at {place(where)}, where memory is highest"
            ),
            step=f"Call `optimizer.zero_grad()` after the step, before the evaluation at {place(where)}.",
            remedy="`optimizer.zero_grad()` right after `optimizer.step()`",
            facts={"through": "evaluation"},
        )

    def _zeroed(self, evidence: PassEvidence) -> Iterator[Finding | Skipped]:
        zeroed = [
            item
            for item in evidence.of_kind(PassKind.ZERO_GRAD)
            if not item.flags & PassFlag.SET_TO_NONE and evidence.trains(item)
        ]
        groups: dict[Location | None, list[Pass]] = defaultdict(list)
        for item in zeroed:
            groups[item.location].append(item)
        graphs = any(state.state.private_pool_bytes for states in evidence.model.accounts.values() for state in states)
        for where, passes in groups.items():
            if len(passes) < MIN_PASSES or graphs:
                continue
            iterations = {
                found.index: found for item in passes if (found := evidence.iteration(item)) and found.tracked
            }
            cases = [case for item in iterations.values() if (case := self._not_yet_needed(evidence, item)) is not None]
            if len(cases) < 2:
                if not iterations:
                    yield Skipped(self.code, f"gradients are zeroed at {place(where)}, but no iteration was watched")
                continue
            nbytes = typical(evidence.nbytes(rows) for rows in cases)
            if nbytes < self._MIN_BYTES or self._share(evidence, iterations.values(), nbytes) < self._MIN_SHARE:
                continue
            yield self._finding(
                evidence,
                where,
                nbytes,
                cases,
                what=(
                    f"`zero_grad` at {place(where)} sets gradients to zero instead of freeing them, so that "
                    f"{size(nbytes)} of "
                    f"zeros are on {evidence.device} when memory is highest"
                ),
                step="Drop `set_to_none=False`.",
                remedy=f"call `zero_grad()` at {place(where)} without `set_to_none=False`",
                facts={"through": "forward", "zeroed": len(passes)},
            )

    @staticmethod
    def _share(evidence: PassEvidence, iterations: Iterable[IterationMemory], nbytes: int) -> float:
        """Bytes as a share of the peak, or, where that is an estimate, of what the watched iterations reached.

        A process' counter of unwatched time counts more than tensors: what is imported or cached meanwhile.
        """
        peak = main_peak(evidence.model, evidence.device)
        if peak is not None and peak.source is not Source.ESTIMATED:
            return peak_share(evidence.model, evidence.device, nbytes)
        reached = max((highest[1] for item in iterations if (highest := evidence.highest(item))), default=0)
        return nbytes / reached if reached else 0.0

    @staticmethod
    def _not_yet_needed(evidence: PassEvidence, iteration: IterationMemory) -> IntArray | None:
        """Old gradients that were there when an iteration was highest, before its backward came to them."""
        backwards = [item.location for item in evidence.passes_in(iteration, PassKind.BACKWARD)]
        highest = evidence.highest(iteration)
        earlier = evidence.highest(iteration, Phase.OTHER, Phase.FORWARD, Phase.BACKWARD)
        if len(set(backwards)) < len(backwards) or highest is None or highest != earlier:
            return None  # gradients are accumulated, or the peak lies in the optimizer's step
        table = evidence.table.lifetimes
        rows = evidence.alive(highest[0], role=Role.GRADIENT)
        old = rows[table.birth_tick[rows] < iteration.ticks[0]]
        if not len(old):
            return None  # nothing has been zeroed before this iteration
        # What backward has made and freed may have been added to any old gradient of that size. What is still there
        # is a gradient that would be the only one of its parameter, had the old one been freed.
        born = evidence.born(iteration)
        made = born[table.birth_phase[born] == int(Phase.BACKWARD)]
        done = Counter(table.nbytes[made[table.died[made] & (table.death_ns[made] <= highest[0])]].tolist())
        left: list[int] = []
        for row in old.tolist():
            nbytes = int(table.nbytes[row])
            if done[nbytes]:
                done[nbytes] -= 1
            else:
                left.append(row)
        return np.array(left, np.int64)

    def _finding(
        self,
        evidence: PassEvidence,
        where: Location | None,
        nbytes: int,
        rows: list[IntArray],
        *,
        what: str,
        step: str,
        remedy: str,
        facts: dict[str, object],
    ) -> Finding:
        share = peak_share(evidence.model, evidence.device, nbytes)
        return self.finding(
            severity=share_severity(nbytes, main_peak(evidence.model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=f"{what}: {share:.0%} of the peak. The parameters' `.grad` holds them. {step}",
            holder="`.grad` of the parameters",
            remedies=(Remedy("zero_grad", remedy),),
            evidence={"gradient_bytes": nbytes, "iterations": len(rows), **facts},
        )


class ParametersUnused(Rule):
    """Parameters that no forward uses and no backward reaches.

    ## What it detects
    A pooler, an auxiliary head or a second decoder that is built and moved to the device, but never called.

    ## Why it costs memory
    The parameters themselves, in every checkpoint as well; and some optimizers and wrappers allocate state and
    buckets for all parameters they are given.

    ## Evidence
    Parameters that require a gradient, of modules that were not called in any watched iteration, that got no
    gradient in any backward that was looked at, and that nothing ever changed, while other parameters of the same
    model were trained.

    ## Remedy
    Do not build the module, or `del` it before the model is moved to the device.

    ## Example
    ```python
    import torch


    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Linear(256, 512)
            self.pooler = torch.nn.Linear(512, 1024)
            self.head = torch.nn.Linear(512, 10)

        def forward(self, x):
            return self.head(torch.relu(self.body(x)))


    model = Encoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        loss = model(torch.randn(64, 256)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch


    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Linear(256, 512)
            self.head = torch.nn.Linear(512, 10)

        def forward(self, x):
            return self.head(torch.relu(self.body(x)))


    model = Encoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        loss = model(torch.randn(64, 256)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The module is used later than the run went, or every now and then (a head for each task). memprof looks for
    gradients in the first iterations and in backwards number 8, 16, 32 and so on.
    """

    code = "MP212"
    kind = Kind.WASTE
    _MIN_BYTES = 256 * 1024
    _MIN_SHARE = 0.05

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        evidence = PassEvidence(model)
        looked_at = [item for item in evidence.of_kind(PassKind.BACKWARD) if evidence.shares(item)]
        iterations = {found.index for item in looked_at if (found := evidence.iteration(item)) is not None}
        idle: dict[int, list[ParameterShare]] = defaultdict(list)
        busy: set[tuple[int, str]] = set()
        latest: dict[int, list[ParameterShare]] = defaultdict(list)
        for item in looked_at:
            for share in evidence.shares(item):
                if share.gradient_bytes or share.entered or share.changed or share.written or not share.requires_grad:
                    busy.add((share.root, share.module.path))
        last = evidence.shares(looked_at[-1]) if looked_at else ()
        for share in dict.fromkeys(replace(share, optimizer=None) for share in last):  # several may hold a parameter
            latest[share.root].append(share)
            if (share.root, share.module.path) not in busy and share.root in evidence.trained_roots:
                idle[share.root].append(share)
        for root, shares in idle.items():
            nbytes = sum(share.nbytes for share in shares)
            if nbytes < self._MIN_BYTES or peak_share(model, evidence.device, nbytes) < self._MIN_SHARE:
                continue
            if len(iterations) < MIN_PASSES:
                yield Skipped(
                    self.code,
                    f"{size(nbytes)} of parameters got no gradient, but {counted(len(iterations), 'iteration')} do "
                    "not show "
                    f"that they are never used; run at least {MIN_PASSES}",
                )
                continue
            yield self._finding(evidence, root, shares, latest[root], nbytes)

    def _finding(
        self, evidence: PassEvidence, root: int, shares: list[ParameterShare], whole: list[ParameterShare], nbytes: int
    ) -> Finding:
        model = evidence.model
        names = region(shares, whole)
        calls = [item.location for item in evidence.of_kind(PassKind.FORWARD) if item.subject == root]
        made = _made_at(evidence, names)
        where = made or (calls[0] if calls else None)
        part = "`" + "`, `".join(names) + "`"
        count = sum(share.count for share in shares)
        share = peak_share(model, evidence.device, nbytes)
        return self.finding(
            severity=share_severity(nbytes, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=(
                f"{counted(count, 'parameter')} of {part} take {size(nbytes)} on {evidence.device}, {share:.0%} of "
                "the peak, "
                f"but no forward calls them and no backward gives them a gradient. The model called at "
                f"{place(calls[0] if calls else None)} holds them (made at {place(where)}). Do not build what is not "
                "used."
            ),
            holder=f"the model, as {part}",
            remedies=(Remedy("drop_module", f"do not build {part}, or `del` it before the model goes to the device"),),
            related=related(made, None),
            evidence={"parameter_bytes": nbytes, "modules": names, "parameters": count},
        )


def _made_at(evidence: PassEvidence, names: list[str]) -> Location | None:
    """The line that assigns the module, else the one that made most of its parameters."""
    wanted = names[0].split(".")
    attribute = next((part for part in reversed(wanted) if part.isidentifier()), "")
    assigned = attributes_assigned(user_files(evidence.model), attribute) if attribute else []
    if len(assigned) == 1:
        return assigned[0]
    votes: Counter[Location] = Counter()
    rows = evidence.rows_of(category=Category.PARAMETER)
    codes = np.unique(evidence.table.lifetimes.name[rows]).tolist()
    inside = [
        code for code in codes if any(evidence.table.lifetimes.names[code].startswith(f"{name}.") for name in names)
    ]
    for storage in evidence.storages(rows[np.isin(evidence.table.lifetimes.name[rows], inside)]):
        if storage.location is not None:
            votes[storage.location] += storage.nbytes
    return votes.most_common(1)[0][0] if votes else (assigned[0] if assigned else None)


__all__ = ["GradientsKeptTooLong", "ParametersUnused"]
