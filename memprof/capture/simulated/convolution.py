"""Convolutions on CUDA: what goes with them besides outputs, with cuDNN and without.

Workspaces of cuDNN are not known: it chooses an algorithm by heuristics of its own. They are left out of the simulated
figures; `forward_unknown` and `backward_unknown` say how much they may be.

Source:
    aten/src/ATen/native/Convolution.cpp, cudnn/ConvShared.cpp, cuda/ConvolutionMM2d.cu,
    cuda/NaiveConvolutionTranspose2d.cu and cuda/DepthwiseConv2d.cu,
    torch 2.14.1; compared block by block with what the real allocator was asked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from memprof.capture.simulated.bindings import Patches
from memprof.capture.simulated.reductions import reduction_scratch

if TYPE_CHECKING:
    from memprof.simulate.gpus import Gpu

SOURCE = "aten/src/ATen/native/Convolution.cpp and cuda/ConvolutionMM2d.cu, torch 2.14.1"
BATCH_NORM = "aten/src/ATen/native/cudnn/BatchNorm.cpp, torch 2.14.1"
NATIVE_BATCH_NORM = "aten/src/ATen/native/cuda/Normalization.cu, torch 2.14.1"
BETWEEN = -1
"""Among numbers of outputs: here it takes the blocks of `Kernel.between`."""
CUBLAS = -2
"""Among sizes of blocks: here it goes through cuBLAS, whose handle keeps a workspace."""
Arguments = tuple[Any, ...]
Named = dict[str, Any]
_wanted = [True]
"""`torch.backends.cudnn.enabled` as the script sees it; beneath, torch goes without cuDNN."""


def pretend_cudnn(patches: Patches, enabled: bool) -> None:
    """Let the script switch a cuDNN that is not there.

    Args:
        patches: Where what is replaced is noted.
        enabled: Whether it is switched on at first.
    """
    _wanted[0] = enabled

    def choose(enabled: bool) -> None:
        _wanted[0] = enabled

    patches.put(torch._C, "_get_cudnn_enabled", lambda: _wanted[0])
    patches.put(torch._C, "_set_cudnn_enabled", choose)
    switch = torch.backends.ContextProp(lambda: _wanted[0], choose)
    cudnn: Any = torch.backends.cudnn
    patches.put(type(cudnn), "enabled", switch)
    patches.put(cudnn.m, "is_acceptable", lambda tensor: False)


def forward(args: Arguments, kwargs: Named) -> torch.Tensor:
    """`convolution`, whose output is contiguous without cuDNN, whatever the layout of its input."""
    output: torch.Tensor = torch.ops.aten.convolution.default(*args, **kwargs)
    return output if _wanted[0] else output.contiguous()


def backward(args: Arguments, kwargs: Named) -> Any:
    """`convolution_backward`, likewise."""
    outputs = torch.ops.aten.convolution_backward.default(*args, **kwargs)
    return outputs if _wanted[0] else tuple(None if one is None else one.contiguous() for one in outputs)


def forward_before(gpu: Gpu, args: Arguments, kwargs: Named) -> tuple[int, ...]:
    """A copy of an input that is not contiguous."""
    return _copy(args[0])


def forward_scratch(gpu: Gpu, args: Arguments, kwargs: Named, output: torch.Tensor) -> tuple[int, ...]:
    """Without cuDNN, one image's columns, unless they are the image; for a transposed one a row of ones, too."""
    given, weight = args[:2]
    if _wanted[0] or not _is_slow(given, args[8]):
        return ()
    if args[6]:
        return _columns(weight, given), math.prod(output.shape[2:]) * output.element_size(), CUBLAS
    trivial = all(size == 1 for size in weight.shape[2:]) and set(args[3]) == {1} and set(args[4]) == {0}
    return (CUBLAS,) if trivial else (_columns(weight, output), CUBLAS)


def backward_before(gpu: Gpu, args: Arguments, kwargs: Named) -> tuple[int, ...]:
    """A copy of a gradient that is not contiguous."""
    return _copy(args[0])


