"""How much of the batches that a `DataLoader` hands out is padding.

Only integer tensors of shape (batch, length) in the host's memory are looked at: token ids and their like. A few
batches and a few rows of each are counted; nothing is kept of them but numbers, and no operator of torch runs.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from memprof.record.events import Location
from memprof.record.run_info import PaddedBatch

_MOST_BATCHES = 16
"""Of one loader."""
_MOST_ROWS = 32
_MOST_TENSORS = 8
_MIN_ROWS = 4
_MIN_LENGTH = 8
_INTEGERS = {torch.int64: np.int64, torch.int32: np.int32, torch.int16: np.int16}


class PaddingWatch:
    """Counts padding in the first batches of each loader that come while storages are watched."""

    def __init__(self) -> None:
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._batches: list[PaddedBatch] = []

    @property
    def batches(self) -> tuple[PaddedBatch, ...]:
        """What was counted, an entry for each tensor."""
        return tuple(self._batches)

    def came(self, loader: object, batch: Any, *, tick: int, location: Location | None) -> None:
        """Look at a batch.

        Args:
            loader: The iterator it came from.
            batch: What the loop gets; tensors in it may be nested once.
            tick: The tick that begins with it.
            location: The user's line that asked for it.
        """
        seen = self._seen.get(loader, 0)
        if seen >= _MOST_BATCHES or len(self._batches) >= _MOST_BATCHES * _MOST_TENSORS:
            return
        self._seen[loader] = seen + 1
        for index, tensor in enumerate(_tensors(batch)):
            if not _is_sequences(tensor):
                continue
            rows, length = tensor.shape
            looked_at = _some_rows(tensor)
            padding, shortest, longest = count_padding(looked_at)
            share = padding / looked_at.size
            self._batches.append(PaddedBatch(location, tick, index, rows, length, shortest, longest, share))


def count_padding(rows: np.ndarray[Any, Any]) -> tuple[int, int, int]:
    """Count trailing padding in some rows of a batch.

    Padding is one value that ends at least two of the rows and that no row has before its end. Rows of flags (masks,
    one-hot and multi-hot labels) have none.

    Args:
        rows: Integers of shape (rows, length).

    Returns:
        Elements of padding; lengths without it of the shortest and the longest row.
    """
    length = rows.shape[1]
    nothing = 0, length, length
    values, times = np.unique(rows[:, -1], return_counts=True)
    if times.max() < 2 or int(rows.max()) - int(rows.min()) < 2:
        return nothing
    is_value = rows == values[times.argmax()]
    ends = is_value[:, ::-1].argmin(axis=1)
    ends[is_value.all(axis=1)] = length
    padding = int(ends.sum())
    if padding != int(is_value.sum()):
        return nothing  # an ordinary value, which stands elsewhere too
    body = rows[~is_value]
    if not len(body) or int(body.max()) - int(body.min()) < 2:
        return nothing
    lengths = length - ends
    return padding, int(lengths.min()), int(lengths.max())


def _is_sequences(value: Any) -> bool:
    """Whether something is a tensor that can be token ids, in host memory, row after row."""
    return (
        type(value) is torch.Tensor
        and value.dtype in _INTEGERS
        and value.dim() == 2
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and value.shape[0] >= _MIN_ROWS
        and value.shape[1] >= _MIN_LENGTH
        and value.stride(1) == 1
    )


def _some_rows(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Copy rows, evenly spread. `tensor.numpy()` would run `aten::detach`, and keep the tensor's memory alive."""
    rows, length = tensor.shape
    width = tensor.element_size()
    first, stride = tensor.data_ptr(), tensor.stride(0) * width
    chosen = range(0, rows, -(-rows // _MOST_ROWS))
    copied = b"".join(ctypes.string_at(first + row * stride, length * width) for row in chosen)
    return np.frombuffer(copied, _INTEGERS[tensor.dtype]).reshape(len(chosen), length)


def _tensors(batch: Any) -> Iterator[Any]:
    """The first values of a batch, and those of containers in it."""
    found = 0
    for value in _values(batch):
        for inner in _values(value) if isinstance(value, (tuple, list, Mapping)) else (value,):
            if found >= _MOST_TENSORS:
                return
            found += 1
            yield inner


def _values(batch: Any) -> list[Any]:
    if isinstance(batch, Mapping):
        return list(batch.values())[:_MOST_TENSORS]
    return list(batch[:_MOST_TENSORS]) if isinstance(batch, (tuple, list)) else [batch]


__all__ = ["PaddingWatch", "count_padding"]
