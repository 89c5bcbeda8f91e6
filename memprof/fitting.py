"""`memprof.fit`: the largest value with which a function fits a GPU, tried in this process on simulated GPUs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from memprof._errors import UsageError
from memprof.advise.fit import Fit, Trial, largest_that_fits
from memprof.profiler import simulate_gpu
from memprof.simulate.gpus import Gpu, find_gpu


def fit(
    function: Callable[[int], object],
    *,
    gpu: str | Gpu,
    first: int = 1,
    most: int = 1 << 20,
    step: int = 1,
    runs: int = 16,
    safety: float = 0.05,
    settings: str | None = None,
    dry: bool = False,
) -> Fit:
    """Find the largest batch size, or other number, with which a function fits a GPU. Needs none.

    ::

        def train(batch_size):
            model = Net().cuda()
            optimizer = torch.optim.AdamW(model.parameters())
            for _ in range(3):
                loss = model(torch.randn(batch_size, 3, 224, 224, device="cuda")).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        memprof.fit(train, gpu="RTX 4090").largest

    The function is called with a few small values, with the value that their need points to, and with one above it;
    each time on a GPU of its own, simulated by the CPU (see `simulate_gpu`). Whatever takes most must be in it: an
    optimizer's first step, the longest sequence, an evaluation, the last batch. It makes its model itself, so that
    each call begins with an empty GPU. For a script there is `memprof fit`.

    Args:
        function: Called with the value; what it returns is dropped.
        gpu: Name (`A100-40GB`) or size (`8GiB`) of the GPU.
        first: Smallest value.
        most: Largest value to try.
        step: Distance between values.
        runs: Most calls.
        safety: Share of the GPU to leave free.
        settings: Of the caching allocator, as in `PYTORCH_ALLOC_CONF`; None is what the environment says.
        dry: Leave the arithmetic out, see `simulate_gpu`.

    Returns:
        The largest value that was seen to fit, and every trial; sizes in bytes, simulated.

    Raises:
        UsageError: An argument makes no sense, the GPU is not known, this process has used CUDA or run a backward
            before, or the function put nothing on the GPU.
    """
    if not 1 <= first <= most:
        raise UsageError(f"first={first}, most={most}: write 1 <= first <= most")
    if step < 1 or runs < 1:
        raise UsageError(f"step={step}, runs={runs}: both must be at least 1")
    if not 0 <= safety < 1:
        raise UsageError(f"safety={safety}: write a share from 0 to below 1")
    found = find_gpu(gpu) if isinstance(gpu, str) else gpu
    limit = round(found.total_bytes * (1 - safety))

    def run(value: int) -> Trial:
        return _tried(function, value, found, limit, settings, dry)

    return largest_that_fits(
        run,
        gpu=found.name,
        total_bytes=found.total_bytes,
        limit_bytes=limit,
        first=first,
        most=most,
        step=step,
        runs=runs,
    )


def _tried(
    function: Callable[[int], object], value: int, gpu: Gpu, limit: int, settings: str | None, dry: bool
) -> Trial:
    """One call of the function, on a GPU that is empty before and gone after."""
    from memprof.oom.recovery import is_out_of_memory

    begin = time.perf_counter()
    with simulate_gpu(gpu, settings=settings, dry=dry):
        import torch

        try:
            function(value)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reserved = None
        else:
            reserved = torch.cuda.max_memory_reserved()
            out_of_memory = torch.cuda.memory_stats().get("num_ooms", 0)
        gc.collect()  # cycles of this call's tensors must not land in the next one
    seconds = time.perf_counter() - begin
    if reserved is None or out_of_memory:
        return Trial(value, False, None, seconds, "out of memory")
    if not reserved:
        name = getattr(function, "__qualname__", repr(function))
        raise UsageError(f"{name}({value}) put nothing on CUDA; let it use device 'cuda'")
    needed = gpu.context_bytes + reserved
    return Trial(value, needed <= limit, needed, seconds, "" if needed <= limit else "above the limit")


__all__ = ["fit"]
