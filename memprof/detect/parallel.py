"""MP321 and MP322: several devices in one process, one of which is full long before the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import fmean

from memprof.detect.evidence import MIB, place, share_severity, size
from memprof.detect.finding import Finding, Kind, Remedy, Severity, Skipped
from memprof.detect.rule import Rule
from memprof.model.memory import Category, MemoryModel, Source
from memprof.record.events import Location, Role
from memprof.record.run_info import GatheredOutputs, ModelPart


class OutputsGatheredOnOneDevice(Rule):
    """`DataParallel` gathers the outputs of all devices on one, which is full before the others.

    ## What it detects
    `torch.nn.DataParallel` whose outputs are large: logits, segmentation maps, features. They come together on the
    first device, where the loss is computed from them.

    ## Why it costs memory
    That device holds the outputs of the whole batch, the loss's copies of them and their gradients, besides its own
    share of the work, the gradients of all replicas and the optimizer. The batch is limited by it, and the others
    stay half empty.

    ## Evidence
    The bytes that each call of the `DataParallel` module returned, and the measured peaks of the devices.

    ## Remedy
    `DistributedDataParallel`, a process for each device, which gathers nothing. Or compute the loss inside the module's
    `forward`, so that each replica returns a number.

    ## Example
    ```python
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2048))
    model = torch.nn.DataParallel(net.cuda(), device_ids=[0, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        logits = model(torch.ones(1024, 64, device="cuda"))
        labels = torch.zeros(1024, dtype=torch.long, device="cuda")
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch


    class WithLoss(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, inputs, labels):
            return torch.nn.functional.cross_entropy(self.net(inputs), labels).unsqueeze(0)


    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2048))
    model = torch.nn.DataParallel(WithLoss(net).cuda(), device_ids=[0, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        labels = torch.zeros(1024, dtype=torch.long, device="cuda")
        loss = model(torch.ones(1024, 64, device="cuda"), labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The outputs are small beside the activations, as in most classifiers. memprof stays silent below a tenth of the
    peak.
    """

    code = "MP321"
    kind = Kind.PRESSURE
    needs_cuda = True
    _MIN_BYTES = 1 * MIB
    _MIN_SHARE = 0.1
    _MIN_RATIO = 1.3

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for gathered in model.run.gathered:
            peak = model.peaks.get(gathered.device)
            others = [
                other.allocated_bytes
                for device, other in model.peaks.items()
                if device.startswith("cuda") and device != gathered.device
            ]
            if peak is None or not others or gathered.nbytes < self._MIN_BYTES:
                continue
            fullest_other = max(others)
            large = gathered.nbytes >= self._MIN_SHARE * peak.allocated_bytes
            if large and peak.allocated_bytes >= self._MIN_RATIO * fullest_other:
                yield self._finding(model, gathered, peak.allocated_bytes, fullest_other)

    def _finding(self, model: MemoryModel, gathered: GatheredOutputs, peak: int, other: int) -> Finding:
        frees = tuple(
            storage.id
            for storage in model.storages.values()
            if storage.device == gathered.device
            and storage.role & Role.OUTPUT
            and storage.module is not None
            and storage.module.type_name == "DataParallel"
        )
        return self.finding(
            severity=share_severity(gathered.nbytes, model.peaks[gathered.device]),
            location=gathered.location,
            device=gathered.device,
            bytes=gathered.nbytes,
            source=Source.MEASURED,
            message=(
                f"`DataParallel` at {place(gathered.location)} gathers the outputs of {gathered.replicas} devices on "
                f"{gathered.device}: {size(gathered.nbytes)} each time, {gathered.nbytes / peak:.0%} of its peak of "
                f"{size(peak)}; no other device needs more than {size(other)}. Use `DistributedDataParallel`, or "
                f"compute the loss inside `forward` and return a number."
            ),
            holder="the output of the `DataParallel` module",
            remedies=(
                Remedy("ddp", "use `DistributedDataParallel`, a process for each device", frees=frees),
                Remedy(
                    "loss_in_forward", "compute the loss inside the module's `forward` and return a number", frees=frees
                ),
            ),
            evidence={
                "gathered_bytes": gathered.nbytes,
                "calls": gathered.calls,
                "peak_bytes": peak,
                "next_peak_bytes": other,
            },
        )


class ModelSplitUnevenly(Rule):
    """A model is split over several devices, and one of them needs far more memory than the others.

    ## What it detects
    A module with parameters on several GPUs (pipeline or model parallelism written by hand) of which one has a much
    higher peak.

    ## Why it costs memory
    The fullest device decides whether the run fits. Splitting by the number of layers or by parameters alone goes
    wrong where activations are what counts: early layers with large feature maps, a head over a large vocabulary.

    ## Evidence
    Where the parameters of the root module are when it is called, and the measured peaks of those devices.

    ## Remedy
    Move the boundary: layers from the fullest device to the emptiest, until the peaks meet.

    ## Example
    ```python
    import torch


    class Split(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(6))).to("cuda:0")
            self.last = torch.nn.Linear(1024, 10).to("cuda:1")

        def forward(self, x):
            return self.last(self.first(x).to("cuda:1"))


    model = Split()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        loss = model(torch.ones(64, 1024, device="cuda:0")).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch


    class Split(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(3))).to("cuda:0")
            self.middle = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(3))).to("cuda:1")
            self.last = torch.nn.Linear(1024, 10).to("cuda:1")

        def forward(self, x):
            return self.last(self.middle(self.first(x).to("cuda:1")))


    model = Split()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        loss = model(torch.ones(64, 1024, device="cuda:0")).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The fullest device has room to spare, or the devices differ in size.
    """

    code = "MP322"
    kind = Kind.PRESSURE
    needs_cuda = True
    _MIN_DIFFERENCE = 16 * MIB
    _MIN_RATIO = 1.5
    """Of the fullest device's peak to the mean of all."""
    _WARNING_BYTES = 64 * MIB

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        by_root: dict[str, list[ModelPart]] = defaultdict(list)
        for part in model.run.model_parts:
            by_root[part.root].append(part)
        for parts in by_root.values():
            peaks = {
                part.device: model.peaks[part.device].allocated_bytes for part in parts if part.device in model.peaks
            }
            if len(peaks) < 2:
                continue
            fullest, emptiest = (
                max(peaks, key=lambda device: peaks[device]),
                min(peaks, key=lambda device: peaks[device]),
            )
            uneven = peaks[fullest] >= self._MIN_RATIO * fmean(peaks.values())
            if uneven and peaks[fullest] - peaks[emptiest] >= self._MIN_DIFFERENCE:
                yield self._finding(model, parts, peaks, fullest, emptiest)

    def _finding(
        self, model: MemoryModel, parts: list[ModelPart], peaks: dict[str, int], fullest: str, emptiest: str
    ) -> Finding:
        even = round(fmean(peaks.values()))
        excess = peaks[fullest] - even
        where = _placed_at(model, fullest) or next((tick.call for tick in model.ticks if tick.call is not None), None)
        told = "; ".join(
            f"{part.device} has {size(part.nbytes)} of parameters ({', '.join(part.children)}) and a peak of "
            f"{size(peaks[part.device])}"
            for part in parts
            if part.device in peaks
        )
        move = f"move layers that take about {size(excess)} from {fullest} to {emptiest}"
        return self.finding(
            severity=Severity.WARNING if excess >= self._WARNING_BYTES else Severity.INFO,
            location=where,
            device=fullest,
            bytes=peaks[fullest],
            source=model.peaks[fullest].source,
            message=(
                f"`{parts[0].root}` is split unevenly: {told}. Split evenly, {size(even)} would do on each. At "
                f"{place(where)}, {move}."
            ),
            holder=None,
            remedies=(Remedy("split_evenly", move),),
            evidence={"peak_bytes": peaks, "even_bytes": even, "parameters": {p.device: p.nbytes for p in parts}},
        )


def _placed_at(model: MemoryModel, device: str) -> Location | None:
    """The line that put most of a device's parameters there."""
    by_line: Counter[Location] = Counter()
    for storage in model.storages.values():
        if storage.device == device and storage.category is Category.PARAMETER and storage.location is not None:
            by_line[storage.location] += storage.nbytes
    return by_line.most_common(1)[0][0] if by_line else None
