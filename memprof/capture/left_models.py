"""Whole models that a program has left behind: root modules of one build, of which it calls a newer one."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.nn.parameter import is_lazy

from memprof.capture.live import LiveStorage

_MOST_MODELS = 256
"""So many root modules are followed: who makes one in every call has no models to keep."""

_Build = tuple[str, tuple[tuple[int, ...], ...]]
"""Class of a module and shapes of its parameters."""


@dataclass(slots=True)
class _Calls:
    """When a root module was called, as ticks."""

    first: int
    last: int | None = None
    """The tick in which another root module took its place; None while it has not."""


@dataclass(frozen=True, slots=True)
class LeftModels:
    """Models of one build that are alive and no longer called, oldest first.

    Attributes:
        modules: The models themselves: let go of them soon.
        first_ticks: The tick of the first call of each.
        storages: Storages of their parameters, buffers and gradients, as far as they are in the books.
        nbytes: Bytes of all these tensors.
    """

    modules: list[torch.nn.Module]
    first_ticks: tuple[int, ...]
    storages: list[LiveStorage]
    nbytes: int


class ModelCalls:
    """Follows which root module is called.

    Args:
        live: What the books say of a tensor's storage.
    """

    def __init__(self, live: Callable[[torch.Tensor], LiveStorage | None]) -> None:
        self._live = live
        self._calls: weakref.WeakKeyDictionary[torch.nn.Module, _Calls] = weakref.WeakKeyDictionary()
        self._current: weakref.ref[torch.nn.Module] | None = None

    def called(self, root: torch.nn.Module, tick: int) -> None:
        """Another root module than the last one is called."""
        module = None if self._current is None else self._current()
        before = None if module is None else self._calls.get(module)
        if before is not None:
            before.last = tick
        calls = self._calls.get(root)
        if calls is not None:
            calls.last = None
        elif len(self._calls) < _MOST_MODELS:
            self._calls[root] = _Calls(tick)
        self._current = weakref.ref(root)

    def left(self, iteration_tick: int) -> list[LeftModels]:
        """Models that have been left behind.

        Args:
            iteration_tick: First tick of the iteration that ends.

        Returns:
            Two or more of one build, each made after the one before was in use: those that were made together, or
            are called in turns, belong together.
        """
        builds: dict[_Build, list[tuple[int, torch.nn.Module]]] = defaultdict(list)
        for module, calls in list(self._calls.items()):
            builds[_build(module)].append((calls.first, module))
        result = []
        for (_, shapes), found in builds.items():
            found.sort(key=lambda item: item[0])
            modules = [module for _, module in found]
            if not shapes or not self._one_by_one(modules):
                continue
            left = [module for module in modules[:-1] if (self._calls[module].last or 0) < iteration_tick]
            if len(left) > 1:
                lives = [live for module in left for live in self._storages(module)]
                firsts = tuple(self._calls[module].first for module in left)
                tensors = {id(tensor): tensor for module in left for tensor in _tensors(module)}
                nbytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
                result.append(LeftModels(left, firsts, lives, nbytes))
        return result

    def _one_by_one(self, modules: list[torch.nn.Module]) -> bool:
        """Whether each was made and called after the one before."""
        for module, later in pairwise(modules):
            before, after = self._calls[module], self._calls[later]
            # What is not in the books yet was made while nothing was watched: not before the first loop, as a rule.
            made = min((live.birth_tick for live in self._storages(later)), default=before.first)
            if made < before.first or before.last is None or before.last > after.first:
                return False
        return True

    def _storages(self, module: torch.nn.Module) -> Iterator[LiveStorage]:
        """Storages of parameters, buffers and gradients."""
        found = map(self._live, _tensors(module))
        return (live for live in {id(live): live for live in found if live is not None}.values())


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, buffers and gradients of a module that have a size."""
    parameters: list[torch.Tensor] = list(module.parameters())
    gradients = [item.grad for item in parameters if item.grad is not None]
    return (item for item in (*parameters, *module.buffers(), *gradients) if not is_lazy(item))


def _build(module: torch.nn.Module) -> _Build:
    parameters: list[torch.Tensor] = list(module.parameters())
    return type(module).__qualname__, tuple(() if is_lazy(item) else tuple(item.shape) for item in parameters)
