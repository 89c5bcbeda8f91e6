"""MP304: one tensor that makes up much of the peak."""

from __future__ import annotations

from collections.abc import Iterable

from memprof.detect.evidence import place, size
from memprof.detect.finding import Finding, Kind, RelatedLocation, Remedy, Severity, Skipped
from memprof.detect.pressure import MIN_BYTES
from memprof.detect.rule import Rule
from memprof.model.memory import Category, MemoryModel, Peak, Storage
from memprof.record.events import Phase


class SingleTensorDominatesPeak(Rule):
    """One tensor, with what is computed from it, makes up most of the peak.

    ## What it detects
    A peak most of which is a single tensor and a few of the same size computed from it: logits over a vocabulary, an
    attention matrix over all pairs of positions, pairwise distances, a data set kept on the device, a large
    embedding table.

    ## Why it costs memory
    Such a tensor is often the product of two sizes that grow together, so it outgrows all else; and what works on
    it makes copies of its size.

    ## Evidence
    The largest storages among those that were alive at the peak, from storages that were watched: at most four of one
    size are half of the peak or more, and nothing else there is half as large as one of them.

    ## Remedy
    Work through it in chunks and reduce each, so that it never exists as a whole; use a fused function
    (`scaled_dot_product_attention`); keep a data set on the host and move one batch at a time.

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        points = model(torch.randn(3000, 64))
        loss = torch.cdist(points, points).max()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch
    from torch.utils.checkpoint import checkpoint


    def farthest(part, points):
        return torch.cdist(part, points).max()


    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        points = model(torch.randn(3000, 64))
        parts = [checkpoint(farthest, part, points, use_reentrant=False) for part in points.split(300)]
        loss = torch.stack(parts).max()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The run fits. This is information about what to change first when it does not.
    """

    code = "MP304"
    kind = Kind.PRESSURE
    _MIN_SHARE = 0.5
    _MOST_ALIKE = 4

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for peak in model.peaks.values():
            if peak.device == "cpu" and len(model.peaks) > 1:
                continue  # weights on their way to the device, or data that waits for it
            largest = [model.storages[identity] for identity in peak.largest]
            if not largest or largest[0].nbytes < MIN_BYTES:
                continue
            alike = [storage for storage in largest if storage.nbytes == largest[0].nbytes]
            others = largest[len(alike) :]
            alone = not others or 2 * others[0].nbytes <= largest[0].nbytes
            together = sum(storage.nbytes for storage in alike)
            if len(alike) <= self._MOST_ALIKE and alone and together >= self._MIN_SHARE * peak.allocated_bytes:
                yield self._finding(model, peak, sorted(alike, key=lambda storage: storage.birth_ns), together)

    def _finding(self, model: MemoryModel, peak: Peak, alike: list[Storage], together: int) -> Finding:
        first, *rest = alike
        kind = first.category.value.lower().replace("_", " ") if first.category is not None else ""
        what = f"`{first.name}`, {kind}" if first.name else kind
        remedies = _remedies(first, _in_every_iteration(model, alike))
        lines = sorted({place(storage.location) for storage in rest})
        more = f", and {len(rest)} more of its size made at {', '.join(lines)}," if rest else ""
        return self.finding(
            severity=Severity.INFO,
            location=first.location,
            device=peak.device,
            bytes=together,
            source=peak.source,
            message=(
                f"One tensor of {size(first.nbytes)}{f' ({what})' if what else ''} made at {place(first.location)}"
                f"{more} {'are' if rest else 'is'} {together / peak.allocated_bytes:.0%} of the peak of "
                f"{size(peak.allocated_bytes)} on {peak.device}. If it does not fit: {remedies[0].text}."
            ),
            holder=None,
            remedies=remedies,
            related=tuple(RelatedLocation("allocated", storage.location) for storage in rest if storage.location),
            evidence={
                "op": first.op,
                "category": first.category.value if first.category is not None else None,
                "dtype": first.dtype,
                "tensor_bytes": first.nbytes,
                "alike": len(alike),
                "share_of_peak": round(together / peak.allocated_bytes, 3),
                "iteration": peak.iteration,
            },
        )


def _in_every_iteration(model: MemoryModel, alike: list[Storage]) -> tuple[int, ...]:
    """Ids of these storages and of those that the same ops made in other iterations."""
    made = {(storage.op, storage.location, storage.nbytes) for storage in alike}
    return tuple(
        storage.id for storage in model.storages.values() if (storage.op, storage.location, storage.nbytes) in made
    )


def _remedies(first: Storage, alike: tuple[int, ...]) -> tuple[Remedy, ...]:
    if first.category is Category.PARAMETER:
        return (Remedy("move_to_cpu", "keep it on the host and move the rows that a batch needs", frees=alike),)
    if first.category is Category.OPTIMIZER_STATE:
        return (Remedy("lean_optimizer", "use an optimizer with less state: Adam in 8 bits, Adafactor, SGD"),)
    if first.category is Category.GRADIENT:
        return (
            Remedy("sparse_gradients", "give the embedding `sparse=True`, if it is one"),
            Remedy("step_in_backward", "step each parameter in `register_post_accumulate_grad_hook`"),
        )
    if first.birth_iteration is None or (first.birth_phase is Phase.OTHER and first.death_iteration is None):
        return (  # data that is there for the whole run
            Remedy("move_to_cpu", "keep it on the host and move one batch at a time", frees=alike),
            Remedy("chunk", "load and work through it in chunks, less the size of one", frees=alike),
        )
    return (
        Remedy(
            "chunk",
            "make and use it in chunks, reducing each (all but the size of a chunk is saved), or use a fused function",
            frees=alike,
        ),
        Remedy("smaller_batch", "halve the batch and accumulate gradients over two"),
        Remedy("checkpointing", "recompute it in backward: `torch.utils.checkpoint.checkpoint`"),
    )
