"""Puts a holder into words: what it is, its name, whose it is, and how many tensors it has."""

from __future__ import annotations

import gc
import types
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch

from memprof.record.census import Holder
from memprof.record.events import Location

CONTAINERS = (list, dict, tuple, set, frozenset, deque)
_PASSAGE_MODULES = ("queue", "_queue", "concurrent.futures", "asyncio", "multiprocessing", "_asyncio")
_MANY_ATTRIBUTES = 64
_REGISTRIES = ("_parameters", "_buffers", "_modules")
"""Where a module keeps what is read as its attributes."""
_ADDRESS = 1 << 32
"""Integers from here on are taken for addresses (`id(x)`, `data_ptr()`) where they are keys."""
_MAX_SIZE = 100_000


@dataclass(slots=True)
class Trail:
    """The way from a target up to the object the search stands at."""

    target: int
    """Which of the objects searched for."""
    top: Any
    chain: tuple[Any, ...] = ()
    """Objects passed below `top`, the target first."""
    steps: tuple[str, ...] = ()
    """How each object of the chain is reached from the next one: `['loss']`, `.x`, ''."""
    via: str = ""
    """The dead frame passed on the way: "local `x` of `f()`", or ''."""


# ---- reading objects -----------------------------------------------------------------------


def is_passage(item: object) -> bool:
    """Whether an object of a library only carries things: a queue, a future, a task."""
    kind = type(item)
    return str(kind.__module__).startswith(_PASSAGE_MODULES) and not isinstance(item, type)


def is_plumbing(item: object) -> bool:
    """Whether an object is of Python itself and says nothing to the user."""
    return type(item).__module__ == "builtins" and type(item) is not object


def key_of(mapping: dict[Any, Any], value: object) -> object | None:
    """The key under which a dictionary has a value, or None."""
    return next((key for key, item in list(mapping.items()) if item is value), None)


def step_of(parent: object, child: object) -> str:
    """How the child is written in terms of its parent."""
    if isinstance(parent, dict):
        key = key_of(parent, child)
        return f"[{key!r}]" if isinstance(key, (str, int)) else ""
    return ""


def attributes_of(item: object) -> dict[str, Any] | None:
    """The dictionary of an object's attributes, read past what its class does about attributes; None without one."""
    try:
        attributes = object.__getattribute__(item, "__dict__")
    except (AttributeError, TypeError):
        return None
    return attributes if isinstance(attributes, dict) else None


def _is_context(item: object) -> bool:
    return isinstance(item, torch.autograd.function.BackwardCFunction)


def attribute_of(top: object, child: object, below: Trail) -> Holder | None:
    """The attribute of an object under which it has the child, or None."""
    if isinstance(top, (*CONTAINERS, types.CellType, torch.Tensor)) or is_plumbing(top) or is_passage(top):
        return None
    owner = type(top).__name__
    kind = "attribute"
    if _is_context(top):
        kind, owner = "context", owner.removesuffix("Backward")
    attributes = attributes_of(top) or {}
    for name, value in list(attributes.items()):
        if value is child:
            return _attribute(top, str(name), kind, below, owner)
    for name in getattr(type(top), "__slots__", ()) or ():
        if getattr(top, name, None) is child:
            return named(kind, str(name), below, owner=owner)
    if child is attributes and below.chain:
        inner = _below(below)
        key = key_of(child, inner.top)
        return None if key is None else _attribute(top, str(key), kind, inner, owner)
    return None


def _attribute(top: object, name: str, kind: str, below: Trail, owner: str) -> Holder | None:
    """Describe an attribute; what a module has in a registry reads as an attribute of its own."""
    if name in _REGISTRIES and isinstance(top, torch.nn.Module) and isinstance(below.top, dict):
        inner = _below(below) if below.chain else None
        key = None if inner is None else key_of(below.top, inner.top)
        return None if inner is None or key is None else named(kind, str(key), inner, owner=owner)
    return named(kind, name, below, owner=owner)


def _below(trail: Trail) -> Trail:
    """A trail without its last step up."""
    return Trail(trail.target, trail.chain[-1], trail.chain[:-1], trail.steps[:-1], trail.via)


# ---- words -----------------------------------------------------------------------------------


def named(
    kind: str, name: str, trail: Trail, *, where: Location | None = None, owner: str = "", thread: str = ""
) -> Holder:
    """Describe the holder that a search has reached.

    Args:
        kind: See `Holder.kind`.
        name: The variable or attribute, or the whole phrase for a hook.
        trail: From the target up to the value of that name.
        where: Line of the holding frame or function.
        owner: Function, class or module it belongs to.
        thread: Name of the thread whose variable it is, or ''.
    """
    path, container = name, trail.top if isinstance(trail.top, CONTAINERS) or is_passage(trail.top) else None
    for item, step in zip(reversed(trail.chain), reversed(trail.steps), strict=True):
        if not step.startswith("["):
            break  # an entry of a list: the list is what the user knows
        path += step
        if isinstance(item, CONTAINERS):
            container = item
    type_name = type(container).__name__ if container is not None else ""
    size = tensors_in(container) if container is not None else None
    text = _text(kind, name, path, type_name, owner)
    if thread:
        kind, text = "thread", f"{text} of thread `{thread}`"
    passages = [item for item in (*trail.chain, trail.top) if is_passage(item)]
    if passages and kind != "hook":
        futures = any("Future" in type(item).__name__ or "Task" in type(item).__name__ for item in passages)
        kind = "future" if futures else "queue"
    if trail.via:
        kind, text = "traceback", f"{text}, which keeps {trail.via} through an exception's traceback"
    elif size is not None and size > 1:
        text += f", {size} tensors"
    return Holder(
        kind=kind,
        text=text,
        name=path,
        container=type_name,
        size=size,
        bounded=_is_bounded(container),
        location=where,
        owner=owner,
        keyed_by=_keys(container) if isinstance(container, dict) else "",
    )


