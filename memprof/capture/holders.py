"""Finds who keeps an object alive, by asking the garbage collector for referrers.

The search goes from the object upwards, one pass of `gc.get_referrers` a level for all objects
together, and ends at the first thing the user has a name for. It makes no lasting reference.
"""

from __future__ import annotations

import gc
import sys
import types
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from memprof.capture.frames import UserCode, frame_locals, function_name, location_of, module_globals
from memprof.record.events import Holder, Location

UNKNOWN = Holder(kind="unknown", text="something outside Python's reach (C++ or an extension)")

_CONTAINERS = (list, dict, tuple, set, frozenset, deque)
_MAX_DEPTH = 9
_MAX_FRONTIER = 64
_HOOKS = {
    "_forward_hooks": "forward hook",
    "_forward_pre_hooks": "forward pre-hook",
    "_backward_hooks": "backward hook",
    "_backward_pre_hooks": "backward pre-hook",
}


@dataclass(slots=True)
class _Trail:
    """The way from a target up to the object the search stands at."""

    target: int
    top: Any
    chain: tuple[Any, ...] = ()
    """Objects passed below `top`, the target first."""
    steps: tuple[str, ...] = ()
    """How each object of the chain is reached from the next one: `['loss']`, `.x`, ''."""


@dataclass(slots=True)
class _Names:
    """Everything that has a name, by id of the value."""

    frames: dict[int, tuple[str, Location, str]] = field(default_factory=dict)
    """value -> variable, where its frame stands, function."""
    namespaces: dict[int, str] = field(default_factory=dict)


