"""How CUDA's implementation of an operator allocates differently from the CPU's: a table, and how to add to it.

An operator that is not here allocates its outputs and nothing else, as on the CPU. Entries are keyed by the name of
the operator; each names where the fact comes from. Blocks are taken in CUDA's order: what is needed before the outputs,
outputs, scratch, then the workspace that cuBLAS keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from memprof.capture.simulated import attention, convolution, losses, norms, recurrent
from memprof.capture.simulated.reductions import reduction_scratch
from memprof.capture.simulated.tensors import OnHost

if TYPE_CHECKING:
    from memprof.simulate.gpus import Gpu

Arguments = tuple[Any, ...]
Named = dict[str, Any]


@dataclass(frozen=True)
class Kernel:
    """What one operator does differently on CUDA.

    Args:
        source: Where that is known from.
        run: Computes the outputs where the CPU has no such operator; None runs the CPU's.
        before: Sizes in bytes of blocks for its own use that it takes before its outputs.
        scratch: Sizes of those that it takes after them; `ONLY_LAST` frees those so far but the last. All are freed
            before it returns.
        order: Gives, from the arguments, the numbers of its outputs in the order in which it takes their blocks; None
            is their own.
        between: Sizes of blocks for its own use that it takes where `order` says `BETWEEN`.
        unknown: How many bytes more it may take for its own use, at most; an estimate.
        remark: What a report must say where it ran; '' for nothing.
        uses_cublas: It goes through cuBLAS, whose handle keeps a workspace.
    """

    source: str
    run: Callable[[Arguments, Named], Any] | None = None
    before: Callable[[Gpu, Arguments, Named], tuple[int, ...]] | None = None
    scratch: Callable[[Gpu, Arguments, Named, Any], tuple[int, ...]] | None = None
    order: Callable[[Arguments], tuple[int, ...]] | None = None
    between: Callable[[Arguments], tuple[int, ...]] | None = None
    uses_cublas: bool = False
    unknown: Callable[[Arguments, Any], int] | None = None
    remark: Callable[[], str] | None = None


def cublas_workspace_bytes(gpu: Gpu) -> int:
    """Bytes that a cuBLAS handle keeps for each stream.

    Args:
        gpu: The GPU.

    Returns:
        What `CUBLAS_WORKSPACE_CONFIG` asks for; without it 32 MiB on compute capability 9.0 and 10.0, else 8.125 MiB.

    Source:
        `parseChosenWorkspaceSize`, aten/src/ATen/cuda/CublasHandlePool.cpp, torch 2.14.1.
    """
    parts = [part for part in os.environ.get("CUBLAS_WORKSPACE_CONFIG", "").split(":") if part]
    if parts and len(parts) % 2 == 0 and all(part.isdigit() for part in parts):
        return sum(int(kib) * int(count) * 1024 for kib, count in zip(parts[::2], parts[1::2], strict=True))
    if gpu.compute_capability in ((9, 0), (10, 0)):
        return 4096 * 8 * 1024
    return (4096 * 2 + 16 * 8) * 1024


_CUBLAS = "aten/src/ATen/cuda/CublasHandlePool.cpp, torch 2.14.1"
_REDUCE = "aten/src/ATen/native/cuda/Reduce.cuh, torch 2.14.1"
_SAFE_SOFTMAX = "aten/src/ATen/native/transformers/attention.cpp, torch 2.14.1"
_ROLL = "aten/src/ATen/native/TensorTransformations.h, roll_common, torch 2.14.1"
_FUSED_CELL = "aten/src/ATen/native/cuda/RNN.cu, torch 2.14.1"


_LAYER_NORM = "aten/src/ATen/native/cuda/layer_norm_kernel.cu, torch 2.14.1: `expect_contiguous`"
_SOFTMAX = "aten/src/ATen/native/cuda/SoftMax.cu, torch 2.14.1: `contiguous()` after the output is there"


def _copies(*inputs: int) -> Callable[[Gpu, Arguments, Named], tuple[int, ...]]:
    """Sizes of contiguous copies of those arguments that are not contiguous."""

    def sizes(gpu: Gpu, args: Arguments, kwargs: Named) -> tuple[int, ...]:
        given = [args[at] for at in inputs if args[at] is not None]
        return tuple(item.numel() * item.element_size() for item in given if not item.is_contiguous())

    return sizes


def _copies_after(*inputs: int) -> Callable[[Gpu, Arguments, Named, Any], tuple[int, ...]]:
    """The same, where the output comes first."""
    sizes = _copies(*inputs)
    return lambda gpu, args, kwargs, output: sizes(gpu, args, kwargs)


def _masked_rows(gpu: Gpu, args: Arguments, kwargs: Named, output: Any) -> tuple[int, ...]:
    """`_safe_softmax`: which scores are -inf, which rows are so altogether, and the zero that replaces these."""
    given: torch.Tensor = args[0]
    if not given.numel():
        return ()
    return given.numel(), given.numel() // (given.shape[args[1]] if given.dim() else 1), output.element_size()


def _product_of_gradient(gpu: Gpu, args: Arguments, kwargs: Named, output: Any) -> tuple[int, ...]:
    """`_softmax_backward_data`: the gradient times the softmax, and a copy of the softmax if it is not contiguous."""
    grad, result = args[:2]
    return grad.numel() * max(grad.element_size(), result.element_size()), *_copies(1)(gpu, args, kwargs)


def _rolled_once(gpu: Gpu, args: Arguments, kwargs: Named) -> tuple[int, ...]:
    """`roll` along several dimensions: a result for each but the last, which is the output."""
    shifts = args[1]
    count = len(shifts) if isinstance(shifts, (list, tuple)) else 1
    return (args[0].numel() * args[0].element_size(),) * (count - 1)


def _pack(args: Arguments, kwargs: Named) -> Any:
    """`_pack_padded_sequence`: the batch sizes stay in host memory."""
    given, *rest = args
    if not given.is_meta:
        data, batch_sizes = torch.ops.aten._pack_padded_sequence(*args, **kwargs)
        return data, OnHost(batch_sizes)
    # A dry run: how many rows there are in all depends on the lengths, which are known, alone.
    rows, batch_sizes = torch.ops.aten._pack_padded_sequence(torch.empty(given.shape[:2]), *rest, **kwargs)
    return given.new_empty(len(rows), *given.shape[2:]), OnHost(batch_sizes)


KERNELS: dict[str, Kernel] = {
    **{
        f"aten::{name}": Kernel(_CUBLAS, uses_cublas=True)
        for name in ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "addmv", "addmv_", "mv", "dot", "vdot")
    },
    **{
        f"aten::{name}": Kernel(_REDUCE, scratch=reduction_scratch)
        for name in ("sum", "mean", "prod", "amax", "amin", "any", "all", "linalg_vector_norm", "nansum")
    },
    **{
        f"aten::{name}": Kernel(losses.SOURCE, run=losses.shrunk(name), scratch=losses.scratch)
        for name in ("mse_loss", "smooth_l1_loss")
    },
    "aten::huber_loss": Kernel(losses.SOURCE, before=losses.elementwise, scratch=losses.scratch_of_elementwise),
    "aten::binary_cross_entropy": Kernel(
        losses.BCE, run=losses.shrunk("binary_cross_entropy"), scratch=losses.scratch_beside_result
    ),
    "aten::binary_cross_entropy_with_logits": Kernel(
        losses.SOURCE, before=losses.two_elementwise, scratch=losses.scratch_of_elementwise
    ),
    **{f"aten::{name}": Kernel(_LAYER_NORM, before=_copies(0)) for name in ("native_layer_norm", "_fused_rms_norm")},
    "aten::native_layer_norm_backward": Kernel(_LAYER_NORM, before=_copies(1), scratch=_copies_after(0)),
    "aten::_fused_rms_norm_backward": Kernel(
        _LAYER_NORM, run=norms.rms_norm_backward, before=_copies(1), scratch=_copies_after(0)
    ),
    "aten::native_group_norm": Kernel(norms.GROUP_NORM, scratch=norms.group_norm_scratch),
    "aten::native_group_norm_backward": Kernel(norms.GROUP_NORM, scratch=norms.group_norm_backward_scratch),
    "aten::_safe_softmax": Kernel(_SAFE_SOFTMAX, scratch=_masked_rows),
    "aten::roll": Kernel(_ROLL, before=_rolled_once),
    "aten::native_batch_norm": Kernel(convolution.NATIVE_BATCH_NORM, run=convolution.batch_norm),
    "aten::native_batch_norm_backward": Kernel(convolution.BATCH_NORM, before=convolution.batch_norm_before),
    "aten::convolution": Kernel(
        convolution.SOURCE,
        run=convolution.forward,
        before=convolution.forward_before,
        scratch=convolution.forward_scratch,
        unknown=convolution.forward_unknown,
    ),
    "aten::convolution_backward": Kernel(
        convolution.SOURCE,
        run=convolution.backward,
        before=convolution.backward_before,
        scratch=convolution.backward_scratch,
        order=convolution.backward_order,
        between=convolution.backward_between,
        unknown=convolution.backward_unknown,
    ),
    **{
        f"aten::{name}": Kernel(_SOFTMAX, scratch=_copies_after(*inputs))
        for name, inputs in {
            "_softmax": (0,),
            "_log_softmax": (0,),
            "_log_softmax_backward_data": (0, 1),
        }.items()
    },
    "aten::_softmax_backward_data": Kernel(_SOFTMAX, scratch=_product_of_gradient),
    "aten::native_dropout": Kernel("aten/src/ATen/native/cuda/Dropout.cu, torch 2.14.1", order=lambda _: (1, 0)),
    "aten::_thnn_fused_lstm_cell": Kernel(_FUSED_CELL, run=recurrent.lstm_cell, remark=convolution.replaced_recurrent),
    "aten::_thnn_fused_lstm_cell_backward_impl": Kernel(_FUSED_CELL, run=recurrent.lstm_cell_backward),
    "aten::_thnn_fused_gru_cell": Kernel(_FUSED_CELL, run=recurrent.gru_cell, remark=convolution.replaced_recurrent),
    "aten::_thnn_fused_gru_cell_backward": Kernel(_FUSED_CELL, run=recurrent.gru_cell_backward),
    "aten::_use_cudnn_ctc_loss": Kernel("cuDNN is left out of simulated runs", run=lambda _args, _kwargs: False),
    "aten::_ctc_loss_backward": Kernel("aten/src/ATen/native/cuda/LossCTC.cu, torch 2.14.1", run=losses.ctc_backward),
    "aten::_use_miopen_ctc_loss": Kernel("MIOpen is of AMD's GPUs", run=lambda _args, _kwargs: False),
    "aten::_pack_padded_sequence": Kernel("aten/src/ATen/native/PackedSequence.cpp, torch 2.14.1", run=_pack),
    "aten::_scaled_dot_product_efficient_attention": Kernel(
        attention.EFFICIENT, run=attention.efficient, order=lambda _: (2, 3, 0, 1)
    ),
    "aten::_scaled_dot_product_efficient_attention_backward": Kernel(
        attention.EFFICIENT,
        run=attention.efficient_backward,
        before=attention.efficient_backward_before,
        scratch=attention.efficient_backward_scratch,
    ),
    "aten::_scaled_dot_product_flash_attention": Kernel(attention.FLASH, run=attention.flash),
    "aten::_scaled_dot_product_flash_attention_backward": Kernel(
        attention.FLASH, run=attention.flash_backward, scratch=attention.flash_backward_scratch
    ),
}


def in_backward() -> bool:
    """Whether the autograd engine is running this thread, which has cuBLAS handles of its own."""
    current: Any = getattr(torch._C, "_current_graph_task_id", None)
    return current is not None and current() != -1
