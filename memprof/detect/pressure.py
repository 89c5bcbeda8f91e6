"""MP301, MP302 and MP303: nothing is wrong, but the peak has one large cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from memprof.detect.evidence import MIB, place, size
from memprof.detect.finding import Finding, Kind, Remedy, Severity, Skipped
from memprof.detect.precision import half_precision_in_use
from memprof.detect.rule import Rule
from memprof.model.memory import Category, MemoryModel, Peak
from memprof.model.storages import CATEGORIES, table_of
from memprof.record.events import Location
from memprof.record.iterations import EVALUATE

MIN_BYTES = 32 * MIB
"""Below this nobody asks what the peak is made of."""

_MIN_SHARE = 0.3
"""Adam's averages are two of the five copies of the parameters alive in its step, and there are workspaces."""


class ActivationsDominatePeak(Rule):
    """Most of the peak is activations: what the forward keeps for the backward.

    ## What it detects
    A training step whose peak is made of saved activations rather than of parameters, gradients and
    optimizer state.

    ## Why it costs memory
    Activations grow with the batch, the sequence length and the depth of the model; parameters do not.
    They are alive from the forward of their layer to its backward, so the peak lies where the forward
    ends.

    ## Evidence
    The composition of the peak by category, from storages that were watched.

    ## Remedy
    A smaller batch with gradient accumulation; `torch.utils.checkpoint` for blocks that repeat;
    `torch.autocast` to halve what is saved.

    ## Example
    ```python
    import torch


    def block():
        return torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64))


    model = torch.nn.Sequential(*(block() for _ in range(12)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        loss = model(torch.randn(8192, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch


    def block():
        return torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64))


    model = torch.nn.Sequential(*(block() for _ in range(12)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        for _ in range(16):
            loss = model(torch.randn(512, 64)).pow(2).mean() / 16
            loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The run fits. This is information about what to change first when it does not.
    """

    code = "MP301"
    kind = Kind.PRESSURE
    _MIN_SHARE = 0.6

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for peak in model.peaks.values():
            if peak.by_category is None:
                yield Skipped(self.code, f"what the peak of {peak.device} was made of was not watched")
                continue
            held = peak.by_category.get(Category.ACTIVATION.value, 0)
            if held < MIN_BYTES or held < self._MIN_SHARE * peak.allocated_bytes:
                continue
            if _is_in_evaluation(model, peak):
                yield Skipped(
                    self.code, f"the peak of {peak.device} is a forward whose graph nothing uses, which MP201 is about"
                )
            elif 2 * _from_before(model, peak) >= held:
                yield Skipped(
                    self.code,
                    f"most activations at the peak of {peak.device} are of earlier iterations, which the rules about "
                    f"what is kept look at",
                )
            else:
                yield self._finding(model, peak, held)

    def _finding(self, model: MemoryModel, peak: Peak, held: int) -> Finding:
        top = _line_with_most(peak, Category.ACTIVATION)
        calls = {tick.call for tick in model.ticks if tick.call is not None}
        remedies = [
            Remedy("smaller_batch", "halve the batch and accumulate gradients over two"),
            Remedy("checkpointing", "wrap repeated blocks in `torch.utils.checkpoint.checkpoint`"),
        ]
        if not half_precision_in_use(model):
            text = "run the forward under `torch.autocast` to save activations in 16 bits"
            remedies.append(Remedy("mixed_precision", text))
        most = f"; {place(top[0])} made {size(top[1])} of them" if top is not None else ""
        return _pressure(
            self,
            peak,
            held,
            where=top[0] if top is not None else next(iter(calls), None),
            message=(
                f"Activations are {size(held)}, {held / peak.allocated_bytes:.0%} of the peak of "
                f"{size(peak.allocated_bytes)} on {peak.device}{most}. They are held by the autograd graph until "
                f"backward. If it does not fit: a smaller batch with gradient accumulation, or checkpoint the "
                f"repeated blocks."
            ),
            holder="the autograd graph of the current iteration",
            remedies=tuple(remedies),
            evidence={"activation_bytes": held},
        )


