"""MP206: back-propagation through all steps of a long recurrence."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from memprof.detect.evidence import MIB, main_peak, place, share_severity, size
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import PassEvidence, peak_share, typical
from memprof.detect.rule import Rule
from memprof.model.lifetimes import IntArray
from memprof.model.memory import Category, IterationMemory, MemoryModel, Source
from memprof.record.events import Pass, PassFlag, PassKind

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
        cases = [case for item in evidence.watched_training() if (case := self._case(evidence, item)) is not None]
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
        rows = evidence.alive(highest[0], category=Category.ACTIVATION)
        rows = rows[evidence.table.birth_iteration[rows] == iteration.index]
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
            made = int(table.birth_ns[own[0]])
            forwards = evidence.passes_in(iteration, PassKind.FORWARD)
            return own, steps, next((item for item in forwards if item.start_ns <= made <= item.end_ns), None)
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
        return self.finding(
            severity=share_severity(nbytes, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
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


__all__ = ["LongBackpropThroughTime"]
