"""Where memprof listens in PyTorch, and how it lets go again.

All hooks are on classes and modules of torch, none on the user's objects: a model under the profiler
can be copied, pickled and compiled as without it. `Hooks.remove` puts every original back.

What is listened to: `Module.__call__`, the autograd engine, `Optimizer.step` (torch's own global
hooks), `Optimizer.__init__`, both `zero_grad`s, the iterator of `DataLoader`,
`swap_tensors`, and `resize_` of storages.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.optim import optimizer as optimizer_module
from torch.utils.data import dataloader as dataloader_module

from memprof.capture.compilation import between, uncompiled
from memprof.capture.guard import Guard
from memprof.capture.modules import ModuleBooks
from memprof.capture.replacements import Replacements


class Listener(Protocol):
    """What the hooks tell, from the thread that trains where nothing else is said."""

    def forward_begins(self, module: torch.nn.Module, args: Any, kwargs: Any, frame: Any) -> None:
        """A root module is called from `frame`."""

    def forward_ends(self, output: Any, *, raised: bool) -> None:
        """A root module returned, or raised."""

    def backward_begins(self, outputs: Any, *, keep: bool, create: bool) -> None:
        """The autograd engine starts from `outputs`; it keeps their graph, or makes one of the gradients."""

    def backward_ends(self) -> None:
        """The autograd engine returned or raised."""

    def optimizer_begins(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer's step starts."""

    def optimizer_ends(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer's step returned."""

    def optimizer_made(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer was constructed."""

    def gradients_zeroed(self, owner: torch.nn.Module | torch.optim.Optimizer, *, freed: bool) -> None:
        """`owner.zero_grad` returned; `freed` says whether it set gradients to None."""

    def tensors_swapped(self, *tensors: torch.Tensor) -> None:
        """`swap_tensors` is called, on any thread. It refuses tensors that somebody refers to weakly."""

    def storage_resized(self, storage: torch.UntypedStorage) -> None:
        """`resize_` of a storage returned, on any thread; no op tells of it."""

    def batch_wanted(self, loader: Any) -> None:
        """A `DataLoader`'s iterator is asked for a batch; one of `batch_came` and `batch_failed` follows."""

    def batch_came(self, loader: Any, *, exhausted: bool, batch: Any = None) -> None:
        """It gave one, or had none left."""

    def batch_failed(self) -> None:
        """It raised something else."""


class Hooks:
    """Installs the hooks for one listener.

    Args:
        listener: Told of every event.
        guard: Says whether a root module, a backward or the profiler is running.
        modules: Told of calls of nested modules, as long as there are `ids` in it.
    """

    def __init__(self, listener: Listener, guard: Guard, modules: ModuleBooks) -> None:
        self._listener = listener
        self._guard = guard
        self._modules = modules
        self._replaced = Replacements()
        self._registered: list[Any] = []
        """Handles of torch's own hooks."""
        self.thread = threading.get_ident()
        """The thread that trains; events of other threads are passed over."""

    def install(self) -> None:
        """Start listening."""
        self._replaced.put(torch.nn.Module, "__call__", self._module_call(torch.nn.Module.__call__))
        engine = "_engine_run_backward"
        if hasattr(torch.autograd, engine):
            self._replaced.put(torch.autograd, engine, self._backward(getattr(torch.autograd, engine)))
        else:
            for name in ("backward", "grad"):
                self._replaced.put(torch.autograd, name, self._backward(getattr(torch.autograd, name)))
        before = optimizer_module.register_optimizer_step_pre_hook(self._step_begins)
        after = optimizer_module.register_optimizer_step_post_hook(self._step_ends)
        self._registered += [before, after]
        base = optimizer_module.Optimizer
        self._replaced.put(base, "__init__", self._optimizer_init(base.__init__))
        for owner in (base, torch.nn.Module):
            self._replaced.put(owner, "zero_grad", self._zero_grad(owner.zero_grad))
        if hasattr(torch.utils, "swap_tensors"):
            self._replaced.put(torch.utils, "swap_tensors", self._swap_tensors(torch.utils.swap_tensors))
        storage = torch.UntypedStorage
        self._replaced.put(storage, "resize_", self._resize(storage.resize_))
        iterator = dataloader_module._BaseDataLoaderIter
        self._replaced.put(iterator, "__next__", self._next(iterator.__next__))

    def remove(self) -> None:
        """Stop listening and restore what was there."""
        while self._registered:
            self._registered.pop().remove()
        self._replaced.undo()

    # ---- the hooks ---------------------------------------------------------------------

    def _module_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        listener, guard = self._listener, self._guard
        modules, enter, leave = self._modules.ids, self._modules.enter, self._modules.leave
        get_ident, is_compiling, is_tracing = threading.get_ident, torch.compiler.is_compiling, torch._C._is_tracing

        @functools.wraps(original)
        @between
        def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            # First of all, here and below: `torch.compile` would trace what follows, and give up on it; while
            # `torch.jit` traces, sizes are tensors, and what is done with them becomes part of the trace.
            if is_compiling() or is_tracing():
                return original(self, *args, **kwargs)
            if guard.busy:
                if not modules or get_ident() != hooks.thread:
                    return original(self, *args, **kwargs)
                path = modules.get(id(self))
                if path is None:
                    return original(self, *args, **kwargs)
                left, output = enter(path, args, kwargs), None
                try:
                    output = original(self, *args, **kwargs)
                    return output
                finally:
                    leave(left, output)
            if get_ident() != hooks.thread or hasattr(call, "retired"):
                return original(self, *args, **kwargs)
            listener.forward_begins(self, args, kwargs, sys._getframe(1))
            output, raised = None, True
            try:
                output = original(self, *args, **kwargs)
                raised = False
                return output
            finally:
                listener.forward_ends(output, raised=raised)

        hooks = self
        return call

    def _backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        is_compiling = torch.compiler.is_compiling

        @functools.wraps(original)
        @between
        def run(*args: Any, **kwargs: Any) -> Any:
            if is_compiling() or threading.get_ident() != self.thread or hasattr(run, "retired"):
                return original(*args, **kwargs)
            outputs, keep, create = _backward_arguments(args, kwargs)
            self._listener.backward_begins(outputs, keep=keep, create=create)
            del outputs
            try:
                return original(*args, **kwargs)
            finally:
                self._listener.backward_ends()

        return run

    @uncompiled
    def _step_begins(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if threading.get_ident() == self.thread:
            self._listener.optimizer_begins(optimizer)

    @uncompiled
    def _step_ends(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if threading.get_ident() == self.thread:
            self._listener.optimizer_ends(optimizer)

    def _optimizer_init(self, original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        @between
        def init(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if not is_compiling() and threading.get_ident() == hooks.thread and not hasattr(init, "retired"):
                hooks._listener.optimizer_made(self)

        hooks, is_compiling = self, torch.compiler.is_compiling
        return init

    def _zero_grad(self, original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        @between
        def zero_grad(self: Any, set_to_none: bool = True) -> None:
            original(self, set_to_none=set_to_none)
            if not is_compiling() and threading.get_ident() == hooks.thread and not hasattr(zero_grad, "retired"):
                hooks._listener.gradients_zeroed(self, freed=bool(set_to_none))

        hooks, is_compiling = self, torch.compiler.is_compiling
        return zero_grad

    def _swap_tensors(self, original: Callable[..., None]) -> Callable[..., None]:
        listener = self._listener

        @functools.wraps(original)
        @between
        def swap_tensors(t1: torch.Tensor, t2: torch.Tensor) -> None:
            listener.tensors_swapped(t1, t2)
            original(t1, t2)

        return swap_tensors

    def _resize(self, original: Callable[..., Any]) -> Callable[..., Any]:
        listener = self._listener

        @functools.wraps(original)
        @between
        def resize_(self: torch.UntypedStorage, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            listener.storage_resized(self)
            return result

        return resize_

    def _next(self, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @functools.wraps(original)
        @between
        def following(self: Any) -> Any:
            if is_compiling() or threading.get_ident() != hooks.thread or hasattr(following, "retired"):
                return original(self)
            hooks._listener.batch_wanted(self)
            try:
                batch = original(self)
            except StopIteration:
                hooks._listener.batch_came(self, exhausted=True)
                raise
            except BaseException:
                hooks._listener.batch_failed()
                raise
            hooks._listener.batch_came(self, exhausted=False, batch=batch)
            return batch

        hooks, is_compiling = self, torch.compiler.is_compiling
        return following


@uncompiled
def _backward_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool, bool]:
    """What backward starts from, and whether it keeps the graph and makes one of the gradients.

    Source:
        `_engine_run_backward`, torch/autograd/graph.py, torch 2.13.0, is called with the outputs, their gradients,
        `retain_graph` and `create_graph` by position. A torch without it is asked by name.
    """
    if len(args) >= 4:
        return args[0], bool(args[2]), bool(args[3])
    create = bool(kwargs.get("create_graph"))
    outputs = args[0] if args else kwargs.get("tensors", kwargs.get("outputs", ()))
    return outputs, bool(kwargs.get("retain_graph", create)), create
