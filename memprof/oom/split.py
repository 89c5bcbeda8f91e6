"""Cuts a batch, however it is nested, into parts along its first dimension."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from memprof._errors import UsageError


def examples_in(batch: Any) -> int:
    """How many examples a batch holds: the first dimension of the first tensor found in it.

    Args:
        batch: A tensor, or a tuple, list, mapping or dataclass that has one in it.

    Raises:
        UsageError: There is no tensor with a dimension.
    """
    for tensor in _tensors(batch):
        if tensor.dim():
            return int(tensor.shape[0])
    raise UsageError(
        f"memprof.oom.retry finds no tensor with a first dimension in a batch of type {type(batch).__name__}, so it "
        "cannot cut it into parts; hand it the batch as tensors, tuples, lists, mappings or dataclasses"
    )


def part_of(batch: Any, start: int, stop: int, examples: int) -> Any:
    """The examples from `start` to `stop` of a batch.

    Args:
        batch: See `examples_in`.
        start: First example.
        stop: One past the last.
        examples: How many there are in all.

    Returns:
        The same structure. Tensors whose first dimension is `examples`, and lists and tuples of that length that hold
        one item an example, are cut (tensors into views); everything else is passed on as it is.
    """
    if start == 0 and stop == examples:
        return batch

    def cut(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return item[start:stop] if item.dim() and item.shape[0] == examples else item
        if isinstance(item, (list, tuple)):
            if len(item) == examples and not _is_structure(item, examples):
                return type(item)(item[start:stop])
            parts = [cut(part) for part in item]
            return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)
        if isinstance(item, Mapping):
            parts_by_name = {key: cut(value) for key, value in item.items()}
            try:
                return parts_by_name if type(item) is dict else type(item)(parts_by_name)  # type: ignore[call-arg]
            except TypeError:  # a mapping made in a way of its own is handed on as the plain one
                return parts_by_name
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            changed = {field.name: cut(getattr(item, field.name)) for field in dataclasses.fields(item) if field.init}
            return dataclasses.replace(item, **changed)
        return item

    return cut(batch)


def _is_structure(items: list[Any] | tuple[Any, ...], examples: int) -> bool:
    """Whether a sequence as long as the batch is a row of tensors that each hold all examples."""
    return bool(items) and all(
        isinstance(item, torch.Tensor) and item.dim() > 0 and item.shape[0] == examples for item in items
    )


def _tensors(item: Any) -> Iterator[torch.Tensor]:
    if isinstance(item, torch.Tensor):
        yield item
    elif isinstance(item, (list, tuple)):
        for part in item:
            yield from _tensors(part)
    elif isinstance(item, Mapping):
        for part in item.values():
            yield from _tensors(part)
    elif dataclasses.is_dataclass(item) and not isinstance(item, type):
        for field in dataclasses.fields(item):
            yield from _tensors(getattr(item, field.name))