class OptimizerStateDominatesPeak(Rule):
    """The largest part of the peak is what the optimizer remembers.

    ## What it detects
    A run whose peak is made of optimizer state more than of anything else: averages of gradients and of their
    squares, momentum buffers.

    ## Why it costs memory
    Adam keeps two tensors of the size of each parameter, usually in 32 bits, for as long as the optimizer lives:
    twice the memory of the weights, whatever the batch. They appear at the first `step()`, so a run that fits for
    one iteration may not fit for two.

    ## Evidence
    The composition of the peak by category, from storages that were watched; the tensors in the state of each
    optimizer after its step.

    ## Remedy
    An optimizer with less state: Adam in 8 bits (torchao, bitsandbytes), `torch.optim.Adafactor`, SGD. Or train
    fewer parameters: what is frozen has no state. Over several ranks, shard it (FSDP, `ZeroRedundancyOptimizer`).

    ## Example
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(1024, 2560), torch.nn.ReLU(), torch.nn.Linear(2560, 1024))
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(4):
        loss = model(torch.randn(8, 1024)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(1024, 2560), torch.nn.ReLU(), torch.nn.Linear(2560, 1024))
    optimizer = torch.optim.Adafactor(model.parameters())
    for _ in range(4):
        loss = model(torch.randn(8, 1024)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The run fits. This is information about what to change first when it does not.
    """

    code = "MP302"
    kind = Kind.PRESSURE

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for peak in model.peaks.values():
            held = _dominating(peak, Category.OPTIMIZER_STATE)
            if held is not None:
                yield self._finding(model, peak, held)

    def _finding(self, model: MemoryModel, peak: Peak, held: int) -> Finding:
        # Whose state it is, the recording does not tell tensor by tensor: the largest optimizer stands for all.
        kept = [made for made in model.run.optimizers if made.state_bytes]
        largest = max(kept, key=lambda made: made.state_bytes or 0, default=None)
        top = _line_with_most(peak, Category.OPTIMIZER_STATE)
        where = largest.location if largest is not None and largest.location is not None else top and top[0]
        name = largest.name if largest is not None else "the optimizer"
        return _pressure(
            self,
            peak,
            held,
            where=where,
            message=(
                f"Optimizer state is {size(held)}, {held / peak.allocated_bytes:.0%} of the peak of "
                f"{size(peak.allocated_bytes)} on {peak.device}, held by {name} ({place(where)}) for as long as it "
                f"lives, whatever the batch. If it does not fit: an optimizer with less state (Adam in 8 bits, "
                f"Adafactor, SGD), or train fewer parameters."
            ),
            holder=f"the state of {name} made at {place(where)}",
            remedies=(
                Remedy(
                    "lean_optimizer",
                    "use an optimizer with less state: Adam in 8 bits (torchao, bitsandbytes), Adafactor, SGD",
                ),
                Remedy("freeze", "train fewer parameters: freeze the rest, or add adapters (LoRA)"),
            ),
            evidence={
                "state_bytes": held,
                "optimizers": [{"name": made.name, "state_bytes": made.state_bytes} for made in kept],
            },
        )


class GradientsDominatePeak(Rule):
    """The largest part of the peak, apart from the parameters, is their gradients.

    ## What it detects
    A run whose peak is made of gradients more than of activations or optimizer state: every parameter's `.grad`, alive
    at the end of backward all at once.

    ## Why it costs memory
    Gradients take as much as the parameters they belong to, from backward to `zero_grad()`. The gradient of an
    embedding is as large as its whole table, though a batch touches few of its rows.

    ## Evidence
    The composition of the peak by category, from storages that were watched, and the ops that made the gradients.

    ## Remedy
    Step each parameter in backward, as soon as its gradient is there (`register_post_accumulate_grad_hook`), and free
    the gradient. `sparse=True` for embeddings with a large table. Freeze what need not be trained.

    ## Example
    ```python
    import torch

    table = torch.nn.Embedding(160_000, 64)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    for _ in range(4):
        loss = table(torch.randint(0, 160_000, (256,))).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    table = torch.nn.Embedding(160_000, 64, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    for _ in range(4):
        loss = table(torch.randint(0, 160_000, (256,))).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The run fits. This is information about what to change first when it does not.
    """

    code = "MP303"
    kind = Kind.PRESSURE
    _EMBEDDING_SHARE = 0.5

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for peak in model.peaks.values():
            held = _dominating(peak, Category.GRADIENT, also=_dense_on_their_way(model, peak))
            if held is not None:
                yield self._finding(model, peak, held)

    def _finding(self, model: MemoryModel, peak: Peak, held: int) -> Finding:
        top = _line_with_most(peak, Category.GRADIENT)
        where = top[0] if top is not None else None
        of_table = _embeddings_share(model, peak.device) >= self._EMBEDDING_SHARE
        in_backward = Remedy(
            "step_in_backward",
            "step each parameter in `register_post_accumulate_grad_hook` and set its `.grad` to None there",
        )
        sparse = Remedy("sparse_gradients", "give the embedding `sparse=True`, and step it with SGD or SparseAdam")
        step = "`sparse=True` for the embedding" if of_table else "step each parameter in a hook, as backward goes"
        return _pressure(
            self,
            peak,
            held,
            where=where,
            message=(
                f"Gradients are {size(held)}, {held / peak.allocated_bytes:.0%} of the peak of "
                f"{size(peak.allocated_bytes)} on {peak.device}"
                f"{', most of it the gradient of an embedding table' if of_table else ''}. They are made by the "
                f"backward at {place(where)} and held by their parameters until `zero_grad()`. If it "
                f"does not fit: {step}."
            ),
            holder="the parameters, as `.grad`",
            remedies=(*((sparse,) if of_table else ()), in_backward, Remedy("freeze", "train fewer parameters")),
            evidence={"gradient_bytes": held, "of_an_embedding": of_table},
        )


