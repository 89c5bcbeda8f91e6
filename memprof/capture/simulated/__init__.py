"""A CUDA GPU that is not there, under a live run: the script runs on the CPU and its memory is booked as CUDA would.

What the script puts on "cuda" lies in host memory. Each block it would take there is taken from
`memprof.simulate.CachingAllocator`, live, so that `torch.cuda.memory_allocated`, allocator history and
`torch.OutOfMemoryError` come true, and the rest of capture works as if CUDA were there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memprof.capture.simulated.cuda import SimulatedCuda

_active: list[SimulatedCuda] = []


def active_simulation() -> SimulatedCuda | None:
    """The simulated CUDA this process runs under, or None."""
    return _active[-1] if _active else None


__all__ = ["active_simulation"]
