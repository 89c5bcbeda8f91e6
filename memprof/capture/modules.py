"""The root modules of a run: their paths, parameters and buffers, and which of their modules is running."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from memprof.capture.compilation import uncompiled
from memprof.capture.cuda import CudaWatch
from memprof.capture.hidden import HiddenParameterWatch
from memprof.capture.module_regions import ModuleRegions
from memprof.capture.parameters import ParameterBooks
from memprof.capture.storages import StorageTracker
from memprof.capture.watching import StorageWatch
from memprof.record.events import ModuleRef, Role


class ModuleBooks:
    """Learns root modules, and follows the calls of what is in them.

    Args:
        tracker: The books of storages.
        watch: Says whether storages are watched.
        cuda: Takes where modules run while it records blocks.
        parameters: Takes root modules whose parameters to follow.
        hidden: Looks through their attributes.
    """

    def __init__(
        self,
        tracker: StorageTracker,
        watch: StorageWatch,
        cuda: CudaWatch,
        parameters: ParameterBooks,
        hidden: HiddenParameterWatch,
    ) -> None:
        self._tracker = tracker
        self._watch = watch
        self._cuda = cuda
        self._parameters = parameters
        self._hidden = hidden
        self.ids: dict[int, int] = {}
        """`id` of a module -> id of its path in the recording, as long as calls of nested modules are followed."""
        self.roots: weakref.WeakKeyDictionary[torch.nn.Module, int] = weakref.WeakKeyDictionary()
        """Root modules and how many parameters each had when they were last learnt."""

    def learn(self, root: torch.nn.Module, *, tick: int) -> None:
        """Learn paths, parameters and buffers of a root module the first time it is watched.

        Args:
            root: It.
            tick: The tick that runs.
        """
        known = id(root) in self.ids and root in self.roots
        if known and not (self._watch.on or tick & (tick - 1) == 0):
            return  # between watched times new parameters are looked for at growing distances
        count = sum(1 for _ in root.parameters())
        if known and self.roots[root] == count:
            return
        self.roots[root] = count
        if self._parameters.learn(root):
            alive = {id(module) for known in self.roots for module in known.modules()}
            for gone in self.ids.keys() - alive:
                del self.ids[gone]
        for path, module in root.named_modules():
            self.ids[id(module)] = self._tracker.module(ModuleRef(path, type(module).__name__))
        for name, parameter in root.named_parameters():
            self._tracker.found(parameter, Role.PARAMETER, name)
        for name, buffer in root.named_buffers():
            self._tracker.found(buffer, Role.BUFFER, name)
        self._hidden.learn(root)

    @uncompiled
    def enter(self, path: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """A module is called.

        Args:
            path: Its id in the recording, or `schema.NONE`.
            args: Its arguments.
            kwargs: Those given by name.

        Returns:
            Id of the module that is left for it.
        """
        left = self._tracker.module_id
        self._parameters.entered.add(path)
        self._tracker.module_id = path
        regions = self.regions
        if regions is not None:
            regions.enter(path, (*args, *kwargs.values()) if kwargs else args)
        return left

    @uncompiled
    def leave(self, left: int, output: Any) -> None:
        """A module returned `output`, or raised; `left` is what `enter` gave."""
        self._tracker.module_id = left
        regions = self.regions
        if regions is not None:
            regions.leave(left, output)

    @property
    def regions(self) -> ModuleRegions | None:
        """Where modules run is written down where blocks are recorded and no dispatch mode sees it."""
        return None if self._watch.on else self._cuda.regions