def _pressure(
    rule: Rule,
    peak: Peak,
    held: int,
    *,
    where: Location | None,
    message: str,
    holder: str,
    remedies: tuple[Remedy, ...],
    evidence: Mapping[str, object],
) -> Finding:
    return rule.finding(
        severity=Severity.INFO,
        location=where,
        device=peak.device,
        bytes=held,
        source=peak.source,
        message=message,
        holder=holder,
        remedies=remedies,
        evidence={**evidence, "share_of_peak": round(held / peak.allocated_bytes, 3), "iteration": peak.iteration},
    )


def _embeddings_share(model: MemoryModel, device: str) -> float:
    """Which part of all gradients, by bytes, are dense gradients of embedding tables."""
    by_op: Counter[str] = Counter()
    for storage in model.storages.values():
        if storage.category is Category.GRADIENT and storage.device == device:
            by_op[storage.op] += storage.nbytes
    return sum(nbytes for op, nbytes in by_op.items() if "embedding_dense_backward" in op) / max(by_op.total(), 1)


def _dense_on_their_way(model: MemoryModel, peak: Peak) -> int:
    """Bytes at the peak of dense gradients of embedding tables that backward was adding to a `.grad`."""
    largest = (model.storages[identity] for identity in peak.largest)
    return sum(
        storage.nbytes
        for storage in largest
        if storage.category is Category.AUTOGRAD_DETAIL and "embedding_dense_backward" in storage.op
    )


def _dominating(peak: Peak, category: Category, *, also: int = 0) -> int | None:
    """Bytes of a category at the peak, if nothing but the parameters holds more and it is much.

    Args:
        peak: The peak.
        category: The category.
        also: Bytes of `AUTOGRAD_DETAIL` that count as of this category.
    """
    held = (peak.by_category or {}).get(category.value, 0) + also
    if held < MIN_BYTES or held < _MIN_SHARE * peak.allocated_bytes:
        return None
    others = dict(peak.by_category or {})
    others["not watched"] = peak.allocated_bytes - sum(others.values())
    for name in (Category.PARAMETER.value, category.value):
        others.pop(name, None)
    others[Category.AUTOGRAD_DETAIL.value] = others.get(Category.AUTOGRAD_DETAIL.value, 0) - also
    return held if held >= max(others.values()) else None


def _line_with_most(peak: Peak, category: Category) -> tuple[Location, int] | None:
    by_line: Counter[Location] = Counter()
    for line in peak.lines:
        if line.category is category and line.location is not None:
            by_line[line.location] += line.nbytes
    return by_line.most_common(1)[0] if by_line else None


def _is_in_evaluation(model: MemoryModel, peak: Peak) -> bool:
    """Whether memory is highest in an iteration without a backward."""
    return peak.iteration is not None and model.iterations[peak.iteration].kind == EVALUATE


def _from_before(model: MemoryModel, peak: Peak) -> int:
    """Bytes of activations alive at a peak that earlier iterations made; 0 where the moment was not watched."""
    if peak.time_ns is None or peak.iteration is None or not model.iterations[peak.iteration].tracked:
        return 0
    storages = table_of(model.storages)
    table = storages.lifetimes
    if peak.device not in table.devices:
        return 0
    alive = (table.birth_ns <= peak.time_ns) & (~table.died | (table.death_ns > peak.time_ns))
    before = (storages.birth_iteration >= 0) & (storages.birth_iteration < peak.iteration)
    kept = alive & before & (storages.category == CATEGORIES.index(Category.ACTIVATION))
    return int(table.nbytes[kept & (table.device == table.devices.index(peak.device))].sum())
