"""How many parameters optimizers and models have, and whether that number changes."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from memprof.capture.nested import bytes_of
from memprof.record.census import Population

_MAX_WATCHED = 16
_ALL = -1


class Populations:
    """Counts at every census what was counted at the last, and tells what has changed."""

    def __init__(self) -> None:
        self._numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._last: dict[int, Population] = {}
        self._told: set[int] = set()
        self._next = 0

    def take(
        self, tick: int, optimizers: list[torch.optim.Optimizer], modules: list[torch.nn.Module]
    ) -> tuple[Population, ...]:
        """Count.

        Args:
            tick: The tick that ends.
            optimizers: All that have stepped or were made.
            modules: Root modules that were called.

        Returns:
            For everything whose size has changed, what it was before (unless that was told) and what it is.
        """
        result: list[Population] = []
        watched: list[torch.optim.Optimizer | torch.nn.Module] = [*optimizers, *modules]
        self._compare(_ALL, _of_all(optimizers, tick), result)
        for item in watched[:_MAX_WATCHED]:
            number = self._numbers.get(item)
            if number is None:
                number = self._numbers[item] = self._next
                self._next += 1
            now = _count(item, number, tick)
            self._compare(number, now, result)
        alive = {_ALL, *self._numbers.values()}
        self._last = {number: last for number, last in self._last.items() if number in alive}
        self._told &= alive
        return tuple(result)

    def _compare(self, number: int, now: Population, result: list[Population]) -> None:
        before = self._last.get(number)
        self._last[number] = now
        if before is None or _size(before) == _size(now):
            return
        if number not in self._told:
            self._told.add(number)
            result.append(before)
        result.append(now)


def _size(item: Population) -> tuple[int, int, int]:
    return item.groups, item.parameters, item.states


def _count(item: torch.optim.Optimizer | torch.nn.Module, number: int, tick: int) -> Population:
    return _of_module(item, number, tick) if isinstance(item, torch.nn.Module) else _of_optimizer(item, number, tick)


def _of_all(optimizers: list[torch.optim.Optimizer], tick: int) -> Population:
    """All optimizers that have state, as one."""
    kept = [_of_optimizer(item, 0, tick) for item in optimizers if item.state]
    return Population(
        kind="optimizers",
        name=kept[0].name if kept else "",
        number=_ALL,
        groups=len(kept),
        parameters=0,
        states=sum(item.states for item in kept),
        nbytes=sum(item.nbytes for item in kept),
        tick=tick,
    )


def _of_optimizer(optimizer: torch.optim.Optimizer, number: int, tick: int) -> Population:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    nbytes = sum(map(_nbytes, parameters))
    for state in list(optimizer.state.values()):
        if isinstance(state, dict):
            nbytes += sum(_nbytes(value) for value in state.values() if isinstance(value, torch.Tensor))
    return Population(
        kind="optimizer",
        name=type(optimizer).__name__,
        number=number,
        groups=len(optimizer.param_groups),
        parameters=len(parameters),
        states=len(optimizer.state),
        nbytes=nbytes,
        tick=tick,
    )


def _of_module(module: torch.nn.Module, number: int, tick: int) -> Population:
    parameters = list(module.parameters())
    return Population(
        kind="module",
        name=type(module).__name__,
        number=number,
        groups=sum(1 for _ in module.modules()),
        parameters=len(parameters),
        states=0,
        nbytes=sum(map(_nbytes, parameters)),
        tick=tick,
    )


def _nbytes(tensor: torch.Tensor) -> int:
    try:
        return bytes_of(tensor)
    except (RuntimeError, ValueError):  # a lazy parameter has no size yet
        return 0
