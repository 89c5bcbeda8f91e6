"""Graphs that training builds and no backward uses: what MP201 and MP203 both ask for."""

from __future__ import annotations

from collections.abc import Iterator

from memprof.detect.evidence import KIB
from memprof.detect.pass_evidence import MIN_PASSES, PassEvidence, by_line, has_graph, peak_share, typical
from memprof.model.lifetimes import IntArray
from memprof.record.events import Pass, PassKind

MIN_BYTES = 256 * KIB
"""Less than this, and less than `MIN_SHARE` of the peak, is not worth a change of the program."""

MIN_SHARE = 0.05


def unused_in_training(evidence: PassEvidence) -> Iterator[tuple[list[Pass], list[IntArray]]]:
    """Forwards in training iterations whose graph no backward used, though it was alive when memory was highest.

    Yields:
        The forwards of one line and module, at least `MIN_PASSES`, and what each watched one had saved then.
    """
    candidates = (
        item
        for item in evidence.of_kind(PassKind.FORWARD)
        if has_graph(item) and item.id not in evidence.used and evidence.trains(item)
    )
    lines = by_line(evidence.of_kind(PassKind.FORWARD))
    for key, forwards in by_line(candidates).items():
        if len(forwards) < MIN_PASSES or 2 * len(forwards) < len(lines[key]):
            continue
        rows = [part for item in forwards if (part := _saved_at_highest(evidence, item)) is not None]
        nbytes = typical(evidence.nbytes(part) for part in rows)
        if len(rows) < 2 or nbytes < MIN_BYTES or peak_share(evidence.model, evidence.device, nbytes) < MIN_SHARE:
            continue
        yield forwards, rows


def _saved_at_highest(evidence: PassEvidence, forward: Pass) -> IntArray | None:
    iteration = evidence.iteration(forward)
    if iteration is None or not iteration.tracked:
        return None
    saved = evidence.saved(forward)
    highest = evidence.highest(iteration)
    if highest is None or evidence.freed_by_backward(saved) > 0.1:  # part of it was used in another way
        return None
    return evidence.alive_at(saved, highest[0])


__all__ = ["MIN_BYTES", "MIN_SHARE", "unused_in_training"]
