"""What a run would have needed, setting by setting, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from memprof.report.safe_json import dump

if TYPE_CHECKING:
    from memprof.advise.what_if import DeviceWhatIf, Outcome


def what_if_text(found: Sequence[DeviceWhatIf]) -> str:
    """Give the outcomes as JSON.

    Args:
        found: What was replayed.

    Returns:
        An object with the list `devices`; sizes in bytes, null where unknown.
    """
    return dump({"devices": [_device(device) for device in found]}, indent=2) + "\n"


def _device(found: DeviceWhatIf) -> dict[str, Any]:
    best = found.best
    return {
        "device": found.device,
        "total_bytes": found.total_bytes,
        "outcomes": [{**_outcome(outcome), "saves_bytes": found.saves_bytes(outcome)} for outcome in found.outcomes],
        "best": None if best is None else best.label,
        "notes": list(found.notes),
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    at = outcome.out_of_memory_at
    return {
        "settings": outcome.label,
        "source": outcome.source.value,
        "peak_allocated_bytes": outcome.peak_allocated_bytes,
        "peak_reserved_bytes": outcome.peak_reserved_bytes,
        "fragmentation": outcome.fragmentation,
        "device_allocs": outcome.device_allocs,
        "alloc_retries": outcome.alloc_retries,
        "fits": outcome.fits,
        "out_of_memory": outcome.out_of_memory or None,
        "out_of_memory_at": None if at is None else {"file": at.file, "line": at.line, "function": at.function},
        "out_of_memory_iteration": outcome.out_of_memory_iteration,
    }
