"""Asking NVML, whichever version of it and of `pynvml` is there.

Source:
    NVML API reference, driver 580; `pynvml` 13 (nvidia-ml-py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

_NOT_AVAILABLE = (1 << 63) - 1
"""`NVML_VALUE_NOT_AVAILABLE` is -1 in 64 bits; some versions of pynvml pass it on as it is."""


def load_nvml() -> Any:
    """Import and initialise NVML; the caller shuts it down.

    Raises:
        Exception: It cannot be used; what pynvml raises is left as it is.
    """
    nvml = import_quietly("pynvml")
    nvml.nvmlInit()
    return nvml


def import_quietly(name: str) -> Any:
    """Import a module whatever it has to announce."""
    with warnings.catch_warnings():
        # GPUtil's distutils and the old pynvml announce their end at import.
        warnings.simplefilter("ignore")
        return import_module(name)


def ask(question: Callable[[], Any]) -> Any:
    """The answer, or None where the driver, the GPU or this pynvml has none (not supported, no permission)."""
    try:
        return question()
    except Exception:
        return None


def held_by_process(nvml: Any, handle: Any) -> dict[int, int | None] | None:
    """Bytes every listed process holds on a device.

    Args:
        nvml: `pynvml`, initialised.
        handle: The device.

    Returns:
        pid -> bytes, None where the driver does not tell; None where processes cannot be listed.
    """
    held: dict[int, int | None] = {}
    answered = False
    computing = ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    drawing = ask(lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses(handle))
    for listed in (computing, drawing):
        if listed is None:
            continue
        answered = True
        for process in listed:
            nbytes = process.usedGpuMemory
            if nbytes is not None and nbytes >= _NOT_AVAILABLE:
                nbytes = None
            # A process that computes and draws is in both lists, each time with all it holds.
            known = [value for value in (nbytes, held.get(process.pid)) if value is not None]
            held[process.pid] = max(known, default=None)
    return held if answered else None
