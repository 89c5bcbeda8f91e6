"""What is said of a pile."""

from __future__ import annotations

from collections.abc import Iterable

from memprof.detect.evidence import device_of, growth_severity, holder_text, related
from memprof.detect.finding import Finding, Kind, Remedy
from memprof.detect.piles import Pile
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import Location
from memprof.units import format_bytes


def pile_finding(
    model: MemoryModel,
    pile: Pile,
    *,
    code: str,
    name: str,
    what: str,
    step: str,
    remedies: Iterable[Remedy],
    location: Location | None = None,
) -> Finding:
    """A finding about a pile.

    Args:
        model: The run.
        pile: Tensors of one holder.
        code: The rule's code.
        name: The rule's name.
        what: What piles up and why: the beginning of the message, without a full stop.
        step: What to do: the end of the message, with a full stop.
        remedies: The most fitting first.
        location: Where to make the change, if not where the tensors are stored.
    """
    stored = location or pile.stored
    device = device_of(model, pile.main.storages[0] if pile.main.storages else None)
    holder = holder_text(pile.holder, stored)
    return Finding(
        code=code,
        name=name,
        kind=Kind.LEAK,
        severity=growth_severity(model, device, pile.per_iteration),
        location=stored,
        device=device,
        bytes=pile.nbytes + pile.graph_bytes,
        bytes_per_iteration=pile.per_iteration,
        source=Source.MEASURED,
        message=f"{what}: {cost(pile, device)}. Held by {holder}. {step}",
        holder=holder,
        remedies=tuple(remedies),
        related=related(pile.made_at, stored),
        evidence=pile.evidence(),
    )


def cost(pile: Pile, device: str) -> str:
    """What a pile costs, as a clause: "4.0 MiB an iteration stay on cuda:0"."""
    text = f"{format_bytes(pile.per_iteration)} an iteration stay on {device}"
    if not pile.with_graph:
        return text
    if pile.graph_bytes:
        return f"{text} with the activations behind them"
    nodes = pile.graph_nodes / max(len(pile.iterations), 1)
    return f"{text}, and {nodes:.0f} autograd nodes in host memory (backward has freed the activations)"


def without_aliases(findings: Iterable[tuple[tuple[bool, int], Finding]]) -> Iterable[Finding]:
    """Of findings about the same tensors (a list known by two names, a slice of it) keep the fullest.

    Args:
        findings: Each with its pile's `fullness`.
    """
    best: dict[object, Finding] = {}
    for _, finding in sorted(findings, key=lambda item: (item[0], item[1].bytes or 0)):
        made = next((item.location for item in finding.related if item.role == "allocated"), None)
        best[made] = finding
    by_line = {finding.location: finding for finding in sorted(best.values(), key=lambda item: item.bytes or 0)}
    return by_line.values()
