"""memprof tells where the memory of a PyTorch run went, why, and what to do about it.

Importing it imports neither torch nor matplotlib: names load what they need when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memprof._version import __version__

if TYPE_CHECKING:
    import memprof.oom as oom
    from memprof._errors import (
        DryRunStoppedError,
        MemprofError,
        OutputError,
        RecordingError,
        RecordingVersionError,
        TorchUnavailableError,
        UsageError,
    )
    from memprof.advise.diagnosis import Diagnosis, diagnose
    from memprof.advise.what_if import what_if
    from memprof.decorator import profile
    from memprof.detect.finding import Finding, Remedy
    from memprof.fitting import fit
    from memprof.profiler import Profiler, iterations, simulate_gpu
    from memprof.record.reader import Recording, open_recording
    from memprof.simulate.allocator import CachingAllocator

_HOME = {
    "CachingAllocator": "memprof.simulate.allocator",
    "Diagnosis": "memprof.advise.diagnosis",
    "DryRunStoppedError": "memprof._errors",
    "Finding": "memprof.detect.finding",
    "MemprofError": "memprof._errors",
    "OutputError": "memprof._errors",
    "Profiler": "memprof.profiler",
    "Recording": "memprof.record.reader",
    "RecordingError": "memprof._errors",
    "RecordingVersionError": "memprof._errors",
    "Remedy": "memprof.detect.finding",
    "TorchUnavailableError": "memprof._errors",
    "UsageError": "memprof._errors",
    "diagnose": "memprof.advise.diagnosis",
    "fit": "memprof.fitting",
    "iterations": "memprof.profiler",
    "open_recording": "memprof.record.reader",
    "profile": "memprof.decorator",
    "simulate_gpu": "memprof.profiler",
    "what_if": "memprof.advise.what_if",
}

__all__ = [
    "CachingAllocator",
    "Diagnosis",
    "DryRunStoppedError",
    "Finding",
    "MemprofError",
    "OutputError",
    "Profiler",
    "Recording",
    "RecordingError",
    "RecordingVersionError",
    "Remedy",
    "TorchUnavailableError",
    "UsageError",
    "__version__",
    "diagnose",
    "fit",
    "iterations",
    "oom",
    "open_recording",
    "profile",
    "simulate_gpu",
    "what_if",
]


def __getattr__(name: str) -> Any:
    if name == "oom":
        return import_module("memprof.oom")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
