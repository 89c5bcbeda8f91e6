"""Tensors in what a module takes and returns."""

from __future__ import annotations

from typing import Any

import torch

_MOST = 16


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
