"""MP211: activations of padding."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from memprof.detect.evidence import MIB, main_peak, place, share_severity, size
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import PassEvidence, peak_share, typical
from memprof.detect.rule import Rule
from memprof.model.lifetimes import IntArray
from memprof.model.memory import Category, MemoryModel, Source
from memprof.record.events import Location, Role
from memprof.record.iterations import TRAIN
from memprof.record.run_info import PaddedBatch

_BYTES = {"int64": 8, "int32": 4, "int16": 2}


class PaddingWaste(Rule):
    """Much of each batch is padding, and activations are kept for it.

    ## What it detects
    Sequences of different lengths that are padded to the longest of their batch, or all to one length, where two fifths
    of the elements or more are padding.

    ## Why it costs memory
    Every layer computes and saves activations for padding as for anything else; masks only keep it out of the result.
    A batch takes its rows times its longest sequence.

    ## Evidence
    Integers of shape (batch, length) that a `DataLoader` handed out in host memory, in at least four training
    iterations that were watched, and that went into a root module: one value that ends at least two rows of each and
    stands nowhere else is padding. And activations, when memory was highest, whose size is a multiple of that of the
    batch and that make three tenths of the peak. Padding at the front, and padding of other types than integers, is
    not seen.

    ## Remedy
    Put sequences of like length into a batch, and fill a batch up to a number of tokens instead of a number of
    sequences (`batch_sampler=` of the `DataLoader`): with as many sequences in each, the batch of the longest ones
    would be as large as before. Or leave the padding out of the computation: `torch.nn.utils.rnn.pack_padded_sequence`,
    `torch.nested`, attention that takes packed sequences. Where all is padded to one length, pad to the longest of the
    batch first.

    ## Example
    ```python
    import torch

    lengths = [16 + 4 * (row % 4) if row % 8 else 256 for row in range(256)]
    texts = [torch.randint(1, 1000, (length,)) for length in lengths]
    loader = torch.utils.data.DataLoader(
        texts, batch_size=32, collate_fn=lambda rows: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    )
    model = torch.nn.Sequential(
        torch.nn.Embedding(1000, 64), torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for tokens in loader:
        loss = (model(tokens).pow(2).mean(dim=2) * (tokens != 0)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    lengths = sorted(16 + 4 * (row % 4) if row % 8 else 256 for row in range(256))
    texts = [torch.randint(1, 1000, (length,)) for length in lengths]
    short = [list(range(first, first + 56)) for first in range(0, 224, 56)]
    long = [list(range(first, first + 8)) for first in range(224, 256, 8)]
    loader = torch.utils.data.DataLoader(
        texts,
        batch_sampler=short + long,
        collate_fn=lambda rows: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
    )
    model = torch.nn.Sequential(
        torch.nn.Embedding(1000, 64), torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for tokens in loader:
        loss = (model(tokens).pow(2).mean(dim=2) * (tokens != 0)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The run fits and every batch must have one shape: compiled graphs, CUDA graphs. Images, masks, labels and tables are
    not looked at, or have no value that only ends their rows.
    """

    code = "MP211"
    kind = Kind.WASTE
    _MIN_BATCHES = 4
    _MIN_PADDING = 0.4
    _MIN_SHARE = 0.3
    _MIN_BYTES = 1 * MIB

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        if not model.run.padded_batches:
            return
        evidence = PassEvidence(model)
        groups: dict[tuple[Location | None, int], list[PaddedBatch]] = defaultdict(list)
        for batch in model.run.padded_batches:
            iteration = evidence.iteration_of.get(batch.tick)
            if iteration is not None and iteration.kind == TRAIN:
                groups[batch.location, batch.index].append(batch)
        told: set[Location | None] = set()
        for (location, _), batches in groups.items():
            finding = None if location in told else self._of_loader(evidence, location, batches)
            if finding is not None:
                told.add(location)
                yield finding

    def _of_loader(
        self, evidence: PassEvidence, location: Location | None, batches: list[PaddedBatch]
    ) -> Finding | None:
        varying = [batch for batch in batches if batch.shortest < batch.longest]
        elements = sum(batch.rows * batch.length for batch in batches)
        padding = sum(batch.rows * batch.length * batch.padding_share for batch in batches) / elements
        if len(varying) < self._MIN_BATCHES or padding < self._MIN_PADDING:
            return None
        scaling, of_activations = self._scaling(evidence, batches)
        nbytes = int(scaling * padding)
        share = peak_share(evidence.model, evidence.device, scaling)
        if nbytes < self._MIN_BYTES or share < self._MIN_SHARE:
            return None
        shortest, longest = min(batch.shortest for batch in batches), max(batch.longest for batch in batches)
        return self.finding(
            severity=share_severity(nbytes, main_peak(evidence.model, evidence.device)),
            location=location,
            device=evidence.device,
            bytes=nbytes,
            source=Source.ESTIMATED,
            message=(
                f"{padding:.0%} of what the loader gives at {place(location)} is padding: rows of {shortest} to "
                f"{longest} elements, padded to {max(batch.length for batch in batches)}. Of {size(scaling)} of "
                f"activations on {evidence.device} that grow with the length, about {size(nbytes)} are for padding; "
                f"the autograd graph holds them until backward. Put sequences of like length together and fill batches "
                f"up to a number of tokens, or pack them."
            ),
            holder="the autograd graph of the current iteration",
            remedies=(
                Remedy("bucket_by_length", "a `batch_sampler` of like lengths, up to a number of tokens in each batch"),
                Remedy("pack_sequences", "compute without padding: `pack_padded_sequence`, `torch.nested`"),
            ),
            evidence={
                "padding_share": round(padding, 3),
                "activations_that_scale": round(of_activations, 3),
                "batches": len(batches),
                "shortest": shortest,
                "longest": longest,
            },
        )

    def _scaling(self, evidence: PassEvidence, batches: list[PaddedBatch]) -> tuple[int, float]:
        """Bytes of activations that grow with the length when memory was highest, and their share of all of them."""
        found: list[int] = []
        of_all: list[int] = []
        for batch in batches:
            iteration = evidence.iteration_of[batch.tick]
            highest = evidence.highest(iteration) if iteration.tracked and iteration.complete else None
            if highest is None:
                continue
            if not _is_input(evidence, evidence.alive(highest[0], role=Role.INPUT), batch):
                continue  # labels, or data for something else
            rows = evidence.alive(highest[0], category=Category.ACTIVATION)
            found.append(evidence.nbytes(rows[_multiple(evidence, rows, batch)]))
            of_all.append(evidence.nbytes(rows))
        if len(found) < self._MIN_BATCHES:
            return 0, 0.0
        total = typical(of_all)
        return typical(found), typical(found) / total if total else 0.0


def _is_input(evidence: PassEvidence, rows: IntArray, batch: PaddedBatch) -> bool:
    """Whether integers of a batch's shape are among some storages."""
    table = evidence.table.lifetimes
    elements = batch.rows * batch.length
    return any(
        table.dtypes[dtype] in _BYTES and 0 <= nbytes - elements * _BYTES[table.dtypes[dtype]] <= _slack(evidence)
        for dtype, nbytes in zip(table.dtype[rows].tolist(), table.nbytes[rows].tolist(), strict=True)
    )


def _multiple(evidence: PassEvidence, rows: IntArray, batch: PaddedBatch) -> IntArray:
    """Which storages have an element for each of a batch, or of a batch without its first or last column.

    Where the rounding of blocks hides it (a few hundred bytes for each feature), they have not.
    """
    table = evidence.table.lifetimes
    nbytes, slack = table.nbytes[rows], _slack(evidence)
    itemsize = np.array([_itemsize(name) for name in table.dtypes], np.int64)[table.dtype[rows]]
    found = np.zeros(len(rows), np.bool_)
    for elements in (batch.rows * batch.length, batch.rows * (batch.length - 1)):
        unit = np.maximum(elements * itemsize, 1)
        found |= (nbytes >= unit) & (nbytes % unit <= slack) & (unit > 2 * slack)
    return np.flatnonzero(found)


def _itemsize(dtype: str) -> int:
    """Bytes of an element: `bfloat16` has 2, `bool` has 1."""
    bits = re.search(r"\d+", dtype)
    return 1 if bits is None else max(int(bits.group()) // 8, 1)


def _slack(evidence: PassEvidence) -> int:
    """By how much a storage may be larger than its tensor: CUDA's caching allocator rounds up.

    Source:
        `kMinBlockSize`, c10/core/AllocatorConfig.h, torch 2.13.0.
    """
    return 511 if evidence.device.startswith("cuda") else 0


__all__ = ["PaddingWaste"]
