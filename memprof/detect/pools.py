"""MP314 and MP315: memory beside the default pool of the caching allocator grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

from memprof.detect.evidence import MIB, counted, place, size, user_files
from memprof.detect.finding import Finding, Kind, Remedy, Severity, Skipped
from memprof.detect.rule import Rule
from memprof.detect.source import calls_of
from memprof.model.memory import Account, MemoryModel, Source

_MIN_POINTS = 5
_MIN_BYTES = 16 * MIB
_MIN_RISING = 0.6
"""Share of the steps between two readings that must go up, the first third of the run left out."""


def _rise(accounts: Iterable[Account], figure: Callable[[Account], int | None]) -> tuple[int, int, int] | None:
    """Growth, last value and number of readings where a figure keeps rising after warm-up; else None."""
    values = [value for account in accounts if (value := figure(account)) is not None]
    values = values[len(values) // 3 :]
    if len(values) < _MIN_POINTS:
        return None
    steps = [after - before for before, after in pairwise(values)]
    rising = sum(step > 0 for step in steps) / len(steps)
    grown = values[-1] - values[0]
    if rising < _MIN_RISING or min(steps) < 0 or grown < _MIN_BYTES:
        return None
    return grown, values[-1], len(values)


class PinnedMemoryGrows(Rule):
    """Pinned host memory grows and grows.

    ## What it detects
    The caching host allocator, which serves `pin_memory()` and `DataLoader(pin_memory=True)`, holds more at
    each reading, after warm-up.

    ## Why it costs memory
    Pinned pages cannot be swapped out, and the allocator keeps what it once had: tensors that stay pinned, or
    whose sizes change each time (it rounds up to powers of two), fill the host.

    ## Evidence
    `torch.cuda.host_memory_stats`, read with the driver's figures at most ten times a second.

    ## Remedy
    Let go of pinned tensors after their copy to the device; pin one buffer and reuse it; pad batches to few
    sizes.

    ## Example
    ```python
    import time

    import torch

    model = torch.nn.Linear(8, 8).cuda()
    kept = []
    for _ in range(12):
        kept.append(torch.empty(8 << 20, dtype=torch.uint8).pin_memory())
        model(torch.ones(4, 8, device="cuda")).sum().backward()
        time.sleep(0.11)
    ```

    ## Use instead
    ```python
    import time

    import torch

    model = torch.nn.Linear(8, 8).cuda()
    buffer = torch.empty(8 << 20, dtype=torch.uint8).pin_memory()
    for _ in range(12):
        buffer.copy_(torch.zeros(8 << 20, dtype=torch.uint8))
        model(torch.ones(4, 8, device="cuda")).sum().backward()
        time.sleep(0.11)
    ```

    ## Not a problem when
    A data set is pinned as a whole on purpose and the growth ends with it.
    """

    code = "MP314"
    kind = Kind.LEAK
    needs_cuda = True

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for accounts in model.accounts.values():
            found = _rise(accounts, lambda account: account.state.host_reserved_bytes)
            if found is None:
                continue
            grown, last, readings = found
            where = next(iter(calls_of(user_files(model), "pin_memory")), None)
            by = f" Tensors are pinned at {place(where)}." if where is not None else ""
            yield self.finding(
                severity=Severity.WARNING,
                location=where,
                device="cpu",
                bytes=last,
                source=Source.SIMULATED if model.run.simulated_gpu else Source.MEASURED,
                message=(
                    f"Pinned host memory rose by {size(grown)} over {counted(readings, 'reading')} to {size(last)} and "
                    f"did not stop.{by} Let go of pinned tensors after their copy, or reuse one buffer."
                ),
                holder="the caching host allocator",
                remedies=(Remedy("del", "let go of pinned tensors after their copy, or pin one buffer and reuse it"),),
                evidence={"grown_bytes": grown, "readings": readings},
            )
            return  # the host is one, however many devices there are


class PrivatePoolsGrow(Rule):
    """Private memory pools grow: a CUDA graph is captured again and again.

    ## What it detects
    Memory reserved by pools of CUDA graphs and `torch.cuda.MemPool` rises at each reading, after warm-up.

    ## Why it costs memory
    A captured graph owns its pool for as long as it lives, and no other allocation may use it. Capturing one
    graph for each new shape, and keeping them all, adds a pool each time.

    ## Evidence
    `reserved_bytes_by_private_pools` of `torch.cuda.memory_stats` (torch 2.13 and later).

    ## Remedy
    Capture for a few padded shapes; share one pool between graphs (`torch.cuda.graph(..., pool=...)`); drop
    graphs that are not replayed.

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(1024, 1024).cuda()
    graphs = []
    for step in range(12):
        x = torch.ones(256 * (step + 8), 1024, device="cuda")
        model(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        graphs.append((graph, y))
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(1024, 1024).cuda()
    x = torch.ones(256 * 20, 1024, device="cuda")
    model(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)
    for step in range(12):
        model(x)
        graph.replay()
    ```

    ## Not a problem when
    All shapes are captured once, at the start, and the pools fit.
    """

    code = "MP315"
    kind = Kind.LEAK
    needs_cuda = True

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for device, accounts in model.accounts.items():
            found = _rise(accounts, lambda account: account.state.private_pool_bytes)
            if found is None:
                continue
            grown, last, readings = found
            where = next(iter(calls_of(user_files(model), "CUDAGraph")), None)
            by = f", captured at {place(where)}" if where is not None else ""
            yield self.finding(
                severity=Severity.WARNING,
                location=where,
                device=device,
                bytes=last,
                source=Source.MEASURED,
                message=(
                    f"Private pools on {device} (CUDA graphs{by}, MemPool) rose by {size(grown)} over "
                    f"{counted(readings, 'reading')} to {size(last)}, which nothing else can use. Capture for a few "
                    f"padded shapes, or share one pool between graphs."
                ),
                holder="private pools of the caching allocator",
                remedies=(Remedy("fix_shape", "capture for a few padded shapes, and share one pool between graphs"),),
                evidence={"grown_bytes": grown, "readings": readings},
            )
