"""MP316: memory on a GPU that belongs to another process of the same job."""

from __future__ import annotations

from collections.abc import Iterable

from memprof.detect.evidence import MIB, place, size
from memprof.detect.finding import Finding, Kind, RelatedLocation, Remedy, Severity, Skipped
from memprof.detect.rule import Rule
from memprof.model.memory import MemoryModel, Source


class MemoryOnForeignDevice(Rule):
    """A process of a distributed job takes memory on the GPU of another one.

    ## What it detects
    In a job with one process a GPU (`torchrun`), a process that allocates on a GPU other than that of its
    `LOCAL_RANK`.

    ## Why it costs memory
    Every process that touches a GPU pays for a CUDA context there, some hundred MiB, and for the tensors it puts
    there. If all do it on the same GPU, usually the first, that one is full long before the others. The usual
    causes: `torch.load` without `map_location` puts tensors back on the GPU they were saved from, and `.cuda()` or
    `device="cuda"` before `torch.cuda.set_device` means GPU 0.

    ## Evidence
    `LOCAL_RANK` and `LOCAL_WORLD_SIZE` when CUDA was initialised, as many GPUs as processes, and reserved memory of
    this process on another GPU. A context without any tensor is not seen.

    ## Remedy
    `torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))` before anything else touches CUDA, and
    `torch.load(..., map_location="cpu")`.

    ## Example
    ```python
    import os
    import torch

    os.environ.update(LOCAL_RANK="1", LOCAL_WORLD_SIZE="2")  # as torchrun sets them
    weights = torch.empty(8 << 20, device="cuda:0")
    torch.cuda.set_device(1)
    model = torch.nn.Linear(64, 64).cuda()
    for _ in range(3):
        model(torch.ones(4, 64, device="cuda")).sum().backward()
    ```

    ## Use instead
    ```python
    import os
    import torch

    os.environ.update(LOCAL_RANK="1", LOCAL_WORLD_SIZE="2")  # as torchrun sets them
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    weights = torch.empty(8 << 20, device="cuda")
    model = torch.nn.Linear(64, 64).cuda()
    for _ in range(3):
        model(torch.ones(4, 64, device="cuda")).sum().backward()
    ```

    ## Not a problem when
    Processes share GPUs on purpose, or are given to GPUs in another order than that of their local ranks.
    """

    code = "MP316"
    kind = Kind.PRESSURE
    needs_cuda = True
    _WARNING_BYTES = 64 * MIB

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        job = model.run.extra.get("local_rank"), model.run.extra.get("local_world_size")
        rank, processes = job
        if not isinstance(rank, int) or processes != model.run.extra.get("cuda_devices") or processes == 1:
            return
        for device, accounts in model.accounts.items():
            reserved = max((account.state.reserved_bytes for account in accounts), default=0)
            if device == f"cuda:{rank}" or not reserved:
                continue
            peak = model.peaks.get(device)
            lines = [line for line in peak.lines if line.location is not None][:3] if peak is not None else []
            where = lines[0].location if lines else None
            made = f", {size(lines[0].nbytes)} of it by {place(where)}" if lines else ""
            yield self.finding(
                severity=Severity.WARNING if reserved >= self._WARNING_BYTES else Severity.INFO,
                location=where,
                device=device,
                bytes=reserved,
                source=Source.MEASURED,
                message=(
                    f"This process is local rank {rank} of {processes} and reserves {size(reserved)} on {device}, "
                    f"the GPU of rank {device.partition(':')[2]}{made}; its CUDA context there comes on top. Call "
                    f"torch.cuda.set_device({rank}) before anything touches CUDA."
                ),
                holder="this process",
                remedies=(
                    Remedy(
                        "set_device",
                        'call torch.cuda.set_device(int(os.environ["LOCAL_RANK"])) first of all',
                    ),
                    Remedy("map_location", 'load checkpoints with torch.load(..., map_location="cpu")'),
                ),
                related=tuple(RelatedLocation("allocated", line.location) for line in lines[1:] if line.location),
                evidence={"local_rank": rank, "local_world_size": processes, "reserved_bytes": reserved},
            )
