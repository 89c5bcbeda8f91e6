"""When the driver is asked about a device."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memprof.capture import device_state
from memprof.capture.device_state import DeviceStates

SECOND_NS = 1_000_000_000
FIGURES = ("allocation", "allocated_bytes", "reserved_bytes", "active_bytes", "inactive_split_bytes")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[float]]:
    """When the driver is asked in a run of so many milliseconds, a tick each, in seconds."""
    times: list[float] = []
    now_ns = 0

    def driver(_: int) -> tuple[int, int]:
        times.append(now_ns / SECOND_NS)
        return 1, 2

    monkeypatch.setattr(device_state, "perf_counter_ns", lambda: now_ns)
    monkeypatch.setattr(torch.cuda, "mem_get_info", driver)
    monkeypatch.setattr(device_state, "host_reserved_bytes", lambda: 0)
    figure: dict[str, Any] = {"all": {"current": 0, "peak": 0, "allocated": 0, "freed": 0}}
    device: Any = SimpleNamespace(index=0, latest=dict.fromkeys(FIGURES, figure))

    def run(milliseconds: int) -> list[float]:
        nonlocal now_ns
        states = DeviceStates(every_tick=False, process_bytes=lambda _: 0)
        told = 0
        for tick in range(milliseconds):
            now_ns = (tick + 1) * SECOND_NS // 1000
            told += len(states.read([device], tick))
        assert told == len(times)  # nothing else is worth a row
        assert states.read([device], milliseconds, ask_driver=True)[0].driver_free_bytes == 1
        return times[:-1]

    return run


def test_the_driver_is_asked_ten_times_a_second_at_first_and_once_a_second_later(
    asked: Callable[[int], list[float]],
) -> None:
    times = asked(10_000)
    assert len([time for time in times if time < 3.2]) == 32
    assert len([time for time in times if time > 3.3]) in (6, 7)
