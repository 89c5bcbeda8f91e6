"""The user's code that torch calls back: hooks on modules and tensors, autograd functions, datasets.

A tensor that is stored in such code is stored once for each call of it, whether the user's loop looks like
it or not. The lines are noted so that a statement can be told to lie in one.
"""

from __future__ import annotations

import functools
import gc
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from memprof.capture.frames import UserCode
from memprof.record.census import CodeRegion

_MODULE_HOOKS = {
    "_forward_hooks": "forward hook",
    "_forward_pre_hooks": "forward pre-hook",
    "_backward_hooks": "backward hook",
    "_backward_pre_hooks": "backward pre-hook",
}
_TENSOR_HOOKS = {
    "_backward_hooks": "gradient hook",
    "_post_accumulate_grad_hooks": "post-accumulate-grad hook",
}
_MAX_DEPTH = 32
_MAX_REGIONS = 64


class Callbacks:
    """What can be called back at one moment; make it, ask, drop it.

    It looks through all objects once, when it is first asked.

    Args:
        code: Tells the user's code from libraries.
    """

    def __init__(self, code: UserCode) -> None:
        self._code = code
        self._scanned = False
        self._hooks: dict[int, str] = {}
        """`id` of a code object -> "forward hook on `backbone.layer4`"."""
        self._regions: dict[tuple[str, int], CodeRegion] = {}

    def hook(self, function: types.FunctionType) -> str:
        """What a function is registered as ("forward hook on `backbone.layer4`"), or ''."""
        self._scan()
        return self._hooks.get(id(function.__code__), "")

    def registry(self, module: torch.nn.Module, child: object) -> str:
        """The hook's name where `child` is a module's dictionary of hooks, else ''."""
        for attribute, label in _MODULE_HOOKS.items():
            if getattr(module, attribute, None) is child:
                self._scan()
                return f"{label} on `{self._paths.get(id(module), type(module).__name__)}`"
        return ""

    def regions(self) -> tuple[CodeRegion, ...]:
        """Lines of the user's code that is called back."""
        self._scan()
        return tuple(self._regions.values())[:_MAX_REGIONS]

    # ---- looking -----------------------------------------------------------------------

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        modules: list[torch.nn.Module] = []
        fed: list[Any] = []
        for item in gc.get_objects():
            kind = type(item)
            if issubclass(kind, torch.nn.Module):
                modules.append(item)
            elif issubclass(kind, (DataLoader, Dataset, IterableDataset, Sampler)):
                fed.append(item)
        self._paths = _paths(modules)
        for module in modules:
            if "_parameters" not in module.__dict__:
                continue  # its constructor has not run
            path = self._paths[id(module)]
            for attribute, label in _MODULE_HOOKS.items():
                self._found_hooks(getattr(module, attribute, None), f"{label} on `{path}`")
            for name, parameter in module._parameters.items():
                for attribute, label in _TENSOR_HOOKS.items():
                    if parameter is not None:
                        self._found_hooks(getattr(parameter, attribute, None), f"{label} on `{path}.{name}`")
        for item in fed:
            if isinstance(item, DataLoader):
                self._add("collate", f"collate function `{_name(item.collate_fn)}`", item.collate_fn)
            else:
                self._add_class("dataset", type(item))
        for function in _subclasses(torch.autograd.Function):
            self._add_class("context", function)

    def _found_hooks(self, registry: object, text: str) -> None:
        for hook in list(registry.values()) if isinstance(registry, dict) else ():
            code = _code_of(hook)
            if code is not None:
                self._hooks.setdefault(id(code), text)
                self._add("hook", text, hook)

    def _add(self, kind: str, text: str, called: object) -> None:
        code = _code_of(called)
        if code is None or not self._code.owns(code):
            return
        region = CodeRegion(kind, text, code.co_filename, code.co_firstlineno, _last_line(code))
        self._regions.setdefault((code.co_filename, code.co_firstlineno), region)

    def _add_class(self, kind: str, owner: type) -> None:
        for base in owner.__mro__:
            for name, member in list(vars(base).items()):
                function = member.__func__ if isinstance(member, (staticmethod, classmethod)) else member
                if isinstance(function, types.FunctionType):
                    self._add(kind, f"`{name}` of `{owner.__name__}`", function)


def _code_of(called: object) -> types.CodeType | None:
    """The code that runs when an object is called."""
    for _ in range(_MAX_DEPTH):
        if isinstance(called, functools.partial):
            called = called.func
        elif isinstance(called, types.MethodType):
            called = called.__func__
        elif isinstance(called, types.FunctionType):
            wrapped = called.__dict__.get("__wrapped__")
            if wrapped is None:
                return called.__code__
            called = wrapped
        else:
            called = getattr(type(called), "__call__", None)  # noqa: B004 -- the method is wanted, not whether it is there
            if not isinstance(called, types.FunctionType):
                return None
    return None


def _name(called: object) -> str:
    return str(getattr(called, "__name__", type(called).__name__))


def _last_line(code: types.CodeType) -> int:
    lines = [line for *_, line in code.co_lines() if line is not None]
    lines += [_last_line(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)]
    return max(lines, default=code.co_firstlineno)


def _subclasses(base: type) -> Iterator[type]:
    kinds: list[type] = base.__subclasses__()
    for kind in kinds:
        yield kind
        yield from _subclasses(kind)


def _paths(modules: Iterable[torch.nn.Module]) -> dict[int, str]:
    """`id` of a module -> its dotted path below the outermost module; the outermost's class."""
    parents: dict[int, tuple[str, torch.nn.Module]] = {}
    known = {id(module): module for module in modules}
    for module in known.values():
        for name, child in (module.__dict__.get("_modules") or {}).items():
            if child is not None and child is not module:
                parents.setdefault(id(child), (name, module))
    paths = {}
    for mark, module in known.items():
        parts: list[str] = []
        current = mark
        while current in parents and len(parts) < _MAX_DEPTH:
            name, parent = parents[current]
            parts.append(name)
            current = id(parent)
        paths[mark] = ".".join(reversed(parts)) or type(module).__name__
    return paths
