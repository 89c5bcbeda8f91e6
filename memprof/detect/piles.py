"""Tensors that pile up: what one holder kept at its last census, and which problem that is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from memprof.detect.evidence import (
    MIN_ITERATIONS,
    counted,
    device_of,
    growth_severity,
    holder_text,
    iteration_of_ticks,
    line_growing,
    place,
    related,
    user_files,
)
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.regions import region_of
from memprof.detect.source import adds_to, storing_statement
from memprof.detect.surroundings import key_is_address, moves_to_host, reads_what_it_stores
from memprof.model.memory import MemoryModel, Source, Storage
from memprof.model.storages import table_of
from memprof.record.events import CodeRegion, GraphRoot, HeldGroup, Holder, Location, Phase, Role
from memprof.units import format_bytes

_MAX_IN_FLIGHT = 4
"""Tensors of so many iterations may be arguments of a call that is being made, which nothing can name."""

_STALE_SHARE = 3
"""A pile that took up nothing in the last third of the iterations watched has stopped growing."""

_SHARE_OF_WEIGHTS = 0.8
"""A dictionary of tensors is a copy of the weights where so many of them match in size, both ways."""

CONTEXT, TRACEBACK, CYCLE, HOOK, DATASET, CACHE, THREAD, WEIGHTS, GRADIENTS, OUTPUTS, TENSORS = (
    "MP108",
    "MP110",
    "MP109",
    "MP107",
    "MP117",
    "MP111",
    "MP116",
    "MP113",
    "MP106",
    "MP102",
    "MP103",
)
"""The rule each kind of pile belongs to: one problem has one code, and the more specific wins."""


@dataclass(slots=True)
class Pile:
    """What one holder kept at its last census, all lines that feed it together."""

    holder: Holder
    with_graph: bool
    groups: list[HeldGroup]
    iterations: set[int]
    seen_in: int
    """The iteration at whose end it was last seen so."""
    oldest: list[int] = field(default_factory=list)
    """The iteration of its oldest tensor, at each census that saw it."""
    stored: Location | None = None
    """The statement that stores the tensors, or the one that makes them."""
    grows: bool = False
    """That statement adds to what is there; of a list and its slice, this tells the list."""
    code: str = ""
    region: CodeRegion | None = None
    """The code that torch calls back in which they are stored, if they are."""

    @property
    def main(self) -> HeldGroup:
        """The line that feeds it most."""
        return max(self.groups, key=lambda group: group.nbytes + group.graph_bytes)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors themselves."""
        return sum(group.nbytes for group in self.groups)

    @property
    def graph_bytes(self) -> int:
        """Bytes saved for backward behind them."""
        return sum(group.graph_bytes for group in self.groups)

    @property
    def graph_nodes(self) -> int:
        """Autograd nodes behind them."""
        return sum(group.graph_nodes for group in self.groups)

    @property
    def storages(self) -> tuple[int, ...]:
        """Ids of all that would go with it."""
        return tuple(storage for group in self.groups for storage in group.storages + group.graph_storages)

    @property
    def graph_storages(self) -> tuple[int, ...]:
        """Ids of what only the graphs keep."""
        return tuple(storage for group in self.groups for storage in group.graph_storages)

    @property
    def tensors(self) -> int:
        """How many tensors were counted."""
        return sum(len(group.storages) for group in self.groups)

    @property
    def fullness(self) -> tuple[bool, int]:
        """Of two names for the same tensors, the higher one is the one to name."""
        return self.grows, self.holder.size or 0

    @property
    def per_iteration(self) -> float:
        """Bytes for each iteration that added to it."""
        return (self.nbytes + self.graph_bytes) / max(len(self.iterations), 1)

    @property
    def noun(self) -> str:
        """`tensors of shape [64, 10]`, or `scalars`."""
        return f"tensors of shape {list(self.main.shape)}" if self.main.shape else "scalars"

    @property
    def is_scalar(self) -> bool:
        """Whether a number says all there is in one of them."""
        return not self.main.shape or self.main.shape == (1,)

    @property
    def made_at(self) -> Location | None:
        """The line that makes the tensors."""
        return self.main.location

    def evidence(self) -> dict[str, object]:
        """Facts for `Finding.evidence`."""
        return {
            "tensors": self.tensors,
            "from_iterations": len(self.iterations),
            "tensor_bytes": self.nbytes,
            "graph_bytes": self.graph_bytes,
            "graph_nodes": self.graph_nodes,
            "shape": list(self.main.shape),
            "op": self.main.op,
        }


