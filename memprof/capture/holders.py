"""Finds who keeps an object alive, by asking the garbage collector for referrers.

The search goes from the objects upwards, one pass of `gc.get_referrers` a level for all of them
together, and ends at the first thing the user has a name for. It makes no lasting reference, and it
ends after `BUDGET_NS` with what it has.
"""

from __future__ import annotations

import gc
import sys
import threading
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import torch

from memprof.capture.callbacks import Callbacks
from memprof.capture.cycles import cycle_class
from memprof.capture.frames import UserCode, frame_locals, function_name, is_running, location_of, module_globals
from memprof.capture.holder_words import (
    CONTAINERS,
    Trail,
    attribute_of,
    cache_holder,
    is_passage,
    key_of,
    named,
    step_of,
    through_traceback,
)
from memprof.record.census import Holder
from memprof.record.events import Location

UNKNOWN = Holder(kind="unknown", text="something outside Python's reach (C++ or an extension)")

BUDGET_NS = 10_000_000_000
"""Time after which a search stops going up."""

_MAX_DEPTH = 10
_MAX_FRONTIER = 256
_MAX_ANCESTORS = 10_000
_MAX_ARRAY = 100_000
_SAY_ENOUGH = frozenset({"hook", "cache", "context", "queue", "future", "traceback", "notebook"})
"""Kinds of holder that explain many tensors although no container of theirs is seen."""

_MAY_BE_DEAD = frozenset({"attribute", "closure"})
"""Kinds of holder that may themselves be kept by nothing but what they keep."""


@dataclass(slots=True)
class _Names:
    """Everything that has a name, by id of the value."""

    frames: dict[int, tuple[str, Location, str, str]] = field(default_factory=dict)
    """value -> variable, where its frame stands, function, thread ('' for the one that trains)."""
    namespaces: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Target:
    """What is known of one object that is searched for."""

    many: bool
    """It stands for many: what can hold only one of them does not explain it."""
    holder: Holder | None = None
    spare: Holder | None = None
    """A name that explains this one object, but not the others it stands for."""
    above: dict[int, Any] = field(default_factory=dict)
    """Every object met on the way up, by id."""
    complete: bool = True
    """Every way up was followed to its end."""
    rooted: bool = False
    """A way leads up to a running function or a module: it is in use."""
    found: bool = False
    """The holder was found on a lower level; what is above it says less."""
    dead: str = ""
    """The variable of a function that has ended through which it is kept, in words."""

    @property
    def settled(self) -> bool:
        """Whether nothing is left to find out.

        Of many tensors kept by objects it matters whether anybody still has those objects.
        """
        return self.holder is not None and (not self.many or self.rooted or self.holder.kind not in _MAY_BE_DEAD)

    def offer(self, holder: Holder) -> None:
        """Take a holder if it explains the target, the one with most tensors of those of one level."""
        if self.found:
            return
        if self.many and not ((holder.container and (holder.size or 0) > 1) or holder.kind in _SAY_ENOUGH):
            self.spare = self.spare or holder
        elif self.holder is None or (holder.size or 0) > (self.holder.size or 0):
            self.holder = holder  # of a list and its slice, the list: it is the one that grows