def backward_scratch(gpu: Gpu, args: Arguments, kwargs: Named, output: Any) -> tuple[int, ...]:
    """What the sum for the bias takes; one image's columns, where it is a transposed one without cuDNN."""
    grad, given, weight = args[:3]
    found = (_columns(weight, given), CUBLAS) if not _wanted[0] and args[7] and _is_slow(given, args[9]) else ()
    if not args[10][2]:
        return found
    dims = [0, *range(2, grad.dim())]
    return found + reduction_scratch(gpu, (grad, dims), {}, grad.new_empty(grad.shape[1], device="meta"))


def backward_between(args: Arguments) -> tuple[int, ...]:
    """Without cuDNN, one image's columns."""
    grad, given, weight = args[:3]
    if _wanted[0] or args[7] or not _is_slow(given, args[9]):
        return ()
    trivial = all(size == 1 for size in weight.shape[2:])
    return (_columns(weight, grad), CUBLAS) if args[10][0] or not trivial else (CUBLAS,)


def backward_order(args: Arguments) -> tuple[int, ...]:
    """A convolution of single channels makes the gradient of its weight first; one without cuDNN makes it last."""
    _, given, weight = args[:3]
    if not args[7] and args[9] == given.shape[1] and weight.shape[1] == 1 and args[9] > 1:
        return 1, 0, 2
    if _wanted[0] or args[7]:
        return 0, 1, 2
    return (0, BETWEEN, 2, 1) if args[10][0] else (0, 2, 1, BETWEEN)


def batch_norm(args: Arguments, kwargs: Named) -> Any:
    """`native_batch_norm`, which saves nothing in evaluation; on `meta`, where dry runs are, it would."""
    output, mean, deviation = torch.ops.aten.native_batch_norm.default(*args, **kwargs)
    if args[5]:
        return output, mean, deviation
    return output, mean.new_empty(0), deviation.new_empty(0)


def batch_norm_before(gpu: Gpu, args: Arguments, kwargs: Named) -> tuple[int, ...]:
    """For cuDNN's batch norm, a copy of a gradient that is not contiguous."""
    return _copy(args[0]) if _wanted[0] and args[7] else ()


def forward_unknown(args: Arguments, output: torch.Tensor) -> int:
    """How much workspace cuDNN may take for a convolution: an estimate of the most; the least is nothing.

    Args:
        args: Of `aten::convolution`.
        output: What it gave.

    Returns:
        Bytes of the whole batch as columns, which an algorithm by matrix product keeps; 0 for kernels of 1 x 1.

    Source:
        S. Chetlur et al., cuDNN: Efficient Primitives for Deep Learning, 2014 (arXiv:1410.0759), section 3: lowering
        a convolution to a matrix product takes a matrix of so many values. cuDNN avoids it where it can.
    """
    return _unknown(args[1], args[0] if args[6] else output, args[8])


def backward_unknown(args: Arguments, output: Any) -> int:
    """The same for `aten::convolution_backward`."""
    return _unknown(args[2], args[1] if args[7] else args[0], args[9])


def _unknown(weight: torch.Tensor, positions: torch.Tensor, groups: int) -> int:
    if not _wanted[0] or all(size == 1 for size in weight.shape[2:]):
        return 0
    return positions.shape[0] * groups * _columns(weight, positions)


def replaced_recurrent() -> str:
    """What a report must say where LSTM and GRU ran: cuDNN's were asked for; '' where PyTorch's own were."""
    if not _wanted[0]:
        return ""
    return (
        "LSTM and GRU ran as PyTorch's own kernels: what cuDNN's keep for the backward in their place is not known; "
        "torch.backends.cudnn.enabled = False makes CUDA use the ones that were simulated"
    )


def _is_slow(given: torch.Tensor, groups: int) -> bool:
    """Whether PyTorch's own kernels for 2 dimensions would run, which those of 1 go through."""
    return given.dim() in (3, 4) and groups == 1


def _columns(weight: torch.Tensor, output: torch.Tensor) -> int:
    """Bytes of one image as columns: a value for each weight of a channel and each position of the output."""
    return math.prod(weight.shape[1:]) * math.prod(output.shape[2:]) * output.element_size()


def _copy(given: torch.Tensor) -> tuple[int, ...]:
    layout = torch.contiguous_format
    if _wanted[0] and given.dim() == 4 and given.is_contiguous(memory_format=torch.channels_last):
        layout = torch.channels_last
    return () if given.is_contiguous(memory_format=layout) else (given.numel() * given.element_size(),)
