"""Norms on CUDA. Group norm works out factors for each sample and channel before it applies them.

Source:
    aten/src/ATen/native/cuda/group_norm_kernel.cu, torch 2.14.1; compared block by block with what the real allocator
    was asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from memprof.simulate.gpus import Gpu

GROUP_NORM = "aten/src/ATen/native/cuda/group_norm_kernel.cu, torch 2.14.1"
Arguments = tuple[Any, ...]
Named = dict[str, Any]


def group_norm_scratch(gpu: Gpu, args: Arguments, kwargs: Named, output: Any) -> tuple[int, ...]:
    """A factor and a summand for each channel of each sample.

    Args:
        gpu: The GPU.
        args: Input, weight, bias, samples, channels, values of a channel, groups, epsilon.
        kwargs: Keyword arguments.
        output: What the operator returned.

    Returns:
        Two sizes; nothing where channels have one value each, or where there is neither weight nor bias.
    """
    given, weight, bias, samples, channels, values = args[:6]
    if values == 1 or not given.numel() or (weight is None and bias is None):
        return ()
    return (samples * channels * _accumulated(given),) * 2


def group_norm_backward_scratch(gpu: Gpu, args: Arguments, kwargs: Named, output: Any) -> tuple[int, ...]:
    """Sums for each channel of each sample, then what the gradient of the input is made of.

    Args:
        gpu: The GPU.
        args: Gradient, input, mean, deviation, weight, samples, channels, values of a channel, groups, which outputs.
        kwargs: Keyword arguments.
        output: What the operator returned.

    Returns:
        Five sizes at most; of channels of one value each only the two that are a group's.
    """
    _, given, _, _, weight, samples, channels, values, groups, wanted = args[:10]
    if not given.numel():
        return ()
    of_channels, of_groups = (samples * count * _accumulated(given) for count in (channels, groups))
    if values == 1:
        return (of_groups,) * 2 if wanted[0] else ()
    found: tuple[int, ...] = (of_channels,) * 2
    if wanted[0]:
        found += (of_groups, of_groups, *((of_channels,) if weight is not None else ()))
    return found


def rms_norm_backward(args: Arguments, kwargs: Named) -> Any:
    """`_fused_rms_norm_backward`, which the CPU does not have.

    Args:
        args: Gradient, input, shape that is normalised, reciprocal of the root mean square, weight, which outputs.
        kwargs: Keyword arguments.

    Returns:
        Gradients of input and weight.
    """
    grad, given, shape, scale, weight, wanted = args
    if given.is_meta:
        return torch.ops.aten._fused_rms_norm_backward.default(*args, **kwargs)
    dims = tuple(range(given.dim() - len(shape), given.dim()))
    normed = given * scale
    scaled = grad if weight is None else grad * weight
    of_input = of_weight = None
    if wanted[0]:
        of_input = ((scaled - normed * (scaled * normed).mean(dims, keepdim=True)) * scale).to(given.dtype)
    if wanted[1] and weight is not None:
        others = tuple(range(given.dim() - len(shape)))
        product = grad * normed
        of_weight = (product.sum(others) if others else product).to(weight.dtype)
    return of_input, of_weight


def _accumulated(given: torch.Tensor) -> int:
    """Bytes of a value that is summed up."""
    return max(given.element_size(), 4)
