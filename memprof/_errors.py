"""Every error memprof raises on purpose, as one tree."""

from __future__ import annotations


class MemprofError(Exception):
    """Base of all errors raised by memprof. Its message says what happened and what to do next."""


class UsageError(MemprofError):
    """memprof was called in a way that cannot work (a wrong option value, a profiler used twice)."""


class TorchUnavailableError(MemprofError):
    """Capturing needs PyTorch and it cannot be imported."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"PyTorch cannot be imported ({reason}). Recording a run needs it: install torch in this "
            "environment. Reading a recording does not."
        )


class DryRunStoppedError(MemprofError):
    """A dry run needs a value that was not computed; the message names the operator and the line."""


class RecordingError(MemprofError):
    """A recording cannot be read or written."""


class RecordingVersionError(RecordingError):
    """A recording was written by a newer memprof than this one."""

    def __init__(self, path: str, found: int, supported: int) -> None:
        self.found = found
        self.supported = supported
        super().__init__(
            f"{path} has recording format {found}; this memprof reads up to {supported}. "
            "Upgrade with: pip install --upgrade torch-memprof"
        )


class OutputError(MemprofError):
    """A report or plot cannot be written where it was asked for."""
