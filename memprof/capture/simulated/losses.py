"""Losses that CUDA computes value by value before it sums them up.

Source:
    aten/src/ATen/native/Loss.cpp and cuda/Loss.cu, torch 2.14.1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from memprof.capture.simulated.reductions import reduction_scratch
from memprof.capture.simulated.tensors import SimulatedTensor

if TYPE_CHECKING:
    from memprof.simulate.gpus import Gpu

SOURCE = "aten/src/ATen/native/Loss.cpp, torch 2.14.1"
BCE = "aten/src/ATen/native/cuda/Loss.cu, torch 2.14.1"
_NONE, _MEAN = 0, 1
"""Of `at::Reduction`."""
Arguments = tuple[Any, ...]
Named = dict[str, Any]


def shrunk(name: str) -> Callable[[Arguments, Named], Any]:
    """What runs a loss whose output is a scalar in a storage with room for every value.

    On the CPU the operator gives such a one too; on `meta`, where dry runs are, it does not.

    Args:
        name: Of the operator.
    """
    original = getattr(torch.ops.aten, name).default

    def run(args: Arguments, kwargs: Named) -> Any:
        if not args[0].is_meta or _reduction(args, kwargs) == _NONE:
            return original(*args, **kwargs)
        return _values(args).resize_(())

    return run


def ctc_with_lists(original: Callable[..., Any]) -> Callable[..., Any]:
    """A `torch.ctc_loss` that reads lengths into lists, as it does itself except for subclasses of tensors."""

    @functools.wraps(original)
    def ctc_loss(log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, *rest: Any) -> Any:
        lengths = [
            item.tolist() if isinstance(item, torch.Tensor) and isinstance(log_probs, SimulatedTensor) else item
            for item in (input_lengths, target_lengths)
        ]
        return original(log_probs, targets, *lengths, *rest)

    return ctc_loss


def ctc_backward(args: Arguments, kwargs: Named) -> torch.Tensor:
    """`_ctc_loss_backward`, also on `meta`, where dry runs are and torch has none."""
    if args[1].is_meta:
        return torch.empty_like(args[1])
    return torch.ops.aten._ctc_loss_backward.default(*args, **kwargs)  # type: ignore[no-any-return]


def scratch(gpu: Gpu, args: Arguments, kwargs: Named, output: torch.Tensor) -> tuple[int, ...]:
    """The values, in a tensor beside the one that becomes the output, and what their reduction takes."""
    if _reduction(args, kwargs) == _NONE:
        return ()
    return (*elementwise(gpu, args, kwargs), *scratch_of_elementwise(gpu, args, kwargs, output))


def scratch_beside_result(gpu: Gpu, args: Arguments, kwargs: Named, output: torch.Tensor) -> tuple[int, ...]:
    """The reduced value, which is copied into the output, and what the reduction takes."""
    if _reduction(args, kwargs) == _NONE:
        return ()
    return (output.element_size(), *scratch_of_elementwise(gpu, args, kwargs, output))


def elementwise(gpu: Gpu, args: Arguments, kwargs: Named) -> tuple[int, ...]:
    """Bytes of the loss of every value, where it is reduced."""
    return () if _reduction(args, kwargs) == _NONE else (_values(args).nbytes,)


def two_elementwise(gpu: Gpu, args: Arguments, kwargs: Named) -> tuple[int, ...]:
    """`binary_cross_entropy_with_logits`: logarithms of sigmoids, and the loss of every value where that is reduced."""
    return (_values(args).nbytes,) * (1 if _reduction(args, kwargs) == _NONE else 2)


def scratch_of_elementwise(gpu: Gpu, args: Arguments, kwargs: Named, output: torch.Tensor) -> tuple[int, ...]:
    """What the reduction of all values takes."""
    if _reduction(args, kwargs) == _NONE:
        return ()
    return reduction_scratch(gpu, (_values(args),), {}, output.new_empty((), device="meta"))


def _reduction(args: Arguments, kwargs: Named) -> int:
    """The argument that says how; in `binary_cross_entropy` the weight comes before it."""
    found = next((item for item in args[2:] if isinstance(item, int) and not isinstance(item, bool)), None)
    return int(kwargs.get("reduction", _MEAN) if found is None else found)


def _values(args: Arguments) -> torch.Tensor:
    """A tensor without values, of the shape of the loss of every value."""
    given, wanted = args[:2]
    shape = torch.broadcast_shapes(given.shape, wanted.shape)
    dtype = torch.result_type(given, wanted)
    if given.shape == shape and given.dtype == dtype:
        return torch.empty_like(given, device="meta")
    return torch.empty(shape, dtype=dtype, device="meta")
