"""Tensors that pile up: what one holder kept at its last census, and which problem that is."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import numpy as np

from memprof.detect.evidence import iteration_of_ticks, user_files
from memprof.detect.regions import region_of
from memprof.detect.source import adds_to, storing_statement
from memprof.detect.surroundings import key_is_address
from memprof.model.memory import MemoryModel, Storage
from memprof.model.storages import table_of
from memprof.record.census import MODELS, CodeRegion, GraphRoot, HeldGroup, Holder
from memprof.record.events import Location, Phase, Role

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
    full: bool = False
    """Its container had as many tensors as at the census before: younger ones had come in and older ones gone."""
    grows: bool = False
    """That statement adds to what is there; of a list and its slice, this tells the list."""
    code: str = ""
    apart: float = 1.0
    """Iterations of its kinds from one that added to it to the next: what is kept once an epoch comes rarely."""
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
    def fullness(self) -> tuple[bool, int, int]:
        """Of two names for the same tensors, the higher one is the one to name."""
        return self.grows, self.holder.size or 0, self.tensors

    @property
    def each_time(self) -> float:
        """Bytes for each iteration that added to it."""
        return (self.nbytes + self.graph_bytes) / max(len(self.iterations), 1)

    @property
    def per_iteration(self) -> float:
        """Bytes that an iteration of its kinds adds, on average."""
        return self.each_time / self.apart

    @property
    def noun(self) -> str:
        """`tensors of shape [64, 10]`, or `scalars`."""
        return f"tensors of shape {list(self.main.shape)}" if self.main.shape else "scalars"

    @property
    def of_models(self) -> bool:
        """Whether whole models are kept."""
        return self.main.op == MODELS

    @property
    def is_scalar(self) -> bool:
        """Whether a number says all there is in one of them."""
        return not self.main.shape or self.main.shape == (1,)

    @property
    def made_at(self) -> Location | None:
        """The line that makes the tensors."""
        return self.main.location

    def storages_in(self, model: MemoryModel) -> list[Storage]:
        """Those of its tensors, graphs aside, that a model knows of."""
        return table_of(model.storages).known(storage for group in self.groups for storage in group.storages)

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
        Piles by holder; whether they are worth a finding is for `pile_growth.py` to say.
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
        pile.apart = _apart(model, pile)
        if pile.code == code:
            yield pile


def _apart(model: MemoryModel, pile: Pile) -> float:
    """How many iterations of its kinds lie between two that added to a pile: the median, as `auto` misses some."""
    kinds = {model.iterations[index].kind for index in pile.iterations}
    alike = [iteration.index for iteration in model.iterations if iteration.kind in kinds]
    places = [bisect_left(alike, index) for index in sorted(pile.iterations)]
    return float(median([after - before for before, after in pairwise(places)] or [1]))


def _variable(kept: HeldGroup | GraphRoot) -> tuple[str, str, Location | None]:
    """The variable that keeps tensors of one line."""
    return kept.holder.name.partition("[")[0], kept.holder.owner, kept.location


def _all(model: MemoryModel) -> Iterator[Pile]:
    iterations = iteration_of_ticks(model)
    graphs_known = any(
        census.roots or any(group.has_graph and group.holder.kind != "unknown" for group in census.groups)
        for census in model.censuses
    )
    named = {
        (group.location, group.op, group.has_graph)
        for census in model.censuses
        for group in census.groups
        if group.holder.kind != "unknown"
    }
    latest: dict[tuple[str, str, str, bool], Pile] = {}
    oldest: dict[tuple[str, str, str, bool], list[int]] = {}
    before: dict[tuple[str, str, str, bool], Pile] = {}
    for census in model.censuses:
        here: dict[tuple[str, str, str, bool], Pile] = {}
        for group in census.groups:
            if group.holder.kind == "unknown" and (
                graphs_known or (group.location, group.op, group.has_graph) in named
            ):
                continue  # part of a graph that somebody holds, or another census has found out who holds it
            made_in = {iterations[tick] for tick in group.birth_ticks if tick in iterations}
            made_in.discard(iterations.get(census.tick, -1))
            key = _key(group)
            pile = here.setdefault(key, Pile(group.holder, group.has_graph, [], set(), iterations.get(census.tick, -1)))
            pile.with_graph |= group.has_graph
            pile.groups.append(group)
            pile.iterations |= made_in
        for key, pile in here.items():
            if pile.iterations:
                oldest.setdefault(key, []).append(min(pile.iterations))
            pile.oldest = oldest.get(key, [])
            known = latest.get(key)
            if known is None or len(pile.iterations) >= len(known.iterations):
                latest[key] = pile
            latest[key].full = _is_full(before.get(key), pile)
            before[key] = pile
    yield from latest.values()


def _is_full(before: Pile | None, now: Pile) -> bool:
    size = now.main.holder.size
    if before is None or not now.main.holder.container or size is None or size != before.main.holder.size:
        return False
    gone = set(before.storages) - set(now.storages)
    return bool(gone) and any(before.seen_in <= iteration < now.seen_in for iteration in now.iterations)


def _key(group: HeldGroup) -> tuple[str, str, str, bool]:
    """What piles of one problem have in common from census to census."""
    holder = group.holder
    if holder.kind == "cycle":  # objects of one class, whatever tensors they have
        return "", holder.owner, "", True
    where = "" if holder.name else repr(group.location)
    return holder.name.partition("[")[0], holder.owner, where, group.has_graph


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
    if pile.of_models or (not pile.with_graph and _is_copy_of_weights(model, pile)):
        return WEIGHTS
    if pile.with_graph and _made_in_backward(model, pile):
        return GRADIENTS
    return OUTPUTS if pile.with_graph else TENSORS


def _is_cache(pile: Pile) -> bool:
    name = pile.holder.name.partition("[")[0].lower()
    return "cache" in name or "memo" in name or key_is_address(pile.stored, name)


def _made_in_backward(model: MemoryModel, pile: Pile) -> bool:
    made = pile.storages_in(model)
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
    kept = {storage.nbytes for storage in pile.storages_in(model)}
    return any(sizes.get(key) in kept for key in re.findall(r"\['([^']+)'\]", pile.holder.name))


def _is_copy_of_weights(model: MemoryModel, pile: Pile) -> bool:
    """Whether what one tick added has the sizes of the model's parameters (and of the optimizer's state)."""
    if _is_named_as_weight(model, pile):
        return True
    weights = _sizes(model, Role.PARAMETER | Role.BUFFER)
    state = _sizes(model, Role.OPTIMIZER_STATE)
    by_tick: dict[int, Counter[int]] = {}
    for storage in pile.storages_in(model):
        by_tick.setdefault(storage.birth_tick, Counter())[storage.nbytes] += 1
    if not by_tick or weights.total() < 2:
        return False
    copied = max(by_tick.values(), key=lambda sizes: sizes.total())
    of_weights, known = (copied & weights).total(), (copied & (weights + state)).total()
    return of_weights >= _SHARE_OF_WEIGHTS * weights.total() and known >= _SHARE_OF_WEIGHTS * copied.total()