class HolderSearch:
    """One search over the live process; make it, ask, drop it.

    Args:
        code: Tells the user's frames from others.
        ignore: Objects of the profiler that refer to what is searched for.
        callbacks: Knows which functions are hooks; made anew where none is given.
    """

    def __init__(self, code: UserCode, ignore: Iterable[object] = (), callbacks: Callbacks | None = None) -> None:
        self._code = code
        self._callbacks = callbacks or Callbacks(code)
        self._ignored = {id(item) for item in ignore}
        self._ignored.add(id(self))
        self._ignored.add(id(self.__dict__))
        self.stopped = False
        """The budget ran out before every way was followed."""

    def find(self, targets: Sequence[object], many: Sequence[bool] = ()) -> list[Holder]:
        """Name who keeps each target alive.

        Args:
            targets: Live objects. The caller's own references to them do not count.
            many: For each target, whether it stands for several tensors; () for none. A variable or
                attribute of its own then is the answer only where no container is found.

        Returns:
            One holder a target; `UNKNOWN` where nothing in Python refers to it.
        """
        self._ignored.add(id(targets))
        asked = [_Target(many=bool(many) and many[index]) for index in range(len(targets))]
        self._climb(targets, asked)
        return [self._answer(target, item, asked) for target, item in zip(targets, asked, strict=True)]

    def _climb(self, targets: Sequence[object], asked: list[_Target]) -> None:
        """Go up from the targets, level by level, until each has a holder or no way leads further."""
        names = self._names()
        deadline = perf_counter_ns() + BUDGET_NS
        frontier = [Trail(index, target) for index, target in enumerate(targets)]
        for _ in range(_MAX_DEPTH):
            for trail in frontier:
                item = asked[trail.target]
                item.rooted = item.rooted or (bool(trail.chain) and id(trail.top) in names.frames)
                holder = self._variable(trail, names)
                if holder is not None:
                    item.offer(holder)
            frontier = self._open(frontier, asked)
            if not frontier:
                break
            if perf_counter_ns() > deadline:
                self.stopped = True
                break
            frontier = self._up(frontier, asked)
            still = []
            for trail in frontier:
                item = asked[trail.target]
                holder, ends = self._referrer(trail, names)
                if holder is not None:
                    item.offer(holder)
                item.dead = item.dead or trail.via
                if ends and len(trail.chain) == 1:
                    item.above.pop(id(trail.top), None)  # a variable of this one tensor says nothing of the others
                item.rooted = item.rooted or (ends and len(trail.chain) > 1)
                if not ends:
                    still.append(trail)
            frontier = self._open(still, asked)
        for trail in frontier:
            asked[trail.target].complete = False

    def _open(self, frontier: list[Trail], asked: list[_Target]) -> list[Trail]:
        """The trails of targets of which something is left to find out."""
        for item in asked:
            item.found = item.holder is not None
        return [trail for trail in frontier if not asked[trail.target].settled]

    def _answer(self, target: object, item: _Target, asked: list[_Target]) -> Holder:
        if item.holder is not None and (item.settled or item.rooted or not self._is_dead(item, target, asked)):
            return item.holder
        if item.dead and item.holder is None:
            return Holder(kind="traceback", text=f"{item.dead}, kept by an exception's traceback")
        owner = self._is_dead(item, target, asked)
        if owner:
            told = item.holder or item.spare
            name = told.name if told is not None and told.kind in _MAY_BE_DEAD else owner
            return Holder(kind="cycle", text=f"a reference cycle through `{owner}`", name=name, owner=owner)
        if item.spare is not None:
            return item.spare
        return self._array(target) or UNKNOWN

    def _is_dead(self, item: _Target, target: object, asked: list[_Target]) -> str:
        """Class through which what keeps a target is kept by nothing else, or ''."""
        if not item.above or not item.complete or item.rooted or self.stopped:
            return ""
        return cycle_class(item.above, target, [other.above for other in asked if other is not item])

    # ---- one level up ------------------------------------------------------------------

    def _up(self, frontier: list[Trail], asked: list[_Target]) -> list[Trail]:
        for trail in frontier[_MAX_FRONTIER:]:
            asked[trail.target].complete = False
        del frontier[_MAX_FRONTIER:]
        below = [trail.top for trail in frontier]
        by_id: dict[int, list[Trail]] = {}
        for trail in frontier:
            by_id.setdefault(id(trail.top), []).append(trail)
        referrers = gc.get_referrers(*below)
        own = {id(below), id(by_id), id(referrers), id(frontier), id(asked)}
        own |= {id(trail) for trail in frontier} | {id(trail.chain) for trail in frontier}
        own |= {id(trails) for trails in by_id.values()}
        own |= {id(item) for item in asked} | {id(item.above) for item in asked}
        result: list[Trail] = []
        own.add(id(result))
        for referrer in referrers:
            mark = id(referrer)
            if mark in own or mark in self._ignored or self._is_ours(referrer):
                continue
            for child in _children(referrer, by_id):
                step = step_of(referrer, child)
                for trail in by_id[id(child)]:
                    item = asked[trail.target]
                    if mark in item.above:
                        continue
                    if len(item.above) >= _MAX_ANCESTORS:
                        item.complete = False
                        continue
                    item.above[mark] = referrer
                    result.append(
                        Trail(trail.target, referrer, (*trail.chain, trail.top), (*trail.steps, step), trail.via)
                    )
        return result

    def _is_ours(self, referrer: object) -> bool:
        if isinstance(referrer, types.FrameType):
            return not self._code.owns(referrer.f_code) and "memprof" in referrer.f_code.co_filename
        return type(referrer).__module__.startswith("memprof.") or type(referrer) is types.MethodWrapperType

    # ---- names -------------------------------------------------------------------------

    def _names(self) -> _Names:
        names = _Names(namespaces=module_globals())
        threads = {thread.ident: thread.name for thread in threading.enumerate()}
        here = threading.get_ident()
        for ident, frame in self._code.live_frames():
            if frame.f_locals is frame.f_globals:
                continue
            where, function = location_of(frame), function_name(frame.f_code)
            thread = "" if ident == here else threads.get(ident, "another thread")
            for name, value in frame_locals(frame):
                if isinstance(value, torch.Tensor):  # the caller's loop passes it on, whatever its arguments are called
                    names.frames[id(value)] = name, where, function, thread
                elif type(value) not in (int, float, str, bool, type(None)):
                    names.frames.setdefault(id(value), (name, where, function, thread))
            value = None  # the loop's variable must not count as a holder
        return names

    def _variable(self, trail: Trail, names: _Names) -> Holder | None:
        """A live frame's variable that is the top of the trail."""
        local = names.frames.get(id(trail.top))
        if local is None or (not trail.chain and isinstance(trail.top, types.ModuleType)):
            return None
        name, where, function, thread = local
        if trail.chain and not isinstance(trail.top, CONTAINERS) and not is_passage(trail.top):
            return None  # an object's attribute says more than the variable that holds the object
        return named("local", name, trail, where=where, owner=function, thread=thread)

    def _referrer(self, trail: Trail, names: _Names) -> tuple[Holder | None, bool]:
        """A holder that the referrer at the top of the trail stands for, and whether the way ends there."""
        top, child = trail.top, trail.chain[-1]
        below = Trail(trail.target, child, trail.chain[:-1], trail.steps[:-1], trail.via)
        if isinstance(top, dict):
            module = names.namespaces.get(id(top)) or _name_of_ended(top)
            if module is None:
                return None, False
            name = key_of(top, child)
            where = Location(str(top.get("__file__") or "<interactive>"), 0, "<module>")
            kind = "notebook" if _is_output_cache(name, top) else "global"
            return None if name is None else named(kind, str(name), below, where=where, owner=module), True
        if isinstance(top, types.FrameType):
            return self._frame(top, child, trail, below)
        if isinstance(top, types.GeneratorType) and top.gi_frame is not None:
            name = next((key for key, value in frame_locals(top.gi_frame) if value is child), None)
            if name is None:
                return None, False
            where = location_of(top.gi_frame)
            return named("generator", name, below, where=where, owner=function_name(top.gi_code)), True
        if isinstance(top, types.FunctionType):
            holder = self._function(top, trail, below)
            return holder, holder is not None and holder.kind == "hook"
        if type(top).__name__ == "_lru_cache_wrapper":
            return cache_holder(top), True
        if isinstance(top, type):
            name = next((key for key, value in vars(top).items() if value is child), None)
            return (None, False) if name is None else (named("attribute", name, below, owner=top.__name__), True)
        if isinstance(top, torch.nn.Module) and (hook := self._callbacks.registry(top, child)):
            return named("hook", hook, below, owner=type(top).__name__), True
        return attribute_of(top, child, below), False

    def _frame(self, top: types.FrameType, child: object, trail: Trail, below: Trail) -> tuple[Holder | None, bool]:
        name = next((key for key, value in frame_locals(top) if value is child), None)
        if name is None:
            return None, False
        owner = function_name(top.f_code)
        if is_running(top):
            return named("local", name, below, where=location_of(top), owner=owner), True
        # The function has returned: something keeps its frame, most often an exception's traceback.
        trail.via = through_traceback(name, owner, below)
        return None, False

    def _function(self, function: types.FunctionType, trail: Trail, below: Trail) -> Holder | None:
        hook = self._callbacks.hook(function)
        where = Location(function.__code__.co_filename, function.__code__.co_firstlineno, function.__qualname__)
        if hook:
            return named("hook", hook, below, where=where, owner=function.__qualname__)
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        for name, cell in cells.items():
            for index, item in enumerate(trail.chain):
                if item is cell and index:
                    inner = Trail(trail.target, trail.chain[index - 1], trail.chain[: index - 1])
                    inner.steps = trail.steps[: index - 1]
                    return named("closure", name, inner, where=where, owner=function.__qualname__)
        return None

    def _array(self, target: object) -> Holder | None:
        """A NumPy array of objects that has the target: the collector does not look into those."""
        numpy: Any = sys.modules.get("numpy")
        if numpy is None:
            return None
        for _, frame in self._code.live_frames():
            for name, value in frame_locals(frame):
                array: Any = value
                if type(value) is not numpy.ndarray or array.dtype != object or array.size > _MAX_ARRAY:
                    continue
                if any(item is target for item in array.flat):
                    size = sum(isinstance(item, torch.Tensor) for item in array.flat)
                    return self._array_holder(frame, name, size)
        return None

    def _array_holder(self, frame: types.FrameType, name: str, size: int) -> Holder:
        module = frame.f_locals is frame.f_globals
        owner = str(frame.f_globals.get("__name__", "")) if module else function_name(frame.f_code)
        return Holder(
            kind="global" if module else "local",
            text=f"ndarray `{name}`" + ("" if module else f" in `{owner}()`") + f", {size} tensors",
            name=name,
            container="ndarray",
            size=size,
            location=location_of(frame),
            owner=owner,
        )


def _children(referrer: object, by_id: Mapping[int, object]) -> list[object]:
    """Those of the objects asked about that the referrer holds, each once."""
    unique = {id(item): item for item in gc.get_referents(referrer) if id(item) in by_id}
    return list(unique.values())


def _name_of_ended(namespace: Mapping[str, object]) -> str | None:
    """Name of a script that has ended, whose namespace no module has any more; None of any other dictionary."""
    name = namespace.get("__name__") if "__builtins__" in namespace else None
    return name if isinstance(name, str) else None


def _is_output_cache(name: object, namespace: Mapping[str, object]) -> bool:
    """Whether a global of IPython's namespace is what it keeps of a cell's output."""
    if "_ih" not in namespace or not isinstance(name, str):
        return False
    return name in ("Out", "_oh") or not name.strip("_") or (name[0] == "_" and name[1:].isdigit())
