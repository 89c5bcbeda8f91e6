"""MP206, MP213 and MP214: what makes an iteration's highest moment higher than it need be."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
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
from memprof.record.events import Location, Pass, PassFlag, PassKind, Phase, Role
from memprof.record.iterations import TRAIN

_RECURRENT = re.compile(r"RNN|LSTM|GRU|Recurrent|Cell$")


class LongBackpropThroughTime(Rule):
    """One backward goes through hundreds of steps of a recurrence.

    ## What it detects
    A recurrent layer that is given a whole sequence of hundreds of steps, or a cell that is called for each of
    them, before one backward.

    ## Why it costs memory
    Back-propagation through time keeps the activations of every step. Memory grows with the length of the sequence,
    and most of the peak is the recurrence.

    ## Evidence
    When memory was highest in training iterations, at least two fifths of it were activations of a recurrent module
    from 256 or more steps. Of a cell that the loop calls itself, the calls are counted and the bytes estimated from
    those that were watched.

    ## Remedy
    Cut the sequence into chunks of some dozen steps, call backward after each and carry the state on with
    `.detach()`: truncated back-propagation through time. Where the loss depends on the whole sequence,
    `torch.utils.checkpoint` for chunks of it.

    ## Example
    ```python
    import torch

    rnn = torch.nn.GRU(8, 16)
    optimizer = torch.optim.SGD(rnn.parameters(), lr=0.1)
    for _ in range(4):
        out, _ = rnn(torch.randn(400, 64, 8))
        loss = out.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    rnn = torch.nn.GRU(8, 16)
    optimizer = torch.optim.SGD(rnn.parameters(), lr=0.1)
    for _ in range(4):
        hidden = None
        for chunk in torch.randn(400, 64, 8).split(50):
            out, hidden = rnn(chunk, hidden)
            hidden = hidden.detach()
            loss = out.pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    ```

    ## Not a problem when
    The run fits and the gradient through the whole sequence is what is wanted. The recurrent layers of cuDNN and oneDNN
    keep their activations in one block, in which memprof cannot count steps.
    """

    code = "MP206"
    kind = Kind.WASTE
    _MIN_STEPS = 256
    _MIN_SHARE = 0.4
    _MIN_BYTES = 4 * MIB
    _MIN_ITERATIONS = 2

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        evidence = PassEvidence(model)
        cases = [case for item in _watched_training(evidence) if (case := self._case(evidence, item)) is not None]
        if len(cases) < self._MIN_ITERATIONS:
            yield from self._called_in_a_loop(evidence)
            return
        nbytes = typical(evidence.nbytes(rows) for rows, _, _ in cases)
        if nbytes < self._MIN_BYTES or peak_share(model, evidence.device, nbytes) < self._MIN_SHARE:
            return
        yield self._finding(
            evidence,
            steps=typical(count for _, count, _ in cases),
            call=cases[-1][2],
            nbytes=nbytes,
            source=Source.MEASURED,
            iterations=len(cases),
        )

    def _called_in_a_loop(self, evidence: PassEvidence) -> Iterator[Finding]:
        """A cell whose every call is a tick of its own: too many for a whole iteration to be watched."""
        of_backward: dict[int | None, list[list[Pass]]] = defaultdict(list)
        for backward in evidence.of_kind(PassKind.BACKWARD):
            used: dict[int | None, list[Pass]] = defaultdict(list)
            for forward in (evidence.by_id[item] for item in dict.fromkeys(backward.uses) if item in evidence.by_id):
                used[forward.subject].append(forward)
            for subject, forwards in used.items():
                chained = sum(bool(item.flags & PassFlag.CHAINED) for item in forwards)
                if chained >= self._MIN_STEPS:
                    of_backward[subject].append(sorted(forwards, key=lambda item: item.start_ns))
        for sequences in of_backward.values():
            watched = [item for item in sequences[0] if item.saved_bytes is not None]
            step_bytes = typical(self._left_by(evidence, item) for item in watched[:64])
            steps = typical(len(items) for items in sequences)
            nbytes = step_bytes * steps
            share = peak_share(evidence.model, evidence.device, nbytes)
            if len(sequences) >= self._MIN_ITERATIONS and nbytes >= self._MIN_BYTES and share >= self._MIN_SHARE:
                yield self._finding(
                    evidence,
                    steps=steps,
                    call=sequences[-1][0],
                    nbytes=nbytes,
                    source=Source.ESTIMATED,
                    iterations=len(sequences),
                )

    @staticmethod
    def _left_by(evidence: PassEvidence, forward: Pass) -> int:
        """What a forward left alive, its output among it."""
        table = evidence.table.lifetimes
        born = (table.birth_ns >= forward.start_ns) & (table.birth_ns <= forward.end_ns)
        return int(table.nbytes[born & (~table.died | (table.death_ns > forward.end_ns))].sum())

    def _case(self, evidence: PassEvidence, iteration: IterationMemory) -> tuple[IntArray, int, Pass | None] | None:
        """Activations of the recurrence at the highest moment, its steps, and the call."""
        highest = evidence.highest(iteration)
        if highest is None:
            return None
        table = evidence.table.lifetimes
        rows = evidence.alive_at(evidence.rows_of(category=Category.ACTIVATION), highest[0])
        rows = rows[evidence.table.birth_iteration[rows] == iteration.index]
        first, last = iteration.ticks
        forwards = [item for item in evidence.of_kind(PassKind.FORWARD) if first <= item.tick <= last]
        recurrent = [
            code
            for code, module in enumerate(table.modules)
            if module is not None and _RECURRENT.search(module.type_name)
        ]
        own = rows[np.isin(table.module[rows], recurrent)]
        groups = Counter(
            zip(*(column[own].tolist() for column in (table.location, table.op, table.nbytes)), strict=True)
        )
        # Some ops run twice a step: what most kinds of storages are counted as is the number of steps.
        counts = Counter(count for count in groups.values() if count >= self._MIN_STEPS)
        if counts:
            steps = max(counts, key=lambda count: (counts[count], -count))
            calls = [item for item in forwards if item.start_ns <= int(table.birth_ns[own[0]]) <= item.end_ns]
            return own, steps, calls[0] if calls else None
        return None

    def _finding(
        self,
        evidence: PassEvidence,
        *,
        steps: int,
        call: Pass | None,
        nbytes: int,
        source: Source,
        iterations: int,
    ) -> Finding:
        model = evidence.model
        where = call.location if call is not None else None
        share = peak_share(model, evidence.device, nbytes)
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=share_severity(nbytes, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            bytes_per_iteration=None,
            source=source,
            message=(
                f"One backward goes through about {steps} steps of the recurrence called at {place(where)}: the graph "
                f"holds {size(nbytes)} of their activations on {evidence.device}, {share:.0%} of the peak. Call "
                "backward every few "
                f"dozen steps and carry the state on with `.detach()`."
            ),
            holder="the autograd graph of the sequence",
            remedies=(
                Remedy("truncate_bptt", "back-propagate through chunks: detach the state at the end of each"),
                Remedy(
                    "checkpointing", "where the whole sequence is needed: `torch.utils.checkpoint` for chunks of it"
                ),
            ),
            evidence={"steps": steps, "bytes": nbytes, "iterations": iterations},
        )


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
        cases = [case for item in _watched_training(evidence) if (case := self._case(evidence, item)) is not None]
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
        rows = evidence.alive_at(OptimizerTemporariesAtPeak._temporaries(evidence), highest[0])
        return rows, min(evidence.nbytes(rows), highest[1] - others[1])

    @staticmethod
    def _temporaries(evidence: PassEvidence) -> IntArray:
        table = evidence.table.lifetimes
        rows = evidence.rows_of(category=Category.TEMPORARY)
        made = [code for code, op in enumerate(table.ops) if op.startswith("aten._foreach_")]
        found: IntArray = rows[np.isin(table.op[rows], made) & (table.birth_phase[rows] == int(Phase.OPTIMIZER))]
        return found

    def _finding(self, evidence: PassEvidence, cases: list[IntArray], gained: int) -> Finding:
        model = evidence.model
        nbytes = typical(evidence.nbytes(rows) for rows in cases)
        (newest,) = evidence.table.rows(cases[-1][-1:])
        where = newest.location
        share = peak_share(model, evidence.device, gained)
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=share_severity(gained, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            bytes_per_iteration=None,
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
                    frees=evidence.ids([self._temporaries(evidence)]),
                ),
            ),
            evidence={"temporary_bytes": nbytes, "above_the_rest_bytes": gained, "iterations": len(cases)},
        )


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
        for iteration in _watched_training(evidence):
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
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=share_severity(nbytes, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            bytes_per_iteration=None,
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


def _watched_training(evidence: PassEvidence) -> Iterator[IterationMemory]:
    return (item for item in evidence.model.iterations if item.kind == TRAIN and item.tracked and item.complete)


__all__ = ["LongBackpropThroughTime", "OptimizerTemporariesAtPeak", "TensorOutlivesLastUse"]
