"""Sees every op while storages are watched: a dispatch mode, pushed and popped where that upsets nobody."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.capture.contents import ContentBooks
from memprof.capture.storages import FORWARD, OPTIMIZER, StorageTracker

_FRESH_ALTHOUGH_ALIAS = ("aten::lift_fresh", "aten::lift")
_MAY_RESIZE = ("aten::resize_", "aten::resize_as_", "aten::set_", "aten::_resize_output_")
_FRESH, _ALIAS, _RESIZES, _WRITES = 0, 1, 2, 3


class StorageWatch:
    """Turns the watching of storages on and off.

    Args:
        tracker: The books to keep.
        contents: Told what each op wrote and copied.
        note: Takes a sentence about what could not be watched.
        below: Dispatch modes that lie below ours all the time (those of a simulated GPU).
    """

    def __init__(
        self, tracker: StorageTracker, contents: ContentBooks, note: Callable[[str], None], *, below: int
    ) -> None:
        self._mode = WatchingMode(tracker, contents)
        self._contents = contents
        self._note = note
        self._below = below
        self.on = False
        """Every op is seen."""

    def switch(self, on: bool) -> bool:
        """Push or pop the dispatch mode, unless that would upset a context the user is in.

        Another mode on top would be popped in our place, and leaving `inference_mode` puts back the
        dispatch keys of when it was entered, with or without the one our mode needs.

        Args:
            on: Whether to watch from now on.

        Returns:
            Whether that is a change, and has been made.
        """
        if on == self.on or torch.is_inference_mode_enabled():
            return False
        below = self._below
        depth = torch._C._len_torch_dispatch_stack()
        if on:
            if depth > below:
                self._note("another TorchDispatchMode was active: storages were not watched while it was")
                return False
            self._mode.__enter__()
        else:
            if depth != below + 1 or torch._C._get_dispatch_stack_at(below) is not self._mode:
                return False  # not on top: leave it until it is
            self._mode.__exit__(None, None, None)
        self.on = on
        self._contents.watch(on)
        return True

    def silence(self) -> None:
        """Let the mode do nothing from now on, where it could not be popped."""
        self._mode.silent = True


class WatchingMode(TorchDispatchMode):
    """Sees each op below autograd and books its new storages."""

    supports_higher_order_operators = True

    def __init__(self, tracker: StorageTracker, contents: ContentBooks) -> None:
        super().__init__()
        self._tracker = tracker
        self._contents = contents
        self.silent = False
        """Pass everything through; for a mode that outlives its session or was copied by a fork."""
        self._alias_kinds: dict[Any, int] = {}
        self._dense = tracker.dense

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare each op a wrapper that keeps `torch.compile` out; it does not compile under a mode anyway."""
        return False

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Let `torch.compile` compile while we watch; else it gives up on a frame for good."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **kwargs) if kwargs else func(*args)
        if self.silent:
            return output
        try:
            if self._tracker.phase != OPTIMIZER:
                self._tracker.used(args, perf_counter_ns())
                if kwargs:
                    self._tracker.used(kwargs.values(), perf_counter_ns())
            self._book(func, output)
            self._contents.after(func, args, kwargs, output)
        except Exception as error:  # the user's op has run, and its result is what matters
            self._tracker.gave_up(func, error)
        return output

    def _book(self, func: Any, output: Any) -> None:
        """Book what an op made."""
        try:
            kind = self._alias_kinds[func]
        except KeyError:
            kind = self._alias_kinds[func] = _alias_kind(func)
        tracker = self._tracker
        if kind == _FRESH:
            if type(output) in self._dense:
                try:
                    tracker.made(func, output)
                except (RuntimeError, NotImplementedError):  # no storage of its own: sparse, opaque
                    tracker.odd_output(func, output)
            elif type(output) in (tuple, list):
                for item in output:
                    if type(item) in self._dense and item.layout is torch.strided:
                        tracker.made(func, item)
                        if tracker.phase <= FORWARD:
                            tracker.recent_tensors.append(weakref.ref(item))
                    elif item is not None:
                        tracker.odd_output(func, item)
                return
            elif output is not None:
                tracker.odd_output(func, output)
                return
        elif kind == _RESIZES and isinstance(output, torch.Tensor):
            tracker.resized(func, output)
        elif kind == _WRITES and not tracker.phase and type(output) in tracker.plain:
            tracker.written(output)
        if tracker.phase <= FORWARD and isinstance(output, torch.Tensor):
            tracker.recent_tensors.append(weakref.ref(output))


def _alias_kind(func: Any) -> int:
    """Whether an op's outputs are new storages, views of its inputs, or inputs it may resize or has written."""
    schema = getattr(func, "_schema", None)
    if schema is None or schema.name in _FRESH_ALTHOUGH_ALIAS:
        return _FRESH
    if schema.name in _MAY_RESIZE or schema.overload_name.endswith("out"):
        return _RESIZES
    if schema.returns and any(item.alias_info is None for item in schema.returns):
        return _FRESH
    return _WRITES if schema.is_mutable else _ALIAS
