"""Tells errors of exhausted memory from others, and lets go of what a failed attempt still holds."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
from typing import Any

from memprof._exceptions import with_those_behind

logger = logging.getLogger("memprof.oom")

_WORDS = (
    "out of memory",  # CUDA, MPS, XPU, HIP
    "can't allocate memory",  # the CPU's allocator
    "not enough memory",  # the same on Windows
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)
"""What errors say where memory for a tensor, a workspace or a handle could not be had.

Source:
    c10/cuda/CUDACachingAllocator.cpp, c10/core/impl/alloc_cpu.cpp, ATen/mps/MPSAllocator.mm and
    ATen/cuda/Exceptions.h, torch 2.13.0.
"""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the host, had no memory left for a tensor.

    Args:
        error: What was raised.

    Returns:
        True for `torch.OutOfMemoryError` and for the errors of cuBLAS, cuDNN and the CPU's allocator that mean
        the same; False for all others, `MemoryError` of Python's own heap among them.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError):
        return False
    kind: Any = getattr(torch, "OutOfMemoryError", None) or torch.cuda.OutOfMemoryError
    if isinstance(error, kind):
        return True
    said = str(error)
    return any(words in said for words in _WORDS)


def let_go(error: BaseException) -> None:
    """Free what a failed attempt holds, so that the next begins with the memory it had.

    The frames of the traceback, and of the errors behind it, keep every tensor the attempt had in a local
    variable; reference cycles keep more; the caching allocator keeps the segments of shapes that will not come
    back.

    Args:
        error: What ended the attempt.
    """
    for item in with_those_behind(error):
        traceback.clear_frames(item.__traceback__)  # passes over frames that still run
    gc.collect()
    empty_caches()


def empty_caches() -> None:
    """Hand unused memory of the caching allocators back to the driver."""
    import torch

    for name in ("cuda", "xpu", "mps"):
        backend = getattr(torch, name, None)
        if backend is None or not hasattr(backend, "empty_cache"):
            continue
        initialized = getattr(backend, "is_initialized", None) or getattr(backend, "is_available", None)
        if initialized is None or initialized():
            backend.empty_cache()


def processes_wait_for_each_other() -> bool:
    """Whether this process trains together with others, which would wait for a step that is made again here."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    return bool(
        distributed is not None
        and distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def say(sentence: str) -> None:
    """Tell what was done: to the log, and to the report of the profiler that is recording."""
    logger.warning(sentence)
    capture = sys.modules.get("memprof.capture.session")
    session = capture.active_session() if capture is not None else None
    if session is not None:
        session.remark(sentence)


def add_note(error: BaseException, sentence: str) -> None:
    """Add a sentence to an error that goes on to the user, where this Python shows such notes (3.11)."""
    if hasattr(error, "add_note"):
        error.add_note(sentence)
