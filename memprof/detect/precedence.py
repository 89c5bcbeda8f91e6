"""One code for one problem: where a specific rule explains a waste, the general one is silent about it."""

from __future__ import annotations

from memprof.detect.finding import Finding
from memprof.model.memory import MemoryModel
from memprof.record.events import Location

_SPEAKS_FOR = {
    "MP103": ("MP205",),  # outputs that are joined, in a list that lives as long as the evaluation
    "MP202": ("MP105", "MP106", "MP108", "MP201", "MP203", "MP214", "MP215"),  # live on into the next iteration
    "MP207": ("MP113",),  # gradients of models of earlier trials, which stay with them
    "MP214": ("MP215",),
    "MP215": ("MP209", "MP113"),  # copies of weights that a checkpoint or a pile of them keeps
}
"""General rule -> rules that say why."""

_ONLY_IF = {"MP103": "emptied"}
"""General rule -> evidence without which it has a problem of its own: a list that only grows is one, joined or not."""

_SHARE = 0.5


def without_explained(model: MemoryModel, findings: list[Finding]) -> list[Finding]:
    """Leave out general findings of which half the bytes are explained by a specific one.

    Args:
        model: The run.
        findings: What all rules said.

    Returns:
        The findings that say something of their own, in the same order.
    """
    kept = []
    for finding in findings:
        if finding.code in _ONLY_IF and not finding.evidence.get(_ONLY_IF[finding.code]):
            kept.append(finding)
            continue
        explained: set[tuple[Location | None, str]] = set()
        for other in findings:
            if other.code in _SPEAKS_FOR.get(finding.code, ()) and other.device == finding.device:
                explained |= set(_lines(model, other))
        lines = _lines(model, finding) if explained else {}
        total = sum(lines.values())
        if total and sum(nbytes for line, nbytes in lines.items() if line in explained) >= _SHARE * total:
            continue
        kept.append(finding)
    return kept


def _lines(model: MemoryModel, finding: Finding) -> dict[tuple[Location | None, str], int]:
    """Bytes of what a finding's remedies would free, by the line and op that made it."""
    result: dict[tuple[Location | None, str], int] = {}
    for identity in {storage for remedy in finding.remedies for storage in remedy.frees}:
        storage = model.storages.get(identity)
        if storage is not None:
            line = storage.location, storage.op
            result[line] = result.get(line, 0) + storage.nbytes
    return result
