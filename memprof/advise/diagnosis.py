"""The answer to "where did the memory go": model, findings, remedies with their savings."""

from __future__ import annotations

from dataclasses import dataclass

from memprof.advise.savings import Combined, Savings
from memprof.advise.settings_advice import with_replayed_settings
from memprof.detect import run_rules
from memprof.detect.finding import Finding, Severity, Skipped
from memprof.model.build import build
from memprof.model.memory import MemoryModel
from memprof.model.view import RecordingView


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What reporters show."""

    model: MemoryModel
    findings: tuple[Finding, ...]
    """Most severe first, then by bytes."""
    skipped: tuple[Skipped, ...]
    combined: Combined | None = None
    """What the first remedies of all leaks and wastes save together; None where that is not known."""

    @property
    def worst(self) -> Severity | None:
        """Highest severity among the findings, or None without findings."""
        return max((finding.severity for finding in self.findings), key=lambda s: s.rank, default=None)


def diagnose(recording: RecordingView) -> Diagnosis:
    """Say where the memory of a run went, why, and what to do.

    Args:
        recording: An opened recording; needs no torch.

    Returns:
        The model of the run, what the rules found, and what each remedy saves.
    """
    model = build(recording)
    findings, skipped = run_rules(model)
    savings = Savings(model)
    valued = tuple(with_replayed_settings(recording, savings.valued(finding)) for finding in findings)
    return Diagnosis(model=model, findings=valued, skipped=tuple(skipped), combined=savings.combined(valued))
