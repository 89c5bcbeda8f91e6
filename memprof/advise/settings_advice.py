"""Remedies that set the allocator, with what they spare by a replay of the recorded history."""

from __future__ import annotations

from dataclasses import replace

from memprof._errors import UsageError
from memprof.advise.what_if import DeviceWhatIf, Outcome, candidates, what_if
from memprof.detect.finding import Finding, Remedy
from memprof.model.memory import Source
from memprof.model.view import RecordingView

_SETTINGS = "allocator_settings"
_FRAGMENTATION = "MP311"
_MAX_EVENTS = 300_000
"""Above, trying every setting would hold the report up; `memprof whatif --advise` does it when asked."""


def with_replayed_settings(recording: RecordingView, finding: Finding) -> Finding:
    """Choose the settings that help most against fragmentation, and say how much they spare.

    Args:
        recording: The run.
        finding: Any finding; only one about fragmentation is changed.

    Returns:
        The finding with its remedy set to the best of the settings tried, `saves_bytes` in reserved memory
        (`simulated`); as it was where nothing can be replayed. Where no setting helps, the remedy says so.
    """
    if finding.code != _FRAGMENTATION or not any(remedy.slug == _SETTINGS for remedy in finding.remedies):
        return finding
    log = recording.block_log()
    if log is None or not 0 < len(log.events) <= _MAX_EVENTS:
        return finding
    try:
        tried = what_if(recording, candidates(recording), device=finding.device)
    except UsageError:
        return finding
    if not tried:
        return finding
    best = tried[0].best
    if best is None:
        text = "no setting of the allocator tried reserves less in a replay of this run; allocate sizes that repeat"
        remedy = Remedy(_SETTINGS, text, saves_bytes=0, source=Source.SIMULATED)
    else:
        saved = _spared(finding, tried[0], best)
        if saved is not None and saved <= 0:
            return finding
        text = f"set PYTORCH_CUDA_ALLOC_CONF={best.label} before torch starts: reserved memory then peaks lower"
        remedy = Remedy(_SETTINGS, text, saves_bytes=saved, source=Source.SIMULATED)
    others = tuple(other for other in finding.remedies if other.slug != _SETTINGS)
    return replace(finding, remedies=(remedy, *others))


def _spared(finding: Finding, tried: DeviceWhatIf, best: Outcome) -> int | None:
    """Bytes an outcome spares.

    Where the device's memory is not known, as with a snapshot, a replay under the run's own settings may reserve more
    than the run did, which had to give back its cache. What was never reserved is not spared.
    """
    saved = tried.saves_bytes(best)
    reserved = finding.evidence.get("reserved_bytes")
    if saved is None or best.peak_reserved_bytes is None or not isinstance(reserved, int):
        return saved
    return min(saved, reserved - best.peak_reserved_bytes)
