"""The arguments of an op, taken out of simulated tensors."""

from __future__ import annotations

from typing import Any

import torch

from memprof.capture.simulated.tensors import SimulatedTensor

_Tensor = torch.Tensor


class Arguments:
    """What one op was given: host tensors in place of simulated ones, and the devices that they are on."""

    __slots__ = ("on_cpu", "other", "outer", "place")

    def __init__(self) -> None:
        self.outer: dict[int, SimulatedTensor] = {}
        """`id` of a tensor in host memory -> the simulated tensor it came from."""
        self.place: torch.device | None = None
        self.other: torch.device | None = None
        """A second device."""
        self.on_cpu = False
        """A tensor with dimensions is in host memory."""

    def unwrap(self, args: Any) -> list[Any]:
        """Host tensors in place of simulated ones."""
        found = []
        for item in args:
            if isinstance(item, _Tensor):
                values = item.__dict__.get("host") if type(item) is not _Tensor else None
                if values is not None:
                    self.outer[id(values)] = item  # type: ignore[assignment]
                    place = item.__dict__["place"]
                    if self.place is None:
                        self.place = place
                    elif place is not self.place and place != self.place:
                        self.other = place
                    item = values
                elif item.dim():
                    self.on_cpu = True
            elif isinstance(item, (list, tuple)) and type(item) in (list, tuple):
                item = self.unwrap(item)
            found.append(item)
        return found

    def unwrap_named(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The same for keyword arguments."""
        return dict(zip(kwargs, self.unwrap(kwargs.values()), strict=True))

    def refuse(self) -> None:
        """Raise torch's error for tensors on several devices."""
        second = self.other or "cpu"
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {self.place} and {second}!"
        )
