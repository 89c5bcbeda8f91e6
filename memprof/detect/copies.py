"""MP215: copies that hold what their original holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from memprof.detect.evidence import MIB, counted, main_peak, place, related, share_severity, size
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import MIN_PASSES, PassEvidence, peak_share, typical
from memprof.detect.rule import Rule
from memprof.detect.source import statement_at, targets_assigned_at
from memprof.model.lifetimes import IntArray
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import Location, PassKind, Phase, Role

_WEIGHTS = int(Role.PARAMETER | Role.BUFFER)
_COPYING_CALLS = ("clone(", "copy(", "copy_(", ".to(", ".cuda(", "contiguous(", "tensor(")


class EqualContentKeptTwice(Rule):
    """A copy lies on the device beside its original, and neither is ever changed.

    ## What it detects
    `reference = copy.deepcopy(model)` where both are frozen, a dataset that is moved to the GPU in two places,
    `.clone()` of a batch that nobody writes to.

    ## Why it costs memory
    The same bytes are there twice for as long as both live. A copy is needed where one of the two changes; where none
    does, two names for one tensor do as well.

    ## Evidence
    The copy was made by `clone`, `deepcopy`, `to` or `copy_` of a whole tensor, and no op wrote to either since: every
    op is seen while storages are watched, and versions of tensors are compared afterwards. No content on a device is
    read. In at least three iterations both were alive when memory was highest, and the copies of the line are a
    twentieth of the peak or more.

    ## Remedy
    Use the original in place of the copy. Where autograd needs a leaf of its own, `x.detach()` is one that shares the
    memory. A copy of a model whose backbone is frozen can share the backbone.

    ## Example
    ```python
    import copy

    import torch

    backbone = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512))
    backbone.requires_grad_(False)
    reference = copy.deepcopy(backbone)
    head = torch.nn.Linear(512, 8)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(6):
        batch = torch.randn(64, 512)
        loss = head(backbone(batch) - reference(batch.flip(0))).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    backbone = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512))
    backbone.requires_grad_(False)
    head = torch.nn.Linear(512, 8)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(6):
        batch = torch.randn(64, 512)
        loss = head(backbone(batch) - backbone(batch.flip(0))).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    One of the two changes later than the run that was recorded: a target network, an average of weights or a backup
    that is made long before the first update. Writes of kernels that torch does not know of, such as those launched by
    Triton directly, are not seen.
    """

    code = "MP215"
    kind = Kind.WASTE
    _MIN_BYTES = 1 * MIB
    _MIN_SHARE = 0.05

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        if not model.run.equal_storages:
            return
        evidence = PassEvidence(model)
        by_line: dict[Location, list[list[int]]] = defaultdict(list)
        originals: dict[Location, int] = {}
        contents = _Contents(evidence)
        for iteration in model.iterations:
            if iteration.kind == "other" or not iteration.tracked:
                continue
            highest = evidence.highest(iteration)
            here: dict[Location, list[int]] = defaultdict(list)
            for row, original in contents.copies_at(highest[0]) if highest is not None else ():
                location = self._made_by_user(evidence, row)
                if location is not None:
                    here[location].append(row)
                    originals.setdefault(location, original)
            for location, rows in here.items():
                by_line[location].append(rows)
        for location, cases in by_line.items():
            parts = [np.array(rows, np.int64) for rows in cases]
            nbytes = typical(evidence.nbytes(rows) for rows in parts)
            large = nbytes >= self._MIN_BYTES and peak_share(model, evidence.device, nbytes) >= self._MIN_SHARE
            if large and len(parts) >= MIN_PASSES:
                yield self._finding(evidence, location, originals[location], parts, nbytes)

    @staticmethod
    def _made_by_user(evidence: PassEvidence, row: int) -> Location | None:
        """The line that made a copy, where it was the user who asked for one."""
        table = evidence.table.lifetimes
        location = table.locations[int(table.location[row])]
        phase = int(table.birth_phase[row])
        if location is None or phase not in (int(Phase.OTHER), int(Phase.FORWARD)):
            return None
        if phase == int(Phase.OTHER):
            return location
        statement = statement_at(location)  # a module of a library may copy for reasons of its own
        return location if any(call in statement for call in _COPYING_CALLS) else None

    def _finding(
        self, evidence: PassEvidence, where: Location, original: int, cases: list[IntArray], nbytes: int
    ) -> Finding:
        model, device = evidence.model, evidence.device
        table = evidence.table.lifetimes
        share = peak_share(model, device, nbytes)
        tensors = max(len(rows) for rows in cases)
        many, originals = tensors > 1, "original" if tensors == 1 else "originals"
        variable = ", ".join(f"`{name}`" for name in sorted(targets_assigned_at(where))) or "what was assigned there"
        first = table.locations[int(table.location[original])]
        name = table.names[int(table.name[original])]
        source = f" made at {place(first)}" if first not in (None, where) else f" `{name}`" if name and not many else ""
        frees = tuple(dict.fromkeys(evidence.ids(cases)))
        instead = f"what {place(first)} made" if first not in (None, where) else "what was copied, itself,"
        text = (
            f"use {instead} in place of the copy of {place(where)}; `.detach()` where autograd needs a leaf of its own"
        )
        remedies = [Remedy("share_tensor", text, frees=frees)]
        if device != "cpu" and len(frees) <= tensors and not self._used_in_loop(evidence, frees):
            remedies.append(Remedy("move_to_cpu", f"make the copy at {place(where)} in host memory", frees=frees))
        return self.finding(
            severity=share_severity(nbytes, main_peak(model, device)),
            location=where,
            device=device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=(
                f"{counted(tensors, 'tensor')} copied at {place(where)} {'are' if many else 'is'} on {device} beside "
                f"the {originals}{source} when memory is highest: {size(nbytes)}, {share:.0%} of the peak. Nothing "
                f"wrote to either since the copy, so both hold the same; {variable} keeps the copy. Use the "
                f"{originals} in its place."
            ),
            holder=f"{variable} assigned at {place(where)}",
            remedies=tuple(remedies),
            related=related(first if first != where else None, None),
            evidence={"tensors": tensors, "bytes": nbytes, "iterations": len(cases)},
        )

    @staticmethod
    def _used_in_loop(evidence: PassEvidence, copies: Iterable[int]) -> bool:
        """Whether an op was given one of the copies after the first forward of the run began."""
        begun = next((item.start_ns for item in evidence.of_kind(PassKind.FORWARD)), 0)
        return any(evidence.model.last_uses.get(storage, begun) >= begun for storage in copies)


class _Contents:
    """Spans in which storages of the main device had a content, in columns.

    Args:
        evidence: The run.
    """

    def __init__(self, evidence: PassEvidence) -> None:
        self._table = evidence.table.lifetimes
        rows = {int(self._table.id[row]): row for row in evidence.rows_of().tolist()}
        found = [
            (rows[span.storage], content, span.since_ns, span.until_ns)
            for content, spans in enumerate(evidence.model.run.equal_storages)
            for span in spans
            if span.storage in rows
        ]
        self._row, self._content, self._since_ns, until_ns = np.array(found, np.int64).reshape(-1, 4).T
        death_ns = np.where(self._table.died[self._row], self._table.death_ns[self._row], until_ns)
        self._until_ns = np.minimum(until_ns, death_ns)

    def copies_at(self, time_ns: int) -> Iterator[tuple[int, int]]:
        """Rows of the copies there are at a moment, each with the row of its original.

        Of storages of one content the original is the first that a module has, or the oldest.
        """
        having = np.flatnonzero((self._since_ns <= time_ns) & (time_ns < self._until_ns))
        by_content: dict[int, list[int]] = defaultdict(list)
        for index in having.tolist():
            by_content[int(self._content[index])].append(int(self._row[index]))
        for rows in by_content.values():
            original = min(rows, key=lambda row: (not self._table.role[row] & _WEIGHTS, self._table.birth_ns[row]))
            yield from ((row, original) for row in rows if row != original)


__all__ = ["EqualContentKeptTwice"]