class HolderSearch:
    """One search over the live process; make it, ask, drop it.

    Args:
        code: Tells the user's frames from others.
        ignore: Objects of the profiler that refer to what is searched for.
    """

    def __init__(self, code: UserCode, ignore: Iterable[object] = ()) -> None:
        self._code = code
        self._ignored = {id(item) for item in ignore}
        self._ignored.add(id(self))
        self._ignored.add(id(self.__dict__))

    def find(self, targets: Sequence[object]) -> list[Holder]:
        """Name who keeps each target alive.

        Args:
            targets: Live objects. The caller's own references to them do not count.

        Returns:
            One holder a target; `UNKNOWN` where nothing in Python refers to it.
        """
        self._ignored.add(id(targets))
        names = self._names()
        found: dict[int, Holder] = {}
        frontier = [_Trail(index, target) for index, target in enumerate(targets)]
        seen = {id(target) for target in targets}
        for _ in range(_MAX_DEPTH):
            frontier = [trail for trail in frontier if trail.target not in found]
            still: list[_Trail] = []
            near: dict[int, Holder] = {}
            for trail in frontier:
                holder = self._named(trail, names)
                if holder is None:
                    still.append(trail)
                elif trail.target not in near or (holder.size or 0) > (near[trail.target].size or 0):
                    near[trail.target] = holder  # of a list and its slice, the list: it is the one that grows
            found.update(near)
            still = [trail for trail in still if trail.target not in found]
            if not still:
                break
            frontier = self._up(still, seen)
            for trail in list(frontier):
                holder = self._from_referrer(trail, names)
                if holder is not None:
                    found.setdefault(trail.target, holder)
        del names
        return [found.get(index, self._unnamed(target)) for index, target in enumerate(targets)]

    # ---- one level up ------------------------------------------------------------------

    def _up(self, frontier: list[_Trail], seen: set[int]) -> list[_Trail]:
        below = [trail.top for trail in frontier[:_MAX_FRONTIER]]
        by_id: dict[int, list[_Trail]] = {}
        for trail in frontier[:_MAX_FRONTIER]:
            by_id.setdefault(id(trail.top), []).append(trail)
        referrers = gc.get_referrers(*below)
        own = {id(below), id(by_id), id(referrers), id(frontier), id(seen)}
        own |= {id(trail) for trail in frontier} | {id(trail.chain) for trail in frontier}
        own |= {id(trails) for trails in by_id.values()}
        result: list[_Trail] = []
        own.add(id(result))
        for referrer in referrers:
            mark = id(referrer)
            if mark in own or mark in self._ignored or mark in seen or self._is_ours(referrer):
                continue
            if not _near(referrer):
                seen.add(mark)
            for child in _children(referrer, by_id):
                step = _step(referrer, child)
                result.extend(
                    _Trail(trail.target, referrer, (*trail.chain, trail.top), (*trail.steps, step))
                    for trail in by_id[id(child)]
                )
        return result

    def _is_ours(self, referrer: object) -> bool:
        if isinstance(referrer, types.FrameType):
            return not self._code.owns(referrer.f_code) and "memprof" in referrer.f_code.co_filename
        return type(referrer).__module__.startswith("memprof.") or type(referrer) is types.MethodWrapperType

    # ---- names -------------------------------------------------------------------------

    def _names(self) -> _Names:
        names = _Names(namespaces=module_globals())
        for frame in self._code.live_frames():
            if frame.f_locals is frame.f_globals:
                continue
            where, function = location_of(frame), function_name(frame.f_code)
            for name, value in frame_locals(frame):
                if type(value) not in (int, float, str, bool, type(None)):
                    names.frames.setdefault(id(value), (name, where, function))
            value = None  # the loop's variable must not count as a holder
        return names

    def _named(self, trail: _Trail, names: _Names) -> Holder | None:
        """A live frame's variable that is the top of the trail."""
        local = names.frames.get(id(trail.top))
        if local is None or (not trail.chain and isinstance(trail.top, types.ModuleType)):
            return None
        name, where, function = local
        if trail.chain and not isinstance(trail.top, _CONTAINERS):
            return None  # an object's attribute says more than the variable that holds the object
        return _holder("local", name, trail, where=where, owner=function)

    def _from_referrer(self, trail: _Trail, names: _Names) -> Holder | None:
        """A holder that the referrer at the top of the trail itself stands for."""
        top, child = trail.top, trail.chain[-1]
        below = _Trail(trail.target, child, trail.chain[:-1], trail.steps[:-1])
        if isinstance(top, dict):
            module = names.namespaces.get(id(top))
            if module is not None:
                name = _key_of(top, child)
                where = Location(str(top.get("__file__") or "<interactive>"), 0, "<module>")
                return None if name is None else _holder("global", str(name), below, where=where, owner=module)
            return None
        if isinstance(top, types.FrameType):
            name = next((key for key, value in frame_locals(top) if value is child), None)
            if name is None:
                return None
            kind = "traceback" if not _is_running(top) else "local"
            return _holder(kind, name, below, where=location_of(top), owner=function_name(top.f_code))
        if isinstance(top, types.GeneratorType) and top.gi_frame is not None:
            name = next((key for key, value in frame_locals(top.gi_frame) if value is child), None)
            if name is None:
                return None
            return _holder("generator", name, below, where=location_of(top.gi_frame), owner=function_name(top.gi_code))
        if isinstance(top, types.FunctionType):
            return self._function(top, trail, below)
        if isinstance(top, type):
            name = next((key for key, value in vars(top).items() if value is child), None)
            return None if name is None else _holder("attribute", name, below, owner=top.__name__)
        return self._attribute(top, child, below)

    def _function(self, function: types.FunctionType, trail: _Trail, below: _Trail) -> Holder | None:
        hook = _hook_of(function)
        where = Location(function.__code__.co_filename, function.__code__.co_firstlineno, function.__qualname__)
        if hook:
            return _holder("hook", hook, below, where=where, owner=function.__qualname__)
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        for name, cell in cells.items():
            if any(cell is item for item in trail.chain):
                inner = _Trail(trail.target, trail.chain[0], (), ())
                for index, item in enumerate(trail.chain):
                    if item is cell:
                        inner = _Trail(
                            trail.target, trail.chain[index - 1], trail.chain[: index - 1], trail.steps[: index - 1]
                        )
                return _holder("closure", name, inner, where=where, owner=function.__qualname__)
        return None

    def _attribute(self, top: object, child: object, below: _Trail) -> Holder | None:
        if isinstance(top, (*_CONTAINERS, types.CellType, torch.Tensor)) or _is_plumbing(top):
            return None
        try:
            attributes = object.__getattribute__(top, "__dict__")
        except (AttributeError, TypeError):
            attributes = {}
        for name, value in list(attributes.items()):
            if value is child:
                return _holder("attribute", str(name), below, owner=type(top).__name__)
        for name in getattr(type(top), "__slots__", ()) or ():
            if getattr(top, name, None) is child:
                return _holder("attribute", str(name), below, owner=type(top).__name__)
        if child is attributes and isinstance(child, dict) and below.chain:
            inner = _Trail(below.target, below.chain[-1], below.chain[:-1], below.steps[:-1])
            name = _key_of(child, inner.top)
            return None if name is None else _holder("attribute", str(name), inner, owner=type(top).__name__)
        return None

    def _unnamed(self, target: object) -> Holder:
        """Nothing with a name leads to it: a cycle only the collector would free, or C++."""
        chain: list[object] = []
        current, seen = target, {id(target)}
        for _ in range(_MAX_DEPTH):
            following = [
                item
                for item in gc.get_referrers(current)
                if id(item) not in self._ignored
                and not self._is_ours(item)
                and not isinstance(item, types.FrameType)
                and item is not chain
            ]
            again = next((item for item in following if id(item) in seen), None)
            if again is not None:
                owner = next((type(item).__name__ for item in chain if _is_instance(item)), type(again).__name__)
                return Holder(kind="cycle", text=f"reference cycle through `{owner}`", name=owner, owner=owner)
            step = next((item for item in following if _near(item) or _is_instance(item)), None)
            if step is None:
                break
            chain.append(step)
            seen.add(id(step))
            current = step
        return UNKNOWN


# ---- reading objects -----------------------------------------------------------------------


def _near(item: object) -> bool:
    return isinstance(item, (*_CONTAINERS, types.CellType))


def _is_instance(item: object) -> bool:
    plain = (*_CONTAINERS, types.CellType, types.FunctionType, types.MethodType, types.FrameType, types.ModuleType)
    return not isinstance(item, plain) and not isinstance(item, type) and not _is_plumbing(item)


