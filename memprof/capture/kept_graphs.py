"""Backwards that keep their graph: whether anything ever goes through it again, and what it holds meanwhile.

Nodes are told apart by their sequence number, so nothing of a graph is kept by having looked at it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from memprof.capture.graph import GraphWalk, walk
from memprof.capture.live import LiveStorage, gradient_of
from memprof.record.census import GradientGraph, KeptGraph
from memprof.record.events import Location

_NODES_A_WALK = 20_000
_ITERATIONS_TO_WAIT = 2
"""A graph that nothing has used by the end of the next iteration will not be used."""
_MAX_WAITING = 64
_MAX_TICKS = 16


@dataclass(slots=True)
class _Waiting:
    """A kept graph of which it is not known yet whether it is used again."""

    location: Location | None
    create_graph: bool
    numbers: set[int]
    nodes: int
    storages: dict[int, int]
    """Id of a storage it saves -> bytes."""
    tick: int
    age: int = 0
    used: bool = False


@dataclass(slots=True)
class _Line:
    """What became of the graphs that one line kept."""

    calls: int = 0
    used_again: int = 0
    largest: _Waiting | None = None
    ticks: list[int] = field(default_factory=list)


class KeptGraphs:
    """The books of `retain_graph=True` and `create_graph=True`.

    Args:
        saved: Watched storages behind a walk, parameters and their like left out.
    """

    def __init__(self, saved: Callable[[GraphWalk], list[LiveStorage]]) -> None:
        self._saved = saved
        self._waiting: list[_Waiting] = []
        self._lines: dict[tuple[Location | None, bool], _Line] = {}
        self.created_at: Location | None = None
        """The line that last called backward with `create_graph=True`."""
        self._changed = False

    def backward_begins(
        self, outputs: Sequence[Any], *, keep: bool, create: bool, line: Location | None, tick: int
    ) -> None:
        """A backward is about to run.

        Args:
            outputs: What it starts from.
            keep: Its graph stays.
            create: A graph of the gradients is made.
            line: The user's line that called it.
            tick: The tick it runs in.
        """
        if not keep and not self._waiting:
            return
        roots = tuple(node for item in outputs if (node := _node(item)) is not None)
        if not roots:
            return
        found = walk(roots, limit=_NODES_A_WALK, number=True)
        for waiting in self._waiting:
            if not waiting.numbers.isdisjoint(found.numbers):
                waiting.used = True
        if create:
            self.created_at = line
        if keep and not found.truncated and len(self._waiting) < _MAX_WAITING:
            storages = {live.id: live.nbytes for live in self._saved(found)}
            self._waiting.append(_Waiting(line, create, found.numbers, found.nodes, storages, tick))

    def iteration_ended(self) -> None:
        """Settle what is known by now."""
        still = []
        for waiting in self._waiting:
            waiting.age += 1
            if waiting.used or waiting.age >= _ITERATIONS_TO_WAIT:
                self._settle(waiting)
            else:
                still.append(waiting)
        self._waiting = still

    def forget(self) -> None:
        """Watching ends: of what still waits it will never be known whether it is used."""
        self._waiting.clear()

    def _settle(self, waiting: _Waiting) -> None:
        line = self._lines.setdefault((waiting.location, waiting.create_graph), _Line())
        line.calls += 1
        line.used_again += waiting.used
        line.ticks = [*line.ticks[1 - _MAX_TICKS :], waiting.tick]
        if line.largest is None or sum(waiting.storages.values()) >= sum(line.largest.storages.values()):
            line.largest = waiting
        self._changed = True

    def take(self) -> tuple[KeptGraph, ...]:
        """What every line did so far, where anything is new."""
        if not self._changed:
            return ()
        self._changed = False
        return tuple(
            KeptGraph(
                location=location,
                create_graph=create_graph,
                calls=line.calls,
                used_again=line.used_again,
                nodes=line.largest.nodes,
                nbytes=sum(line.largest.storages.values()),
                storages=tuple(line.largest.storages),
                ticks=tuple(line.ticks),
            )
            for (location, create_graph), line in self._lines.items()
            if line.largest is not None
        )

    def gradients(self, parameters: Callable[[], Any]) -> GradientGraph | None:
        """Graphs of the gradients that are there now, once a backward has made one."""
        if self.created_at is None:
            return None
        nodes = tuple(
            gradient.grad_fn
            for parameter in parameters()
            if (gradient := gradient_of(parameter)) is not None and gradient.grad_fn is not None
        )
        if not nodes:
            return None
        found = walk(nodes, limit=_NODES_A_WALK)
        saved = self._saved(found)
        return GradientGraph(
            parameters=len(nodes),
            nodes=found.nodes,
            nbytes=sum(live.nbytes for live in saved),
            storages=tuple(live.id for live in saved),
            location=self.created_at,
        )


def _node(item: Any) -> Any:
    return item.grad_fn if isinstance(item, torch.Tensor) else getattr(item, "node", None)
