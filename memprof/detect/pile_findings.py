"""What is said of a pile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from memprof.detect.evidence import device_of, growth_severity, holder_text, related
from memprof.detect.finding import Finding, Remedy, Skipped
from memprof.detect.pile_growth import checked
from memprof.detect.piles import Pile
from memprof.detect.rule import Rule
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import Location
from memprof.units import format_bytes


def pile_finding(
    rule: Rule,
    model: MemoryModel,
    pile: Pile,
    *,
    what: str,
    step: str,
    remedies: Iterable[Remedy],
    location: Location | None = None,
) -> Finding:
    """A finding about a pile.

    Args:
        rule: The rule that found it.
        model: The run.
        pile: Tensors of one holder.
        what: What piles up and why: the beginning of the message, without a full stop.
        step: What to do: the end of the message, with a full stop.
        remedies: The most fitting first.
        location: Where to make the change, if not where the tensors are stored.
    """
    stored = location or pile.stored
    device = device_of(model, pile.main.storages[0] if pile.main.storages else None)
    holder = holder_text(pile.holder, stored)
    return rule.finding(
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
    often = "an iteration" if pile.apart < 2 else f"every {pile.apart:.0f} iterations"
    text = f"{format_bytes(pile.each_time)} {often} stay on {device}"
    if not pile.with_graph:
        return text
    if pile.graph_bytes:
        return f"{text} with the activations behind them"
    nodes = pile.graph_nodes / max(len(pile.iterations), 1)
    return f"{text}, and {nodes:.0f} autograd nodes in host memory (backward has freed the activations)"


def findings_of_piles(
    rule: Rule,
    model: MemoryModel,
    tell: Callable[[Pile], Finding | Skipped | None],
    *,
    even_bounded: bool = False,
) -> Iterator[Finding | Skipped]:
    """What a rule says of its piles, each told once.

    Args:
        rule: The rule.
        model: The run.
        tell: Makes the finding of a pile that has grown and goes on growing; None where it is not worth one.
        even_bounded: A bound of the container does not excuse it.
    """
    found = []
    for pile in checked(model, rule.code, even_bounded=even_bounded):
        answer = pile if isinstance(pile, Skipped) else tell(pile)
        if isinstance(answer, Skipped):
            yield answer
        elif answer is not None and isinstance(pile, Pile):
            found.append((pile.fullness, answer))
    yield from _without_aliases(found)


def _without_aliases(findings: Iterable[tuple[tuple[bool, int, int], Finding]]) -> Iterable[Finding]:
    """Of findings about the same tensors (a list known by two names, a slice of it) keep the fullest."""
    best: dict[object, Finding] = {}
    for _, finding in sorted(findings, key=lambda item: (item[0], item[1].bytes or 0)):
        made = next((item.location for item in finding.related if item.role == "allocated"), None)
        best[made] = finding
    by_line = {finding.location: finding for finding in sorted(best.values(), key=lambda item: item.bytes or 0)}
    return by_line.values()