def _text(kind: str, name: str, path: str, type_name: str, owner: str) -> str:
    subject = f"{type_name} `{path}`" if type_name else f"`{path}`"
    if kind == "hook":
        return name
    if kind == "context":
        return f"`ctx.{path}` of autograd function `{owner}`"
    if kind == "attribute":
        return f"attribute `{path}` of `{owner}`" if not type_name else f"{subject}, attribute of `{owner}`"
    if kind == "notebook":
        return f"the notebook's output cache `{path}`"
    if kind == "global":
        text = subject if type_name else f"variable {subject}"
        return text if owner == "__main__" else f"{text} of module `{owner}`"
    if kind == "closure":
        return f"{subject} in the closure of `{owner}()`"
    if kind == "generator":
        return f"{subject} in generator `{owner}()`"
    return f"{subject if type_name else f'variable {subject}'} in `{owner}()`"


def through_traceback(name: str, owner: str, below: Trail) -> str:
    """Words for a variable of a function that has ended, for `Trail.via`."""
    container = type(below.top).__name__ + " " if isinstance(below.top, CONTAINERS) else ""
    return below.via or f"local {container}`{name}` of `{owner}()`"


def cache_holder(wrapper: Any) -> Holder:
    """Describe a `functools.lru_cache`."""
    function, info = wrapper.__wrapped__, wrapper.cache_info()
    code = getattr(function, "__code__", None)
    where = None if code is None else Location(code.co_filename, code.co_firstlineno, function.__qualname__)
    keys: list[object] = []
    for item in gc.get_referents(wrapper):
        keys.extend(item if isinstance(item, dict) else (item,))
    by_tensor = any(isinstance(part, torch.Tensor) for key in keys if isinstance(key, tuple) for part in key)
    return Holder(
        kind="cache",
        text=f"the cache of `{function.__qualname__}()`, {info.currsize} entries, {info.hits} hits",
        name=function.__name__,
        container="lru_cache",
        size=info.currsize,
        bounded=info.maxsize is not None,
        location=where,
        owner=function.__qualname__,
        keyed_by="tensor" if by_tensor else "value",
        hits=info.hits,
    )


def _is_bounded(container: object) -> bool:
    if isinstance(container, deque):
        return container.maxlen is not None
    return isinstance(getattr(container, "maxsize", None), int) and getattr(container, "maxsize", 0) > 0


def _keys(mapping: dict[Any, Any]) -> str:
    """What a dictionary's keys are: `tensor`, `address`, or '' for anything else."""
    keys = list(mapping)[:16]
    parts = [part for key in keys for part in (key if isinstance(key, tuple) else (key,))]
    if any(isinstance(part, torch.Tensor) for part in parts):
        return "tensor"
    if keys and all(isinstance(key, int) and key > _ADDRESS for key in keys):
        return "address"
    return ""


def tensors_in(container: object) -> int:
    """Tensors in a container, in the containers in it, and in the attributes of the objects in those.

    Those of modules count where there are several: a list of models, not one that has a model in it.
    """
    count = modules = of_modules = 0
    stack, seen = [container], {id(container)}
    while stack and len(seen) < _MAX_SIZE:
        item = stack.pop()
        inside = isinstance(item, CONTAINERS) or is_passage(item)
        for child in gc.get_referents(item):
            if isinstance(child, torch.Tensor):
                count += 1
            elif isinstance(child, torch.nn.Module) and inside and id(child) not in seen:
                seen.add(id(child))
                modules += 1
                of_modules += sum(1 for _ in child.parameters())
            elif id(child) not in seen and (
                isinstance(child, CONTAINERS) or is_passage(child) or (inside and _is_record(child))
            ):
                seen.add(id(child))
                stack.append(child)
    return count + of_modules if modules > 1 else count


def _is_record(item: object) -> bool:
    """Whether an object of a user's class is a handful of values, not a model or a program."""
    if is_plumbing(item) or isinstance(item, (type, types.ModuleType, torch.nn.Module, torch.optim.Optimizer)):
        return False
    if not hasattr(type(item), "__dict__") or callable(item):
        return False
    attributes = attributes_of(item)
    if attributes is None:
        return bool(getattr(type(item), "__slots__", ()))
    return len(attributes) <= _MANY_ATTRIBUTES