def piles(model: MemoryModel, code: str) -> Iterator[Pile]:
    """Piles that belong to one rule, each as its last census saw it.

    Args:
        model: The run.
        code: One of the codes above.

    Returns:
        Piles by holder; whether they are worth a finding is for `grown` to say.
    """
    files = user_files(model)
    chained = {_variable(census_root) for census in model.censuses for census_root in census.roots}
    for pile in _all(model):
        if pile.with_graph and _variable(pile.main) in chained:
            continue  # links of a chain, which has a rule of its own
        pile.holder = pile.main.holder  # of several containers in one dict, the one that the line fills
        pile.stored = storing_statement(pile.holder, pile.made_at, files) or pile.made_at
        pile.grows = adds_to(pile.stored, pile.holder)
        pile.region = region_of(model, pile.stored)
        pile.code = _code(model, pile)
        if pile.code == code:
            yield pile


def _variable(kept: HeldGroup | GraphRoot) -> tuple[str, str, Location | None]:
    """The variable that keeps tensors of one line."""
    return kept.holder.name.partition("[")[0], kept.holder.owner, kept.location


def _all(model: MemoryModel) -> Iterator[Pile]:
    iterations = iteration_of_ticks(model)
    graphs_known = any(
        census.roots or any(group.has_graph and group.holder.kind != "unknown" for group in census.groups)
        for census in model.censuses
    )
    latest: dict[tuple[str, str, str, bool], Pile] = {}
    oldest: dict[tuple[str, str, str, bool], list[int]] = {}
    for census in model.censuses:
        here: dict[tuple[str, str, str, bool], Pile] = {}
        for group in census.groups:
            if graphs_known and group.holder.kind == "unknown":
                continue  # what nobody in Python holds is part of a graph that somebody does
            made_in = {iterations[tick] for tick in group.birth_ticks if tick in iterations}
            made_in.discard(iterations.get(census.tick, -1))
            where = "" if group.holder.name else repr(group.location)
            key = (group.holder.name.partition("[")[0], group.holder.owner, where, group.has_graph)
            pile = here.setdefault(key, Pile(group.holder, group.has_graph, [], set(), iterations.get(census.tick, -1)))
            pile.groups.append(group)
            pile.iterations |= made_in
        for key, pile in here.items():
            if pile.iterations:
                oldest.setdefault(key, []).append(min(pile.iterations))
            pile.oldest = oldest.get(key, [])
            known = latest.get(key)
            if known is None or len(pile.iterations) >= len(known.iterations):
                latest[key] = pile
    yield from latest.values()


# ---- which problem it is -----------------------------------------------------------------------


def _code(model: MemoryModel, pile: Pile) -> str:
    """The rule a pile belongs to."""
    by_holder = {
        "context": CONTEXT,
        "traceback": TRACEBACK,
        "notebook": TRACEBACK,
        "cycle": CYCLE,
        "hook": HOOK,
        "queue": THREAD,
        "future": THREAD,
        "thread": THREAD,
        "cache": CACHE,
    }
    by_region = {"hook": HOOK, "context": CONTEXT, "dataset": DATASET, "collate": DATASET}
    holder = pile.holder
    if holder.kind in by_holder:
        return by_holder[holder.kind]
    if pile.region is not None:
        return by_region[pile.region.kind]
    if holder.container == "dict" and (holder.keyed_by or _is_cache(pile)):
        return CACHE
    if not pile.with_graph and _is_copy_of_weights(model, pile):
        return WEIGHTS
    if pile.with_graph and _made_in_backward(model, pile):
        return GRADIENTS
    return OUTPUTS if pile.with_graph else TENSORS


def _is_cache(pile: Pile) -> bool:
    name = pile.holder.name.partition("[")[0].lower()
    return "cache" in name or "memo" in name or key_is_address(pile.stored, name)


def _stored(model: MemoryModel, pile: Pile) -> list[Storage]:
    return [model.storages[storage] for group in pile.groups for storage in group.storages if storage in model.storages]


def _made_in_backward(model: MemoryModel, pile: Pile) -> bool:
    made = _stored(model, pile)
    return bool(made) and 2 * sum(storage.birth_phase is Phase.BACKWARD for storage in made) > len(made)


def _sizes(model: MemoryModel, role: Role) -> Counter[int]:
    """How many storages of each size play a role."""
    table = table_of(model.storages).lifetimes
    return Counter(table.nbytes[table.role & int(role) != 0].tolist())


def _is_named_as_weight(model: MemoryModel, pile: Pile) -> bool:
    """Whether a tensor lies under the name of a parameter and is as large (cuDNN joins those of a recurrent module)."""
    table = table_of(model.storages).lifetimes
    rows = np.flatnonzero(table.role & int(Role.PARAMETER | Role.BUFFER))
    sizes = {table.names[int(table.name[row])]: int(table.nbytes[row]) for row in rows.tolist()}
    kept = {storage.nbytes for storage in _stored(model, pile)}
    return any(sizes.get(key) in kept for key in re.findall(r"\['([^']+)'\]", pile.holder.name))


