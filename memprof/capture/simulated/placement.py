"""Which storage lies on which simulated device: books that keep nothing alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from memprof.capture.simulated.devices import SimulatedDevice


class _Placed(weakref.ref):  # type: ignore[type-arg]
    """A storage on a simulated device."""

    __slots__ = ("address", "device", "key", "nbytes")
    key: int
    address: int
    nbytes: int
    device: SimulatedDevice


class Place(NamedTuple):
    """Where a storage would be."""

    device: torch.device
    address: int
    """0 where it has no bytes."""
    nbytes: int
    """What was asked of the allocator for it."""


class Placement:
    """Blocks of storages.

    Args:
        devices: The simulated devices.
        stream: Gives the current stream of a device.
    """

    def __init__(self, devices: list[SimulatedDevice], stream: Callable[[int], int]) -> None:
        self.devices = devices
        self.torch_devices = [torch.device("cuda", device.index) for device in devices]
        self._stream = stream
        self._placed: dict[int, _Placed] = {}

    def place(self, storage: torch.UntypedStorage, index: int) -> None:
        """Take a block for a storage, unless it has one; it is freed when the storage dies.

        Args:
            storage: In host memory.
            index: Ordinal of the device.

        Raises:
            torch.OutOfMemoryError: There is no room.
        """
        key = storage._cdata
        known = self._placed.get(key)
        if known is not None and known() is not None:
            return
        device, nbytes = self.devices[index], storage.nbytes()
        self._enter(storage, key, device, device.allocate(nbytes, self._stream(index)), nbytes)

    def adopt(self, storage: torch.UntypedStorage, index: int, address: int, nbytes: int) -> None:
        """Give a storage a block that was taken before it was there."""
        self._enter(storage, storage._cdata, self.devices[index], address, nbytes)

    def hand_over(self, old: torch.UntypedStorage, new: torch.UntypedStorage) -> None:
        """Give a new storage the block of one of the same size, which has none from then on."""
        placed = self._placed.get(old._cdata)
        if placed is not None and placed.nbytes == new.nbytes():
            del self._placed[placed.key]
            self._enter(new, new._cdata, placed.device, placed.address, placed.nbytes)

    def _enter(
        self, storage: torch.UntypedStorage, key: int, device: SimulatedDevice, address: int, nbytes: int
    ) -> None:
        placed = _Placed(storage, self._died)
        placed.key, placed.device, placed.address, placed.nbytes = key, device, address, nbytes
        self._placed[key] = placed

    def resized(self, storage: torch.UntypedStorage, index: int) -> None:
        """Move a storage whose size has changed in place: the new block is taken before the old one is freed."""
        key = storage._cdata
        known = self._placed.get(key)
        if known is None or known() is None:
            self.place(storage, index)
        elif known.nbytes != storage.nbytes():
            address = known.device.allocate(storage.nbytes(), self._stream(index))
            known.device.free(known.address)
            known.address, known.nbytes = address, storage.nbytes()

    def _died(self, reference: Any) -> None:
        placed: _Placed = reference
        if self._placed.get(placed.key) is placed:
            del self._placed[placed.key]
            placed.device.free(placed.address)

    def where(self, storage: torch.UntypedStorage) -> Place | None:
        """Where a storage would be; None for one in host memory."""
        placed = self._placed.get(storage._cdata)
        if placed is None:
            return None
        return Place(self.torch_devices[placed.device.index], placed.address, placed.nbytes)

    def record_stream(self, storage: torch.UntypedStorage, stream: int) -> None:
        """Note that another stream uses a storage."""
        placed = self._placed.get(storage._cdata)
        if placed is not None:
            placed.device.record_stream(placed.address, stream)
