"""Scaled dot product attention: which of CUDA's implementations runs, and what it allocates.

On the CPU the attention matrix of the fused implementations is made in full, for the moment of the call.

Source:
    aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, attention.cu, attention_backward.cu and
    flash_attn/flash_api.cpp, torch 2.14.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from memprof.capture.simulated.tensors import OnHost, SimulatedTensor

if TYPE_CHECKING:
    from memprof.simulate.gpus import Gpu

EFFICIENT = "aten/src/ATen/native/transformers/cuda/attention.cu (_efficient_attention_forward), torch 2.14.1"
FLASH = "aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, torch 2.14.1"
_HALVES = (torch.float16, torch.bfloat16)
_MASK_ALIGNMENT = 8
ONLY_LAST = -1
"""Among sizes of scratch blocks: those so far are freed, but the last."""
Arguments = tuple[Any, ...]
Named = dict[str, Any]


def attention_function(original: Callable[..., Any], gpu: Gpu) -> Callable[..., Any]:
    """What stands in for `scaled_dot_product_attention`.

    Args:
        original: torch's own.
        gpu: Decides which implementations there are.
    """

    def scaled_dot_product_attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        given = (query, key, value)
        if all(isinstance(tensor, SimulatedTensor) and tensor.dim() == 4 for tensor in given):
            if _flash_runs(gpu, given, attn_mask, enable_gqa):
                return _call_flash(given, dropout_p, is_causal, scale)
            if _efficient_runs(gpu, given, attn_mask, enable_gqa):
                return _call_efficient(given, attn_mask, dropout_p, is_causal, scale)
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(SDPBackend.MATH):
            return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)

    return scaled_dot_product_attention


Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _flash_runs(gpu: Gpu, given: Three, mask: torch.Tensor | None, grouped: bool) -> bool:
    query, key, value = given
    return (
        torch.backends.cuda.flash_sdp_enabled()
        and gpu.compute_capability >= (8, 0)
        and mask is None
        and query.dtype in _HALVES
        and query.dtype == key.dtype == value.dtype
        and query.shape[-1] == key.shape[-1] == value.shape[-1] <= 256
        and (grouped or query.shape[1] == key.shape[1] == value.shape[1])
        and query.shape[0] == key.shape[0] == value.shape[0]
        and all(tensor.stride(-1) == 1 and tensor.numel() for tensor in given)
    )


def _efficient_runs(gpu: Gpu, given: Three, mask: torch.Tensor | None, grouped: bool) -> bool:
    query, key, value = given
    halves = query.dtype in _HALVES
    if query.dtype == torch.bfloat16 and gpu.compute_capability < (8, 0):
        return False
    alignment = (8 if halves else 4) if gpu.compute_capability >= (8, 0) or halves else 1
    return (
        torch.backends.cuda.mem_efficient_sdp_enabled()
        and (halves or query.dtype == torch.float32)
        and query.dtype == key.dtype == value.dtype
        and not grouped
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and query.shape[-1] == key.shape[-1]
        and query.shape[-1] % alignment == 0
        and value.shape[-1] % alignment == 0
        and all(tensor.stride(-1) == 1 and tensor.numel() for tensor in given)
        and not (mask is not None and mask.requires_grad and mask.dim() < 3)
    )


def _call_flash(given: Three, dropout: float, causal: bool, scale: float | None) -> torch.Tensor:
    width = given[0].shape[-1]
    factor = 1 / math.sqrt(width) if scale is None else scale
    missing = -width % 8
    if missing:
        given = tuple(torch.nn.functional.pad(tensor, (0, missing)) for tensor in given)  # type: ignore[assignment]
    output = torch.ops.aten._scaled_dot_product_flash_attention(*given, dropout, causal, False, scale=factor)[0]
    return output[..., :width] if missing else output  # type: ignore[no-any-return]


def _call_efficient(
    given: Three, mask: torch.Tensor | None, dropout: float, causal: bool, scale: float | None
) -> torch.Tensor:
    query, key, _ = given
    if mask is not None:
        if mask.dtype == torch.bool:
            made = torch.zeros_like(mask, dtype=query.dtype)
            made.masked_fill_(mask.logical_not(), -math.inf)
            mask = made
        columns = mask.shape[-1]
        if columns % _MASK_ALIGNMENT:
            mask = torch.nn.functional.pad(mask, (0, -columns % _MASK_ALIGNMENT))[..., :columns]
        mask = mask.expand(*query.shape[:2], query.shape[2], key.shape[2])
    keeps = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    output: torch.Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        *given, mask, keeps, dropout, causal, scale=scale
    )[0]
    return output


# ---- the operators on the CPU ----------------------------------------------------------


def _probabilities(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, causal: bool, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Attention probabilities in float32, log of their sums, and the scale."""
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = query.float() @ key.float().transpose(-1, -2) * factor
    if bias is not None:
        scores += bias
    if causal:
        rows, columns = scores.shape[-2:]
        scores.masked_fill_(torch.ones(rows, columns, dtype=torch.bool, device=scores.device).triu_(1), -math.inf)
    sums = scores.logsumexp(-1)
    # A row that is masked throughout has no probabilities: 0, not NaN.
    return torch.exp(scores - sums.unsqueeze(-1)).nan_to_num_(0.0), sums, factor