def _is_copy_of_weights(model: MemoryModel, pile: Pile) -> bool:
    """Whether what one tick added has the sizes of the model's parameters (and of the optimizer's state)."""
    if _is_named_as_weight(model, pile):
        return True
    weights = _sizes(model, Role.PARAMETER | Role.BUFFER)
    state = _sizes(model, Role.OPTIMIZER_STATE)
    by_tick: dict[int, Counter[int]] = {}
    for storage in _stored(model, pile):
        by_tick.setdefault(storage.birth_tick, Counter())[storage.nbytes] += 1
    if not by_tick or weights.total() < 2:
        return False
    copied = max(by_tick.values(), key=lambda sizes: sizes.total())
    of_weights, known = (copied & weights).total(), (copied & (weights + state)).total()
    return of_weights >= _SHARE_OF_WEIGHTS * weights.total() and known >= _SHARE_OF_WEIGHTS * copied.total()


# ---- whether it is worth a finding --------------------------------------------------------------


def grown(model: MemoryModel, pile: Pile, *, even_bounded: bool = False) -> str | None:
    """Whether a pile has grown over enough iterations and goes on doing so.

    Args:
        model: The run.
        pile: Tensors of one holder.
        even_bounded: A bound of the container does not excuse it.

    Returns:
        None where it has; else why nothing can be said, or '' where all is well.
    """
    if pile.holder.bounded and not even_bounded:
        return ""
    if pile.holder.kind == "unknown" and len(pile.iterations) <= _MAX_IN_FLIGHT:
        return ""
    if not pile.with_graph and not pile.holder.container and not line_growing(model, pile.made_at):
        return ""
    if len(pile.iterations) < MIN_ITERATIONS - 1:
        return f"{pile.holder.text} keeps tensors of {counted(len(pile.iterations), 'iteration')} only"
    if _is_passing(pile):
        return f"{pile.holder.text} keeps what the last iterations made, and lets go of what is older"
    if _has_stopped(model, pile):
        return f"{pile.holder.text} has stopped growing"
    if not pile.with_graph and _is_on_host_by_design(model, pile):
        return f"{pile.holder.text} collects on the host, where {place(pile.stored)} moves the tensors"
    if not pile.with_graph and _is_working_state(model, pile):
        return f"{pile.holder.text} is what the model goes on computing with"
    return None


def _is_passing(pile: Pile) -> bool:
    """Whether no tensor was seen twice: each census met younger ones, as in a window that moves on.

    What waits for the garbage collector comes and goes, and is not meant.
    """
    return pile.code != CYCLE and len(pile.oldest) > 1 and len(set(pile.oldest)) == len(pile.oldest)


def _has_stopped(model: MemoryModel, pile: Pile) -> bool:
    """Whether nothing was added in the last third of the watched iterations of its kind."""
    kinds = {model.iterations[index].kind for index in pile.iterations}
    first = min(pile.iterations)
    watched = [
        iteration.index
        for iteration in model.iterations
        if iteration.tracked and iteration.kind in kinds and first <= iteration.index < pile.seen_in
    ]
    recent = watched[-max(2, len(watched) // _STALE_SHARE) :]
    return len(watched) > MIN_ITERATIONS and not pile.iterations & set(recent)


def _is_on_host_by_design(model: MemoryModel, pile: Pile) -> bool:
    """Whether tensors were moved off the device that computes, on purpose."""
    device = device_of(model, pile.main.storages[0] if pile.main.storages else None)
    if device != "cpu":
        return False
    return any(name != "cpu" for name in model.devices) or moves_to_host(pile.stored, pile.made_at)


def _is_working_state(model: MemoryModel, pile: Pile) -> bool:
    """Whether tensors of a forward go into the next (keys and values of the tokens so far)."""
    made = [storage for storage in _stored(model, pile) if storage.birth_phase is Phase.FORWARD]
    if 2 * len(made) <= len(_stored(model, pile)):
        return False  # not what a model made
    return reads_what_it_stores(pile.stored, pile.holder.name)


def emptied(model: MemoryModel, pile: Pile) -> bool:
    """Whether most of the pile was freed while iterations of its kind went on."""
    stored = _stored(model, pile)
    freed = [storage for storage in stored if storage.death_iteration is not None]
    if len(freed) * 2 < len(stored) or not freed:
        return False
    last_freed = max(storage.death_iteration or 0 for storage in freed)
    kinds = {model.iterations[index].kind for index in pile.iterations}
    return any(iteration.index > last_freed for iteration in model.iterations if iteration.kind in kinds)


# ---- the finding ---------------------------------------------------------------------------------


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


def checked(model: MemoryModel, code: str, *, even_bounded: bool = False) -> Iterator[Pile | Skipped]:
    """Piles of one rule that are worth a finding, and why nothing can be said of others."""
    for pile in piles(model, code):
        reason = grown(model, pile, even_bounded=even_bounded)
        if reason is None:
            yield pile
        elif reason:
            yield Skipped(code, reason)
