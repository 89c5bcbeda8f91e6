"""What `nn.DataParallel` asks of C++ to move tensors between GPUs, on simulated ones.

Source:
    torch/csrc/cuda/comm.cpp and torch/csrc/utils/tensor_flatten.h, torch 2.14.1: what is allocated where, and in which
    order. NCCL's own buffers are not in the caching allocator, and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import Any

import torch

_Tensor = torch.Tensor
Group = list[_Tensor]


def communication_functions() -> dict[str, Callable[..., Any]]:
    """Functions of `torch._C` by name."""
    return {
        "_broadcast": broadcast,
        "_broadcast_out": _broadcast_out,
        "_broadcast_coalesced": broadcast_coalesced,
        "_scatter": scatter,
        "_scatter_out": _scatter_out,
        "_gather": gather,
        "_gather_out": _gather_out,
        "_nccl_reduce": _reduce,
        "_nccl_all_reduce": _all_reduce,
    }


def broadcast(tensor: _Tensor, devices: Sequence[int]) -> list[_Tensor]:
    """A tensor itself for its own device, a copy for each other one."""
    others = {
        index: torch.empty(tensor.shape, dtype=tensor.dtype, device=f"cuda:{index}")
        for index in devices
        if index != _device(tensor)
    }
    for copy in others.values():
        copy.copy_(tensor, non_blocking=True)
    return [others.get(index, tensor) for index in devices]


def _broadcast_out(tensor: _Tensor, out: Sequence[_Tensor]) -> Sequence[_Tensor]:
    for copy in out:
        copy.copy_(tensor, non_blocking=True)
    return out


def broadcast_coalesced(tensors: Sequence[_Tensor], devices: Sequence[int], buffer_size: int) -> list[list[_Tensor]]:
    """Copies for each device, views of buffers that hold several tensors of one type each."""
    copies: list[dict[int, _Tensor]] = [{} for _ in devices]
    with torch.no_grad():
        for places in _groups(tensors, buffer_size):
            group = [tensors[at] for at in places]
            flat = [tensor.contiguous().view(-1) for tensor in group]
            buffer = flat[0] if len(flat) == 1 else torch.cat(flat)
            del flat
            for number, copy in enumerate(broadcast(buffer, devices)[1:], 1):
                begin = 0
                for at, tensor in zip(places, group, strict=True):
                    copies[number][at] = copy[begin : begin + tensor.numel()].view(tensor.shape)
                    begin += tensor.numel()
    return [list(tensors), *([found[at] for at in range(len(tensors))] for found in copies[1:])]


def _groups(tensors: Sequence[_Tensor], most_bytes: int) -> list[list[int]]:
    """Numbers of tensors of one type each, cut where a group has reached a size: `take_tensors`."""
    done: list[list[int]] = []
    open_groups: dict[torch.dtype, tuple[list[int], int]] = {}
    for at, tensor in enumerate(tensors):
        group, size = open_groups.get(tensor.dtype, ([], 0))
        group.append(at)
        size += tensor.numel() * tensor.element_size()
        if size >= most_bytes:
            done.append(group)
            group, size = [], 0
        open_groups[tensor.dtype] = group, size
    return done + [group for group, _ in open_groups.values() if group]


def scatter(
    tensor: _Tensor,
    devices: Sequence[int],
    chunk_sizes: Sequence[int] | None = None,
    dim: int = 0,
    streams: Sequence[Any] | None = None,
) -> tuple[_Tensor, ...]:
    """Chunks of a tensor, one on each device; one that is there already stays a view."""
    chunks = tensor.chunk(len(devices), dim) if chunk_sizes is None else tensor.split(list(chunk_sizes), dim)
    found = []
    for number, (chunk, index) in enumerate(zip(chunks, devices, strict=False)):
        stream = None if streams is None else streams[number]
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            found.append(chunk.to(f"cuda:{index}", non_blocking=True))
    return tuple(found)


def _scatter_out(tensor: _Tensor, out: Sequence[_Tensor], dim: int = 0, streams: Any = None) -> Sequence[_Tensor]:
    for chunk, target in zip(tensor.split([target.shape[dim] for target in out], dim), out, strict=True):
        target.copy_(chunk, non_blocking=True)
    return out


def gather(tensors: Sequence[_Tensor], dim: int, destination: int | None = None) -> _Tensor:
    """One tensor of all, on one device; -1 is host memory."""
    shape = list(tensors[0].shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    place = "cpu" if destination == -1 else "cuda" if destination is None else f"cuda:{destination}"
    return _gather_out(tensors, torch.empty(shape, dtype=tensors[0].dtype, device=place), dim)


def _gather_out(tensors: Sequence[_Tensor], out: _Tensor, dim: int = 0) -> _Tensor:
    sizes = [tensor.shape[dim] for tensor in tensors]
    for begin, size, tensor in zip(accumulate(sizes, initial=0), sizes, tensors, strict=False):
        out.narrow(dim, begin, size).copy_(tensor, non_blocking=True)
    return out


def _reduce(inputs: Sequence[Any], output: Any, root: int, *_: Any) -> None:
    """The sum in the tensor of one device; NCCL needs no blocks for that."""
    total = output.host
    if output is not inputs[root]:
        total.copy_(inputs[root].host)
    for at, given in enumerate(inputs):
        if at != root:
            total.add_(given.host)


def _all_reduce(inputs: Sequence[Any], outputs: Sequence[Any], *_: Any) -> None:
    _reduce(inputs, outputs[0], 0)
    for output in outputs[1:]:
        output.host.copy_(outputs[0].host)


def _device(tensor: _Tensor) -> int:
    """Ordinal of its device; -1 for host memory."""
    return tensor.get_device()
