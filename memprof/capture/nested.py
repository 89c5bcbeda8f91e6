"""Tensors within other values: in what a module takes and returns, and in what an op returns."""

from __future__ import annotations

from typing import Any

import torch

_MOST = 16
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_OF_TRACERS = ("FakeTensor", "FunctionalTensor")


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The first few tensors in nested tuples, lists, dictionaries and dataclasses."""
    if isinstance(value, torch.Tensor):
        return [value]
    found: list[torch.Tensor] = []
    stack = [value]
    while stack and len(found) < _MOST:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, (tuple, list)):
            stack.extend(reversed(item[:_MOST]))
        elif isinstance(item, dict):
            stack.extend(list(item.values())[:_MOST])
        elif hasattr(type(item), "__dataclass_fields__"):
            stack.extend(vars(item).values() if hasattr(item, "__dict__") else ())
    return found


def dense_parts(output: Any) -> list[torch.Tensor]:
    """The dense tensors that an op's output consists of; those of tracers, which have no memory, left out."""
    if isinstance(output, (tuple, list)):
        return [part for item in output for part in dense_parts(item)]
    if not isinstance(output, torch.Tensor):
        return []
    if type(output) not in _PLAIN and type(output).__name__ in _OF_TRACERS:
        return []
    if output.layout is torch.sparse_coo:
        return [output._indices(), output._values()]
    if output.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [output.crow_indices(), output.col_indices(), output.values()]
    if output.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [output.ccol_indices(), output.row_indices(), output.values()]
    if output.layout is not torch.strided:
        return []
    if hasattr(output, "__tensor_flatten__"):
        names, _ = output.__tensor_flatten__()
        return [part for name in names for part in dense_parts(getattr(output, name))]
    return [output]


def bytes_of(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's elements, as far as they are in this process: a `DTensor` has a shard of them."""
    if type(tensor) in _PLAIN:
        return tensor.numel() * tensor.element_size()
    return sum(part.numel() * part.element_size() for part in dense_parts(tensor))