def _kept(like: torch.Tensor, dropout: float, seed: int) -> torch.Tensor | None:
    """The dropout mask, scaled; the same one for the same seed."""
    if dropout <= 0:
        return None
    if like.is_meta:  # a dry run
        return like
    generator = torch.Generator().manual_seed(seed)
    return torch.bernoulli(torch.full_like(like, 1 - dropout), generator=generator) / (1 - dropout)


def _seed(dropout: float) -> int:
    return int(torch.randint(2**62, ()).item()) if dropout > 0 else 0


def _attend(args: Arguments, bias: Any, dropout: float, causal: bool, scale: Any, seed: int) -> Any:
    query, key, value = args[:3]
    probabilities, sums, _ = _probabilities(query, key, bias, causal, scale)
    kept = _kept(probabilities, dropout, seed)
    if kept is not None:
        probabilities = probabilities * kept
    if value.shape[1] != query.shape[1]:
        value = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
    output = (probabilities @ value.float()).to(query.dtype)
    # In memory it is batch, sequence, head, channel.
    return output.transpose(1, 2).contiguous().transpose(1, 2), sums


def _attend_backward(
    grad: torch.Tensor, args: Arguments, bias: Any, dropout: float, causal: bool, scale: Any, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    query, key, value = args
    probabilities, _, factor = _probabilities(query, key, bias, causal, scale)
    kept = _kept(probabilities, dropout, seed)
    heads = query.shape[1]
    wide_key, wide_value = (
        (tensor if tensor.shape[1] == heads else tensor.repeat_interleave(heads // tensor.shape[1], 1)).float()
        for tensor in (key, value)
    )
    grad = grad.float()
    used = probabilities if kept is None else probabilities * kept
    grad_value = used.transpose(-1, -2) @ grad
    grad_used = grad @ wide_value.transpose(-1, -2)
    if kept is not None:
        grad_used *= kept
    grad_scores = probabilities * (grad_used - (grad_used * probabilities).sum(-1, keepdim=True))
    grad_query = grad_scores @ wide_key * factor
    grad_key = grad_scores.transpose(-1, -2) @ query.float() * factor

    def like(found: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        if found.shape[1] != given.shape[1]:
            found = found.view(found.shape[0], given.shape[1], -1, *found.shape[2:]).sum(2)
        return found.to(given.dtype).transpose(1, 2).contiguous().transpose(1, 2)

    return like(grad_query, query), like(grad_key, key), like(grad_value, value), grad_scores


def efficient(args: Arguments, kwargs: Named) -> Any:
    """`_scaled_dot_product_efficient_attention`: output, log-sum-exp (rows padded to 32), seed and offset."""
    *_, bias, keeps = args[:5]
    dropout = args[5] if len(args) > 5 else 0.0
    causal = args[6] if len(args) > 6 else False
    seed = _seed(dropout)
    output, sums = _attend(args, bias, dropout, causal, kwargs.get("scale"), seed)
    batch, heads, rows = sums.shape
    padded = torch.zeros(batch, heads, -(-rows // 32) * 32 if keeps else 0, device=sums.device)
    if keeps:
        padded[..., :rows] = sums
    if not dropout:  # nobody will read them; CUDA leaves them on the device
        return output, padded, *(torch.empty((), dtype=torch.long, device=output.device) for _ in range(2))
    return output, padded, OnHost(torch.tensor(seed)), OnHost(torch.tensor(0))


def efficient_backward(args: Arguments, kwargs: Named) -> Any:
    """`_scaled_dot_product_efficient_attention_backward`: gradients of query, key, value and bias."""
    grad, query, key, value, bias, _, _, seed, _, dropout, wanted = args[:11]
    causal = args[11] if len(args) > 11 else False
    *grads, grad_bias = _attend_backward(
        grad, (query, key, value), bias, dropout, causal, kwargs.get("scale"), int(seed) if dropout else 0
    )
    return *grads, grad_bias.to(bias.dtype) if bias is not None and wanted[3] else None


def efficient_backward_before(gpu: Gpu, args: Arguments, kwargs: Named) -> tuple[int, ...]:
    """A copy of the gradient, where it is not batch, sequence, head, channel in memory."""
    grad: torch.Tensor = args[0]
    return () if grad.transpose(1, 2).is_contiguous() else (grad.numel() * grad.element_size(),)


def efficient_backward_scratch(gpu: Gpu, args: Arguments, kwargs: Named, output: Any) -> tuple[int, ...]:
    """Row sums of output times gradient, with what they are made from, and the workspace for sums of gradients."""
    query, key, value = args[1:4]
    batch, heads, rows, _ = query.shape
    sums = 4 * batch * heads * rows
    workspace = _efficient_workspace(gpu, query, key, value)
    if query.dtype in _HALVES:  # the kernel computes them
        return sums, workspace, ONLY_LAST
    return value.element_size() * batch * heads * rows * value.shape[-1], sums, sums, ONLY_LAST, workspace, ONLY_LAST


def _efficient_workspace(gpu: Gpu, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    """Bytes of `Params::workspace_size` for the kernel that would be chosen.

    Source:
        mem_eff_attention/kernel_backward.h and the tiles of mem_eff_attention/kernels/cutlassB.h, torch 2.14.1; tiles
        checked with sizes that the real allocator was asked for.
    """
    batch, heads, rows, width = query.shape
    columns, value_width = key.shape[2], value.shape[-1]
    widest = max(width, value_width)
    halves = query.dtype in _HALVES
    tile_rows, tile_columns = _backward_tile(gpu, widest, halves)
    tiles = -(-rows // tile_rows) * -(-width // tile_columns)
    floats = tiles * (tile_rows * tile_columns + 4)
    # Sums of halves that do not stay in registers are kept in float32.
    if halves and widest > tile_rows:
        splits = -(-columns // tile_columns)
        if batch * heads >= 256 and columns <= 2 * tile_columns:
            splits = 1
        splits = max(min(splits, 200 // (batch * heads)), 1)
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            splits = 1
        for size in (width, value_width):
            floats += splits * tile_columns * (-(-size // tile_rows) * tile_rows)
    return 4 * batch * heads * (-(-floats // 4) * 4)


def _backward_tile(gpu: Gpu, width: int, halves: bool) -> tuple[int, int]:
    """Rows and columns of the tile of the kernel that would be chosen; what fits shared memory decides."""
    small = gpu.compute_capability not in ((8, 0), (9, 0), (10, 0), (10, 3))
    if width <= 64 or (small and not halves):
        return 64, 64
    if halves and width <= 128:
        if not small:
            return 128, 128
        if gpu.compute_capability >= (8, 0) and width > 96:
            return 64, 64
    return 128, 64


def flash(args: Arguments, kwargs: Named) -> Any:
    """`_scaled_dot_product_flash_attention`: output, log-sum-exp, sequence lengths, random state, debug mask."""
    query, key = args[:2]
    dropout = args[3] if len(args) > 3 else 0.0
    causal = args[4] if len(args) > 4 else False
    seed = _seed(dropout)
    output, sums = _attend(args, None, dropout, causal, kwargs.get("scale"), seed)
    state = torch.tensor([seed, 0], device=query.device).view(torch.uint64)
    unused = torch.empty((), dtype=torch.uint64, device=query.device)
    return output, sums, None, None, query.shape[2], key.shape[2], state, unused, query.new_empty(0)


def flash_backward(args: Arguments, kwargs: Named) -> Any:
    """`_scaled_dot_product_flash_attention_backward`: gradients of query, key and value."""
    grad, query, key, value = args[:4]
    dropout, causal, state = args[10], args[11], args[12]
    seed = int(state.view(torch.int64)[0]) if state.numel() and not state.is_meta else 0
    return _attend_backward(grad, (query, key, value), None, dropout, causal, kwargs.get("scale"), seed)[:3]


def flash_backward_scratch(gpu: Gpu, args: Arguments, kwargs: Named, output: Any) -> tuple[int, ...]:
    """Row sums and the gradient of the query in float32; of key and value for each query head where they are shared."""
    query, key = args[1:3]
    batch, heads, rows, width = query.shape
    rows, columns = -(-rows // 128) * 128, key.shape[2]
    rounded = -(-width // 32) * 32
    found = [4 * batch * heads * rows, 4 * batch * rows * heads * rounded]
    if key.shape[1] != heads:
        found += [query.element_size() * batch * columns * heads * width] * 2
    return tuple(found)
