"""Parameters that lie in plain Python containers of a module, where `parameters()` does not look."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from memprof.capture.frames import UserCode
from memprof.capture.nested import bytes_of
from memprof.record.events import Location, ModuleRef
from memprof.record.run_info import HiddenParameters

_CONTAINERS = (list, tuple, dict, set)
_DEPTH = 3
_MOST_ITEMS = 4096
_MOST_CONTAINERS = 16


class HiddenParameterWatch:
    """Finds such parameters when a root module is learnt, and asks later what became of them.

    Args:
        code: Finds the user's classes.
    """

    def __init__(self, code: UserCode) -> None:
        self._code = code
        self._owners: dict[tuple[int, str], weakref.ref[torch.nn.Module]] = {}
        self._roots: dict[tuple[int, str], weakref.ref[torch.nn.Module]] = {}
        self._found: dict[tuple[int, str], HiddenParameters] = {}

    @property
    def found(self) -> tuple[HiddenParameters, ...]:
        """What is known."""
        return tuple(self._found.values())

    def learn(self, root: torch.nn.Module) -> None:
        """Look through the attributes of a root module and of all its submodules.

        Those of libraries are left out: FSDP and others keep parameters in lists on purpose.
        """
        known = {id(parameter) for parameter in root.parameters()}
        for path, module in root.named_modules():
            if not self._is_of_user(type(module)):
                continue
            for name, value in list(vars(module).items()):
                key = (id(module), name)
                if name in _OWN_ATTRIBUTES or not isinstance(value, _CONTAINERS):
                    continue
                hidden = _unknown(value, known)
                if not hidden or key in self._found or len(self._found) >= _MOST_CONTAINERS:
                    continue
                self._owners[key], self._roots[key] = weakref.ref(module), weakref.ref(root)
                self._found[key] = self._facts(
                    root, ModuleRef(path, type(module).__name__), module, name, value, hidden
                )

    def _facts(
        self,
        root: torch.nn.Module,
        owner: ModuleRef,
        owner_type: type,
        name: str,
        value: Any,
        hidden: list[torch.Tensor],
    ) -> HiddenParameters:
        devices = [str(parameter.device) for parameter in root.parameters()]
        return HiddenParameters(
            root=type(root).__name__,
            owner=owner,
            attribute=name,
            container=type(value).__name__,
            holds=", ".join(dict.fromkeys(type(item).__name__ for item in _items(value, _DEPTH))),
            location=self._init_of(owner_type),
            parameters=len(hidden),
            nbytes=sum(map(bytes_of, hidden)),
            device=str(hidden[0].device),
            root_device=devices[0] if devices else "",
            got_gradient=False,
            in_optimizer=False,
            root_in_optimizer=False,
        )

    def _is_of_user(self, kind: type) -> bool:
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        return file is None or self._code.owns_file(file)  # without a file it is a notebook's

    def _init_of(self, owner: type) -> Location | None:
        code = getattr(getattr(owner, "__init__", None), "__code__", None)
        if code is None or not self._code.owns(code):
            return None
        return Location(code.co_filename, code.co_firstlineno, code.co_qualname if hasattr(code, "co_qualname") else "")

    def look(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Note, at the end of a backward, which have a gradient, and whether an optimizer has them."""
        if not self._found:
            return
        stepped = {
            id(parameter)
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for key, facts in self._found.items():
            owner, root = self._owners[key](), self._roots[key]()
            value = None if owner is None else vars(owner).get(key[1])
            if root is None or not isinstance(value, _CONTAINERS):
                continue
            known = list(root.parameters())
            hidden = _unknown(value, set(map(id, known)))
            self._found[key] = replace(
                facts,
                got_gradient=facts.got_gradient or any(tensor.grad is not None for tensor in hidden),
                in_optimizer=facts.in_optimizer or any(id(tensor) in stepped for tensor in hidden),
                root_in_optimizer=facts.root_in_optimizer or any(id(tensor) in stepped for tensor in known),
            )


_OWN_ATTRIBUTES = frozenset(vars(torch.nn.Module()))
"""Where a module keeps what it does know, and its hooks."""


def _unknown(value: Any, known: set[int]) -> list[torch.Tensor]:
    """The parameters in a container that are not among those known, each once."""
    found: dict[int, torch.Tensor] = {}
    for item in _items(value, _DEPTH):
        parameters = item.parameters() if isinstance(item, torch.nn.Module) else (item,)
        for tensor in parameters:
            if id(tensor) not in known and tensor.requires_grad and tensor.is_leaf and not is_lazy(tensor):
                found[id(tensor)] = tensor
    return list(found.values())


def _items(value: Any, depth: int) -> Iterator[torch.nn.Module | torch.Tensor]:
    """Modules and parameters in a container, and in containers in it."""
    if isinstance(value, (torch.nn.Module, torch.nn.Parameter)):
        yield value
    elif depth and isinstance(value, _CONTAINERS) and len(value) <= _MOST_ITEMS:
        for item in list(value.values() if isinstance(value, dict) else value):
            yield from _items(item, depth - 1)
