"""Sees each op below autograd without a dispatch mode, so that a run takes the memory it takes unseen.

Under any `TorchDispatchMode`, also one that does nothing, autograd adds gradients into new tensors, and `linear` its
bias, where it would have added in place: both ask `isTensorSubclassLike` (aten/src/ATen/TensorSubclassLikeUtils.h),
which is true for every tensor while a mode is active. Kernels of our own for a dispatch key that no tensor has see the
same ops at the same place, and change nothing.

Source:
    `can_accumulate_inplace` in torch/csrc/autograd/input_buffer.cpp, `linear` in aten/src/ATen/native/Linear.cpp;
    c10/core/DispatchKey.h, where `Fake` is kept for fake tensors made in C++, for which torch 2.13.0 and 2.14.1
    register no kernels: a torch that does refuses ours, and `available` says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from memprof._collection import collection_paused
from memprof.capture.compilation import between
from memprof.capture.replacements import Replacements

_KEY = "Fake"
_UNSEEN = ("aten::alias",)
"""`as_subclass` puts an object of its own on what it gives, and Python must not have one for it yet."""
Seen = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]
"""Takes an op, its arguments and what it returned; must not raise."""


class OpHook:
    """Calls a function after each op that a thread runs, and those that its backwards run on other threads.

    Like a dispatch mode it is a matter of the thread; unlike one it needs no place in a stack.

    Args:
        seen: What to call.
    """

    _current: OpHook | None = None
    """The one that is told. What a thread's keys include may outlast a hook, and then means nothing."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def enter(self) -> None:
        """See the ops of this thread from now on."""
        OpHook._current = self
        kernels = _kernels()
        kernels.register()
        kernels.replace()
        torch._C._dispatch_tls_set_dispatch_key_included(_KEY, True)

    def exit(self) -> None:
        """See none from now on."""
        torch._C._dispatch_tls_set_dispatch_key_included(_KEY, False)
        _kernels().restore()
        self.silence()

    def silence(self) -> None:
        """Tell nothing any more, whatever a thread's keys include."""
        if OpHook._current is self:
            OpHook._current = None


class _Kernels:
    """What is registered with torch, for good: a thread whose keys include ours needs it for every op."""

    def __init__(self) -> None:
        before = torch._C._dispatch_tls_local_include_set()
        torch._C._dispatch_tls_set_dispatch_key_included(_KEY, True)
        self.keys = torch._C._dispatch_tls_local_include_set() - before
        torch._C._dispatch_tls_set_dispatch_key_included(_KEY, False)
        self._key = torch._C._parse_dispatch_key(_KEY)
        self._libraries: dict[str, torch.library.Library] = {}
        self._registered: set[str] = set()
        self._library("_").fallback(self._run, _KEY)
        self._replaced = Replacements()

    def _library(self, namespace: str) -> torch.library.Library:
        if namespace not in self._libraries:
            self._libraries[namespace] = torch.library.Library(namespace, "IMPL")
        return self._libraries[namespace]

    def register(self) -> None:
        """Give each op there is by now a kernel of its own.

        The fallback does for plain tensors, but not for those of classes with a `__torch_dispatch__` that has called
        the op again with its own tensors (`python_op_registration_trampoline_impl`,
        torch/csrc/utils/python_dispatch.cpp, torch 2.14.1).
        """
        names = torch._C._dispatch_get_all_op_names()
        if len(names) == len(self._registered):
            return
        with collection_paused():  # it would go through all of torch several times
            for name in names:
                if name not in self._registered:
                    self._registered.add(name)
                    namespace, _, short = name.partition("::")
                    kernel = torch.library.fallthrough_kernel if name in _UNSEEN else self._kernel(namespace, short)
                    self._library(namespace).impl(short, kernel, _KEY)

    def _kernel(self, namespace: str, short: str) -> Callable[..., Any]:
        op: Any = None
        run = self._run

        @between
        def kernel(*args: Any, **kwargs: Any) -> Any:
            nonlocal op
            if op is None:
                name, _, overload = short.partition(".")
                op = getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")
            return run(op, *args, **kwargs)

        return kernel

    @between
    def _run(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(self.keys):
            output = func(*args, **kwargs)
            hook = OpHook._current
            if hook is not None:
                hook._seen(func, args, kwargs, output)
            return output

    # ---- what torch decides without its dispatcher ---------------------------------------

    def replace(self) -> None:
        """Hide our key from code of torch that could not do with it."""
        if not self._replaced:
            # Both put an object of a subclass on a new tensor, and Python must not have one for it yet.
            self._replaced.put(torch.Tensor, "_make_subclass", staticmethod(self._hidden(torch.Tensor._make_subclass)))
            self._replaced.put(torch.Tensor, "__new__", staticmethod(self._new(torch.Tensor.__new__)))
            self._replaced.put(torch._ops.HigherOrderOperator, "dispatch", self._dispatch())

    def restore(self) -> None:
        """Put back what was there; what somebody has wrapped changes nothing where no thread's keys include ours."""
        self._replaced.undo()

    def _hidden(self, original: Callable[..., Any]) -> Callable[..., Any]:
        keys = self.keys

        @functools.wraps(original)
        @between
        def hidden(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return original(*args, **kwargs)

        return hidden

    def _new(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The constructors of old: `torch.Tensor(2, 3)`, also of a subclass."""
        hidden, op = self._hidden(original), torch.ops.aten.empty.memory_format

        @functools.wraps(original)
        @between
        def new(cls: type, *args: Any, **kwargs: Any) -> Any:
            if cls is torch.Tensor:
                return original(cls, *args, **kwargs)
            output = hidden(cls, *args, **kwargs)
            hook = OpHook._current
            if hook is not None:
                hook._seen(op, (), {}, output)
            return output

        return new

    def _dispatch(self) -> Callable[..., Any]:
        """Higher-order operators (`cond`, `flex_attention`) look up kernels in Python, and have none for our key."""
        original, ours = torch._ops.HigherOrderOperator.dispatch, self._key

        @functools.wraps(original)
        @between
        def dispatch(self: Any, /, key: Any, *args: Any, **kwargs: Any) -> Any:
            if key == ours:
                keys = self.non_fallthrough_keys.remove(ours)
                key = torch._ops._compute_keyset(args, kwargs, keys).highestPriorityTypeId()
            return original(self, key, *args, **kwargs)

        return dispatch


@functools.cache
def _kernels() -> _Kernels:
    return _Kernels()


@functools.cache
def available() -> bool:
    """Whether this torch lets us see ops so; tried out once, on an op."""
    seen: list[Any] = []
    hook = OpHook(lambda func, *_: seen.append(func))
    try:
        hook.enter()
        try:
            torch.zeros(())
        finally:
            hook.exit()
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False
    return bool(seen)
