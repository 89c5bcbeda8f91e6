"""MP311, MP312 and MP313: the caching allocator holds more than it uses, or works harder than it should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from memprof.detect.evidence import MIB, counted, ended_out_of_memory, place, size, user_files
from memprof.detect.finding import Finding, Kind, RelatedLocation, Remedy, Severity, Skipped
from memprof.detect.rule import Rule
from memprof.detect.source import calls_of
from memprof.model.memory import Account, MemoryModel, Source, StrandedLine

_EXPAND = Remedy("allocator_settings", "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True before torch starts")


class ReservedFarAboveAllocated(Rule):
    """The caching allocator reserves far more than its peak of allocated memory: fragmentation.

    ## What it detects
    A peak of reserved memory well above the peak of allocated memory.

    ## Why it costs memory
    Tensors whose sizes change between iterations leave free blocks that the next sizes do not fit, so the
    allocator asks the driver for more. What is free in a segment partly in use cannot even go back.

    ## Evidence
    `memory_stats` at the end of iterations: reserved, allocated, `inactive_split_bytes`. Where the allocator's
    history was recorded, the lines whose blocks lay in the split segments. Of a PyTorch snapshot, its segments:
    where its trace does not go back to the beginning, only what is stranded in them counts.

    ## Remedy
    `PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True` before torch starts; sizes that repeat (padding to a
    few lengths, `drop_last=True`).

    ## Example
    ```python
    import torch

    kept = []
    for step in range(8):
        small = torch.empty(4 << 20, dtype=torch.uint8, device="cuda")
        large = torch.empty((40 + 8 * step) << 20, dtype=torch.uint8, device="cuda")
        model = torch.nn.Linear(8, 8).cuda()
        model(torch.ones(4, 8, device="cuda")).sum().backward()
        del large
        kept.append(small)
    ```

    ## Use instead
    ```python
    import torch

    kept = []
    for step in range(8):
        small = torch.empty(4 << 20, dtype=torch.uint8, device="cuda")
        kept.append(small)
    large = torch.empty(96 << 20, dtype=torch.uint8, device="cuda")
    model = torch.nn.Linear(8, 8).cuda()
    for step in range(8):
        model(torch.ones(4, 8, device="cuda")).sum().backward()
    ```

    ## Not a problem when
    The device is not full and nobody else needs the memory.
    """

    code = "MP311"
    kind = Kind.PRESSURE
    needs_cuda = True
    on_snapshots = True
    _THRESHOLDS = ((0.4, 64 * MIB), (0.25, 512 * MIB))
    """Share of reserved memory, and bytes, that allocated memory never reached. Healthy training loops stay
    below 0.3 and below 0.35 GiB: measured on 28 workloads with torch 2.14.1 on a device without processors."""

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        yield from self._of_snapshot(model)
        for device, accounts in model.accounts.items():
            peak = model.peaks.get(device)
            if peak is None or peak.reserved_bytes is None or not accounts:
                continue
            reserved = max(peak.reserved_bytes, *(account.state.reserved_bytes for account in accounts))
            unused = reserved - peak.allocated_bytes
            worst = max(accounts, key=lambda account: account.state.inactive_split_bytes)
            stranded = worst.state.inactive_split_bytes
            if not self._is_much(unused, reserved):
                continue
            lines = model.stranded.get(device, ())
            strained = bool(model.ooms) or accounts[-1].state.alloc_retries > 0
            yield self.finding(
                severity=Severity.WARNING if strained else Severity.INFO,
                location=None,
                device=device,
                bytes=unused,
                source=Source.MEASURED,
                message=(
                    f"{device} reserved {size(reserved)} where at most {size(peak.allocated_bytes)} was allocated at "
                    f"once: {size(unused)} is never used at once, and up to {size(stranded)} of it was stranded in "
                    f"segments partly in use{_held_by(lines)}. Let segments grow instead: expandable_segments:True."
                ),
                holder="the caching allocator",
                related=tuple(RelatedLocation("held", line.location) for line in lines if line.location is not None),
                remedies=(_EXPAND,),
                evidence={"reserved_bytes": reserved, "stranded_bytes": stranded, "iteration": worst.iteration},
            )

    def _is_much(self, nbytes: int, reserved: int) -> bool:
        return any(nbytes >= max(share * reserved, least) for share, least in self._THRESHOLDS)

    def _of_snapshot(self, model: MemoryModel) -> Iterable[Finding]:
        for totals in model.snapshot:
            peak = model.peaks.get(totals.device)
            if peak is None or totals.device == "host":
                continue
            reserved = max(totals.reserved_bytes, totals.peak_reserved_bytes or 0)
            unused = reserved - peak.allocated_bytes
            stranded = totals.stranded_bytes
            # Before a trace that begins midway more may have been allocated than is known.
            sure = unused if totals.trace_complete else min(reserved - totals.active_bytes, unused, stranded)
            if not self._is_much(sure, reserved):
                continue
            lines = model.stranded.get(totals.device, ())
            if totals.trace_complete:
                what = (
                    f"{totals.device} reserved {size(reserved)} where at most {size(peak.allocated_bytes)} was "
                    f"allocated at once: {size(unused)} is never used at once. When the snapshot was taken "
                    f"{size(stranded)} was stranded in segments partly in use"
                )
            else:
                what = (
                    f"{size(stranded)} of the {size(totals.reserved_bytes)} that {totals.device} had reserved was "
                    f"stranded when the snapshot was taken: free, in segments partly in use, which cannot go back to "
                    f"the driver"
                )
            strained = any(oom.device == totals.device for oom in model.ooms)
            yield self.finding(
                severity=Severity.WARNING if strained else Severity.INFO,
                location=None,
                device=totals.device,
                bytes=sure,
                source=Source.MEASURED,
                message=f"{what}{_held_by(lines)}. Let segments grow instead: expandable_segments:True.",
                holder="the caching allocator",
                related=tuple(RelatedLocation("held", line.location) for line in lines if line.location is not None),
                remedies=(_EXPAND,),
                evidence={"reserved_bytes": reserved, "stranded_bytes": stranded, "iteration": None},
            )


def _held_by(lines: Sequence[StrandedLine]) -> str:
    """Who kept the split segments, most first."""
    parts = [
        f"{place(line.location)} ({counted(line.blocks, 'block')}, {size(line.used_bytes)}, beside "
        f"{size(line.stranded_bytes)} free)"
        for line in lines
        if line.location is not None
    ]
    return f", held by {'; '.join(parts)}" if parts else ""


class CacheEmptiedEveryIteration(Rule):
    """Segments go back to the driver and are asked for again in every iteration.

    ## What it detects
    `cudaMalloc` and `cudaFree` in most iterations after the first ones, without any out-of-memory retry: the
    mark of `torch.cuda.empty_cache()` in the loop.

    ## Why it costs memory
    It frees nothing that the next iteration does not ask for again, so the peak stays. Each `cudaFree` waits
    for the device, and each `cudaMalloc` costs up to a millisecond.

    ## Evidence
    The allocator's counts of driver calls at the end of iterations.

    ## Remedy
    Remove the call. It helps only where memory must go to another process, or once before a large change of
    shapes.

    ## Example
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.Linear(4096, 16)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.ones(2048, 1024, device="cuda")).sum().backward()
        optimizer.step()
        torch.cuda.empty_cache()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.Linear(4096, 16)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.ones(2048, 1024, device="cuda")).sum().backward()
        optimizer.step()
    ```

    ## Not a problem when
    Another process takes turns with this one on the device.
    """

    code = "MP312"
    kind = Kind.WASTE
    needs_cuda = True
    _MIN_ITERATIONS = 4
    _MIN_SHARE = 0.75

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for device, accounts in model.accounts.items():
            steps = _per_iteration(model, accounts)
            if len(steps) < self._MIN_ITERATIONS + 1:
                continue
            pairs = list(pairwise(steps))
            flushed = [
                (after.state.device_frees or 0) - (before.state.device_frees or 0)
                for before, after in pairs
                if after.state.alloc_retries == before.state.alloc_retries
            ]
            if len(flushed) < self._MIN_ITERATIONS or sum(n > 0 for n in flushed) < self._MIN_SHARE * len(flushed):
                continue
            where = next(iter(calls_of(user_files(model), "empty_cache")), None)
            at = f", by {place(where)}" if where is not None else ""
            yield self.finding(
                severity=Severity.WARNING,
                location=where,
                device=device,
                bytes=None,
                source=Source.MEASURED,
                message=(
                    f"The cache of {device} is emptied in {sum(n > 0 for n in flushed)} of "
                    f"{counted(len(flushed), 'iteration')}{at}: {sum(flushed)} segments went back to the driver and "
                    f"were asked for again. The peak stays as it is and each turn waits for the device. Remove it."
                ),
                holder=None,
                remedies=(Remedy("del", "remove `torch.cuda.empty_cache()` from the loop"),),
                evidence={"iterations": len(flushed), "segments_freed": sum(flushed)},
            )


class AllocatorRetries(Rule):
    """The allocator had to give back its whole cache to serve a request.

    ## What it detects
    `num_alloc_retries` rose while the run went on: the device was full, and the allocator synchronised,
    freed every cached segment and tried again.

    ## Why it costs memory
    The run is at the edge. A retry that succeeds costs time (it waits for all streams, then asks the driver
    for everything anew); the next one may fail.

    ## Evidence
    `num_alloc_retries` at the end of ticks, and which iterations they fell into.

    ## Remedy
    Less memory at the peak (a slightly smaller batch), or less fragmentation.

    ## Example
    ```python
    import torch

    total = torch.cuda.mem_get_info()[1]
    model = torch.nn.Linear(8, 8).cuda()
    model(torch.ones(4, 8, device="cuda")).sum().backward()
    for share in (0.3, 0.4, 0.5, 0.6, 0.7):
        large = torch.empty(int(total * share), dtype=torch.uint8, device="cuda")
        del large
        model(torch.ones(4, 8, device="cuda")).sum().backward()
    ```

    ## Use instead
    ```python
    import torch

    total = torch.cuda.mem_get_info()[1]
    model = torch.nn.Linear(8, 8).cuda()
    model(torch.ones(4, 8, device="cuda")).sum().backward()
    for share in (0.7, 0.7, 0.7, 0.7, 0.7):
        large = torch.empty(int(total * share), dtype=torch.uint8, device="cuda")
        del large
        model(torch.ones(4, 8, device="cuda")).sum().backward()
    ```

    ## Not a problem when
    It happens once, where the run changes shape. Where memory ran out in the end, MP401 says why.
    """

    code = "MP313"
    kind = Kind.PRESSURE
    needs_cuda = True

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for device, accounts in model.accounts.items():
            failed = [oom.tick for oom in model.ooms if oom.device == device]
            if failed and ended_out_of_memory(model):
                continue  # the edge was passed: what filled the device is told with the error
            retried: Counter[int | None] = Counter()
            for before, after in pairwise(accounts):
                if any(before.state.tick < tick <= after.state.tick for tick in failed):
                    continue  # where a request failed in the end, that story is told by the error itself
                rise = after.state.alloc_retries - before.state.alloc_retries
                if rise > 0:
                    retried[after.iteration] += rise
            if not retried:
                continue
            retries, iterations = retried.total(), [index for index in retried if index is not None]
            where = ", ".join(str(index) for index in iterations[:4]) + (", ..." if len(iterations) > 4 else "")
            within = f" (in {'iteration' if len(iterations) == 1 else 'iterations'} {where})" if iterations else ""
            yield self.finding(
                severity=Severity.WARNING if retries > 1 else Severity.INFO,
                location=None,
                device=device,
                bytes=None,
                source=Source.MEASURED,
                message=(
                    f"{device} was full {counted(retries, 'time')}{within}: the allocator waited for the device, "
                    f"gave back all its cache and tried again. The run is at the edge of memory; "
                    f"make the batch a little smaller."
                ),
                holder="the caching allocator",
                remedies=(
                    Remedy("smaller_batch", "make the batch a little smaller"),
                    _EXPAND,
                ),
                evidence={"retries": retries, "iterations": iterations[:20]},
            )


def _per_iteration(model: MemoryModel, accounts: Sequence[Account]) -> list[Account]:
    """The last account of each iteration that computed something."""
    kinds = {iteration.index: iteration.kind for iteration in model.iterations}
    last = {
        account.iteration: account
        for account in accounts
        if account.iteration is not None and kinds.get(account.iteration) != "other"
    }
    return list(last.values())
