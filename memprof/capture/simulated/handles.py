"""Handles of cuBLAS: each thread takes one for each device, and gives them back when it ends.

Source:
    aten/src/ATen/cuda/detail/DeviceThreadHandles.h, torch 2.14.1.
"""

from __future__ import annotations

import threading
from collections import defaultdict


class HandlePool:
    """Numbers of the handles of each device."""

    def __init__(self) -> None:
        self._made: defaultdict[int, int] = defaultdict(int)
        self._idle: defaultdict[int, list[int]] = defaultdict(list)
        self._threads = _Windows(self._idle)

    def of(self, index: int) -> int:
        """The calling thread's handle for a device: an idle one, or a new one.

        Args:
            index: Ordinal of the device.
        """
        mine = self._threads.window.mine
        handle = mine.get(index)
        if handle is None:
            idle = self._idle[index]
            if idle:
                handle = idle.pop()
            else:
                handle = self._made[index]
                self._made[index] += 1
            mine[index] = handle
        return handle


class _Window:
    """What one thread has taken; it goes back when the thread's variables do."""

    def __init__(self, idle: defaultdict[int, list[int]]) -> None:
        self.mine: dict[int, int] = {}
        self._idle = idle

    def __del__(self) -> None:
        for index, handle in self.mine.items():
            self._idle[index].append(handle)


class _Windows(threading.local):
    def __init__(self, idle: defaultdict[int, list[int]]) -> None:
        self.window = _Window(idle)