def _is_plumbing(item: object) -> bool:
    return type(item).__module__ == "builtins" and type(item) is not object


def _children(referrer: object, by_id: Mapping[int, object]) -> list[object]:
    """Those of the objects asked about that the referrer holds, each once."""
    unique = {id(item): item for item in gc.get_referents(referrer) if id(item) in by_id}
    return list(unique.values())


def _key_of(mapping: dict[Any, Any], value: object) -> object | None:
    return next((key for key, item in list(mapping.items()) if item is value), None)


def _step(parent: object, child: object) -> str:
    """How the child is written in terms of its parent."""
    if isinstance(parent, dict):
        key = _key_of(parent, child)
        return f"[{key!r}]" if isinstance(key, (str, int)) else ""
    return ""


def _hook_of(function: types.FunctionType) -> str:
    """`forward hook on `backbone.layer4`` where a function is registered as a module's hook."""
    for registry in gc.get_referrers(function):
        if not isinstance(registry, dict):
            continue
        for owner in gc.get_referrers(registry):
            module = owner if isinstance(owner, torch.nn.Module) else None
            if module is None and isinstance(owner, dict):
                module = next((m for m in gc.get_referrers(owner) if isinstance(m, torch.nn.Module)), None)
            if module is None:
                continue
            for attribute, label in _HOOKS.items():
                if getattr(module, attribute, None) is registry:
                    return f"{label} on `{_module_path(module)}`"
    return ""


def _module_path(module: torch.nn.Module) -> str:
    """Dotted path of a module below the outermost module that contains it."""
    parts: list[str] = []
    current = module
    for _ in range(_MAX_DEPTH):
        parent = next(
            (
                (name, other)
                for registry in gc.get_referrers(current)
                if isinstance(registry, dict)
                for owner in gc.get_referrers(registry)
                for other in ([owner] if isinstance(owner, torch.nn.Module) else _owners(owner))
                for name, child in other._modules.items()
                if child is current and other is not current
            ),
            None,
        )
        if parent is None:
            break
        parts.append(parent[0])
        current = parent[1]
    return ".".join(reversed(parts)) or type(module).__name__


def _owners(namespace: object) -> list[torch.nn.Module]:
    if not isinstance(namespace, dict):
        return []
    return [item for item in gc.get_referrers(namespace) if isinstance(item, torch.nn.Module)]


def _is_running(frame: types.FrameType) -> bool:
    for top in sys._current_frames().values():
        current: types.FrameType | None = top
        while current is not None:
            if current is frame:
                return True
            current = current.f_back
    return False


# ---- words -----------------------------------------------------------------------------------


def _holder(kind: str, name: str, trail: _Trail, *, where: Location | None = None, owner: str = "") -> Holder:
    """Put a holder into words: what it is, its name, whose it is, how many tensors it has.

    Args:
        kind: See `Holder.kind`.
        name: The variable or attribute, or the whole phrase for a hook.
        trail: From the target up to the value of that name.
        where: Line of the holding frame or function.
        owner: Function, class or module it belongs to.
    """
    path, container = name, trail.top if isinstance(trail.top, _CONTAINERS) else None
    for item, step in zip(reversed(trail.chain), reversed(trail.steps), strict=True):
        if not step.startswith("["):
            break  # an entry of a list: the list is what the user knows
        path += step
        if isinstance(item, _CONTAINERS):
            container = item
    type_name = type(container).__name__ if container is not None else ""
    size = _tensors_in(container) if container is not None else None
    subject = f"{type_name} `{path}`" if type_name else f"`{path}`"
    if kind == "hook":
        text = name
    elif kind == "attribute":
        text = f"attribute `{path}` of `{owner}`" if not type_name else f"{subject}, attribute of `{owner}`"
    elif kind == "global":
        text = subject if type_name else f"variable {subject}"
        text += "" if owner == "__main__" else f" of module `{owner}`"
    elif kind == "closure":
        text = f"{subject} in the closure of `{owner}()`"
    elif kind == "traceback":
        text = f"local {subject} of `{owner}()`, kept by an exception's traceback"
    elif kind == "generator":
        text = f"{subject} in generator `{owner}()`"
    else:
        text = f"{subject if type_name else f'variable {subject}'} in `{owner}()`"
    if size is not None and size > 1:
        text += f", {size} tensors"
    return Holder(
        kind=kind,
        text=text,
        name=path,
        container=type_name,
        size=size,
        bounded=isinstance(container, deque) and container.maxlen is not None,
        location=where,
        owner=owner,
    )


def _tensors_in(container: object) -> int:
    """Tensors in a container and the containers in it."""
    count = 0
    stack, seen = [container], {id(container)}
    while stack and len(seen) < 100_000:
        item = stack.pop()
        for child in gc.get_referents(item):
            if isinstance(child, torch.Tensor):
                count += 1
            elif isinstance(child, _CONTAINERS) and id(child) not in seen:
                seen.add(id(child))
                stack.append(child)
    return count
