"""Sums that CUDA computes in place and a dispatch mode does not."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.capture.simulated.kernels import in_backward
from memprof.capture.simulated.tensors import SimulatedTensor

_Tensor = torch.Tensor
_Counts = tuple[int, int, int]
_IN_PLACE_OPS = (torch.ops.aten.sub.Tensor, torch.ops.aten.mul.Tensor)
_IN_PLACE_NODES = ("BinaryCrossEntropyWithLogitsBackward0",)
"""Nodes that write into what they computed before, unless a tensor is a subclass.

Source:
    `isTensorSubclassLike` in torch/csrc/autograd/FunctionsManual.cpp, torch 2.14.1.
"""


class Heirs:
    """Tells where CUDA would add into the first summand, because nobody but torch's C++ code holds it.

    The autograd engine sums gradients, and `linear` adds its bias, in place; not under a dispatch mode, where they make
    a new tensor (`isTensorSubclassLike`; torch/csrc/autograd/input_buffer.cpp and aten/src/ATen/native/Linear.cpp,
    torch 2.14.1). What counts of references such a tensor has depends on Python, torch and the modes above ours, so
    it is found out by example.
    """

    def __init__(self) -> None:
        self._learning = False
        self._counts: dict[int, _Counts] = {}
        """How many other modes passed the op on -> references to the tensor object, its tensor and its storage."""

    def learn(self) -> None:
        """Call `linear` where it adds its bias to a result of its own; the simulation must be running."""
        rows = torch.zeros(2, 2, 2, device="cuda").transpose(0, 1)
        weight, bias = torch.zeros(2, 2, device="cuda"), torch.zeros(2, device="cuda")
        self._learning = True
        try:
            torch._C._nn.linear(rows, weight, bias)
            with _PassOn():
                torch._C._nn.linear(rows, weight, bias)
        finally:
            self._learning = False

    def in_place(self, func: Any, args: tuple[Any, ...]) -> torch.Tensor | None:
        """The values of the first argument where a node of the backward would write its result there.

        Args:
            func: An operator that is not `aten::add.Tensor`.
            args: Its arguments.
        """
        if func not in _IN_PLACE_OPS or not in_backward() or len(args) != 2:
            return None
        first, second = args
        node = torch._C._current_autograd_node()
        if node.name() not in _IN_PLACE_NODES or not isinstance(first, SimulatedTensor):
            return None
        same = isinstance(second, SimulatedTensor) and first.dtype == second.dtype
        return first.host if same and _references(first) == self._counts.get(_modes_above()) else None

    def heir_of(self, args: tuple[Any, ...]) -> torch.Tensor | None:
        """The values of the first summand where the sum would take over its block, or those of the second.

        Args:
            args: Of `aten::add.Tensor`.
        """
        if len(args) > 2:
            return None
        depth = _modes_above()
        first, second = args
        if self._learning:
            self._counts[depth] = _references(first)
        known = self._counts.get(depth)
        if known is None or not isinstance(first, SimulatedTensor) or not isinstance(second, SimulatedTensor):
            return None
        if first.dtype != second.dtype or first.shape != second.shape:
            return first.host if self._learning or (second.dim() == 1 and _references(first) == known) else None
        if first._is_view():  # the gradient of a transposed weight; torch 2.14.1 was seen to make a new sum
            return None
        if _references(first) == known:
            return first.host
        # The engine adds into the second gradient where the first one is still used.
        return second.host if in_backward() and _references(second) == known else None


def _references(tensor: Any) -> _Counts:
    """Of a simulated tensor's object, of the tensor behind it, and of its storage."""
    storage = tensor.host.untyped_storage()
    return sys.getrefcount(tensor), tensor._use_count(), torch._C._storage_Use_Count(storage._cdata)


class _PassOn(TorchDispatchMode):
    """A mode that changes nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _modes_above() -> int:
    """How many dispatch modes passed on the op that is being run."""
    frame: FrameType | None = sys._getframe(3)  # _modes_above, heir_of, run
    found = 0
    while frame is not None and (frame.f_code.co_name == "__torch_dispatch__" or frame.f_code is _CALL_OP):
        found += frame.f_code is not _CALL_OP
        frame = frame.f_back
    return found


_CALL_OP = torch._ops.OpOverload.__call__.__code__
