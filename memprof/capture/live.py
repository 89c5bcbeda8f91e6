"""Storages that are alive: what is known of each, and weak references that see it freed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

from memprof.record.events import Location


class Reference(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a storage, or to a tensor that lies on it."""

    __slots__ = ("live",)
    live: LiveStorage


class LiveStorage:
    """A storage that is alive, without keeping it so."""

    __slots__ = (
        "birth_tick",
        "device_id",
        "dtype_id",
        "id",
        "in_forward",
        "key",
        "location",
        "nbytes",
        "op",
        "optimizer",
        "references",
        "role",
        "spared",
        "used_ns",
        "written_at",
    )
    id: int
    key: int
    """Address of the StorageImpl."""
    nbytes: int
    dtype_id: int
    device_id: int
    """Names, by their numbers in the recording."""
    birth_tick: int
    location: Location | None
    op: str
    role: int
    in_forward: bool
    optimizer: bool
    """Made in the optimizer's step."""
    used_ns: int
    """When an op was last given it, or when it was made."""
    written_at: Location | None
    """The line that last changed it in place, outside forward, backward and optimizer step."""
    spared: bool
    """It is watched through all the tensors on it, so that Python makes no object for it."""
    references: list[Reference]

    def watch(self, target: torch.UntypedStorage | torch.Tensor, died: Callable[[Any], None]) -> None:
        """Learn of the end of the storage, or of a tensor on it.

        Args:
            target: What to refer to weakly.
            died: Takes the `Reference` when it is gone.
        """
        reference = Reference(target, died)
        reference.live = self
        self.references.append(reference)


def _address_by_object(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


storage_address: Callable[[torch.Tensor], int] = getattr(torch._C, "_storage_address", _address_by_object)
"""Address of a tensor's StorageImpl, without making a Python object for it where torch can do that.

Raises NotImplementedError or RuntimeError where the tensor has no storage (sparse and opaque ones).
"""


def storage_key(tensor: torch.Tensor) -> int:
    """Address of a tensor's StorageImpl, under which it is booked; 0 where it has none."""
    try:
        return storage_address(tensor)
    except (RuntimeError, NotImplementedError):
        return 0


def spanned_bytes(tensor: torch.Tensor) -> int:
    """Bytes from the beginning of a tensor's storage to the tensor's last element: what an op asks for its output."""
    count = tensor.numel()
    if count and not tensor.is_contiguous():
        count = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.storage_offset() + count) * tensor.element_size()


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor has been written to; 0 for one made in `inference_mode`, which does not count."""
    return 0 if tensor.is_inference() else tensor._version


def gradient_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """A tensor's gradient, without torch's warning that a tensor computed from others has none."""
    return tensor.grad if tensor.is_leaf or tensor.retains_grad else None
