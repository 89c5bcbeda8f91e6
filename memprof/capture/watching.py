"""Sees every op while storages are watched, and books what each makes."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.capture import dispatch_key
from memprof.capture.compilation import between, uncompiled
from memprof.capture.contents import ContentBooks
from memprof.capture.storages import BACKWARD, FORWARD, OPTIMIZER, StorageTracker

_FRESH_ALTHOUGH_ALIAS = ("aten::lift_fresh", "aten::lift")
_MAY_RESIZE = ("aten::resize_", "aten::resize_as_", "aten::set_", "aten::_resize_output_")
_FRESH, _ALIAS, _RESIZES, _WRITES = 0, 1, 2, 3


class StorageWatch:
    """Turns the watching of storages on and off.

    Args:
        tracker: The books to keep.
        contents: Told what each op wrote and copied.
        note: Takes a sentence about what could not be watched.
        below: Dispatch modes that lie below ours all the time (those of a simulated GPU). Where there are any, ops
            are seen through a mode as well.
    """

    def __init__(
        self, tracker: StorageTracker, contents: ContentBooks, note: Callable[[str], None], *, below: int
    ) -> None:
        self._tracker = tracker
        self._contents = contents
        self._note = note
        self._below = below
        self._books = OpBooks(tracker, contents)
        self._hook: dispatch_key.OpHook | None = None
        self._mode: _WatchingMode | None = None
        self.on = False
        """Every op is seen."""

    def switch(self, on: bool) -> bool:
        """Begin or end to see every op, unless that would upset a context the user is in.

        Leaving `inference_mode` puts back the dispatch keys of when it was entered, with or without the one we need.

        Args:
            on: Whether to watch from now on.

        Returns:
            Whether that is a change, and has been made.
        """
        if on == self.on or torch.is_inference_mode_enabled():
            return False
        if self._hook is None and self._mode is None:
            self._choose()
        if self._hook is not None:
            (self._hook.enter if on else self._hook.exit)()
        elif not self._switch_mode(on):
            return False
        self.on = on
        self._contents.watch(on)
        return True

    def _choose(self) -> None:
        if not self._below and dispatch_key.available():
            self._hook = dispatch_key.OpHook(self._books.saw)
            self._tracker.spares_gradients = True
            return
        self._mode = _WatchingMode(self._books)
        if not self._below:
            self._note(
                "this torch shows its ops to a TorchDispatchMode only, under which backward adds some gradients into "
                "new tensors: while storages are watched the peak may be some tenths of a per cent off"
            )

    def _switch_mode(self, on: bool) -> bool:
        """Push or pop the mode; another mode on top would be popped in our place."""
        assert self._mode is not None
        depth = torch._C._len_torch_dispatch_stack()
        if on:
            if depth > self._below:
                self._note("another TorchDispatchMode was active: storages were not watched while it was")
                return False
            self._mode.__enter__()
        else:
            if depth != self._below + 1 or torch._C._get_dispatch_stack_at(self._below) is not self._mode:
                return False  # not on top: leave it until it is
            self._mode.__exit__(None, None, None)
        return True

    def silence(self) -> None:
        """Book nothing from now on, also where ops are still seen: at the end of a session, and in a forked child."""
        self._books.silent = True
        if self._hook is not None:
            self._hook.silence()


class OpBooks:
    """Books what ops below autograd make and use.

    Args:
        tracker: The books to keep.
        contents: Told what each op wrote and copied.
    """

    def __init__(self, tracker: StorageTracker, contents: ContentBooks) -> None:
        self._tracker = tracker
        self._contents = contents
        self.silent = False
        self._alias_kinds: dict[Any, int] = {}
        self._dense = tracker.dense

    @uncompiled
    def saw(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None, output: Any) -> None:
        """Book an op that has run; the user's result is what matters, so nothing is raised.

        Args:
            func: The operator.
            args: What it was given.
            kwargs: The same, by name.
            output: What it returned.
        """
        if self.silent:
            return
        tracker = self._tracker
        try:
            tracker.bury()
            if tracker.phase != OPTIMIZER:
                tracker.used(args, perf_counter_ns())
                if kwargs:
                    tracker.used(kwargs.values(), perf_counter_ns())
            self._book(func, output)
            self._contents.after(func, args, kwargs, output)
        except Exception as error:
            tracker.gave_up(func, error)

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
                            tracker.recent.add(item)
                    elif item is not None:
                        tracker.odd_output(func, item)
                return
            elif output is not None:
                tracker.odd_output(func, output)
                return
        elif kind == _ALIAS and tracker.phase == BACKWARD:
            for item in output if type(output) in (tuple, list) else (output,):
                if type(item) in self._dense:
                    tracker.shares(item)
        elif kind == _RESIZES and isinstance(output, torch.Tensor):
            tracker.resized(func, output)
        elif kind == _WRITES and not tracker.phase and type(output) in tracker.plain:
            tracker.written(output)
        if tracker.phase <= FORWARD and isinstance(output, torch.Tensor):
            # `torch.utils.swap_tensors` refuses a parameter with weak references; one that gets a graph is of interest.
            if type(output) is not torch.nn.Parameter or torch.is_grad_enabled():
                tracker.recent.add(output)


class _WatchingMode(TorchDispatchMode):
    """Sees each op below autograd, where there is no other way."""

    supports_higher_order_operators = True

    def __init__(self, books: OpBooks) -> None:
        super().__init__()
        self._books = books

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare each op a wrapper that keeps `torch.compile` out; it does not compile under a mode anyway."""
        return False

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Let `torch.compile` compile while we watch; else it gives up on a frame for good."""
        return True

    @between
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **kwargs) if kwargs else func(*args)
        self._books.saw(func, args, kwargs, output)
        return output


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
