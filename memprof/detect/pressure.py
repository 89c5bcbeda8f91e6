"""MP3xx: nothing is wrong, but the peak has one large cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from memprof.detect.evidence import MIB, place, size
from memprof.detect.finding import Finding, Kind, Remedy, Severity, Skipped
from memprof.detect.rule import Rule
from memprof.model.memory import Category, MemoryModel, Peak
from memprof.record.events import Location


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
    _MIN_BYTES = 32 * MIB

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for peak in model.peaks.values():
            if peak.by_category is None:
                yield Skipped(self.code, f"what the peak of {peak.device} was made of was not watched")
                continue
            held = peak.by_category.get(Category.ACTIVATION.value, 0)
            if held >= self._MIN_BYTES and held >= self._MIN_SHARE * peak.allocated_bytes:
                yield self._finding(model, peak, held)

    def _finding(self, model: MemoryModel, peak: Peak, held: int) -> Finding:
        by_line: Counter[Location] = Counter()
        for line in peak.lines:
            if line.category is Category.ACTIVATION and line.location is not None:
                by_line[line.location] += line.nbytes
        top = by_line.most_common(1)
        calls = {tick.call for tick in model.ticks if tick.call is not None}
        where = top[0][0] if top else next(iter(calls), None)
        share = held / peak.allocated_bytes
        most = f"; {place(where)} made {size(top[0][1])} of them" if top else ""
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=Severity.INFO,
            location=where,
            device=peak.device,
            bytes=held,
            bytes_per_iteration=None,
            source=peak.source,
            message=(
                f"Activations are {size(held)}, {share:.0%} of the peak of {size(peak.allocated_bytes)} on "
                f"{peak.device}{most}. They are held by the autograd graph until backward. If it does not "
                f"fit: a smaller "
                f"batch with gradient accumulation, or checkpoint the repeated blocks."
            ),
            holder="the autograd graph of the current iteration",
            remedies=(
                Remedy("smaller_batch", "halve the batch and accumulate gradients over two"),
                Remedy("checkpointing", "wrap repeated blocks in `torch.utils.checkpoint.checkpoint`"),
                Remedy("mixed_precision", "run the forward under `torch.autocast` to save activations in 16 bits"),
            ),
            evidence={"activation_bytes": held, "share_of_peak": round(share, 3), "iteration": peak.iteration},
        )
