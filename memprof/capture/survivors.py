"""Tensors that outlived the iteration they were made in, by the line that made them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import torch

from memprof.capture.frames import tracked_objects
from memprof.capture.graph import GraphWalk, walk
from memprof.capture.live import LiveStorage, storage_key
from memprof.capture.storages import StorageTracker
from memprof.record.events import Location, Role

NODES_A_WALK = 20_000
NODES_A_CENSUS = 100_000
"""A census goes through so many autograd nodes at the most, from one tensor and from all for one question."""

_BY_DESIGN = Role.PARAMETER | Role.BUFFER | Role.OPTIMIZER_STATE | Role.GRADIENT
_MAX_PILES = 8

PileKey = tuple[Location | None, str, bool]
"""The line and the op that made a pile, and whether it has a graph."""


@dataclass(slots=True)
class Pile:
    """Surviving tensors made by one line."""

    lives: list[LiveStorage] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of their storages."""
        return sum(live.nbytes for live in self.lives)

    @property
    def sample(self) -> torch.Tensor:
        """The one to ask who keeps them: the youngest is a variable of the loop as well, whoever has the others."""
        return self.tensors[(len(self.tensors) - 1) // 2]


class Survivors:
    """Looks among the watched storages for those that are there longer than their iteration.

    Args:
        tracker: The books of storages.
    """

    def __init__(self, tracker: StorageTracker) -> None:
        self._tracker = tracker
        self.first_tick = 0
        """First tick of the first loop; older tensors are set-up."""

    def live(self, tensor: torch.Tensor) -> LiveStorage | None:
        """What the books say of a tensor's storage."""
        return self._tracker.live.get(storage_key(tensor))

    def saved(self, found: GraphWalk) -> list[LiveStorage]:
        """Watched storages that a graph saves and that would not be there without it."""
        lives = (self._tracker.live.get(address) for address in found.saved)
        return [
            live
            for live in lives
            if live is not None and not live.role & _BY_DESIGN and live.birth_tick >= self.first_tick
        ]

    def piles(self, alive: list[tuple[int, torch.Tensor]], iteration_tick: int) -> dict[PileKey, Pile]:
        """What was made in earlier iterations and is still there, by the line that made it.

        Args:
            alive: Tensors that dispatched ops returned and that are alive, each with the tick it came in.
            iteration_tick: First tick of the iteration that ends.

        Returns:
            Lines whose tensors come from several ticks; the largest, and beside them the largest with a graph.
        """
        old = {
            live.key: live
            for live in list(self._tracker.live.values())
            if self.first_tick <= live.birth_tick < iteration_tick and not live.role & _BY_DESIGN and not live.optimizer
        }
        if not old:
            return {}
        by_storage: dict[int, torch.Tensor] = {}
        for _, tensor in alive:
            key = storage_key(tensor)
            known = by_storage.get(key) if key in old else tensor
            if known is None or (known is not tensor and (known.grad_fn is None or tensor.grad_fn is not None)):
                by_storage[key] = (
                    tensor  # of a tensor and its views the last: a view keeps its base, not the other way round
                )
        piles: dict[PileKey, Pile] = defaultdict(Pile)
        lost: list[LiveStorage] = []
        for key, live in old.items():
            holding = by_storage.get(key)
            if holding is None:
                lost.append(live)
                continue
            pile = piles[live.location, live.op, holding.grad_fn is not None]
            pile.lives.append(live)
            pile.tensors.append(holding)
        self._find_lost(piles, lost, alive)
        grown = {key: pile for key, pile in piles.items() if len({live.birth_tick for live in pile.lives}) > 1}
        largest = sorted(grown, key=lambda key: grown[key].nbytes, reverse=True)[:_MAX_PILES]
        with_graph = [key for key in grown if key[2] and key not in largest][:_MAX_PILES]
        return {key: grown[key] for key in largest + with_graph}

    def _find_lost(
        self,
        piles: dict[PileKey, Pile],
        lost: list[LiveStorage],
        alive: list[tuple[int, torch.Tensor]],
    ) -> None:
        """Find the tensors of storages that no dispatched op returned (`.data`, NumPy) among all objects.

        Storages that the graphs of live tensors save are left out: they are counted with their graph.
        """
        ticks: dict[tuple[Location | None, str], set[int]] = defaultdict(set)
        for live in lost:
            ticks[live.location, live.op].add(live.birth_tick)
        wanted = {live.key: live for live in lost if len(ticks[live.location, live.op]) > 1}
        if not wanted:
            return
        budget = NODES_A_CENSUS
        for _, tensor in reversed(alive):
            if tensor.grad_fn is not None and budget > 0 and wanted:
                found = walk(tensor.grad_fn, limit=min(NODES_A_WALK, budget))
                budget -= found.nodes
                for address in found.saved:
                    wanted.pop(address, None)
        if not wanted:
            return
        tensor_types = self._tracker.plain
        for item in tracked_objects():
            if type(item) in tensor_types and isinstance(item, torch.Tensor):
                found_live = wanted.pop(storage_key(item), None)
                if found_live is not None:
                    pile = piles[found_live.location, found_live.op, item.grad_fn is not None]
                    pile.lives.append(found_live)
                    pile.tensors.append(item)

    def behind(self, piles: dict[PileKey, Pile]) -> dict[PileKey, tuple[int, list[LiveStorage]]]:
        """Nodes and saved storages behind each pile with a graph, newest tensors first."""
        budget = NODES_A_CENSUS
        result = {}
        for key, pile in piles.items():
            if not key[2]:
                continue
            nodes, saved = 0, {}
            for tensor in reversed(pile.tensors):
                if budget <= 0:
                    break
                if tensor.grad_fn is None:
                    continue
                found = walk(tensor.grad_fn, limit=min(NODES_A_WALK, budget))
                budget -= found.nodes
                nodes += found.nodes
                saved.update({live.key: live for live in self.saved(found)})
            own = {live.key for live in pile.lives}
            result[key] = (nodes, [live for address, live in saved.items() if address not in own])
        return result
