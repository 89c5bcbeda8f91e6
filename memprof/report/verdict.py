"""What a diagnosis comes to in one phrase, and what to do where its findings leave something open."""

from __future__ import annotations

import math

from memprof.advise.diagnosis import Diagnosis
from memprof.detect.finding import Kind, Severity
from memprof.model.memory import MemoryModel, Trend
from memprof.report.source_lines import place
from memprof.report.wording import counted, escape_controls, is_empty, loop_iterations, source_suffix
from memprof.units import format_bytes

_TOLD_SHARE = 0.2
"""Growth that no finding explains is told where it adds up to this share of the peak ..."""
_TOLD_BYTES = 1 << 20
"""... and to so much; counters of a whole process move by less for reasons of their own."""


def verdict(diagnosis: Diagnosis) -> str:
    """Sum the findings up: `1 error, 2 warnings`, or that there is no problem.

    Args:
        diagnosis: The whole diagnosis.

    Returns:
        One short phrase without a full stop.
    """
    if diagnosis.findings:
        nouns = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "hint"}
        severities = [finding.severity for finding in diagnosis.findings]
        counts = {noun: severities.count(severity) for severity, noun in nouns.items()}
        return ", ".join(counted(count, noun) for noun, count in counts.items() if count)
    model = diagnosis.model
    if is_empty(model):
        return "nothing recorded, so nothing can be said"
    if unexplained_growth(diagnosis) is not None:
        return "memory grows, and no rule found out why"
    if not saw_no_loop(model):
        return "no problem found"
    if not model.storages and not any(peak.allocated_bytes for peak in model.peaks.values()):
        return "no tensor was made in this process, so nothing can be said"
    return "no problem found, but no training or evaluation was seen either"


def in_short(diagnosis: Diagnosis, cwd: str) -> str:
    """Say the verdict with the first finding: `1 error, 2 warnings, first MP102 at train.py:34 in validate`.

    Args:
        diagnosis: The whole diagnosis.
        cwd: Folder that paths are shown relative to.
    """
    said = verdict(diagnosis)
    if not diagnosis.findings:
        return said
    first = diagnosis.findings[0]
    where = "" if first.location is None else f" at {place(first.location, cwd)}"
    return f"{said}{', first ' if len(diagnosis.findings) > 1 else ': '}{first.code}{where}"


def tone(diagnosis: Diagnosis) -> Severity | None:
    """How serious the verdict is: as the worst finding, or a warning where memory grows and nobody knows why.

    Args:
        diagnosis: The whole diagnosis.

    Returns:
        A severity; None where nothing was found.
    """
    if diagnosis.worst is None and unexplained_growth(diagnosis) is not None:
        return Severity.WARNING
    return diagnosis.worst


def unexplained_growth(diagnosis: Diagnosis) -> tuple[str, Trend] | None:
    """The device whose memory grows most without a finding that says why.

    Args:
        diagnosis: The whole diagnosis.

    Returns:
        The device and its trend, or None where memory is steady, hardly grows, or a leak explains half of it.
    """
    found = []
    for device, trend in diagnosis.model.trends.items():
        peak = diagnosis.model.peaks.get(device)
        if peak is None or not math.isfinite(trend.bytes_per_iteration):
            continue
        added = trend.bytes_per_iteration * (trend.last_iteration - trend.first_iteration)
        explained = sum(
            finding.bytes_per_iteration or 0.0
            for finding in diagnosis.findings
            if finding.kind is Kind.LEAK and finding.device == device
        )
        if added >= max(_TOLD_SHARE * peak.allocated_bytes, _TOLD_BYTES) and 2 * explained < trend.bytes_per_iteration:
            found.append((added, device, trend))
    return max(found, key=lambda item: item[0])[1:] if found else None


def next_step(diagnosis: Diagnosis) -> str:
    """What to do where the findings leave something open: memory that grows, or a run that shows no training.

    Args:
        diagnosis: The whole diagnosis.

    Returns:
        A sentence, or '' where there is nothing to say.
    """
    run = diagnosis.model.run
    grows = unexplained_growth(diagnosis)
    if grows is not None:
        device, trend = grows
        added = trend.bytes_per_iteration * (trend.last_iteration - trend.first_iteration)
        watched = all(iteration.tracked for iteration in diagnosis.model.iterations)
        closer = "below are the lines that held most" if watched else "`--level tensors` watches every iteration"
        return (
            f"Memory on {escape_controls(device)} grew by {format_bytes(trend.bytes_per_iteration)} an iteration, "
            f"{format_bytes(added)} in all{source_suffix(trend.source)}, and no finding explains it; {closer}."
        )
    if diagnosis.findings or run.exception or not run.script or not saw_no_loop(diagnosis.model):
        return ""
    return (
        "Other processes are not watched: where a launcher starts the training, let it start memprof, as in "
        "`torchrun -m memprof analyze SCRIPT`."
    )


def saw_no_loop(model: MemoryModel) -> bool:
    """Say whether no iteration of a training or an evaluation was seen; a snapshot knows of none.

    Args:
        model: The model of the run.
    """
    return not model.snapshot and bool(model.iterations) and not loop_iterations(model)
