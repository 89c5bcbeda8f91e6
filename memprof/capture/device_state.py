"""What the driver, the caching allocator and NVML say about each CUDA device when a tick ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from time import perf_counter_ns
from typing import Any

import torch

from memprof.capture.counters import AllocatorStats
from memprof.capture.gpus import DeviceWatch
from memprof.record.events import DeviceState

_DRIVER_EVERY_NS = 100_000_000
"""Asking the driver and NVML costs up to a millisecond, so it is done this often at most,"""
_DRIVER_RARELY_NS = 1_000_000_000
"""and this often once there is enough to see what a short run does."""
_FIRST_ASKED = 32
"""After so many times."""


class DeviceStates:
    """Reads the state of devices, writing down only what is worth a row.

    Args:
        every_tick: Give a state for each tick, not only where the driver was asked or a counter of
            retries, errors or driver calls rose.
        process_bytes: What this process takes of a device, where NVML is not to be asked.
    """

    def __init__(self, *, every_tick: bool, process_bytes: Callable[[int], int] | None = None) -> None:
        self._every_tick = every_tick
        self._known_process_bytes = process_bytes
        self._due_ns: dict[int, int] = {}
        """When to ask about a device next."""
        self._times_asked: Counter[int] = Counter()
        self._rare: dict[int, tuple[Any, ...]] = {}
        self._watches: dict[int, DeviceWatch] = {}

    def read(self, devices: Iterable[AllocatorStats], tick: int, *, ask_driver: bool = False) -> list[DeviceState]:
        """States of devices at the end of a tick.

        Args:
            devices: Their counters, read when the tick ended.
            tick: The tick.
            ask_driver: Ask the driver and NVML however short ago they were asked.

        Returns:
            At most one state a device.
        """
        return [state for device in devices if (state := self._one(device, tick, ask_driver)) is not None]

    def _one(self, device: AllocatorStats, tick: int, ask_driver: bool) -> DeviceState | None:
        now = perf_counter_ns()
        index, stats = device.index, device.latest
        rare = tuple(stats.get(key) for key in ("num_alloc_retries", "num_ooms", "num_device_alloc", "num_device_free"))
        due = ask_driver or now >= self._due_ns.get(index, 0)
        if not (due or self._every_tick or rare != self._rare.get(index)):
            return None
        self._rare[index] = rare
        free = total = process = host = None
        if due:
            self._times_asked[index] += 1
            often = self._times_asked[index] <= _FIRST_ASKED
            self._due_ns[index] = now + (_DRIVER_EVERY_NS if often else _DRIVER_RARELY_NS)
            free, total = torch.cuda.mem_get_info(index)
            process = self._process_bytes(index)
            host = host_reserved_bytes()
        return DeviceState(
            device=f"cuda:{index}",
            tick=tick,
            time_ns=now,
            allocated_bytes=stats["allocated_bytes"]["all"]["current"],
            active_bytes=stats["active_bytes"]["all"]["current"],
            requested_bytes=_current(stats.get("requested_bytes", 0)),
            reserved_bytes=stats["reserved_bytes"]["all"]["current"],
            inactive_split_bytes=stats["inactive_split_bytes"]["all"]["current"],
            private_pool_bytes=_private_pool_bytes(stats),
            alloc_retries=rare[0] or 0,
            ooms=rare[1] or 0,
            device_allocs=rare[2],
            device_frees=rare[3],
            driver_free_bytes=free,
            driver_total_bytes=total,
            process_bytes=process,
            host_reserved_bytes=host,
        )

    def _process_bytes(self, index: int) -> int | None:
        if self._known_process_bytes is not None:
            return self._known_process_bytes(index)
        watch = self._watches.get(index)
        if watch is None:
            uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
            watch = self._watches[index] = DeviceWatch(None if uuid is None else str(uuid))
        return watch.read().own_process_bytes

    def close(self) -> None:
        """Let go of NVML."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()


def _private_pool_bytes(stats: dict[str, Any]) -> int | None:
    """Bytes reserved by pools of CUDA graphs and `MemPool`s; None where torch does not tell (before 2.13)."""
    pools = stats.get("reserved_bytes_by_private_pools")
    if not isinstance(pools, dict):
        return None
    return sum(_current(value) for value in pools.values())


def _current(value: Any) -> int:
    """The `current` figure of a statistic, however deep the dictionary that holds it."""
    if isinstance(value, dict):
        inner = value.get("all", value)
        return int(inner.get("current", 0)) if isinstance(inner, dict) else int(inner)
    return int(value)


def host_reserved_bytes() -> int | None:
    """Pinned host memory the caching host allocator holds; None where torch does not tell (before 2.7)."""
    read: Any = getattr(torch.cuda, "host_memory_stats", None)
    if read is None:
        return None
    stats = read()
    found = stats.get("allocated_bytes.current")
    return None if found is None else int(found)
