"""Tensors that the user's autograd functions keep on `ctx` after their backward has run.

What `ctx.save_for_backward` keeps is freed by backward. A plain attribute stays for as long as the node does.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

from memprof.capture.frames import UserCode
from memprof.capture.live import LiveStorage, storage_key
from memprof.record.census import ContextTensor
from memprof.record.events import Location, Role

_BY_DESIGN = Role.PARAMETER | Role.BUFFER | Role.OPTIMIZER_STATE | Role.GRADIENT


def context_tensors(code: UserCode, live: Mapping[int, LiveStorage], *, first_tick: int) -> tuple[ContextTensor, ...]:
    """Find what nodes of the user's autograd functions keep although backward has passed them.

    Args:
        code: Tells the user's classes from others.
        live: Watched storages by address.
        first_tick: First tick of the first loop; older tensors are set-up.

    Returns:
        One entry per function and attribute.
    """
    functions = _functions(code)
    if not functions:
        return ()
    found: dict[tuple[str, str], dict[int, LiveStorage]] = defaultdict(dict)
    places: dict[str, Location] = {}
    for node in gc.get_objects():
        function = functions.get(type(node))
        if function is None or not _has_passed(node):
            continue
        name, places[name] = function.__name__, _place(function)
        for attribute, value in list(vars(node).items()):
            for tensor in _tensors(value):
                storage = live.get(storage_key(tensor))
                if storage is not None and storage.birth_tick >= first_tick and not storage.role & _BY_DESIGN:
                    found[name, attribute][storage.id] = storage
    return tuple(
        ContextTensor(name, attribute, places[name], sum(item.nbytes for item in kept.values()), tuple(kept))
        for (name, attribute), kept in found.items()
    )


def _functions(code: UserCode) -> dict[type, Any]:
    """Type of the node -> function, for the functions of the user."""
    found: dict[type, Any] = {}
    stack = list(torch.autograd.Function.__subclasses__())
    while stack:
        function = stack.pop()
        stack.extend(function.__subclasses__())
        inner = getattr(function.forward, "__code__", None)
        node = getattr(function, "_backward_cls", None)
        if inner is not None and node is not None and code.owns(inner):
            found[node] = function
    return found


def _place(function: Any) -> Location:
    inner = function.forward.__code__
    return Location(inner.co_filename, inner.co_firstlineno, function.forward.__qualname__)


def _has_passed(node: BackwardCFunction) -> bool:
    """Whether backward went through a node and freed what it saved.

    Source:
        `THPFunction_get_raw_saved_tensors`, torch/csrc/autograd/python_function.cpp, torch 2.13.0: it raises once
        the buffers are freed, and unpacks nothing.
    """
    try:
        node._raw_saved_tensors  # noqa: B018 -- asked for whether it raises  # type: ignore[attr-defined]
    except RuntimeError:
        return True
    except AttributeError:
        return False
    return False


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        yield from (item for item in value if isinstance(item, torch.Tensor))
    elif isinstance(value, dict):
        yield from (item for item in value.values() if isinstance(item, torch.Tensor))
