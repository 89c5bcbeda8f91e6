"""Chains: autograd graphs that reach from one iteration into the next, and which problem each is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from statistics import median

from memprof.detect.evidence import (
    KIB,
    MIN_ITERATIONS,
    device_of,
    growth_severity,
    holder_text,
    iteration_of_ticks,
    place,
    related,
    size,
    user_files,
)
from memprof.detect.finding import Finding, Remedy
from memprof.detect.rule import Rule
from memprof.detect.source import storing_statement
from memprof.model.memory import MemoryModel, Source
from memprof.record.census import GraphRoot
from memprof.record.events import Location

_RECURRENT = ("LSTM", "GRU", "RNN")
_WRITES_INTO = frozenset(
    "CopySlices CopyBackwards IndexPutBackward0 IndexCopyBackward0 ScatterBackward0 CatBackward0 StackBackward0 "
    "SliceBackward0 RollBackward0".split()
)
"""Nodes of operations that make a tensor out of itself and something new, in part."""


@dataclass(slots=True)
class Chain:
    """One graph root seen in several censuses, oldest first."""

    sightings: list[tuple[int, GraphRoot]] = field(default_factory=list)
    """(iteration, root)."""

    @property
    def last(self) -> GraphRoot:
        """The root as it was last seen."""
        return self.sightings[-1][1]

    def per_iteration(self, values: list[int]) -> float:
        """Growth of a figure per iteration between censuses."""
        # Between sightings far apart a chain may have begun anew, as one of each evaluation does.
        nearest = min((there - here for (here, _), (there, _) in pairwise(self.sightings) if there > here), default=0)
        steps = [
            (after - before) / (there - here)
            for (here, _), (there, _), before, after in zip(
                self.sightings, self.sightings[1:], values, values[1:], strict=False
            )
            if 0 < there - here == nearest
        ]
        return float(median(steps)) if steps else 0.0

    @property
    def nodes_per_iteration(self) -> float:
        """Autograd nodes added by one iteration."""
        return self.per_iteration([item.nodes for _, item in self.sightings])

    @property
    def saved_per_iteration(self) -> float:
        """Bytes saved for backward added by one iteration."""
        return max(self.per_iteration([item.saved_bytes for _, item in self.sightings]), 0.0)

    @property
    def elements(self) -> list[int]:
        """Elements of the tensor at each sighting."""
        return [prod(item.shape) for _, item in self.sightings]


def chains(model: MemoryModel) -> list[Chain]:
    """Graph roots that reach from one iteration into an earlier one, by what holds them."""
    iterations = iteration_of_ticks(model)
    ordinal = _ordinals(model)
    found: dict[tuple[str, str, Location | None], Chain] = defaultdict(Chain)
    for census in model.censuses:
        here, before = iterations.get(census.tick), iterations.get(census.since_tick)
        if here is None or here == before:
            continue  # ticks of one iteration: the graph is built across them on purpose
        for root in census.roots:
            found[root.holder.name, root.holder.owner, root.location].sightings.append((ordinal[here], root))
    return [chain for chain in found.values() if chain.sightings]


def _ordinals(model: MemoryModel) -> dict[int, int]:
    """Index of an iteration -> its place among iterations of its kind."""
    seen: dict[str, int] = defaultdict(int)
    result = {}
    for iteration in model.iterations:
        result[iteration.index] = seen[iteration.kind]
        seen[iteration.kind] += 1
    return result


def enough(chain: Chain) -> str | None:
    """Whether a chain was seen to grow: None where it was, else why nothing can be said, or '' where it does not."""
    if len(chain.sightings) < 2:
        return (
            f"{chain.last.holder.text} links two iterations, but not enough iterations were watched to call it "
            f"growth; run at least {MIN_ITERATIONS + 1}"
        )
    return None if chain.nodes_per_iteration > 0 or chain.last.truncated else ""


# ---- which problem it is -----------------------------------------------------------------------


def is_weight_average(chain: Chain, model: MemoryModel) -> bool:
    """Whether the tensor is made of a parameter, or keeps its size while parts of it are replaced."""
    root = chain.last
    if root.carried or _is_recurrent(root, model):
        return False
    if root.parameter is not None:
        return True
    if root.grad_fn not in _WRITES_INTO or root.holds_parts is False:
        return False  # a state that is put together of new parts is computed from the one before
    return len(root.shape) > 1 and len(set(chain.elements)) == 1


def is_collection(chain: Chain) -> bool:
    """Whether the tensor gets longer: outputs are joined to those before (`torch.cat([all, out])`)."""
    root, elements = chain.last, chain.elements
    grows = all(after > before for before, after in pairwise(elements))
    return root.grad_fn in _WRITES_INTO and not root.carried and len(elements) > 1 and grows


def is_hidden_state(chain: Chain, model: MemoryModel) -> bool:
    """Whether the linking tensor is a state that goes back into a module, not a running sum."""
    root = chain.last
    if root.carried:
        return True
    if is_weight_average(chain, model) or is_collection(chain):
        return False
    return root.in_forward and (_is_recurrent(root, model) or len(root.shape) > 1)


def _is_recurrent(root: GraphRoot, model: MemoryModel) -> bool:
    """Whether a recurrent module made the tensor."""
    storage = model.storages.get(root.storage) if root.storage is not None else None
    module = storage.module.type_name if storage is not None and storage.module is not None else ""
    return any(name in module for name in _RECURRENT)


# ---- the finding ---------------------------------------------------------------------------------


def chain_finding(
    rule: Rule,
    model: MemoryModel,
    chain: Chain,
    *,
    words: Callable[[str, str, str, str], str],
    remedies: Callable[[str], Iterable[Remedy]],
) -> Finding:
    """A finding about a chain.

    Args:
        rule: The rule that found it.
        model: The run.
        chain: The chain.
        words: Makes the message of the tensor's name, its growth, the line that links, and the holder.
        remedies: Makes the remedies of the line that links, the most fitting first.
    """
    root, saved, nodes = chain.last, chain.saved_per_iteration, chain.nodes_per_iteration
    stored = root.written_at or storing_statement(root.holder, root.location, user_files(model)) or root.location
    holder = holder_text(root.holder, stored)
    device = device_of(model, root.storage)
    subject = f"`{root.holder.name}`" if root.holder.name else "a tensor"
    if saved >= KIB:
        growth = f"{size(saved)} of saved activations an iteration stay on {device}, because no backward frees them"
    else:
        growth = f"{nodes:.0f} autograd nodes an iteration stay in host memory; device memory hardly grows"
    where = place(stored)
    return rule.finding(
        severity=growth_severity(model, device, saved),
        location=stored,
        device=device,
        bytes=root.saved_bytes,
        bytes_per_iteration=saved,
        source=Source.MEASURED,
        message=words(subject, growth, where, holder),
        holder=holder,
        remedies=tuple(remedies(where)),
        related=related(root.location, stored),
        evidence={
            "nodes": root.nodes,
            "nodes_per_iteration": round(nodes, 1),
            "nodes_are_lower_bound": root.truncated,
            "saved_bytes": root.saved_bytes,
            "grad_fn": root.grad_fn,
            "censuses": len(chain.sightings),
        },
    )
