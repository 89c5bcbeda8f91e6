"""Models that are on several devices: split over them, or copied to each by `DataParallel`."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.parameter import UninitializedParameter

from memprof.capture.nested import bytes_of
from memprof.record.events import Location
from memprof.record.run_info import GatheredOutputs, ModelPart

_MOST_CHILDREN = 12
_MOST_PARTS = 64


class SeveralDevices:
    """Notes which root modules have parameters on several accelerators, and what `DataParallel` gathers."""

    def __init__(self) -> None:
        self._known: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        self._gathered: dict[tuple[Location | None, str], GatheredOutputs] = {}
        self._parts: list[ModelPart] = []

    @property
    def parts(self) -> tuple[ModelPart, ...]:
        """Root modules that are split, an entry for each device."""
        return tuple(self._parts)

    @property
    def gathered(self) -> tuple[GatheredOutputs, ...]:
        """What was gathered, an entry for each line and device."""
        return tuple(self._gathered.values())

    def called(self, root: torch.nn.Module) -> None:
        """Look at a root module the first time it is called."""
        if root in self._known or len(self._parts) >= _MOST_PARTS:
            return
        self._known.add(root)
        nbytes: dict[str, int] = {}
        children: dict[str, list[str]] = {}
        for name, parameter in root.named_parameters():
            if isinstance(parameter, UninitializedParameter) or parameter.device.type in ("cpu", "meta"):
                continue
            device = str(parameter.device)
            nbytes[device] = nbytes.get(device, 0) + bytes_of(parameter)
            child = name.partition(".")[0]
            if child not in children.setdefault(device, []):
                children[device].append(child)
        if len(nbytes) > 1:
            self._parts += [
                ModelPart(type(root).__name__, device, size, tuple(children[device][:_MOST_CHILDREN]))
                for device, size in nbytes.items()
            ]

    def returned(self, root: torch.nn.Module | None, outputs: Sequence[torch.Tensor], line: Location | None) -> None:
        """Look at what a root module returned, if it has gathered it from replicas."""
        if not isinstance(root, torch.nn.DataParallel) or len(root.device_ids) < 2:
            return
        for device in {str(tensor.device) for tensor in outputs}:
            nbytes = sum(bytes_of(item) for item in outputs if str(item.device) == device)
            known = self._gathered.get((line, device))
            if known is None:
                known = GatheredOutputs(line, device, len(root.device_ids), 0, 0)
            self._gathered[line, device] = replace(known, nbytes=max(known.nbytes, nbytes), calls=known.calls + 1)
