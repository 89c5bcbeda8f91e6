"""Values that a dry run knows although it computes none: small tensors made from what the script had in host memory."""

from __future__ import annotations

import weakref
from typing import Any

import torch

MOST_VALUES = 1 << 20
"""Values of a tensor that is worth keeping."""
_META = torch.device("meta")


class _Kept(weakref.ref):  # type: ignore[type-arg]
    """A storage without bytes, and beside it one in host memory with the values it would have."""

    __slots__ = ("key", "values")
    key: int
    values: torch.UntypedStorage


class KnownValues:
    """Storages whose values are known; views and what is written in place go with their storage.

    A tensor is known by the storage of its shape on the `meta` device, and forgotten when that dies.
    """

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}

    def of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Its values in host memory, a view of those that are kept.

        Args:
            tensor: On the `meta` device.

        Returns:
            A tensor of the same shape and strides; None where the values are not known.
        """
        kept = self._kept.get(tensor.untyped_storage()._cdata)
        if kept is None:
            return None
        if tensor.untyped_storage().nbytes() != kept.values.nbytes():  # resized since
            self.forget(tensor)
            return None
        empty = torch.empty(0, dtype=tensor.dtype)
        return empty.set_(kept.values, tensor.storage_offset(), tensor.size(), tensor.stride())

    def keep(self, tensor: torch.Tensor, values: torch.Tensor) -> None:
        """Note the values of a tensor whose storage is new; those of one laid out in another way are not kept."""
        storage, held = tensor.untyped_storage(), values.untyped_storage()
        if (
            tensor.stride() != values.stride()
            or tensor.storage_offset() != values.storage_offset()
            or storage.nbytes() != held.nbytes()
        ):
            return
        key = storage._cdata
        kept = _Kept(storage, self._died)
        kept.key, kept.values = key, held
        self._kept[key] = kept

    def forget(self, tensor: torch.Tensor) -> None:
        """Something that is not known was written to a tensor."""
        self._kept.pop(tensor.untyped_storage()._cdata, None)

    def _died(self, reference: Any) -> None:
        kept: _Kept = reference
        if self._kept.get(kept.key) is kept:
            del self._kept[kept.key]


def worth_keeping(tensor: torch.Tensor) -> bool:
    """Whether scripts may decide by the values of a tensor from the host: it holds numbers of things, masks, flags."""
    count = tensor.numel()
    return count <= 1 or (count <= MOST_VALUES and not tensor.dtype.is_floating_point and not tensor.dtype.is_complex)


def on_meta(item: Any) -> Any:
    """The same argument with tensors that have no values."""
    if isinstance(item, torch.Tensor):
        return item if item.device == _META else item.to(_META)
    if isinstance(item, (list, tuple)) and type(item) in (list, tuple):
        return type(item)(on_meta(each) for each in item)
    return item
